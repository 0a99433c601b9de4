"""The first stage of latent diffusion: one autoencoder for all contrasts, by itself a method that reconstructs.

KL: Rombach, Blattmann, Lorenz, Esser & Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
2022 (section 3.1, appendix G). VQ: van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning",
NeurIPS 2017; Esser, Rombach & Ommer, "Taming Transformers for High-Resolution Image Synthesis", CVPR 2021.

Symbol | meaning
------ | -------
x, x̂  | an image of any contrast, and its reconstruction, (B, 1, *S)
m, s   | mean and standard deviation of q(z given x), (B, c, *S/f)
z      | latent: drawn from q in training, m elsewhere; or the vectors before they are replaced by codes (VQ)
e      | the nearest codes of z (VQ)
C      | discriminator of patches

Equation                                              | here
----------------------------------------------------- | ----
LDM, appendix G: L_rec + weights times L_KL and L_adv | `training_step`
KL(q(z given x) and N(0, 1))                          | `kl_to_normal`
VQ-VAE, Eq. 3: ‖sg(z) − e‖² + β ‖z − sg(e)‖²          | `training_step`

# Paper: a discriminator's weight that follows the ratio of two gradients. Here: a fixed one, because it is one setting
# less and does not jump where a gradient vanishes.
# Paper: a perceptual loss by default. Here: where the user names weights, because none are ours to give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import discriminator_loss, generator_loss
from scansynth.method import Batch, Made, Method, Progress, Update
from scansynth.needs import Needs
from scansynth.networks.autoencoder import Codebook, Decoder, Encoder
from scansynth.networks.discriminator import PatchDiscriminator
from scansynth.networks.perceptual import PerceptualNetwork
from scansynth.noise import Noise
from scansynth.ranges import Count, Share, Weight
from scansynth.units import slices_or_patches

COMMITMENT = 0.25
"""β of VQ-VAE."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Settings of the first stage; the defaults are latent diffusion's for a factor of 4."""

    patch: tuple[Count, Count, Count] | None = None
    """Voxels of a 3D patch (right, anterior, superior); None: axial slices."""
    kind: Literal["kl", "vq"] = "kl"
    """Latents close to a normal distribution, or of a codebook's vectors."""
    channels: Count = 128
    """Base width of encoder and decoder."""
    multipliers: tuple[Count, ...] = (1, 2, 4)
    """Width of each level over the base width; the latent is as many times halved as there are levels after the
    first."""
    blocks: Count = 2
    """Residual blocks a level."""
    latent_channels: Count = 3
    """c: channels of a latent."""
    codes: Count = 8192
    """Vectors of the codebook (VQ)."""
    kl_weight: Weight = 1e-6
    """Weight of L_KL, summed over channels (KL)."""
    adversarial_weight: Weight = 0.05
    """Weight of the patch-adversarial loss; 0 for none."""
    adversarial_start: Share = 0.3
    """Share of the training after which the patch-adversarial loss counts."""
    discriminator_channels: Count = 64
    """Base width of the discriminator."""
    perceptual_weights: str = ""
    """Safetensors file of LPIPS weights (`networks/perceptual.py` says which keys); empty: no perceptual loss."""
    perceptual_weight: Weight = 0.1
    """Weight of the perceptual loss, slices only."""
    learning_rate: Weight = 1e-4
    """Adam's learning rate at the start; it falls to a tenth along a cosine."""

    def __post_init__(self):
        if len(self.multipliers) < 2:
            raise InputError(f"multipliers {self.multipliers}: two or more, or the latent is as large as the image")
        if self.perceptual_weights and self.patch is not None:
            raise InputError("perceptual_weights: the networks see slices; leave them out with a patch")

    @classmethod
    def tiny(cls) -> "AutoencoderConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            channels=8, multipliers=(1, 2), blocks=1, codes=16, adversarial_start=0.0, discriminator_channels=8,
            learning_rate=1e-3,
        )  # fmt: skip


