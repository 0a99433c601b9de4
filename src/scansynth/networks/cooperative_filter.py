"""Similar cooperative filtering of features (CoLa-Diff, Eq. 4): wavelets, similar patches together, soft thresholds.

The last approximation A and every diagonal D_j pass block matching: each patch is grouped with its most similar ones in
a search window, a group is filtered together and put back, as in BM3D (Dabov, Foi, Katkovnik & Egiazarian 2007), but in
one pass, for all groups at once, and with gradients. Every H_j and V_j passes a soft threshold. With thresholds of 0
nothing changes.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.physics.wavelet import dwt, iwt


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """sign(x) max(|x| − threshold, 0), a threshold of 0 or more that broadcasts."""
    return x - torch.clamp(x, min=-threshold, max=threshold)


def grown(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until both sides are multiples."""
    more = -x.shape[3] % multiple, -x.shape[2] % multiple
    return functional.pad(x, (0, more[0], 0, more[1]), mode="replicate") if any(more) else x


def hadamard(parts: Sequence[Tensor]) -> list[Tensor]:
    """The Hadamard transform along a list of n: sums with signs, the first without. Twice, it gives n times the list.

    Args:
        parts: 2^k tensors of one shape.
    """
    parts, half = list(parts), 1
    while half < len(parts):
        for start in range(0, len(parts), 2 * half):
            for k in range(start, start + half):
                parts[k], parts[k + half] = parts[k] + parts[k + half], parts[k] - parts[k + half]
        half *= 2
    return parts


