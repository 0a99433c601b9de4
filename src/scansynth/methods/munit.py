"""MUNIT: unpaired translation by a content that both contrasts share and a style that is drawn, both directions.

Source: Huang, Liu, Belongie & Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018. Its settings
beside SynDiff: Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023, section IV-B.2.

Symbol     | meaning                                                               | here
---------- | --------------------------------------------------------------------- | ----
x1, x2     | images of two contrasts, (B, 1, H, W) in [-1, 1], drawn apart          | `x[contrast]`
c          | content code E^c(x), (B, 4 channels, H/4, W/4)                         | nets `content_*`
s          | style code E^s(x), (B, 8); drawn from q(s) = N(0, I)                   | nets `style_*`; `drawn[contrast]`
G1, G2     | decoders: G(c, s), the style as AdaIN's scales and shifts              | nets `decoder_*`
D1, D2     | discriminators: values of patches at several scales, 1 for real       | nets `discriminator_*`
λx, λc, λs | weights of the reconstructions of images, contents and styles         | `config.*_weight`

Equation                                 | function
---------------------------------------- | --------
(1): image reconstruction                | `training_step`
(2), (3): latent reconstruction, c and s | `training_step`
(4): the adversarial loss                | `training_step`, with `losses.adversarial`
(5): the objective                       | `training_step`
section 5.1: AdaIN                       | `networks.unit.adain`

# Paper: a style an image. Here: in synthesis one a volume, keyed by the subject's noise, because neighbouring slices of
# one head with styles of their own would flicker.
# Paper: also the style of a given image of the target's domain. Here: not offered, because a method is never given an
# image of the target's contrast (`given.py`), and one that could be would have to be shown to be another person's.
# Paper: style-augmented cycle consistency and a perceptual loss, where they help. Here: neither, because SynDiff names
# image, content, style and adversarial weights alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from scansynth.diffusion.windows import Windows
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.shared_latent import SharedLatent, SharedLatentConfig
from scansynth.networks.unit import STYLE, Decoder, Encoder, MultiScaleDiscriminator, StyleEncoder
from scansynth.noise import Noise
from scansynth.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class MunitConfig(SharedLatentConfig):
    """Settings of MUNIT; the defaults are its paper's."""

    image_weight: Weight = 10.0
    """λx, of the L1 between an image and its reconstruction by its own content and style."""
    content_weight: Weight = 1.0
    """λc, of the L1 between a content code and that of the image translated by it."""
    style_weight: Weight = 1.0
    """λs, of the L1 between a drawn style and that of the image translated by it."""

    @classmethod
    def tiny(cls) -> "MunitConfig":
        """Networks that train in seconds, for tests."""
        return cls(channels=8, residual_blocks=1, discriminator_channels=8, scales=2, learning_rate=1e-3)


class Munit(SharedLatent):
    """Encoders into content and style, decoders that join them: own ones reconstruct, a drawn style translates."""

    Config = MunitConfig
    name = "munit"

    def __init__(self, config: MunitConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.nets = nn.ModuleDict()
        for contrast in self.contrasts:
            self.nets[f"content_{contrast}"] = Encoder(config.channels, config.residual_blocks)
            self.nets[f"style_{contrast}"] = StyleEncoder(config.channels)
            self.nets[f"decoder_{contrast}"] = Decoder(config.channels, config.residual_blocks, styled=True)
            self.nets[f"discriminator_{contrast}"] = MultiScaleDiscriminator(
                config.discriminator_channels, config.scales
            )
        self.averaged = self.players["G"]

    def content(self, contrast: str, x: Tensor) -> Tensor:
        """c of images x (B, 1, H, W): (B, 4 channels, H/4, W/4)."""
        return self.nets[f"content_{contrast}"](x)

    def style(self, contrast: str, x: Tensor) -> Tensor:
        """s of images x (B, 1, H, W): (B, 8)."""
        return self.nets[f"style_{contrast}"](x)

    def decode(self, contrast: str, c: Tensor, s: Tensor) -> Tensor:
        """G(c, s), images (B, 1, H, W) of a contrast."""
        return self.nets[f"decoder_{contrast}"](c, s)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of both discriminators, then one of all encoders and decoders (Eq. 5).

        What the decoders make is computed once and serves both updates.
        """
        config, x = self.config, self.by_contrast(batch)
        c = {contrast: self.content(contrast, x[contrast]) for contrast in self.contrasts}
        drawn = {contrast: noise.normal(f"s {contrast}", (STYLE,)) for contrast in self.contrasts}
        made = {target: self.decode(target, c[self.other(target)], drawn[target]) for target in self.contrasts}
        self.train_discriminators(x, made, update)

        losses = dict[str, Tensor]()
        for target in self.contrasts:
            source = self.other(target)
            losses[f"adversarial {target}"] = self.adversarial(target, made[target])
            again = self.decode(target, c[target], self.style(target, x[target]))
            losses[f"image {target}"] = config.image_weight * (again - x[target]).abs().mean()
            content = (self.content(target, made[target]) - c[source]).abs().mean()
            losses[f"content {source}"] = config.content_weight * content
            style = (self.style(target, made[target]) - drawn[target]).abs().mean()
            losses[f"style {target}"] = config.style_weight * style
        update("G", losses)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One call for each slice; the style is drawn once, for the whole volume."""
        y, source = self.source(batch, target), self.other(target)
        s = noise.normal(f"s {target}", (STYLE, 1, 1, 1))
        return Made(windows.map(lambda y, s: self.decode(target, self.content(source, y), s.flatten(1)), y, s))
