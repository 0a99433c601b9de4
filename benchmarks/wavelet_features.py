"""What the bands of a few features at full resolution are worth beside those of the images themselves.

    python benchmarks/wavelet_features.py --cohort COHORT -o benchmarks/results/wavelet-features.json

`regression_wavelet_small` is trained from one contrast to another for some steps, as it stands and with its network on
the bands of the images, both from the same seeds and samples. The error is the mean absolute one inside the head, in
[0, 1], on boxes of the validation subjects and on their whole volumes. One thread; seconds are the processor's.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import whole_subject
from scansynth.data.patches import PatchDataset
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.physics.wavelet import dwt, iwt
from scansynth.recipes import find_recipe
from short_training import train_shortly

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w")
BOX, BATCH, BOXES = (32, 32, 16), 4, 12


class OnImages(UNet):
    """The same U-Net on the bands of the images, without features at full resolution."""

    def __init__(self, in_channels: int, *, planes: int, **settings: Any):
        super().__init__(3, 8 * (in_channels - planes) + planes, 8, bottleneck_attention=False, **settings)
        self.planes = planes
        self.size_multiple *= 2

    def forward(self, x: Tensor, t: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the network."""
        images, planes = x.split([x.shape[1] - self.planes, self.planes], dim=1)
        return iwt(self.features(torch.cat([dwt(images), planes[..., ::2, ::2, ::2]], dim=1), t, w))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, required=True, help="prepared, with T1w and T2w")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in asked.seeds:
        for bands in ("of features", "of images"):
            rows.append(trained(Cohort.open(asked.cohort), bands, seed, asked.steps))
            print(rows[-1], flush=True)
    save(asked.output, {"cohort": asked.cohort.name, "box": BOX, "batch": BATCH, "steps": asked.steps, "results": rows})


def trained(cohort: Cohort, bands: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one arm; its errors and what a step took."""
    config = find_recipe("regression_wavelet_small")
    training = replace(config.training, steps=steps, batch_size=BATCH)
    config = replace(
        config, contrasts=CONTRASTS, seed=seed, training=training, settings=replace(config.settings, patch=BOX)
    )
    nets = None
    if bands == "of images":
        torch.manual_seed(seed)
        own = config.settings
        size: dict[str, Any] = {"channels": own.channels, "multipliers": own.multipliers, "attention_levels": ()}
        nets = nn.ModuleDict({"unet": OnImages(3 * len(CONTRASTS), planes=2 * len(CONTRASTS), **size)})
    found = train_shortly(config, cohort, steps=steps, nets=nets)
    method = found.method
    method.eval()
    boxes = PatchDataset(cohort, CONTRASTS, "val", seed=0, size=BOX)
    whole = [whole_subject(cohort, subject, CONTRASTS)["images"] for subject in cohort.subjects("val")]
    return {
        "bands": bands, "seed": seed, "processor_seconds_a_step": round(found.seconds, 3),
        "error_of_boxes": round(error(method, [boxes[number]["images"][None] for number in range(BOXES)]), 4),
        "error_of_volumes": round(error(method, whole), 4),
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
    }  # fmt: skip


@torch.no_grad()
def error(method: Any, images: list[Tensor]) -> float:
    """Mean absolute error of T2w from T1w where the head is, in [0, 1]."""
    found = []
    for image in images:
        batch = {"images": image * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)}
        batch["available"] = torch.tensor([[True, False]])
        made = method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "subject", 0)])).image
        head = image[:, :1] > -0.9
        found.append(((made - image[:, 1:]).abs()[head].mean() / 2).item())
    return sum(found) / len(found)


if __name__ == "__main__":
    main()