class Autoencoder(Method):
    """x̂ = D(E(x)), of whichever contrast."""

    Config = AutoencoderConfig
    reconstructs = True

    def __init__(self, config: AutoencoderConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        dims = 2 if config.patch is None else 3
        parts = config.channels, config.multipliers, config.blocks
        self.factor = 2 ** (len(config.multipliers) - 1)
        nets: dict[str, nn.Module] = {
            "encoder": Encoder(dims, *parts, config.latent_channels * (2 if config.kind == "kl" else 1)),
            "decoder": Decoder(dims, *parts, config.latent_channels),
        }
        if config.kind == "vq":
            nets["codebook"] = Codebook(config.codes, config.latent_channels)
        self.averaged = tuple(nets)
        if config.adversarial_weight:
            nets["discriminator"] = PatchDiscriminator(dims, config.discriminator_channels)
        self.nets = nn.ModuleDict(nets)
        self.perceptual: PerceptualNetwork | None = None  # read when it is first trained with

    @classmethod
    def needs_of(cls, config: AutoencoderConfig, contrasts: Sequence[str]) -> Needs:
        """Slices of any subjects, or paired patches."""
        multiple = 2 ** (len(config.multipliers) - 1)
        return slices_or_patches(config.patch, size_multiple=multiple, paired=config.patch is not None)

    @property
    def stochastic(self) -> bool:
        """The latent's mean stands for an image."""
        return False

    @property
    def targets(self) -> tuple[str, ...]:
        """Every contrast."""
        return self.contrasts

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """Encoder with decoder, and their discriminator."""
        own = {"G": self.averaged}
        return {**own, "D": ("discriminator",)} if "discriminator" in self.nets else own

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.9)."""
        return {
            player: Adam(
                [parameter for net in nets for parameter in self.nets[net].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, 0.9),
                fused=True,
            )
            for player, nets in self.players.items()
        }

    def lr_factor(self, player: str, progress: Progress) -> float:
        """A cosine from one to a tenth."""
        return 0.55 + 0.45 * torch.cos(torch.tensor(torch.pi * progress.fraction)).item()

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """m and log s² (KL), each (B, c, *S/f)."""
        mean, log_variance = self.nets["encoder"](x).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def encode(self, x: Tensor) -> Tensor:
        """The latent that stands for an image: m, or the vectors before they are replaced by codes.

        Args:
            x: (B, 1, *S).

        Returns:
            (B, c, *S/f).
        """
        return self.posterior(x)[0] if self.config.kind == "kl" else self.nets["encoder"](x)

    def decode(self, z: Tensor) -> Tensor:
        """(B, c, *S/f) → (B, 1, *S), unbounded; vectors are replaced by codes first (VQ)."""
        return self.nets["decoder"](self.nets["codebook"](z) if self.config.kind == "vq" else z)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One contrast of each sample: an update of encoder and decoder, then one of their discriminator."""
        x = drawn_contrast(batch, noise)
        losses: dict[str, Tensor] = {}
        if self.config.kind == "kl":
            mean, log_variance = self.posterior(x)
            z = mean + (0.5 * log_variance).exp() * noise.normal("z", mean.shape[1:])
            losses["kl"] = self.config.kl_weight * kl_to_normal(mean, log_variance)
            x_hat = self.nets["decoder"](z)
        else:
            z = self.nets["encoder"](x)
            e = self.nets["codebook"](z)
            losses["codes"] = (z.detach() - e).square().mean()
            losses["commitment"] = COMMITMENT * (z - e.detach()).square().mean()
            x_hat = self.nets["decoder"](z + (e - z).detach())  # gradients pass the codes by
        losses["l1"] = (x_hat - x).abs().mean()
        if self.config.perceptual_weights:
            self.perceptual = self.perceptual or PerceptualNetwork.read(Path(self.config.perceptual_weights))
            distance = self.perceptual.distance((x_hat[:, 0] + 1) / 2, (x[:, 0] + 1) / 2, 1.0)
            losses["perceptual"] = self.config.perceptual_weight * distance.mean()
        adversarial = "discriminator" in self.nets and progress.fraction >= self.config.adversarial_start
        if adversarial:
            losses["adversarial"] = self.config.adversarial_weight * generator_loss(self.nets["discriminator"](x_hat))
        update("G", losses)
        if adversarial:
            real, fake = self.nets["discriminator"](x), self.nets["discriminator"](x_hat.detach())
            update("D", {"adversarial": discriminator_loss(real, fake)})

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """The reconstruction of the target from itself; see `Method.reconstructs`."""
        k = self.contrasts.index(target)
        if not batch["available"][0, k]:
            raise InputError(f"an autoencoder reconstructs: {target} itself must be given")
        x = batch["images"][:, k : k + 1]
        return Made(windows.map(lambda x: self.decode(self.encode(x)), x).clamp(-1, 1))


def drawn_contrast(batch: Batch, noise: Noise) -> Tensor:
    """One of each sample's available contrasts, (B, 1, *S)."""
    images, available = batch["images"], batch["available"]
    chance = noise.uniform("contrast", available.shape[1:]).masked_fill(~available, -1)
    return images[torch.arange(len(images), device=images.device), chance.argmax(1)][:, None]


def kl_to_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(m, s²) and N(0, 1)), nats, summed over channels and averaged over places and batch; (B, c, *S) twice."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
