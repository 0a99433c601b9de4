"""A run's card for people: `README.md` of an export, with what the Hugging Face Hub reads at its top."""

import re
from collections.abc import Mapping
from typing import Any

LIMITS = (
    "Every image that it makes is synthetic, for research and never for diagnosis: it can miss a lesion that is there "
    "and show one that is not.",
    "It adds no information to the sources: what they do not show is guessed as it was usual in training.",
    "Of people, scanners, sequences and diseases that training did not have, nothing is known of how well it works.",
)
"""What holds for every run."""


def card_text(card: Mapping[str, Any]) -> str:
    """The card in Markdown.

    Args:
        card: as `synthesis.card.Card`, without the files.
    """
    data, weights = card["training_data"], card["weights"]
    generates = not card["makes"]
    lines = [
        "---",
        *([f"license: {_yaml(weights['licence'])}"] if re.fullmatch(r"[\w.+-]+", weights["licence"]) else []),
        "library_name: scansynth",
        "tags: [medical-imaging, mri, image-synthesis, synthetic]",
        "---",
        "",
        f"# {_plain(card['name'])}",
        "",
        "> **What this makes is synthetic: for research, never for diagnosis.**",
        "",
        f"{_plain(card['description'])} ({_plain(card['citation'])}).",
        "",
        f"Makes {', '.join(map(_plain, card['makes'])) or 'volumes'}"
        + ("" if generates else f" from what is there of {', '.join(map(_plain, card['contrasts']))}") + ".",
        "",
        "```sh",
        "scansynth inspect FOLDER",
        "scansynth translate --run FOLDER -i DATA -o OUT --missing" if not generates
        else "scansynth generate --run FOLDER -n 10 -o OUT",
        "```",
        "",
        "## Input",
        "",
        *_listed(card["input"]),
        "",
        *(["Sources that are not like the training scans are refused, with the reason.", ""]
          if isinstance(card["input"]["like"], Mapping) else []),
        "## Training data",
        "",
        *_listed({
            "Data": data["description"], "Licence": data["licence"], "People": data["people"], "Age": data["age"],
            "Sex": data["sex"],
        }),
        "",
        "## Weights",
        "",
        *_listed({"Licence": weights["licence"], "Training step": weights["training_step"],
                  "SHA-256": weights["sha256"]}
                 | ({"Published weights": weights["named"]} if "named" in weights else {})),
        "",
        "## Figures",
        "",
        *_figures(card["figures"]),
        "",
        "## Limits",
        "",
        *(f"- {_plain(limit)}" for limit in card["limits"]),
        "",
        f"Exported by scansynth {card['made_by']['scansynth']}. `card.json` holds the hash of every file; a run that "
        "is not what it says is refused.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _listed(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            value = "; ".join(f"{key}: {one}" for key, one in value.items()) or "none"
        elif isinstance(value, list):
            value = " × ".join(map(str, value))
        lines.append(f"- {_plain(f'{name[0].upper()}{name[1:]}')}: {_plain(str(value))}")
    return lines


def _figures(figures: list[dict[str, Any]]) -> list[str]:
    if not figures:
        return ["None were measured: **how good its images are is not known.**"]
    columns = list(dict.fromkeys(name for one in figures for name in one["figures"]))
    lines = [f"| | direction | {' | '.join(columns)} | subjects | protocol |",
             f"| --- | --- |{' ---: |' * len(columns)} ---: | --- |"]  # fmt: skip
    for one in figures:
        cells = [_number(one["figures"].get(name)) for name in columns]
        row = [one["of"], one["direction"], *cells, str(one["subjects"]), one["protocol"]]
        lines.append(f"| {' | '.join(_plain(cell).replace('|', '/') for cell in row)} |")
    said = dict.fromkeys(note for one in figures for note in (f"Syntheses: {one['syntheses']}.", *one["notes"]))
    return [*lines, "", *(f"- {_plain(note)}" for note in said)]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value if value is not None else "–")


def _plain(text: str) -> str:
    """A text as one line of Markdown that says what it says: no markup of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(str(text).split()))


def _yaml(text: str) -> str:
    return text.lower()
