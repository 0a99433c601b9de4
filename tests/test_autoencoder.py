"""The autoencoder: its terms against closed forms, its codebook, and how its reconstructions are measured."""

import csv
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import scansynth
from scansynth.cli import main
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.autoencoder import Autoencoder, AutoencoderConfig, drawn_contrast, kl_to_normal
from scansynth.networks.autoencoder import Codebook
from scansynth.networks.perceptual import ALEXNET
from scansynth.noise import Noise
from scansynth.training.train import train

NOISE = Noise([(0, 0, 0), (0, 0, 1)])


@pytest.fixture
def batch():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"images": images, "available": torch.tensor([[True, False, True], [False, True, False]])}


def losses_of(method, batch, fraction=0.9):
    """Losses by player of one step."""
    found = {}
    method.training_step(
        batch, lambda player, losses: found.setdefault(player, losses), Progress(int(10 * fraction), 10, 0.0), NOISE
    )
    return found


def test_the_kl_term_is_the_divergence():
    mean, log_variance = torch.randn(2, 2, 3, 4, 5)
    divergence = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_normal(mean, log_variance), divergence.sum(1).mean())


def test_a_sample_shows_an_available_contrast(batch):
    seen = [set(), set()]
    for number in range(40):
        drawn = drawn_contrast(batch, Noise([(number, 0), (number, 1)]))
        for row in range(2):
            (k,) = [k for k in range(3) if torch.equal(drawn[row, 0], batch["images"][row, k])]
            seen[row].add(k)
    assert seen == [{0, 2}, {1}]


def test_the_codebook_finds_the_nearest_vector():
    codebook, z = Codebook(7, 3), torch.randn(2, 3, 4, 5)
    found = codebook(z).movedim(1, -1).reshape(-1, 3)
    for vector, code in zip(z.movedim(1, -1).reshape(-1, 3), found, strict=True):
        distances = (codebook.codes - vector).norm(dim=1)
        assert torch.equal(code, codebook.codes[distances.argmin()])


def test_gradients_pass_the_codes_by(batch):
    method = Autoencoder(replace(AutoencoderConfig.tiny(), kind="vq"), ("T1w", "T2w", "FLAIR"))
    losses = losses_of(method, batch)["G"]
    encoder, decoder = (list(method.nets[name].parameters()) for name in ("encoder", "decoder"))
    assert any(g.abs().max() > 0 for g in torch.autograd.grad(losses["l1"], encoder, retain_graph=True))
    codes = method.nets["codebook"].codes
    assert torch.autograd.grad(losses["l1"], codes, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(losses["codes"], codes, retain_graph=True)[0].abs().max() > 0
    unused = torch.autograd.grad(losses["codes"], encoder, retain_graph=True, allow_unused=True)
    assert unused == (None,) * len(encoder)
    assert torch.autograd.grad(losses["commitment"], decoder, allow_unused=True) == (None,) * len(decoder)


@pytest.mark.parametrize("kind", ["kl", "vq"])
@pytest.mark.parametrize("patch", [None, (16, 16, 8)])
def test_the_latent_is_smaller_and_comes_back(kind, patch):
    settings = replace(AutoencoderConfig.tiny(), kind=kind, patch=patch, multipliers=(1, 2, 2), latent_channels=5)
    method = Autoencoder(settings, ("T1w",))
    x = torch.randn(2, 1, *(patch or (32, 24)))
    z = method.encode(x)
    assert z.shape == (2, 5, *(side // 4 for side in x.shape[2:]))
    assert method.decode(z).shape == x.shape


def test_the_discriminator_waits(batch):
    method = Autoencoder(replace(AutoencoderConfig.tiny(), adversarial_start=0.5), ("T1w", "T2w", "FLAIR"))
    before, after = losses_of(method, batch, 0.4), losses_of(method, batch, 0.5)
    assert "adversarial" not in before["G"]
    assert "D" not in before
    assert {"kl", "l1", "adversarial"} == after["G"].keys()
    assert "adversarial" in after["D"]
    without = Autoencoder(replace(AutoencoderConfig.tiny(), adversarial_weight=0.0), ("T1w",))
    assert "discriminator" not in without.nets


def test_the_perceptual_loss_reads_the_users_weights(batch, tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)  # by chance all features may be dead
    shapes = ALEXNET.shapes
    save_file({key: torch.rand(shape) * 0.1 for key, shape in shapes.items()}, tmp_path / "lpips.safetensors")
    settings = replace(AutoencoderConfig.tiny(), perceptual_weights=str(tmp_path / "lpips.safetensors"))
    method = Autoencoder(settings, ("T1w", "T2w", "FLAIR"))
    loss = losses_of(method, batch)["G"]["perceptual"]
    assert loss > 0
    assert any(g.abs().max() > 0 for g in torch.autograd.grad(loss, list(method.nets["decoder"].parameters())))
    missing = Autoencoder(replace(settings, perceptual_weights="none.safetensors"), ("T1w", "T2w", "FLAIR"))
    with pytest.raises(InputError, match="no such file"):
        losses_of(missing, batch)


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="two or more"):
        AutoencoderConfig(multipliers=(1,))
    with pytest.raises(InputError, match="slices"):
        AutoencoderConfig(patch=(16, 16, 8), perceptual_weights="weights.safetensors")
    with pytest.raises(InputError, match="multiples of 2"):
        Autoencoder(replace(AutoencoderConfig.tiny(), patch=(15, 16, 8)), ("T1w",))


def test_its_reconstructions_are_measured_and_nothing_is_translated(cohort, tiny, tmp_path, capsys):
    config = tiny("autoencoder", steps=150, batch_size=4, validate_every=200)
    train(config, cohort, tmp_path / "ae", device=torch.device("cpu"))
    arguments = ["--cohort", str(cohort.folder), "--protocol", "cola-diff", "--pictures", "1", "--device", "cpu"]
    out = tmp_path / "out"
    assert main(["evaluate", "--run", str(tmp_path / "ae"), *arguments, "-o", str(out)]) == 0
    with (out / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {(row["sources"], row["target"]) for row in rows} == {("T1w", "T1w"), ("T2w", "T2w")}
    assert all(row["label"] == "ae" for row in rows)  # no copied source: it would be the truth
    assert all(float(row["psnr_db"]) > 15 for row in rows)
    with pytest.raises(InputError, match="first-stage"):
        scansynth.load(tmp_path / "ae", "cpu").translate({"T1w": tmp_path / "t1.nii.gz"}, "T2w")
