"""A page in one file: its templates, its pictures as data, and a policy that forbids all requests."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.image import imread, imsave

import scansynth
from scansynth.metrics.montage import BANNER

HERE = Path(__file__).parent
QUALITY = 88
"""Of pictures that may lose a little, WebP; the PNG files beside the page lose nothing."""


def render(template: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """A page from a template of this folder, with style, banner, version and date; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        banner=BANNER,
        policy=content_policy(scripts),
        style=Markup((HERE / "report.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        version=scansynth.__version__,
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        **values,
    )


def content_policy(scripts: Sequence[str]) -> str:
    """What the page may do: run these scripts, show what it holds, and nothing else, above all no request."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
        for script in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def pictures(folder: Path, names: Mapping[str, str], *, smaller: bool = False) -> list[tuple[str, str]]:
    """Those of a folder's PNG files (name → what it shows) that are there, as (what it shows, data).

    Args:
        folder: of the files.
        names: file → what it shows.
        smaller: as WebP, which loses a little.
    """
    found = []
    for name, meaning in names.items():
        path = folder / name
        if path.is_file():
            kind, content = ("webp", _webp(path)) if smaller else ("png", path.read_bytes())
            found.append((meaning, f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"))
    return found


def _webp(path: Path) -> bytes:
    stream = io.BytesIO()
    imsave(stream, imread(path), format="webp", pil_kwargs={"quality": QUALITY, "method": 4})
    return stream.getvalue()