@lru_cache(maxsize=32)
def window(rows: int, columns: int, radius: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which places of a grid are around each one.

    Returns:
        Their numbers, (N, W) int64, N = rows · columns and W = (2 radius + 1)²; whether they are in the grid (where
        not, the number is the place's own), (N, W) bool; and which of the W is the place itself, (W,) bool.
    """
    place = torch.arange(rows * columns, device=device)
    row, column = place // columns, place % columns
    offsets = torch.arange(-radius, radius + 1, device=device)
    down, across = (one.flatten() for one in torch.meshgrid(offsets, offsets, indexing="ij"))
    r, c = row[:, None] + down, column[:, None] + across  # (N, W)
    inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
    return torch.where(inside, r * columns + c, place[:, None]), inside, (down == 0) & (across == 0)


def similar(patches: Tensor, grid: tuple[int, int], radius: int, matches: int) -> Tensor:
    """The most similar patches of each one in a window around it, itself first.

    Args:
        patches: (B, N, P), N = rows · columns of the grid.
        grid: rows and columns.
        radius: of the window, in patches.
        matches: how many, itself included.

    Returns:
        Their numbers, (B, N, matches) int64. Where the grid has fewer in reach, the patch itself fills up.
    """
    near, inside, own = window(*grid, radius, patches.device)
    batch = len(patches)
    squares = patches.square().sum(-1)  # (B, N)
    # ‖a − b‖² for all pairs in reach: the products of all pairs are one matrix product. ‖a‖² orders nothing.
    products = patches @ patches.transpose(1, 2)  # (B, N, N)
    near_b = near.expand(batch, -1, -1)
    distance = squares[:, near] - 2 * products.gather(2, near_b)
    distance = distance.masked_fill(~inside, torch.inf)
    distance = distance.masked_fill(own, -torch.inf)  # itself first, whatever rounding says
    order = distance.topk(matches, dim=2, largest=False)
    found = near_b.gather(2, order.indices)
    alone = torch.arange(patches.shape[1], device=patches.device)[None, :, None]
    return torch.where(order.values == torch.inf, alone, found)


class BlockMatching(nn.Module):
    """δ: patches filtered together with those most similar to them.

    A group's patches are transformed along the group by a Hadamard matrix, all coefficients but the group's mean are
    shrunk by a learned threshold, and every patch goes back to its place; a place that several groups hold gets their
    mean.

    Args:
        channels: of the features; one threshold each.
        patch: side of a patch; patches lie side by side.
        radius: of the search window, in patches.
        matches: patches of a group, a power of two; fewer where a map has fewer.
        threshold: at the start.
    """

    def __init__(self, channels: int, patch: int = 4, radius: int = 3, matches: int = 4, threshold: float = 0.01):
        super().__init__()
        assert matches & (matches - 1) == 0, f"{matches} matches are no power of two"
        self.patch, self.radius, self.matches = patch, radius, matches
        self.threshold = nn.Parameter(torch.full((channels,), float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        batch, channels, height, width = x.shape
        side = min(self.patch, height, width)
        padded = grown(x, side)
        rows, columns = padded.shape[2] // side, padded.shape[3] // side
        matches = min(self.matches, 2 ** int(math.log2(rows * columns)))
        if matches == 1:  # a group's mean is all that it has
            return x
        patches = padded.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, rows * columns, channels, side * side)  # (B, N, C, P)
        flat = patches.flatten(2)
        with torch.no_grad():
            found = similar(flat, (rows, columns), self.radius, matches)  # (B, N, M)
        rows_of = torch.arange(batch, device=x.device)[:, None]
        group = [flat, *(flat[rows_of, found[..., k]] for k in range(1, matches))]  # each (B, N, C P); its own is first
        # With the orthonormal H/√M in place of H: soft(c) = c − clamp(c), so that a filtered group is the group less
        # H clamp(H g) / M, and the patches themselves need no way back.
        limit = matches**0.5 * functional.relu(self.threshold).to(x.dtype).repeat_interleave(side * side)
        _, *details = hadamard(group)
        shrunk = [torch.clamp(part, min=-limit, max=limit) for part in details]
        first, *others = hadamard([torch.zeros_like(shrunk[0]), *shrunk])
        # Every patch goes back to its place: as a product with zeros and ones, N of them being few, and not one by one.
        back = functional.one_hot(found[..., 1:], rows * columns).to(x.dtype).permute(0, 3, 2, 1)  # (B, N, M − 1, N)
        total = first + back.flatten(2) @ torch.cat(others, dim=1)
        filtered = flat - total / (matches * (1 + back.sum((2, 3))[..., None]))
        filtered = filtered.reshape(batch, rows, columns, channels, side, side)
        return filtered.permute(0, 3, 1, 4, 2, 5).reshape(padded.shape)[..., :height, :width]


class CooperativeFilter(nn.Module):
    """f* of Eq. 4, the sums read as "at every level".

    Args:
        channels: of the features.
        levels: of the wavelet transform; fewer where a map is too small.
        patch: of the block matching.
        radius: of its search window.
        matches: of a group.
        threshold: of all thresholds at the start.
    """

    def __init__(
        self,
        channels: int,
        levels: int = 2,
        patch: int = 4,
        radius: int = 3,
        matches: int = 4,
        threshold: float = 0.01,
    ):
        super().__init__()
        self.levels = levels
        self.approximation = BlockMatching(channels, patch, radius, matches, threshold)
        self.diagonals = nn.ModuleList(
            [BlockMatching(channels, patch, radius, matches, threshold) for _ in range(levels)]
        )
        self.threshold = nn.Parameter(torch.full((levels, 2, channels), float(threshold)))
        """Of H_j and V_j."""

    def forward(self, f: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape; in single precision where the networks compute in half of it."""
        with torch.autocast(f.device.type, enabled=False):
            return self.filtered(f if f.dtype == torch.float64 else f.float()).to(f.dtype)

    def filtered(self, f: Tensor) -> Tensor:
        """f*, in the precision of f."""
        height, width = f.shape[2:]
        levels = min(self.levels, int(math.log2(min(height, width))))
        x = grown(f, 2**levels)
        limits = functional.relu(self.threshold).to(f.dtype)[..., None, None]
        details = []
        for level in range(levels):
            approximation, low_high, high_low, diagonal = dwt(x).unflatten(1, (-1, 4)).unbind(2)
            details.append(
                (
                    soft_threshold(low_high, limits[level, 0]),
                    soft_threshold(high_low, limits[level, 1]),
                    self.diagonals[level](diagonal),
                )
            )
            x = approximation
        x = self.approximation(x)
        for low_high, high_low, diagonal in reversed(details):
            x = iwt(torch.stack([x, low_high, high_low, diagonal], dim=2).flatten(1, 2))
        return x[..., :height, :width]
