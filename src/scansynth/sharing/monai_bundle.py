"""The files by which an exported run is a bundle that MONAI's own command runs (monai.bundle, MONAI 1.3 and later).

    python -m monai.bundle run --bundle_root FOLDER --config_file FOLDER/configs/inference.json \\
        --sources "{'T1w': 'sub-01_T1w.nii.gz'}" --target T2w --output out.nii.gz

The bundle asks scansynth to do the work: preparation, networks and files are those of `scansynth translate`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scansynth
from scansynth.files import write_text

METADATA, INFERENCE = "configs/metadata.json", "configs/inference.json"
MONAI = "1.3.0"
"""The first release whose bundles are run so."""


def write_bundle(folder: Path, card: Mapping[str, Any]) -> None:
    """Write the bundle's two configurations into an export.

    Args:
        folder: of the export.
        card: as `synthesis.card.Card`, without the files.
    """
    target = card["makes"][0]
    first = next((name for name in card["contrasts"] if name != target), card["contrasts"][0])
    image = {
        "type": "image", "format": "magnitude", "modality": "MR", "num_channels": 1, "spatial_shape": ["*", "*", "*"],
        "dtype": "float32", "value_range": [], "is_patch_data": False,
    }  # fmt: skip
    metadata = {
        "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json",
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by scansynth {scansynth.__version__}"},
        "monai_version": MONAI,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "optional_packages_version": {"scansynth": scansynth.__version__},
        "required_packages_version": {"scansynth": scansynth.__version__},
        "name": card["name"],
        "task": f"Synthesis of {', '.join(card['makes'])} from other contrasts",
        "description": f"{card['description']} Synthetic images for research, never for diagnosis.",
        "authors": "see README.md",
        "copyright": f"licence of the weights: {card['weights']['licence']}",
        "intended_use": "Research. What it makes is synthetic and no scan.",
        "references": [card["citation"]],
        "network_data_format": {
            "inputs": {name: {**image, "channel_def": {"0": name}} for name in card["contrasts"]},
            "outputs": {"pred": {**image, "channel_def": {"0": f"synthetic {target}"}}},
        },
    }
    inference = {
        "imports": ["$import scansynth"],
        "bundle_root": ".",
        "device": "auto",
        "sources": {first: f"sub-01_{first}.nii.gz"},
        "target": target,
        "output": f"sub-01_{target}_synthetic.nii.gz",
        "seed": 0,
        "model": "$scansynth.load(@bundle_root, @device)",
        "synthesis": "$@model.translate(@sources, @target, sampling=scansynth.Sampling(seed=@seed))",
        "run": ["$@synthesis.write(@output, overwrite=False)"],
    }
    write_text(folder / METADATA, json.dumps(metadata, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / INFERENCE, json.dumps(inference, indent=1, ensure_ascii=False) + "\n")
