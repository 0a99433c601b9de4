"""CycleGAN, and SynDiff's cGAN, AttGAN and SAGAN: unpaired translation by cycles, both directions from one training.

Source: Zhu, Park, Isola & Efros, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
ICCV 2017. cGAN: Dar, Yurt, Karacan, Erdem, Erdem & Çukur, "Image Synthesis in Multi-Contrast MRI With Conditional
Generative Adversarial Networks", IEEE Transactions on Medical Imaging 38(10), 2019. Their settings beside SynDiff, and
AttGAN and SAGAN as such: Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023, section IV-B.2.

Symbol     | meaning                                                           | here
---------- | ----------------------------------------------------------------- | ----
x, y       | images of two contrasts, (B, 1, H, W) in [-1, 1], drawn apart      | `x[contrast]`
G, F       | generators, x to y and y to x                                     | nets `generator_*`, by what they make
D_X, D_Y   | discriminators: values of patches, 1 for real                     | nets `discriminator_*`
λ          | weight of the cycle losses                                        | `config.cycle_weight`

Equation                          | function
--------------------------------- | --------
(1): L_GAN, by least squares      | `training_step`, with `losses.adversarial`
(2): L_cyc                        | `training_step`
(3): the objective                | `training_step`
section 5.2: L_identity           | `training_step`
section 4: image pool             | `cycle_gan_parts.ImagePool`, `shown`
section 7.1: order, rates, start  | `training_step`, `optimizers`, `lr_factor`, `networks.start.normal_start`

Generators, by the setting `generator`:

generator        | what it is                                            | source
---------------- | ----------------------------------------------------- | ------
`resnet`         | ResNet with 9 residual blocks                         | CycleGAN, section 7.2; cGAN
`attention_unet` | U-Net, its skips gated by attention                   | AttGAN: Oktay et al., 2018
`self_attention` | the ResNet, self-attention in its last two residual blocks | SAGAN: Zhang et al., ICML 2019

# Paper: the generators of the last step. Here: their moving averages, because with them a late, noisy step of the
# adversarial game does not decide what is synthesised (as in `syndiff.py`).
# Paper: a list of unpaired images each, of natural scenes. Here: each contrast has its own order of its own slices, so
# that which slices meet carries no information, also where the same people have both.
# Paper (cGAN): dropout in the residual blocks is not stated. Here: none.
# Paper (AttGAN, SAGAN in SynDiff): generators are named, sizes are not. Here: the sizes of `AttentionUNet` and
# `SaganAttention`, discriminators, losses and their weights as cGAN's.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.cycle_gan_parts import CycleGANConfig, ImagePool, discriminator, generator
from scansynth.methods.two_contrasts import TwoContrasts
from scansynth.needs import Needs
from scansynth.noise import Noise
from scansynth.units import Slices


class CycleGAN(TwoContrasts):
    """Two generators that must lead back to where they began, and a discriminator of each contrast."""

    Config = CycleGANConfig
    name = "cycle_gan"

    def __init__(self, config: CycleGANConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.nets = nn.ModuleDict()
        for contrast in self.contrasts:
            self.nets[f"generator_{contrast}"] = generator(config)
            self.nets[f"discriminator_{contrast}"] = discriminator(config)
        self.averaged = self.players["G"]
        self.pools = {contrast: ImagePool(config.pool) for contrast in self.contrasts}

    @classmethod
    def needs_of(cls, config: CycleGANConfig, contrasts: Sequence[str]) -> Needs:
        """Unpaired slices; the generators meet odd sides on their way back up."""
        return Slices(paired=False)

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """G: both generators. D_T1w, say: the discriminator of T1w."""
        generators = tuple(f"generator_{contrast}" for contrast in self.contrasts)
        return {"G": generators, **{f"D_{contrast}": (f"discriminator_{contrast}",) for contrast in self.contrasts}}

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn in synthesis."""
        return False

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, one for both generators and one for each discriminator (section 4); β1 = 0.5."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, self.config.beta2),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def lr_factor(self, player: str, progress: Progress) -> float:
        """One in the first half of the training, then linearly to zero (section 7.1)."""
        return min(1.0, 2 * (1 - progress.fraction))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of both generators, then one of each discriminator on what they made before it."""
        config, losses = self.config, dict[str, Tensor]()
        x = self.by_contrast(batch)
        made = {target: self.make(target, x[self.other(target)]) for target in self.contrasts}
        for target in self.contrasts:
            losses[f"adversarial {target}"] = least_squares_generator_loss(self.judge(target, made[target]))
            back = self.make(target, made[self.other(target)])
            losses[f"cycle {target}"] = config.cycle_weight * (back - x[target]).abs().mean()
            if config.identity_weight:
                same = (self.make(target, x[target]) - x[target]).abs().mean()
                losses[f"identity {target}"] = config.identity_weight * config.cycle_weight * same
        update("G", losses)

        for target in self.contrasts:
            fake = self.shown(target, made[target].detach(), noise)
            logit, logit_fake = self.judge(target, torch.cat([x[target], fake])).chunk(2)
            update(f"D_{target}", {"adversarial": least_squares_discriminator_loss(logit, logit_fake)})

    def make(self, target: str, x: Tensor) -> Tensor:
        """The target from images of the other contrast, (B, 1, H, W) both."""
        return self.nets[f"generator_{target}"](x)

    def judge(self, contrast: str, x: Tensor) -> Tensor:
        """Values of the patches of images x (B, 1, H, W), (B, 1, h, w)."""
        return self.nets[f"discriminator_{contrast}"](x)

    def shown(self, contrast: str, fake: Tensor, noise: Noise) -> Tensor:
        """What the discriminator sees of made images, (B, 1, H, W): some of earlier steps in their place.

        The pool is that of the whole batch: all processes hold the same.
        """
        if not self.config.pool:
            return fake
        again = noise.uniform(f"again {contrast}") < 0.5
        places = noise.integers(f"place {contrast}", 0, self.config.pool)
        images, own = self.joined(fake)
        drawn, _ = self.joined(torch.stack([again, places], dim=1))
        again, places = drawn.T.tolist()
        return self.pools[contrast].shown(images, again, places)[own]

    def memory(self) -> Mapping[str, Tensor]:
        """The images of the pools. They show who was trained on, and are no part of the weights."""
        return {contrast: torch.stack(pool.images) for contrast, pool in self.pools.items() if pool.images}

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Fill the pools."""
        if unknown := [name for name in memory if name not in self.pools]:
            raise InputError(f"images of {unknown[0]!r}, which is no contrast of the run")
        for contrast, images in memory.items():
            self.pools[contrast].fill(images)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One call for each slice."""
        return Made(windows.map(self.nets[f"generator_{target}"], self.source(batch, target)))
