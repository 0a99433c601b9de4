"""SynDiff against its paper: who sees what, which gradient goes where, and that it learns."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from chains import OneDrawAPixel
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.syndiff import SynDiff, SynDiffConfig
from scansynth.noise import Noise, SharedAlongSlices
from scansynth.training.engine import Engine

CONTRASTS = ("T1w", "T2w")
PROGRESS = Progress(0, 100, 0.0)


def make(supervised=True, **settings):
    """A tiny SynDiff whose every weight matters (some start at zero)."""
    torch.manual_seed(0)
    method = SynDiff(
        replace(SynDiffConfig.tiny(), **{"variant": "supervised" if supervised else "unpaired", **settings}), CONTRASTS
    )
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return method


def make_batch(count=2, size=16):
    """T2w is T1w upside down in intensity, of smooth blobs."""
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = nn.functional.interpolate(images, size=size, mode="bilinear")
    return {"images": torch.cat([images, -images], 1), "available": torch.ones(count, 2, dtype=torch.bool)}


def noise(step=0, count=2):
    return Noise([(0, step, place) for place in range(count)])


def losses_of(method, look=lambda player, losses: None):
    """The losses of one training step by player; `look` sees them while their graph is there."""
    seen = {}

    def update(player, losses):
        look(player, losses)
        seen[player] = {name: loss.item() for name, loss in losses.items()}

    method.training_step(make_batch(), update, PROGRESS, noise())
    return seen


def gradient(loss, net):
    """Gradients of a net's parameters; None where the loss does not reach them."""
    return torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, retain_graph=True)


def reaches(loss, net):
    return any(part is not None and part.abs().max() > 0 for part in gradient(loss, net))


def test_variances_at_the_papers_settings():
    alpha_bar = SynDiff(replace(SynDiffConfig(), **vars_of_size()), CONTRASTS).schedule.alpha_bar
    gamma = [1 - (alpha_bar[t] / alpha_bar[t - 250]).item() for t in (250, 500, 750, 1000)]
    assert gamma == pytest.approx([0.4763, 0.8490, 0.9565, 0.9875], abs=5e-5)
    assert alpha_bar[-1].log().item() == pytest.approx(-10.05)


def vars_of_size():
    """Settings of the networks' size alone."""
    names = ("channels", "multipliers", "blocks", "attention_levels", "latent_width", "discriminator_channels",
             "discriminator_blocks", "translator_channels")  # fmt: skip
    return {name: getattr(SynDiffConfig.tiny(), name) for name in names}


def test_supervised_has_no_non_diffusive_module():
    kinds = {name.removesuffix("_T1w").removesuffix("_T2w") for name in make(supervised=True).nets}
    assert kinds == {"generator", "discriminator"}
    kinds = {name.removesuffix("_T1w").removesuffix("_T2w") for name in make(supervised=False).nets}
    assert kinds == {"generator", "discriminator", "translator", "translator_discriminator"}
    assert make(supervised=True).needs.paired
    assert not make(supervised=False).needs.paired


@pytest.mark.parametrize("supervised", [True, False])
def test_discriminators_send_no_gradient_to_generators(supervised):
    method = make(supervised)
    players = []

    def look(player, losses):
        players.append(player)
        other = {"D": "G", "G": "D"}[player]
        for name in method.players[player]:
            assert reaches(sum(losses.values()), method.nets[name]), name
        if player == "D":
            for name in method.players[other]:
                assert all(part is None for part in gradient(sum(losses.values()), method.nets[name])), name

    losses_of(method, look)
    assert players == ["D", "G"]


def test_the_penalty_differentiates_by_x_s_alone():
    """Eq. 12: of a discriminator that looks at x_t only the penalty is 0, of one that looks at x_s only it is not."""
    for blind, penalised in ((0, False), (1, True)):  # channels of (x_s, x_t)
        method = make()
        with torch.no_grad():
            for contrast in CONTRASTS:
                method.nets[f"discriminator_{contrast}"].first.weight[:, blind] = 0
        losses = losses_of(method)["D"]
        for contrast in CONTRASTS:
            assert (losses[f"penalty {contrast}"] > 0) is penalised


def test_the_penalty_has_the_weight_eta():
    single, double = losses_of(make())["D"], losses_of(make(gradient_penalty=1.0))["D"]
    assert single["penalty T1w"] > 0
    assert double["penalty T1w"] == pytest.approx(2 * single["penalty T1w"], rel=1e-5)
    assert double["diffusive T1w"] == single["diffusive T1w"]


