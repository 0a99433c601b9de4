"""SynDiff's public release, run on a CPU from the user's own checkout of it, to be timed beside scansynth.

    git clone https://github.com/icon-lab/SynDiff PATH
    python benchmarks/reference.py PATH --size 64 64 --channels 32 --threads 2

prints parameters, operations, seconds and memory as JSON. Nothing of the release is part of scansynth: its networks
and its moving average are imported from PATH, and what its `train.py` and `test.py` do with them is written anew
here, in their order, with the arguments of its README. It cannot run on a CPU as it is. Replaced are:

- `utils.op`, which compiles a CUDA extension when it is imported. The networks use one function of it, `upfirdn2d`
  (zero insertion, padding, filter, every n-th pixel). It stands here in plain PyTorch, in two forms: `plain`, the
  padded convolution of single channels that the release itself falls back to on a CPU tensor, and `depthwise`, one
  convolution of all channels.
- `train.py` and `test.py`: they place everything on a GPU, wrap the networks in DistributedDataParallel, read MATLAB
  files, and import torchvision, scikit-image and h5py. One process and random images take their place.
- `torch.autograd.set_detect_anomaly(True)`, which `train.py` calls in its first iteration: it records where each
  operation was called and looks for NaN. It is a help for debugging and costs time, so it is off here, in the
  release's favour; `anomaly=True` turns it on.

Everything else is called unchanged. No GPU is used.
"""

import argparse
import contextlib
import importlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from scansynth.errors import InputError

Fir = Literal["plain", "depthwise"]

FILES = (
    *(f"backbones/{name}.py" for name in ("ncsnpp_generator_adagn", "discriminator", "generator_resnet")),
    *(f"backbones/{name}.py" for name in ("layers", "layerspp", "dense_layer", "up_or_down_sampling", "utils")),
    "utils/EMA.py",
)
"""What is imported from a checkout."""

