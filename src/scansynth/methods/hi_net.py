"""Hi-Net: several contrasts to one by a GAN whose branches, one a source, are fused at each level.

Source: Zhou, Fu, Chen, Shen & Shao, "Hi-Net: Hybrid-Fusion Network for Multi-Modal MR Image Synthesis", IEEE
Transactions on Medical Imaging 39(9), 2020.

Symbol | meaning
------ | -------
y_m    | source m of M, (B, 1, H, W); y, all of them, (B, M, H, W)
x      | target, (B, 1, H, W)
ŷ_m    | y_m rebuilt by its own branch
x̂      | what G makes of y
G      | generator: branches, fusion network, synthesis network; in [−1, 1]
MFB    | mixed fusion block: sum, product and maximum over the sources
D      | discriminator of the target alone: a value for each of its patches

What                                                         | where
------------------------------------------------------------ | -----
branches and their reconstruction                            | `networks.hi_net.Branch`
MFB                                                          | `networks.hi_net.MixedFusion`
G, from the branches' features at every level                | `networks.hi_net.HiNetGenerator`
D                                                            | `networks.hi_net.HiNetDiscriminator`
L_D = ½(‖D(x) − 1‖² + ‖D(x̂)‖²)                              | `training_step`, with `losses.adversarial`
L_G = ‖D(x̂) − 1‖² + 100 ‖x̂ − x‖₁ + 20 Σ_m ‖ŷ_m − y_m‖₁      | `training_step`
four overlapping patches of a slice, in training and synthesis | `units.Slices.patch`, `diffusion.windows.SliceWindows`

# Paper: two sources. Here: all contrasts of the run but the target, one as well as three, because CoLa-Diff compares
# with it on three; MFB's sum, product and maximum are over M. With one source they are one and the same, and Hi-Net is
# a translator beside an autoencoder. Fewer sources than it was trained on are refused.
# Paper: four overlapping patches of 128×128 pixels of slices of 160×180. Here: as few as cover a slice with neighbours
# sharing half of a patch at least: the paper's four at its size, nine at 224×224; of slices that are smaller, the whole
# side.
# Paper: synthesis through the same patches. Here: so too, and a pixel is the plain mean over the patches that hold it.
# G could take whole slices, but it has learnt where the borders of patches pad with zeros: it sees what it was trained
# on. In 1,500 steps of hi_net_small on patients (T1w, T2w and T1ce to FLAIR, one run) that came to 20.0 dB over four
# held out, whole slices to 19.9; a plain mean leaves faint steps where a patch ends in bright tissue.
# Public test code: each patch and image is scaled by its own minimum and maximum before it is measured, which hides
# every offset of brightness. Here: nothing is.
# Public code: 400 epochs at a rate of 1e-3, in an order that is never shuffled. Here: the paper's 2e-4 and 300 epochs,
# whose rate falls linearly to zero after a third (the code's course, by share), in an order that is drawn anew.
# Public code: batches of all four patches of some slices; how many is not told. Here: patches of any slices, eight.
# Paper: G of the last step. Here: so too, because the running statistics of batch norm are those of the last weights
# and of no average of them, and the rate has fallen to zero by then: in 1,500 steps on phantoms averages ended at the
# same 21.4 dB (one run each), though they were up to 2 dB ahead on the way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AllToOne
from scansynth.needs import Needs
from scansynth.networks.hi_net import HiNetDiscriminator, HiNetGenerator
from scansynth.noise import Noise
from scansynth.ranges import Count, Weight
from scansynth.units import Slices

CONSTANT = 1 / 3
"""Share of the training after which the rate falls: 100 of 300 epochs."""


@dataclass(frozen=True, kw_only=True)
class HiNetConfig:
    """Settings of Hi-Net; the defaults are the paper's."""

    channels: Count = 32
    """Width of a branch's first level."""
    discriminator_channels: Count = 32
    """Width of the discriminator's first convolution."""
    discriminator_halvings: Count = 4
    """Convolutions of stride 2 in the discriminator; patches need sides of more than 2·2^this."""
    patch: tuple[Count, Count] = (128, 128)
    """Pixels of the patches that a slice is cut into, in training and synthesis: multiples of 8."""
    l1_weight: Weight = 100.0
    """Weight of ‖x̂ − x‖₁."""
    rebuilt_weight: Weight = 20.0
    """Weight of Σ_m ‖ŷ_m − y_m‖₁."""
    targets: tuple[str, ...] = ()
    """The contrast to make, one; of two contrasts the second where none is named."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of both networks; after a third of the training it falls to zero."""

    def __post_init__(self):
        smallest = 2 * 2**self.discriminator_halvings + 1
        if 0 < min(self.patch) < smallest:
            raise InputError(
                f"hi_net: a patch of {'×'.join(map(str, self.patch))} leaves no value after "
                f"{self.discriminator_halvings} halvings in the discriminator: sides of at least {smallest}, or fewer "
                "discriminator_halvings"
            )

    @classmethod
    def tiny(cls) -> "HiNetConfig":
        """Networks that train in seconds, for tests."""
        return cls(channels=4, discriminator_channels=4, discriminator_halvings=2, patch=(24, 16), learning_rate=1e-3)


class HiNet(AllToOne):
    """G makes x from y, and rebuilds y in its branches; D tells x from x̂."""

    Config = HiNetConfig
    name = "hi_net"

    def __init__(self, config: HiNetConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.nets = nn.ModuleDict({
            "generator": HiNetGenerator(len(self.sources), config.channels),
            "discriminator": HiNetDiscriminator(config.discriminator_channels, config.discriminator_halvings),
        })  # fmt: skip

    @classmethod
    def needs_of(cls, config: HiNetConfig, contrasts: Sequence[str]) -> Needs:
        """Patches of paired slices of subjects with all contrasts, two or more a step for batch norm."""
        return Slices(
            patch=config.patch,
            size_multiple=HiNetGenerator.size_multiple,
            complete=True,
            least_batch=2,
            sources=True,
        )

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D and G."""
        return {"D": ("discriminator",), "G": ("generator",)}

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn."""
        return False

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.999)."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, 0.999),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def lr_factor(self, player: str, progress: Progress) -> float:
        """One in the first third of the training, then linearly to zero."""
        return min(1.0, (1 - progress.fraction) / (1 - CONSTANT))

    def judge(self, x: Tensor) -> Tensor:
        """D's values of images, (B, 1, h, w); real and made ones in calls of their own, for the norm is over a call."""
        return self.nets["discriminator"](x)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of D, then one of G with its branches."""
        y, x = self.split(batch)
        made = self.nets["generator"](y, rebuild=True)
        x_hat, y_hat = made[:, :1], made[:, 1:]

        update("D", {"adversarial": least_squares_discriminator_loss(self.judge(x), self.judge(x_hat.detach()))})

        update(
            "G",
            {
                "adversarial": least_squares_generator_loss(self.judge(x_hat)),
                "l1": self.config.l1_weight * (x_hat - x).abs().mean(),
                "rebuilt": self.config.rebuilt_weight * (y_hat - y).abs().mean((0, 2, 3)).sum(),  # over the sources
            },
        )

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass for each patch of a slice; the branches' decoders do not run. Nothing is drawn."""
        return Made(windows.map(self.nets["generator"], self.given(batch, target)))