def test_the_guide_carries_the_diffusive_losses_into_the_translators():
    """Unpaired, ỹ of the source guides: the losses of a target reach the translator that makes its source."""
    method = make(supervised=False)

    def look(player, losses):
        if player == "G":
            for target, source in (CONTRASTS, CONTRASTS[::-1]):
                for name in (f"cycle diffusive {target}", f"diffusive {target}"):
                    assert reaches(losses[name], method.nets[f"generator_{target}"])
                    assert reaches(losses[name], method.nets[f"translator_{source}"])
                    assert not reaches(losses[name], method.nets[f"translator_{target}"])
                    assert not reaches(losses[name], method.nets[f"generator_{source}"])
                assert reaches(losses[f"cycle translator {target}"], method.nets[f"translator_{source}"])
                assert reaches(losses[f"cycle translator {target}"], method.nets[f"translator_{target}"])

    losses_of(method, look)


def test_unpaired_training_guides_by_estimates_not_by_the_acquired_source():
    """The diffusive losses of T2w hang on T2w alone, whatever T1w stands beside it in the batch."""
    results = []
    for replaced in (False, True):
        batch = make_batch()
        if replaced:
            batch["images"][:, 0] = batch["images"][:, 0].flip(0, 1)
        seen = {}
        make(supervised=False).training_step(
            batch, lambda player, losses, seen=seen: seen.update({(player, *k.split()): v.item() for k, v in
                                                                   losses.items()}), PROGRESS, noise()
        )  # fmt: skip
        results.append(seen)
    for key in (("G", "cycle", "diffusive", "T2w"), ("G", "diffusive", "T2w"), ("D", "diffusive", "T2w")):
        assert results[0][key] == results[1][key]
    assert results[0]["G", "cycle", "diffusive", "T1w"] != results[1]["G", "cycle", "diffusive", "T1w"]


@pytest.mark.parametrize("shared", [True, False])
def test_noise_shared_along_slices(shared):
    method = make().eval()
    drawn = SharedAlongSlices([(0, "subject", 0)]) if shared else Noise([(0, "subject", 0)])
    images = make_batch(1)["images"][..., None].repeat(1, 1, 1, 1, 3)
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    with torch.no_grad():
        made = method.translate(batch, "T2w", SliceWindows(), drawn).image
    assert made.std() > 0.01
    largest = (made[..., 1:] - made[..., :1]).abs().max()
    assert largest < 1e-5 if shared else largest > 0.01


def test_training_reduces_the_pixel_loss_on_a_fixed_batch():
    torch.manual_seed(0)
    method = SynDiff(SynDiffConfig.tiny(), CONTRASTS)
    engine = Engine(method, torch.device("cpu"), "float32")

    def pixel_loss():
        losses = losses_of(method)["G"]
        return losses["cycle diffusive T1w"] + losses["cycle diffusive T2w"]

    before = pixel_loss()
    for number in range(30):
        method.training_step(make_batch(), engine.update, PROGRESS, noise(1 + number))
    assert pixel_loss() < 0.7 * before


def test_contrasts_and_steps_must_fit():
    with pytest.raises(InputError, match="two contrasts, got 3"):
        SynDiff(SynDiffConfig.tiny(), ("T1w", "T2w", "FLAIR"))
    for steps, step_size in ((1000, 300), (100, 250)):
        with pytest.raises(InputError, match="multiple of the step size"):
            SynDiff(replace(SynDiffConfig.tiny(), steps=steps, step_size=step_size), CONTRASTS)


DDPM = replace(
    SynDiffConfig.tiny(), variant="ddpm", adversarial_weight_diffusive=0.0, steps=40, step_size=10, first_time=0.0
)


def test_the_ddpm_variant_is_unpaired_and_has_no_diffusive_discriminator():
    method = SynDiff(DDPM, ("T1w", "T2w"))
    assert not method.needs.paired
    assert set(method.nets) == {
        f"{name}_{contrast}" for name in ("generator", "translator", "translator_discriminator")
        for contrast in ("T1w", "T2w")
    }  # fmt: skip
    assert method.sampling_times() == [40, 30, 20, 10]
    assert torch.equal(method.schedule.alpha_bar, Schedule.cosine(40).alpha_bar)
    with pytest.raises(InputError, match="no diffusive discriminator"):
        SynDiff(replace(DDPM, adversarial_weight_diffusive=1.0), ("T1w", "T2w"))


