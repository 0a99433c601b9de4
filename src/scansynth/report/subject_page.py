"""A page a translated subject: what was made of what, how unsure it is, what is to be looked at, and what was refused.

`<subject>_synthetic.html` in a folder of translations; one file, which asks for nothing from anywhere.
"""

import base64
import io
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from scansynth.data.layouts import Listing
from scansynth.data.raw.together import Placed
from scansynth.data.subject import sidecar_of
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.report.methods_text import methods_text
from scansynth.report.page import render
from scansynth.synthesis.contrast_table import ABSENT, FAILED, SYNTHETIC, Entry
from scansynth.synthesis.image import Synthesis, content_of
from scansynth.synthesis.pictures import picture_of, picture_path

log = logging.getLogger(__name__)

ENDING = "_synthetic.html"
_MARK = 'name="generator" content="scansynth'
_START = 2000
"""Bytes of a page in which its mark stands."""


def write_pages(out: Path, listing: Listing, entries: Iterable[Entry]) -> list[Path]:
    """Write the pages of subjects in a folder of translations.

    Args:
        out: the folder.
        listing: whose pages are written; those of whom nothing was made or refused get none.
        entries: rows of the folder's table.

    Returns:
        The pages. Where a file of somebody else stands in the place of one, that is told, and it stays.

    Raises:
        OSError: if one cannot be written.
    """
    rows: dict[str, list[Entry]] = {subject: [] for subject in (one.name for one in listing.subjects)}
    for entry in entries:
        if entry.subject in rows:
            rows[entry.subject].append(entry)
    pages = []
    for subject, own in rows.items():
        made = [out / entry.path for entry in own if entry.status == SYNTHETIC]
        images = [(content_of(sidecar_of(image)), _bytes(picture_path(image))) for image in made]
        refused = [
            (entry.contrast, entry.note) for entry in own
            if entry.status == FAILED or (entry.status == ABSENT and entry.note)
        ]  # fmt: skip
        page = out / f"{subject}{ENDING}"
        if not images and not any(entry.status == FAILED for entry in own):
            continue
        try:
            write_page(page, subject, images, refused=refused, layout=listing.layout)
        except InputError as error:
            log.warning("%s", error)
            continue
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("%s: no page: a sidecar of its images is damaged (%s)", page, error)
            continue
        pages.append(page)
    return pages


def write_page(
    path: Path,
    subject: str,
    images: Sequence[tuple[Mapping[str, Any], bytes | None]],
    *,
    refused: Sequence[tuple[str, str]] = (),
    layout: str = "",
) -> None:
    """Write a subject's page.

    Args:
        path: the file.
        subject: its name.
        images: sidecar and picture (PNG) of each image.
        refused: contrast and why it was not made.
        layout: of the data.

    Raises:
        InputError: if a file that is no such page stands there.
    """
    check_page(path)
    told = [one for one, _ in images]
    page = render(
        "subject.html.j2",
        subject=subject,
        images=[_shown(one, picture) for one, picture in images],
        refused=refused,
        text=methods_text(told, layout=layout) if told else None,
    )
    write_text(path, page)


def check_page(path: Path) -> None:
    """Raise InputError if a file that is none of these pages stands in a page's place."""
    if path.suffix != ".html":
        raise InputError(f"{path}: give a page a name that ends in .html")
    if not os.path.lexists(path):
        return
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            if _MARK in file.read(_START):
                return
    raise InputError(f"{path} is no page of this program and stays: move it, or choose another place")


def picture_bytes(synthesis: Synthesis) -> bytes:
    """The picture of a translation, PNG."""
    stream = io.BytesIO()
    picture_of(synthesis).save(stream, "PNG")
    return stream.getvalue()


def _bytes(picture: Path) -> bytes | None:
    """A picture that is one; None where there is none."""
    try:
        content = picture.read_bytes()
        Image.open(io.BytesIO(content)).verify()
    except (OSError, SyntaxError):
        return None
    return content


def _shown(told: Mapping[str, Any], picture: bytes | None) -> dict[str, Any]:
    """What the page shows of an image."""
    together, weights = told.get("brought_together", {}), told.get("weights", {})
    checks = list(told.get("odd", ()))
    facts = [
        ("Unit", told.get("unit", "")), ("Method", told.get("method", "")),
        ("Run", f"{told.get('run', '')}, {told.get('weights_chosen', '')} weights of step "
                f"{weights.get('training_step', '?')}, SHA-256 {weights.get('sha256', '')}"),
        ("Image", f"{told.get('image', '')}; {told.get('samples', 1)} drawn, seed {told.get('seed', '')}"),
        ("Sources", "; ".join(f"{contrast}: {file}" for contrast, file in told.get("sources", {}).items())),
        ("Accepted against the rules", ", ".join(told.get("accepted", ())) or "nothing"),
    ]  # fmt: skip
    for contrast, values in together.get("registered", {}).items():
        placed = Placed(**values)
        facts.append((
            f"{contrast} registered to {together.get('reference', '')}",
            f"turned by {placed.degrees:.1f}°, moved by {placed.millimetres:.1f} mm; mutual information "
            f"{placed.before:.2f} before, {placed.information:.2f} after; shows {placed.covered:.0%} of the head",
        ))  # fmt: skip
        checks += [f"{contrast}: {line}" for line in placed.odd()]
    if together:
        facts.append(("Bias field, brain", f"{together.get('bias', '')}, {together.get('brain', '')}"))
    data = f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}" if picture else None
    unsure = told.get("samples", 1) > 1 or bool(told.get("intervals"))
    return {
        "target": told.get("target", ""), "sources": list(told.get("sources", ())), "picture": data,
        "unsure": unsure, "checks": checks, "facts": facts,
    }  # fmt: skip
