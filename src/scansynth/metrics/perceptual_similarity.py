"""LPIPS of slices, by the networks of `networks/perceptual.py`."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from scansynth.errors import InputError
from scansynth.metrics.image_metrics import Images, Metric, over_slices
from scansynth.networks.perceptual import PerceptualNetwork


def lpips(images: Images, network: PerceptualNetwork) -> Tensor:
    """Learned perceptual image patch similarity (Zhang et al. 2018); of volumes, the mean over axial slices.

    The lowest intensity of the range is black. Outside the mask both images are black; slices of a volume without a
    voxel of it are left out.

    Raises:
        InputError: if a side is too short for the network.
    """
    sides = images.reference.shape[1:3]
    if min(sides) < network.architecture.least:
        raise InputError(
            f"slices of {'×'.join(map(str, sides))} voxels: LPIPS by {network.architecture.name} needs sides of at "
            f"least {network.architecture.least}"
        )
    black = images.lowest
    from_black = replace(images, synthesis=images.synthesis - black, reference=images.reference - black, lowest=0.0)
    return over_slices(network.distance, from_black)


def lpips_metric(path: Path) -> Metric:
    """LPIPS by a weights file; its column and its heading name the file by its hash.

    Raises:
        InputError: if the file holds no such weights.
    """
    network = PerceptualNetwork.read(path)
    name = network.architecture.name
    return Metric(
        column=f"lpips_{name.lower()}_{network.sha256}",
        heading=f"LPIPS ({name}, weights {network.sha256})",
        better="less",
        digits=4,
        compute=partial(lpips, network=network),
        note="LPIPS: of axial slices (of volumes the mean), both images black outside a mask; the weights are named by "
        "the first digits of their file's SHA-256",
    )