def test_the_ddpm_variant_learns_noise_guided_by_the_estimated_source(monkeypatch):
    method = SynDiff(DDPM, ("T1w", "T2w"))
    images = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"images": images, "available": torch.ones(2, 2, dtype=torch.bool)}
    seen, losses = {}, {}
    noise = Noise([(0, 0), (0, 1)])

    def predict(target, x_t, y, t):
        seen[target] = (x_t, y, t)
        return noise.normal(f"eps {target}", x_t.shape[1:]), torch.full_like(x_t, 0.02, requires_grad=True)

    monkeypatch.setattr(method, "predict_noise", predict)
    method.training_step(batch, lambda player, found: losses.update({player: found}), Progress(0, 1, 0.0), noise)
    assert set(losses) == {"D", "G"}
    for target, other in (("T1w", "T2w"), ("T2w", "T1w")):
        x_t, y, t = seen[target]
        x0 = images[:, [method.contrasts.index(target)]]
        torch.testing.assert_close(y, method.nets[f"translator_{other}"](x0))  # ỹ of x0, no acquired slice
        eps = noise.normal(f"eps {target}", x0.shape[1:])
        torch.testing.assert_close(x_t, q_sample(method.schedule, x0, t, eps))
        assert losses["G"][f"noise {target}"] == 0
        assert losses["G"][f"bound {target}"].isfinite()
        assert f"translator {target}" in losses["D"]


def test_the_ddpm_variant_samples_by_the_acquired_source(monkeypatch):
    """With the exact noise of a target that is half the source, that is what comes out."""
    method = SynDiff(DDPM, ("T1w", "T2w"))

    def predict(target, x_t, y, t):
        a = method.schedule.at(t, x_t)
        return (x_t - a.sqrt() * y / 2) / (1 - a).sqrt(), torch.zeros_like(x_t)

    monkeypatch.setattr(method, "predict_noise", predict)
    images = torch.zeros(1, 2, 16, 16, 3)
    images[:, 0] = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    made = method.translate(batch, "T2w", SliceWindows(2), Noise([(0, "subject", 0)])).image
    torch.testing.assert_close(made, images[:, :1] / 2, rtol=0, atol=1e-4)


class ExactNoise(nn.Module):
    """ε, or the velocity, of E[x_0 | x_t, y] for x_0 of mean y/2 and variance S², and v."""

    S = 0.2

    def __init__(self, method, v):
        super().__init__()
        self.method, self.v = method, v

    def forward(self, seen, t):
        (x_t, y), a = seen.chunk(2, dim=1), self.method.schedule.alpha_bar[int(t[0])]
        x0 = y / 2 + a.sqrt() * self.S**2 / (a * self.S**2 + 1 - a) * (x_t - a.sqrt() * y / 2)
        eps = (x_t - a.sqrt() * x0) / (1 - a).sqrt()
        given = eps if self.method.config.output == "noise" else a.sqrt() * eps - (1 - a).sqrt() * x0
        return torch.cat([given, torch.full_like(x_t, self.v)], dim=1)


@pytest.mark.parametrize("v", [-50.0, 50.0])  # 0 and 1 through the sigmoid
@pytest.mark.parametrize(
    ("steps", "step_size", "settings"),
    [(1000, 50, {}), (1000, 50, {"output": "velocity", "spacing": "log-snr"}), (20, 1, {})],
)
def test_the_ddpm_variants_chain_has_the_closed_forms_mean_and_variance(steps, step_size, settings, v):
    """Exact, in float64; what v is counts in steps of one time alone."""
    method = SynDiff(replace(DDPM, steps=steps, step_size=step_size, **settings), CONTRASTS)
    method.nets["generator_T2w"] = ExactNoise(method, v)
    noise, y = OneDrawAPixel(size=0.1), 0.6
    images = torch.full((1, 2, 8, 8, 2), y, dtype=torch.float64)
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    made = method.translate(batch, "T2w", SliceWindows(1), noise).image
    away, variance = -y / 2, 1.0  # of x_T from the mean √ᾱ_T y/2, which is 0
    path, alpha_bar = [*method.sampling_times(), 0], method.schedule.alpha_bar.tolist()
    away *= alpha_bar[path[0]] ** 0.5
    for t, s in pairwise(path):
        a, b = alpha_bar[t], alpha_bar[s]
        beta = 1 - a / b
        kept = b**0.5 * beta / (1 - a) * a**0.5 * 0.04 / (a * 0.04 + 1 - a) + (a / b) ** 0.5 * (1 - b) / (1 - a)
        away, variance = kept * away, kept**2 * variance
        if s:
            variance += beta if v > 0 and t - s == 1 else beta * (1 - b) / (1 - a)
    assert noise.moments(made) == pytest.approx((y / 2 + away, variance), rel=1e-6)
    if step_size == 1:
        assert (variance > ExactNoise.S**2) == (v > 0)


def test_output_and_spacing_are_the_ddpm_variants():
    for settings in ({"output": "velocity"}, {"spacing": "log-snr"}):
        with pytest.raises(InputError, match="settings of the variant ddpm"):
            make(**settings)
