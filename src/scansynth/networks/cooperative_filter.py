"""Similar cooperative filtering of features (CoLa-Diff, Eq. 4): wavelets, similar patches together, soft thresholds.

The last approximation A and every diagonal D_j pass block matching: each patch is grouped with its most similar ones in
a search window, a group is filtered together and put back, as in BM3D (Dabov, Foi, Katkovnik & Egiazarian 2007), but in
one pass, for all groups at once, and with gradients. Patches are scaled to their band, so that small maps have groups,
too. Every H_j and V_j passes a soft threshold. With thresholds of 0
nothing changes. What is computed is what the features lose, which takes fewer steps.
"""

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.physics.wavelet import join, split


def beyond(x: Tensor, threshold: Tensor) -> Tensor:
    """What a soft threshold takes away, x − sign(x) max(|x| − threshold, 0); the threshold, 0 or more, broadcasts."""
    return torch.clamp(x, min=-threshold, max=threshold)


def grown(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until both sides are multiples."""
    more = -x.shape[3] % multiple, -x.shape[2] % multiple
    return functional.pad(x, (0, more[0], 0, more[1]), mode="replicate") if any(more) else x


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
    # ‖a − b‖² for all pairs in reach: the products of all pairs are one matrix product. ‖a‖² orders nothing.
    products = patches @ patches.transpose(1, 2)  # (B, N, N)
    squares = products.diagonal(dim1=1, dim2=2)
    near_b = near.expand(batch, -1, -1)
    distance = squares[:, near] - 2 * products.gather(2, near_b)
    distance = distance.masked_fill(~inside, torch.inf)
    distance = distance.masked_fill(own, -torch.inf)  # itself first, whatever rounding says
    order = distance.topk(matches, dim=2, largest=False)
    found = near_b.gather(2, order.indices)
    alone = torch.arange(patches.shape[1], device=patches.device)[None, :, None]
    return torch.where(order.values == torch.inf, alone, found)


LEAST_PATCHES = 4
"""Along each side of a band: with fewer a search window finds no likeness, and with one there is no group at all."""


class BlockMatching(nn.Module):
    """δ: patches filtered together with those most similar to them.

    A group's patches are transformed along the group by a Hadamard matrix, all coefficients but the group's mean are
    shrunk by a learned threshold, and every patch goes back to its place; a place that several groups hold gets their
    mean.

    Args:
        channels: of the features; one threshold each.
        patch: side of a patch, smaller where a map would hold fewer than four along a side; patches lie side by side.
        radius: of the search window, in patches.
        matches: patches of a group, a power of two; fewer where a map has fewer.
        threshold: at the start.
    """

    def __init__(self, channels: int, patch: int = 4, radius: int = 3, *, matches: int = 4, threshold: float = 0.01):
        super().__init__()
        assert matches & (matches - 1) == 0, f"{matches} matches are no power of two"
        self.patch, self.radius, self.matches = patch, radius, matches
        self.threshold = nn.Parameter(torch.full((channels,), float(threshold)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return x - self.lost(x)

    def lost(self, x: Tensor) -> Tensor:
        """What the filter takes away, (B, C, H, W)."""
        from scipy import linalg  # slow to load, and every recipe would wait for it

        batch, channels, height, width = x.shape
        # The largest s of which ⌈n/s⌉ ≥ 4 cover the shorter side n, padding included; single places at the least.
        side = max(1, min(self.patch, (min(height, width) - 1) // (LEAST_PATCHES - 1)))
        padded = grown(x, side)
        rows, columns = padded.shape[2] // side, padded.shape[3] // side
        matches = min(self.matches, 2 ** int(math.log2(rows * columns)))
        if matches == 1:  # a group's mean is all that it has
            return torch.zeros_like(x)
        patches = padded.reshape(batch, channels, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        flat = patches.reshape(batch, rows * columns, side * side * channels)  # (B, N, P C)
        with torch.no_grad():
            found = similar(flat, (rows, columns), self.radius, matches)  # (B, N, M)
        chosen = functional.one_hot(found, rows * columns).to(x.dtype)  # (B, N, M, N)
        # Few patches and long ones: choosing groups and transforming them is a product with signs, going back with its
        # transpose. signs is √M H, H orthonormal.
        signs = torch.from_numpy(linalg.hadamard(matches)[1:]).to(chosen)
        forth = torch.einsum("km,bnmp->bknp", signs, chosen).flatten(1, 2)  # (B, (M − 1) N, N)
        limit = matches**0.5 * functional.relu(self.threshold).to(x.dtype).repeat(side * side)
        back = forth.transpose(1, 2) / (matches * chosen.sum((1, 2))[..., None])
        lost = back @ beyond(forth @ flat, limit)
        lost = lost.reshape(batch, rows, columns, side, side, channels).permute(0, 1, 3, 2, 4, 5)
        lost = lost.reshape(batch, rows * side, columns * side, channels).permute(0, 3, 1, 2)
        return lost[..., :height, :width]


class CooperativeFilter(nn.Module):
    """f* of Eq. 4, the sums read as "at every level".

    Args:
        channels: of the features.
        levels: of the wavelet transform; fewer where a map is too small.
        patch: of the block matching, at the most.
        radius: of its search window.
        matches: of a group.
        threshold: of all thresholds at the start.
    """

    def __init__(
        self,
        channels: int,
        levels: int = 2,
        *,
        patch: int = 4,
        radius: int = 3,
        matches: int = 4,
        threshold: float = 0.01,
    ):
        super().__init__()
        self.levels = levels
        self.approximation = BlockMatching(channels, patch, radius, matches=matches, threshold=threshold)
        diagonals = [
            BlockMatching(channels, patch, radius, matches=matches, threshold=threshold) for _ in range(levels)
        ]
        self.diagonals: Iterable[BlockMatching] = nn.ModuleList(diagonals)  # pyright: ignore[reportAttributeAccessIssue]
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
        # Channels last: neighbours in the plane are then whole rows of numbers.
        x = grown(f.to(memory_format=torch.channels_last), 2**levels)
        limits = functional.relu(self.threshold).to(f.dtype)[..., None, None]
        # The transform is linear: what the features lose is the inverse of what the bands lose.
        details = []
        for level, matching in zip(range(levels), self.diagonals, strict=False):
            approximation, low_high, high_low, diagonal = split(x)
            details.append(
                (
                    beyond(low_high, limits[level, 0]),
                    beyond(high_low, limits[level, 1]),
                    matching.lost(diagonal),
                )
            )
            x = approximation
        lost = self.approximation.lost(x)
        for level in reversed(details):
            lost = join((lost, *level))
        return f - lost[..., :height, :width]
