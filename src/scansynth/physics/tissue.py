"""The tissues of the brain, and their densities from several sources together."""

import torch
from torch import Tensor

TISSUES = ("white matter", "grey matter", "CSF", "tumour")
"""In the order of the densities' channels."""
WEIGHTS = {"T1w": 1.0, "T1ce": 1.0, "T2w": 1.0, "PDw": 0.5, "FLAIR": 0.5}
"""Of the contrasts that have tissue maps. Chosen on phantoms (benchmarks/tissue.py): in FLAIR a voxel of CSF and cortex
looks like white matter, and PDw does not tell grey matter from CSF."""


def combine(tissue: Tensor, weights: Tensor) -> Tensor:
    """One set of densities from those of several sources.

    The tumour is the union: most contrasts show a part of it. Elsewhere the densities of normal tissue are averaged
    over the sources with their weights (a linear opinion pool), over those that have the voxel in their brain and see
    no tumour in it. On phantoms the mean is as good as the product of probabilities, and better where FLAIR is among
    the sources: one contrast that is wrong and sure rules a product.

    Args:
        tissue: densities by each contrast, (B, K, 4, *S).
        weights: of the contrasts, (B, K); those of weight 0 are not read.

    Returns:
        (B, 4, *S), in [0, 1], summing to 1 where a source sees brain.
    """
    weights = weights.reshape(*weights.shape, *[1] * (tissue.ndim - 2))
    read = torch.where(weights > 0, tissue, torch.zeros((), dtype=tissue.dtype, device=tissue.device))
    tumour = read[:, :, 3:].amax(1)
    normal = (weights.to(tissue.dtype) * read[:, :, :3]).sum(1)
    total = normal.sum(1, keepdim=True)
    share = torch.where(total > 0, (1 - tumour) / total.clamp_min(1e-12), torch.zeros_like(total))
    return torch.cat([normal * share, tumour], dim=1)
