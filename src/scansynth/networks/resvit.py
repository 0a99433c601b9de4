"""ResViT's generator: a residual translator, in two of whose blocks a vision transformer looks at the whole slice.

Dalmaz, Yurt & Çukur, "ResViT: Residual Vision Transformers for Multimodal Medical Image Synthesis", IEEE Transactions
on Medical Imaging 41(10), 2022. The transformer: Dosovitskiy et al., "An Image Is Worth 16x16 Words: Transformers for
Image Recognition at Scale", ICLR 2021.

Part of the paper                                         | here
--------------------------------------------------------- | ----
aggregated residual transformer (ART) block               | `ArtBlock`
its channel compression                                   | `Compression`
transformer encoder, one for all ART blocks               | `VisionTransformer`

Its weights may come from a file that a user names, one of safetensors whose keys are those of timm's vision
transformers: `blocks.<n>.norm1`, `.attn.qkv`, `.attn.proj`, `.norm2`, `.mlp.fc1`, `.mlp.fc2` and `norm`, each with
`.weight` and `.bias`; `attn.qkv` holds queries, keys and values one below the other, (3 width, width). The paper's own
start, the ResNet-50 and ViT-B/16 of ImageNet-21k, is published so as `timm/vit_base_r50_s16_224.orig_in21k`. What else
such a file holds (`patch_embed`, `pos_embed`, `cls_token`, `head` …) is not read: here other layers make the tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.resnet import Residual, decoding, doubling, encoding, halving, normed, through
from scansynth.networks.start import DEVIATION, normal_start
from scansynth.networks.users_weights import read_weights

Drop = Callable[[str, Tensor], Tensor]
"""`drop(name, h)`: features of that name with some of them dropped, those of tokens (B, N, C)."""

BLOCKS = 9
TRANSFORMED = (1, 6)
"""Which of the blocks, counted from 1, have the transformer."""
GRID = 16
"""Side of the grid of tokens of a slice of 256×256, whose places have positions of their own."""
PATCH = 16
"""Pixels of a slice along a token's side."""
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('vit.pth', weights_only=True); "
    "s.save_file({k: v for k, v in w.items() if k.startswith(('blocks.', 'norm.'))}, 'vit.safetensors')\""
)
"""Makes the file of a timm network's weights, where they are trusted."""


def under(part: str, drop: Drop) -> Drop:
    """`drop`, with the name of a part of the network before the features' own."""
    return lambda name, h: drop(f"{part} {name}", h)


class Attention(nn.Module):
    """Multi-head self-attention among tokens (Dosovitskiy et al. 2021, appendix A), by a kernel that holds no weights.

    Args:
        width: of a token.
        heads: of the attention; it divides the width.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        assert width % heads == 0, f"{heads} heads do not divide a width of {width}"
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) → (B, N, width)."""
        q, k, v = (
            self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (B, heads, N, …)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with GELU between them, at every token; (B, N, width) → (B, N, width)."""

    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


class Layer(nn.Module):
    """Attention and a perceptron, each after a norm and added to its input (Dosovitskiy et al. 2021, Eqs. 2 and 3).

    Args:
        width: of a token.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)

    def forward(self, tokens: Tensor, drop: Drop) -> Tensor:
        """(B, N, width) → (B, N, width); each dense layer but that of queries, keys and values has dropout."""
        tokens = tokens + drop("attention", self.attn(self.norm1(tokens)))
        hidden = drop("hidden", functional.gelu(self.mlp.fc1(self.norm2(tokens))))
        return tokens + drop("perceptron", self.mlp.fc2(hidden))


