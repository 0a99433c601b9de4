"""UNIT: unpaired translation through a latent that both contrasts share, both directions from one training.

Source: Liu, Breuel & Kautz, "Unsupervised Image-to-Image Translation Networks", NeurIPS 2017. Its settings beside
SynDiff: Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023, section IV-B.2.

Symbol   | meaning                                                              | here
-------- | -------------------------------------------------------------------- | ----
x1, x2   | images of two contrasts, (B, 1, H, W) in [-1, 1], drawn apart         | `x[contrast]`
E1, E2   | encoders: means of q(z | x) = N(E(x), I)                              | nets `encoder_*`
z        | the shared latent, (B, 4 channels, H/4, W/4): E(x) + η, η ~ N(0, I)   | `z[contrast]`
G1, G2   | generators: decoders of z                                            | nets `decoder_*`
E_H, G_H | the layers that both contrasts share, where they do                  | nets `shared_*`
D1, D2   | discriminators: values of patches at several scales, 1 for real      | nets `discriminator_*`
λ0 … λ4  | weights: adversarial 1 (λ0), KL (λ1, λ3), likelihoods (λ2, λ4)        | `config.*_weight`

Equation                                  | function
----------------------------------------- | --------
(2): L_VAE, x̂ = G(z) and its KL            | `training_step`
(4): L_GAN                                | `training_step`, with `losses.adversarial`
(5): L_CC, to the other contrast and back | `training_step`
section 3: weight sharing                 | `encode`, `decode`, where `config.tied`
section 4: order of updates               | `training_step`

# Paper: λ0 = 10, λ1 = λ3 = 0.1, λ2 = λ4 = 100. Here: over λ0, so that they are the weights that SynDiff prints:
# adversarial 1, reconstruction 10, cycle 10. It prints none for the KL terms: 0.1 over 10.
# Paper: likelihoods and KL are sums over pixels and latents. Here: means, the KL without its factor ½, because a mean
# does not change with the image's size.
# Paper: the KL of the first pass is in (2) and in (5). Here: each latent's once, because it is one term of one latent.
# Paper: the logarithms of (4), and networks of its own. Here: least squares at several scales and MUNIT's networks,
# because the authors' release of MUNIT is known to hold UNIT in the same frame.
# Paper: the last residual block of the encoders and the first of the generators are shared. Here: a setting, off by
# default, because that release is known to share nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from scansynth.diffusion.windows import Windows
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.shared_latent import SharedLatent, SharedLatentConfig
from scansynth.networks.unit import DOWNSAMPLINGS, Decoder, Encoder, MultiScaleDiscriminator, ResidualBlock
from scansynth.noise import Noise
from scansynth.ranges import Weight


@dataclass(frozen=True, kw_only=True)
class UnitConfig(SharedLatentConfig):
    """Settings of UNIT; the defaults are its paper's (section 5), over its adversarial weight of 10."""

    reconstruction_weight: Weight = 10.0
    """Weight of the L1 between an image and its own reconstruction (λ2)."""
    cycle_weight: Weight = 10.0
    """Weight of the L1 between an image and what comes back from the other contrast (λ4)."""
    kl_weight: Weight = 0.01
    """Weight of the mean square of E(x), which keeps latents near N(0, I) (λ1, λ3)."""
    tied: bool = False
    """Whether both contrasts share the encoders' last residual block and the decoders' first."""

    @classmethod
    def tiny(cls) -> "UnitConfig":
        """Networks that train in seconds, for tests."""
        return cls(channels=8, residual_blocks=1, discriminator_channels=8, scales=2, learning_rate=1e-3)


class Unit(SharedLatent):
    """Encoders into one latent and decoders out of it; discriminators judge what is translated by it."""

    Config = UnitConfig
    name = "unit"

    def __init__(self, config: UnitConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.nets = nn.ModuleDict()
        own = config.residual_blocks - config.tied
        for contrast in self.contrasts:
            self.nets[f"encoder_{contrast}"] = Encoder(config.channels, own)
            self.nets[f"decoder_{contrast}"] = Decoder(config.channels, own)
            self.nets[f"discriminator_{contrast}"] = MultiScaleDiscriminator(
                config.discriminator_channels, config.scales
            )
        if config.tied:
            for name in ("shared_encoder", "shared_decoder"):
                self.nets[name] = ResidualBlock(2**DOWNSAMPLINGS * config.channels)
        self.averaged = self.players["G"]

    @property
    def stochastic(self) -> bool:
        """Synthesis takes the latent's mean."""
        return False

    def encode(self, contrast: str, x: Tensor) -> Tensor:
        """E(x), the mean of the latent of images x (B, 1, H, W): (B, 4 channels, H/4, W/4)."""
        mean = self.nets[f"encoder_{contrast}"](x)
        return self.nets["shared_encoder"](mean) if self.config.tied else mean

    def decode(self, contrast: str, z: Tensor) -> Tensor:
        """G(z), images of a contrast from latents: the inverse of `encode`'s shapes."""
        return self.nets[f"decoder_{contrast}"](self.nets["shared_decoder"](z) if self.config.tied else z)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of both discriminators, then one of all encoders and decoders (section 4).

        What the decoders make is computed once and serves both updates.
        """
        config, x = self.config, self.by_contrast(batch)
        mean = {contrast: self.encode(contrast, x[contrast]) for contrast in self.contrasts}
        z = {contrast: one + noise.normal(f"z {contrast}", one.shape[1:]) for contrast, one in mean.items()}
        made = {target: self.decode(target, z[self.other(target)]) for target in self.contrasts}
        self.train_discriminators(x, made, update)

        losses = dict[str, Tensor]()
        for target in self.contrasts:
            losses[f"adversarial {target}"] = self.adversarial(target, made[target])
            again = self.decode(target, z[target])
            losses[f"reconstruction {target}"] = config.reconstruction_weight * (again - x[target]).abs().mean()
            away = self.other(target)
            mean_away = self.encode(away, made[away])
            back = self.decode(target, mean_away + noise.normal(f"z {target} as {away}", mean_away.shape[1:]))
            losses[f"cycle {target}"] = config.cycle_weight * (back - x[target]).abs().mean()
            kl = mean[target].square().mean() + mean_away.square().mean()
            losses[f"kl {target}"] = config.kl_weight * kl
        update("G", losses)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One call for each slice, without noise."""
        y, source = self.source(batch, target), self.other(target)
        return Made(windows.map(lambda y: self.decode(target, self.encode(source, y)), y))