SETTINGS = {
    "num_channels": 2,  # noisy target and source; also of the output, of which the first channel is used
    "ch_mult": [1, 1, 2, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "embedding_type": "positional",
    "z_emb_dim": 256,
    "nz": 100,
    "n_mlp": 3,
    "dropout": 0.0,
    "resamp_with_conv": True,
    "conditional": True,
    "fir": True,
    "fir_kernel": [1, 3, 3, 1],
    "skip_rescale": True,
    "resblock_type": "biggan",
    "progressive": "none",
    "progressive_input": "residual",
    "progressive_combine": "sum",
    "fourier_scale": 16.0,
    "not_use_tanh": False,
    "centered": True,
}
"""Of the diffusive generators: README, else the default of `train.py`. Width and image size are added."""

BASE_CHANNELS = 64  # --ngf: discriminators
TIME_WIDTH = 256  # --t_emb_dim: discriminators
RATE_G, RATE_D, BETAS = 1.6e-4, 1e-4, (0.5, 0.9)
EMA_DECAY = 0.999
PENALTY, PENALTY_EVERY = 1.0, 10  # --r1_gamma, of which the half counts, and --lazy_reg
PIXEL_WEIGHT = 0.5  # --lambda_l1_loss: cycle and x̂0
CALLS, BETA_MIN, BETA_MAX, FIRST_TIME = 4, 0.1, 20.0, 1e-3


def upfirdn2d_plain(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Upsample by zeros, pad, filter, keep every `down`-th pixel; each channel is an image of its own.

    Args:
        x: (B, C, H, W).
        kernel: the filter, (K, K).
        up: factor of the upsampling.
        down: factor of the downsampling.
        pad: pixels of zeros before and after, on both axes, none of them negative.

    Returns:
        (B, C, H', W').
    """
    batch, channels, height, width = x.shape
    if up > 1:
        pixels = x.reshape(batch * channels, 1, height, 1, width, 1)
        x = functional.pad(pixels, (0, up - 1, 0, 0, 0, up - 1))
    x = functional.pad(x.reshape(batch * channels, 1, height * up, width * up), (*pad, *pad))
    x = functional.conv2d(x, kernel.flip(0, 1)[None, None])[..., ::down, ::down]
    return x.reshape(batch, channels, *x.shape[2:])


def upfirdn2d_depthwise(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """As `upfirdn2d_plain`, as one convolution of all channels, transposed where it upsamples.

    It takes the paddings that the release asks for: equal before and after where nothing is upsampled.
    """
    channels, taps = x.shape[1], kernel.shape[0]
    weight = kernel.expand(channels, 1, taps, taps)
    if up == 1:
        assert pad[0] == pad[1], f"padding {pad}"
        return functional.conv2d(x, weight.flip(2, 3), stride=down, padding=pad[0], groups=channels)
    cut, more = taps - 1 - pad[0], up - 1 + pad[1] - pad[0]
    y = functional.conv_transpose2d(x, weight, stride=up, padding=cut, output_padding=more, groups=channels)
    return y[..., ::down, ::down]


FIRS: dict[Fir, Callable[..., Tensor]] = {"plain": upfirdn2d_plain, "depthwise": upfirdn2d_depthwise}


@contextlib.contextmanager
def _importable(path: Path, fir: Fir) -> Iterator[None]:
    """Make `backbones` and `utils` those of `path`, with our `utils.op`; afterwards all is as it was."""
    roots = ("backbones", "utils")

    def ours() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in roots]

    hidden = {name: sys.modules.pop(name) for name in ours()}
    for root in roots:
        package = ModuleType(root)
        package.__path__ = [str(path / root)]
        sys.modules[root] = package
    operations = ModuleType("utils.op")
    operations.upfirdn2d = FIRS[fir]  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules["utils.op"] = operations
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(hidden)


class _Process:
    """The release's forward process and posterior; t in 0 … 3 is its index, the step from t + 1 back to t."""

    def __init__(self):
        time = torch.linspace(0, 1, CALLS + 1, dtype=torch.float64) * (1 - FIRST_TIME) + FIRST_TIME
        alpha_bar = torch.exp(-(BETA_MAX - BETA_MIN) * time**2 / 2 - BETA_MIN * time)
        steps = 1 - alpha_bar[1:] / alpha_bar[:-1]
        gamma = torch.cat([torch.tensor([1e-8]), steps]).float()
        self.signal, self.sigma = (1 - gamma).sqrt(), gamma.sqrt()  # of one step
        self.signal_bar = self.signal.cumprod(0)  # of all steps so far
        self.sigma_bar = (1 - self.signal_bar**2).sqrt()
        gamma = gamma[1:]
        bar = (1 - gamma).cumprod(0)
        bar_before = torch.cat([torch.ones(1), bar[:-1]])
        self.weight_x0 = gamma * bar_before.sqrt() / (1 - bar)
        self.weight_x_t = (1 - bar_before) * (1 - gamma).sqrt() / (1 - bar)
        self.deviation = (gamma * (1 - bar_before) / (1 - bar)).sqrt()  # 0 in the last step

    @staticmethod
    def _at(table: Tensor, t: Tensor) -> Tensor:
        return table[t].reshape(-1, 1, 1, 1)

    def pair(self, x0: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The image at t and, one step noisier, at t + 1."""
        noise = torch.randn_like(x0)
        x_s = self._at(self.signal_bar, t) * x0 + self._at(self.sigma_bar, t) * torch.randn_like(x0)
        return x_s, self._at(self.signal, t + 1) * x_s + self._at(self.sigma, t + 1) * noise

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """A draw at t from x̂0 and the image at t + 1."""
        mean = self._at(self.weight_x0, t) * x0 + self._at(self.weight_x_t, t) * x_t
        return mean + self._at(self.deviation, t) * torch.randn_like(x_t)


class Reference:
    """The release's eight networks, one of its training iterations, and one of its slices.

    Random numbers come from PyTorch's global generator, in the release's order. Lists of two are by contrast: what is
    numbered 0 makes or judges the release's contrast 1.

    Attributes:
        nets: the eight, under the names they have in `train.py`.
        images: the two contrasts' batches, random, in [-1, 1]; they may be replaced.
        shape: of a batch, (batch, 1, H, W).

    Args:
        path: a checkout of https://github.com/icon-lab/SynDiff.
        size: pixels of a slice: one side of a square, or (H, W).
        channels: base width of the diffusive generators (`--num_channels_dae`); nothing else depends on it.
        batch: slices of a contrast in an iteration.
        fir: form of the resampling filter.
        anomaly: whether PyTorch's anomaly detection is on in iterations, as the release has it.

    Raises:
        InputError: if files are missing, or the networks cannot take such images.
    """

    penalty_every = PENALTY_EVERY

    def __init__(
        self,
        path: Path | str,
        size: int | Sequence[int],
        channels: int,
        batch: int = 1,
        fir: Fir = "plain",
        anomaly: bool = False,
    ):
        path = Path(path)
        height, width = (size, size) if isinstance(size, int) else size
        if missing := [name for name in FILES if not (path / name).is_file()]:
            raise InputError(
                f"{path} has no {', '.join(missing)}: give the folder of a complete checkout of "
                "https://github.com/icon-lab/SynDiff"
            )
        if any(side % 32 or side < 64 for side in (height, width)):
            raise InputError(f"SynDiff's release: images of {height}×{width}: take multiples of 32, at least 64")
        if batch > 4 and batch % 4:
            raise InputError(f"SynDiff's release: a batch of {batch}: its discriminators take 1 to 4 or multiples of 4")
        if fir not in FIRS:
            raise InputError(f"no FIR filter {fir!r}: take one of {', '.join(FIRS)}")
        self.anomaly = anomaly
        self.process = _Process()
        # The image size only places attention, for which the forward pass looks at the width.
        settings = SimpleNamespace(**SETTINGS, num_channels_dae=channels, image_size=width)
        with _importable(path, fir), contextlib.redirect_stdout(sys.stderr):  # the release prints
            generator = importlib.import_module("backbones.ncsnpp_generator_adagn").NCSNpp
            discriminator = importlib.import_module("backbones.discriminator").Discriminator_large
            resnet = importlib.import_module("backbones.generator_resnet")
            average = importlib.import_module("utils.EMA").EMA
            judge = {"nc": 2, "ngf": BASE_CHANNELS, "t_emb_dim": TIME_WIDTH, "act": nn.LeakyReLU(0.2)}
            self.nets: dict[str, nn.Module] = {  # in the order in which train.py draws their weights
                "netG1": generator(settings),
                "netG2": generator(settings),
                "net1to2": resnet.define_G(netG="resnet_6blocks", gpu_ids=[]),
                "net2to1": resnet.define_G(netG="resnet_6blocks", gpu_ids=[]),
                "netD1": discriminator(**judge),
                "netD2": discriminator(**judge),
                "netD_cycle1": resnet.define_D(gpu_ids=[]),
                "netD_cycle2": resnet.define_D(gpu_ids=[]),
            }
        self.generators = [self.nets["netG1"], self.nets["netG2"]]
        self.translators = [self.nets["net2to1"], self.nets["net1to2"]]
        self.judges = [self.nets["netD1"], self.nets["netD2"]]
        self.patch_judges = [self.nets["netD_cycle1"], self.nets["netD_cycle2"]]
        self._generator_optimizers = [
            average(torch.optim.Adam(self.nets[name].parameters(), lr=RATE_G, betas=BETAS), ema_decay=EMA_DECAY)
            for name in ("netG1", "netG2", "net1to2", "net2to1")
        ]
        self._judge_optimizers, self._patch_judge_optimizers = (
            [torch.optim.Adam(net.parameters(), lr=RATE_D, betas=BETAS) for net in nets]
            for nets in (self.judges, self.patch_judges)
        )
        self.shape = (batch, 1, height, width)
        self.images = [torch.rand(self.shape) * 2 - 1 for _ in range(2)]
        self._kept: list[Tensor] = []

    def parameters(self) -> dict[str, int]:
        """Trained numbers of each of the eight networks."""
        return {name: sum(weight.numel() for weight in net.parameters()) for name, net in self.nets.items()}

    def flops(self) -> dict[str, int]:
        """Floating-point operations of one forward pass of each kind of network, for one image."""
        image, t = torch.zeros(1, 1, *self.shape[2:]), torch.zeros(1, dtype=torch.long)
        passes: dict[str, Callable[[], Tensor]] = {
            "netG": lambda: self.generators[0](torch.cat([image, image], dim=1), t, torch.zeros(1, SETTINGS["nz"])),
            "net1to2": lambda: self.translators[0](image),
            "netD": lambda: self.judges[0](image, t, image),
            "netD_cycle": lambda: self.patch_judges[0](image),
        }
        counts = {}
        for name, run in passes.items():
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                run()
            counts[name] = counter.get_total_flops()
        return counts

    def iteration(self, penalty: bool = False) -> dict[str, float]:
        """Train all eight networks once: diffusive discriminators, PatchGANs, then the four generators.

        Each part computes what the generators make anew, from noise drawn anew for the diffusive ones. The
        discriminators' losses are not cut off from the generators: they are back-propagated through them, and these
        gradients are then cleared.

        Args:
            penalty: whether this iteration has the gradient penalty: one of `penalty_every` has it.

        Returns:
            The three parts' losses ("D", without the penalty; "D_cycle"; "G").
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
            detection = torch.autograd.set_detect_anomaly(self.anomaly)
        with detection:
            self._judged_by_gradient(True)
            losses = {"D": self._update_judges(penalty), "D_cycle": self._update_patch_judges()}
            self._judged_by_gradient(False)
            losses["G"] = self._update_generators()
        return {name: loss.item() for name, loss in losses.items()}

    def _judged_by_gradient(self, wanted: bool) -> None:
        """Let discriminators' weights have gradients, or not."""
        for net in (*self.judges, *self.patch_judges):
            net.requires_grad_(wanted)

    def _draw(self) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Both contrasts' times and pairs (image at t, image at t + 1)."""
        times = [torch.randint(0, CALLS, (len(x0),)) for x0 in self.images]
        return times, [self.process.pair(x0, t) for x0, t in zip(self.images, times, strict=True)]

    def _latents(self) -> list[Tensor]:
        return [torch.randn(self.shape[0], SETTINGS["nz"]) for _ in range(2)]

    def _translated(self) -> list[Tensor]:
        """Both contrasts, from the other one."""
        return [self.translators[i](self.images[1 - i]) for i in range(2)]

    def _reversed(
        self, times: list[Tensor], x_t: list[Tensor], guides: list[Tensor], latents: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both contrasts' x̂0, each guided by the other's estimate, and their logits one step back."""
        x0_hat = [
            self.generators[i](torch.cat([x_t[i], guides[1 - i]], dim=1), times[i], latents[i])[:, :1] for i in range(2)
        ]
        x_s_hat = [self.process.posterior(x0_hat[i], x_t[i], times[i]) for i in range(2)]
        return x0_hat, [self.judges[i](x_s_hat[i], times[i], x_t[i]).view(-1) for i in range(2)]

    def _update_judges(self, penalty: bool) -> Tensor:
        for net in self.judges:
            net.zero_grad()
        times, pairs = self._draw()
        x_s, x_t = ([pair[place] for pair in pairs] for place in range(2))
        for image in x_s:
            image.requires_grad_()
        logits = [self.judges[i](x_s[i], times[i], x_t[i]).view(-1) for i in range(2)]
        loss_real = sum_of(functional.softplus(-logit).mean() for logit in logits)
        loss_real.backward(retain_graph=True)
        self._kept = logits  # train.py holds them, and so the graph behind them, until the next iteration
        if penalty:
            gradients = [
                torch.autograd.grad(logits[i].sum(), x_s[i], create_graph=True)[0].flatten(1) for i in range(2)
            ]
            sum_of(PENALTY / 2 * (gradient.norm(2, dim=1) ** 2).mean() for gradient in gradients).backward()
        latents = self._latents()
        _, logits = self._reversed(times, x_t, self._translated(), latents)
        loss_fake = sum_of(functional.softplus(logit).mean() for logit in logits)
        loss_fake.backward()
        for optimizer in self._judge_optimizers:
            optimizer.step()
        return loss_real.detach() + loss_fake.detach()

    def _update_patch_judges(self) -> Tensor:
        for net in self.patch_judges:
            net.zero_grad()
        logits = [self.patch_judges[i](self.images[i]) for i in range(2)]
        loss_real = sum_of(functional.softplus(-logit).mean() for logit in logits)
        loss_real.backward(retain_graph=True)
        self._kept += logits
        estimates = self._translated()
        logits = [self.patch_judges[i](estimates[i]) for i in range(2)]
        loss_fake = sum_of(functional.softplus(logit).mean() for logit in logits)
        loss_fake.backward()
        for optimizer in self._patch_judge_optimizers:
            optimizer.step()
        return loss_real.detach() + loss_fake.detach()

    def _update_generators(self) -> Tensor:
        for net in (*self.generators, *self.translators):
            net.zero_grad()
        times, pairs = self._draw()
        latents = self._latents()
        estimates = self._translated()
        cycled = [self.translators[i](estimates[1 - i]) for i in range(2)]
        x0_hat, logits = self._reversed(times, [x_t for _, x_t in pairs], estimates, latents)
        patch_logits = [self.patch_judges[i](estimates[i]) for i in range(2)]
        adversarial = sum_of(functional.softplus(-logit).mean() for logit in (*logits, *patch_logits))
        pixels = sum_of(
            functional.l1_loss(made[i], self.images[i])  # of the cycle and of x̂0
            for made in (cycled, x0_hat)
            for i in range(2)
        )
        loss = adversarial + PIXEL_WEIGHT * pixels
        loss.backward()
        for optimizer in self._generator_optimizers:
            optimizer.step()
        return loss.detach()

    def slice(self) -> Tensor:
        """One slice of the release's contrast 1 from one of contrast 2, (1, 1, H, W): four calls, from noise."""
        return self.translate(self.images[1][:1], 0)

    @torch.no_grad()
    def translate(self, source: Tensor, target: int) -> Tensor:
        """Slices of the contrast numbered `target` from slices of the other one, (n, 1, H, W)."""
        x = torch.randn_like(source)
        for step in reversed(range(CALLS)):
            t = torch.full((len(source),), step)
            latent = torch.randn(len(source), SETTINGS["nz"])
            x0 = self.generators[target](torch.cat([x, source], dim=1), t, latent)[:, :1]
            x = self.process.posterior(x0, x, t)
        return x

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Of the generators, whose averages they hold, then of the discriminators."""
        return [*self._generator_optimizers, *self._judge_optimizers, *self._patch_judge_optimizers]

    @contextlib.contextmanager
    def averages(self) -> Iterator[None]:
        """Inside, the generators hold their moving averages, as in the release's synthesis."""
        for optimizer in self._generator_optimizers:
            optimizer.swap_parameters_with_ema(store_params_in_ema=True)
        try:
            yield
        finally:
            for optimizer in self._generator_optimizers:
                optimizer.swap_parameters_with_ema(store_params_in_ema=True)


def sum_of(terms: Iterator[Tensor]) -> Tensor:
    """The sum of losses."""
    return torch.stack(list(terms)).sum()


def _seconds(run: Callable[[], object], times: int, warm: int = 1) -> float:
    """Median over `times` calls, after `warm` ones that are not counted."""
    taken = []
    for _ in range(warm + times):
        begun = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begun)
    return round(torch.tensor(taken[warm:], dtype=torch.float64).median().item(), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a checkout of https://github.com/icon-lab/SynDiff")
    parser.add_argument("--size", nargs=2, type=int, default=(64, 64), help="pixels of a slice")
    parser.add_argument("--channels", type=int, default=64, help="base width of the diffusive generators")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--fir", choices=list(FIRS), default="plain", help="form of the resampling filter")
    parser.add_argument("--anomaly", action="store_true", help="with anomaly detection, as the release trains")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3, help="measured, of each kind; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        reference = Reference(
            arguments.path, arguments.size, arguments.channels, arguments.batch, arguments.fir, arguments.anomaly
        )
    except InputError as error:
        parser.error(str(error))
    result = {name: value for name, value in vars(arguments).items() if name not in ("path", "iterations")}
    counts = reference.parameters()
    result |= {
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "parameters": {**counts, "all": sum(counts.values())},
        "flops_forward": reference.flops(),
    }
    if arguments.iterations:
        result["seconds_slice"] = _seconds(reference.slice, arguments.iterations)
        without = _seconds(reference.iteration, arguments.iterations)
        penalised = _seconds(lambda: reference.iteration(penalty=True), arguments.iterations, warm=0)
        # ru_maxrss: bytes on a Mac, KiB elsewhere
        peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        result |= {
            "seconds_iteration": without,
            "seconds_iteration_with_penalty": penalised,
            "seconds_iteration_mean": round(without + (penalised - without) / reference.penalty_every, 4),
            "peak_memory_gb": round(peak_memory / 1e9, 2),
        }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