class VisionTransformer(nn.Module):
    """The encoder of a vision transformer: layers, then a norm (Dosovitskiy et al. 2021, Eqs. 2 to 4).

    Args:
        width: of a token.
        layers: how many.
        heads: of each layer's attention.
    """

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12):
        super().__init__()
        self.blocks = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, tokens: Tensor, drop: Drop) -> Tensor:
        """(B, N, width) → (B, N, width), of any number of tokens."""
        for number, layer in enumerate(self.blocks):
            tokens = layer(tokens, under(f"layer {number}", drop))
        return self.norm(tokens)

    def read(self, path: Path) -> str:
        """Take the weights of a file (this module's docstring says which keys).

        Returns:
            The first digits of the file's SHA-256.

        Raises:
            InputError: if there is none, or its layers are not these.
        """
        found, digits = read_weights(path, "a vision transformer's", CONVERT)
        own = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        its = {name: tuple(tensor.shape) for name, tensor in found.items() if name.startswith(("blocks.", "norm."))}
        differing = sorted(name for name in own.keys() | its.keys() if own.get(name) != its.get(name))
        if differing:
            name = differing[0]
            raise InputError(
                f"{path}: no weights of a transformer of {len(self.blocks)} layers of this width: {name} is "
                f"{its.get(name, 'missing')} there, and {own.get(name, 'missing')} here, as {len(differing)} in all: "
                "name a file of timm's keys, or set width and layers to its"
            )
        self.load_state_dict({name: found[name].float() for name in own})
        return digits


class Compression(nn.Module):
    """Channel compression: of the transformer's features and the block's input, 4c channels each, to 4c.

    3×3, norm, ReLU, 3×3, norm, and a 1×1 convolution beside them, added before a ReLU. What a convolution takes of
    either half is a convolution of its own here, and their sum is that of both.

    # Paper: all weights start from N(0, 0.02). Here: those of the transformer's half from 0, because the second stage
    # then begins with the images of the first, and nothing needs to know in which of them weights are.

    Args:
        channels: 4c.
    """

    HALF: ClassVar = ("from_transformer", "skip_transformer")
    """What reads the transformer's features."""

    def __init__(self, channels: int):
        super().__init__()

        def convolution(side: int) -> nn.Conv2d:
            return nn.Conv2d(channels, channels, side, padding=side // 2, bias=False)

        self.from_input, self.from_transformer = convolution(3), convolution(3)
        self.skip_input, self.skip_transformer = convolution(1), convolution(1)
        self.norm = nn.InstanceNorm2d(channels, affine=True)
        self.second = nn.Sequential(nn.ReLU(), convolution(3), nn.InstanceNorm2d(channels, affine=True))

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Compress.

        Args:
            x: the block's input, (B, 4c, h, w).
            seen: the transformer's features, (B, 4c, h, w); None: as if they were 0.

        Returns:
            (B, 4c, h, w), at least 0.
        """
        h, skip = self.from_input(x), self.skip_input(x)
        if seen is not None:
            h, skip = h + self.from_transformer(seen), skip + self.skip_transformer(seen)
        return functional.relu(skip + self.second(self.norm(h)))


class ArtBlock(nn.Module):
    """An ART block: what a transformer sees in it, compressed with its input, then a residual block.

    # Paper: batch norm, whose statistics at its batch of 1 are those of the one image. Here: instance norm with a scale
    # and a shift, which is the same at a batch of 1 and lets no image depend on others (as in `pix2pix.py`).
    # Paper: slices of 256×256, whose grid has 16×16 tokens with a position each. Here: any size, whose positions are
    # interpolated between those of the 16×16.

    Args:
        channels: 4c, of input and output.
        width: of a token.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.down = nn.Sequential(
            *normed(halving(channels, 2 * channels, padding_mode="zeros"), 2 * channels, affine=True),
            *normed(halving(2 * channels, 4 * channels, padding_mode="zeros"), 4 * channels, affine=True),
        )
        self.embed = nn.Conv2d(4 * channels, width, 1)
        self.positions = nn.Parameter(DEVIATION * torch.randn(1, width, GRID, GRID))
        self.up = nn.Sequential(
            *normed(doubling(width, 2 * channels, 3), 2 * channels, affine=True),
            *normed(doubling(2 * channels, channels, 3), channels, affine=True),
        )
        self.compress = Compression(channels)
        self.residual = Residual(channels, affine=True)

    def forward(self, x: Tensor, transformer: VisionTransformer | None, drop: Drop) -> Tensor:
        """(B, 4c, h, w) → (B, 4c, h, w); without a transformer what it would see is 0."""
        return self.residual(self.compress(x, None if transformer is None else self.see(x, transformer, drop)))

    def see(self, x: Tensor, transformer: VisionTransformer, drop: Drop) -> Tensor:
        """What the transformer sees in features (B, 4c, h, w), of the same shape."""
        sizes: list[tuple[int, ...]] = []
        h = self.embed(through(self.down, x, sizes))  # (B, width, H/16, W/16)
        grid = h.shape[2:]
        h = h + self.placed(grid)
        tokens = transformer(drop("tokens", h.flatten(2).transpose(1, 2)), drop)
        return through(self.up, tokens.transpose(1, 2).unflatten(2, grid), sizes)

    def placed(self, grid: torch.Size) -> Tensor:
        """Positions of a grid's places, (1, width, h, w)."""
        if tuple(grid) == (GRID, GRID):
            return self.positions
        return functional.interpolate(self.positions, size=grid, mode="bilinear", antialias=True)


class ResVitGenerator(nn.Module):
    """Encoder, nine blocks, decoder; blocks 1 and 6 are ART blocks with one transformer, the others residual alone.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: c, width at full resolution; it doubles twice to the blocks', and twice more before the transformer.
        width: of a token.
        layers: of the transformer.
        heads: of its attention.
        planes: how many of the input's channels, the last ones, are constant planes (`resnet.Told`).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 64,
        *,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        planes: int = 0,
    ):
        super().__init__()
        self.encoder = nn.Sequential(*encoding(in_channels, channels, affine=True, planes=planes))
        self.transformer = VisionTransformer(width, layers, heads)
        self.blocks = nn.ModuleList(
            ArtBlock(4 * channels, width) if number in TRANSFORMED else Residual(4 * channels, affine=True)
            for number in range(1, BLOCKS + 1)
        )
        self.decoder = nn.Sequential(*decoding(out_channels, channels, upsample_kernel=3, affine=True))
        normal_start(self)
        for weight in self.halves:
            nn.init.zeros_(weight)

    @property
    def halves(self) -> list[nn.Parameter]:
        """The weights that read the transformer's features, of both ART blocks."""
        compressions = [block.compress for block in self.blocks if isinstance(block, ArtBlock)]
        return [one.get_submodule(name).get_parameter("weight") for one in compressions for name in Compression.HALF]

    @property
    def opened(self) -> bool:
        """Whether what the transformer sees counts: weights that read it are not 0 any more."""
        return any(bool(weight.any()) for weight in self.halves)

    def forward(self, x: Tensor, drop: Drop = lambda name, h: h, *, transformed: bool = True) -> Tensor:
        """Translate images.

        Args:
            x: (B, in_channels, H, W).
            drop: drops features of the transformer; none by default.
            transformed: whether the transformer is in; else what it would see is 0.

        Returns:
            (B, out_channels, H, W) in [-1, 1].

        Raises:
            InputError: if a side is below 8, or the slice is a single token.
        """
        if min(x.shape[2:]) < 8 or max(x.shape[2:]) <= PATCH:
            raise InputError(
                f"ResViT: image size {tuple(x.shape[2:])}: sides of at least 8 are needed, and more than one token of "
                f"{PATCH}×{PATCH} pixels; use larger images"
            )
        sizes: list[tuple[int, ...]] = []
        h = through(self.encoder, x, sizes)
        for number, block in enumerate(self.blocks, 1):
            if isinstance(block, ArtBlock):
                h = block(h, self.transformer if transformed else None, under(f"block {number}", drop))
            else:
                h = block(h)
        return through(self.decoder, h, sizes)
