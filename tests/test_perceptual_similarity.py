"""LPIPS against a second calculation in numpy, on random weights, and what is no weights file."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scansynth.errors import InputError
from scansynth.evaluation.tables import Result, write_tables
from scansynth.metrics.image_metrics import Images
from scansynth.metrics.perceptual_similarity import lpips, lpips_metric
from scansynth.metrics.protocols import PROTOCOLS, measure
from scansynth.networks.perceptual import ALEXNET, CONVERT, VGG16, PerceptualNetwork

# Layers written out as in the networks' papers: ("c", key, stride, padding), ("p", side of pooling with stride 2), and
# "t" where features are taken.
LAYERS = {
    "AlexNet": [
        ("c", 0, 4, 2), "t", ("p", 3), ("c", 3, 1, 2), "t", ("p", 3), ("c", 6, 1, 1), "t", ("c", 8, 1, 1), "t",
        ("c", 10, 1, 1), "t",
    ],
    "VGG16": [
        ("c", 0, 1, 1), ("c", 2, 1, 1), "t", ("p", 2), ("c", 5, 1, 1), ("c", 7, 1, 1), "t", ("p", 2),
        ("c", 10, 1, 1), ("c", 12, 1, 1), ("c", 14, 1, 1), "t", ("p", 2), ("c", 17, 1, 1), ("c", 19, 1, 1),
        ("c", 21, 1, 1), "t", ("p", 2), ("c", 24, 1, 1), ("c", 26, 1, 1), ("c", 28, 1, 1), "t",
    ],
}  # fmt: skip
SIDES = {"AlexNet": (35, 47), "VGG16": (21, 32)}
ARCHITECTURES = {one.name: one for one in (ALEXNET, VGG16)}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def file(request, tmp_path_factory):
    """Random weights of each network, of a size that keeps the features'."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in ARCHITECTURES[request.param].shapes.items():
        weights[key] = torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        if len(shape) == 1 or key.startswith("lin"):
            weights[key] = torch.rand(shape, generator=generator) * 0.2
    path = tmp_path_factory.mktemp(request.param) / "weights.safetensors"
    save_file(weights, path)
    return path


@pytest.fixture(scope="module")
def network(file):
    return PerceptualNetwork.read(file)


def by_numpy(network, synthesis, reference):
    """LPIPS of two slices (H, W) in [0, 1], float64."""
    weights = {key: tensor.double().numpy() for key, tensor in network.weights.items()}
    both = []
    for slice_ in (synthesis, reference):
        shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
        image = np.stack([(2 * slice_ - 1 - a) / b for a, b in zip(shift, scale, strict=True)])
        taken = []
        for layer in LAYERS[network.architecture.name]:
            if layer == "t":
                taken.append(image / (np.sqrt((image**2).sum(0)) + 1e-10))
            elif layer[0] == "p":
                side = layer[1]
                image = np.lib.stride_tricks.sliding_window_view(image, (side, side), (1, 2))[:, ::2, ::2].max((3, 4))
            else:
                _, key, stride, padding = layer
                weight, bias = weights[f"features.{key}.weight"], weights[f"features.{key}.bias"]
                padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
                windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (1, 2))
                windows = windows[:, ::stride, ::stride]
                image = np.tensordot(weight, windows, ((1, 2, 3), (0, 3, 4))) + bias[:, None, None]
                image = np.maximum(image, 0)
        both.append(taken)
    total = 0.0
    for k, (x, y) in enumerate(zip(*both, strict=True)):
        total += (weights[f"lin{k}.model.1.weight"][0] * (x - y) ** 2).sum(0).mean()
    return total


def slices(network, n=3):
    rng = np.random.default_rng(1)
    reference = rng.random((n, *SIDES[network.architecture.name]))
    return np.clip(reference + 0.3 * rng.standard_normal(reference.shape), 0, 1), reference


def test_figures_are_those_of_a_second_calculation(network):
    synthesis, reference = slices(network)
    expected = [by_numpy(network, x, y) for x, y in zip(synthesis, reference, strict=True)]
    assert min(expected) > 0.05
    found = lpips(Images.of(synthesis, reference, 1.0), network)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_equal_slices_are_at_no_distance_and_the_order_does_not_count(network):
    synthesis, reference = slices(network)
    assert lpips(Images.of(reference, reference, 1.0), network).tolist() == [0.0] * 3
    there, back = (lpips(Images.of(*pair, 1.0), network) for pair in ((synthesis, reference), (reference, synthesis)))
    torch.testing.assert_close(there, back)


def test_the_range_and_where_it_begins_are_taken_out(network):
    synthesis, reference = slices(network)
    expected = lpips(Images.of(synthesis, reference, 1.0), network)
    moved = lpips(Images.of(2 * synthesis - 1, 2 * reference - 1, 2.0, lowest=-1.0), network)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)
    other = lpips(Images.of(2 * synthesis - 1, 2 * reference - 1, 2.0), network)
    assert (other - expected).abs().max() > 1e-4


def test_a_volume_is_the_mean_of_its_slices_and_nothing_outside_the_mask_counts(network):
    synthesis, reference = slices(network)
    mask = np.zeros(reference.shape, dtype=bool)
    mask[:2, 4:25, 3:30] = True
    volumes = [np.moveaxis(image, 0, 2)[None] for image in (synthesis, reference, mask)]
    expected = [by_numpy(network, x * m, y * m) for x, y, m in zip(synthesis, reference, mask, strict=True)][:2]
    found = lpips(Images.of(volumes[0], volumes[1], 1.0, mask=volumes[2]), network)
    assert found.item() == pytest.approx(np.mean(expected), abs=1e-4)
    spoilt = np.where(volumes[2], volumes[0], 1.0)
    assert lpips(Images.of(spoilt, volumes[1], 1.0, mask=volumes[2]), network).item() == pytest.approx(found.item())


def test_slices_that_the_network_leaves_nothing_of_are_refused(network):
    side = network.architecture.least
    smallest, less = np.ones((1, side, 64)), np.ones((1, side - 1, 64))
    assert lpips(Images.of(0.5 * smallest, smallest, 1.0), network).isfinite().all()
    with pytest.raises(InputError, match=f"at least {side}"):
        lpips(Images.of(less, less, 1.0), network)


def test_a_table_names_the_weights(file, tmp_path):
    metric = lpips_metric(file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    name = "vgg16" if "VGG16" in metric.heading else "alexnet"
    assert metric.column == f"lpips_{name}_{digits}"
    reference = np.random.default_rng(0).random((40, 36, 3))
    extended = PROTOCOLS["cola-diff"].with_metric(metric)
    assert [*PROTOCOLS["cola-diff"].columns, metric.column] == list(extended.columns)
    found = measure(extended, 0.9 * reference, reference)
    assert found.figures[metric.column].shape == (3,)
    own = measure("cola-diff", 0.9 * reference, reference)
    for column in own.figures:
        np.testing.assert_array_equal(found.figures[column], own.figures[column])
    result = Result("run", ("T1w",), "T2w", "test-1", found)
    write_tables([result], tmp_path, extended)
    for name in ("table.md", "table.csv", "slices.csv", "table.json"):
        assert digits in (tmp_path / name).read_text(), name
    assert "SHA-256" in (tmp_path / "table.md").read_text()
    with pytest.raises(InputError, match=rf"other figures than the table has \({metric.column}\)"):
        write_tables([result], tmp_path, "cola-diff")


def test_a_protocol_of_regions_takes_it_over_the_whole(file):
    metric = lpips_metric(file)
    reference = np.random.default_rng(0).random((40, 36, 12))
    tumour = np.zeros(reference.shape)
    tumour[10:20, 10:20, 4:8] = 1
    found = measure(PROTOCOLS["brasyn"].with_metric(metric), 0.9 * reference, reference, masks={"seg": tumour})
    assert list(found.figures)[-1] == f"{metric.column}_whole"


def test_keys_and_shapes_that_do_not_fit_are_named(file, tmp_path):
    weights = dict(PerceptualNetwork.read(file).weights)
    name = "VGG16" if "features.28.weight" in weights else "AlexNet"
    changed = {key: value for key, value in weights.items() if key != "lin3.model.1.weight"}
    changed |= {"classifier.1.weight": torch.zeros(2), "features.0.bias": torch.zeros(3)}
    save_file(changed, tmp_path / "changed.safetensors")
    with pytest.raises(InputError) as told:
        PerceptualNetwork.read(tmp_path / "changed.safetensors")
    assert f"no LPIPS weights of {name}" in str(told.value)
    assert "missing: lin3.model.1.weight" in str(told.value)
    assert "unexpected: classifier.1.weight" in str(told.value)
    assert "features.0.bias (3,) in place of (64,)" in str(told.value)
    with pytest.raises(InputError, match="no such file"):
        PerceptualNetwork.read(tmp_path / "nowhere.safetensors")


def test_pickle_is_refused_and_the_cure_that_is_named_works(file, tmp_path):
    weights = PerceptualNetwork.read(file).weights
    features = {key: value for key, value in weights.items() if key.startswith("features")}
    torch.save({**features, "classifier.6.bias": torch.zeros(5)}, tmp_path / "alexnet.pth")
    torch.save({key: value for key, value in weights.items() if key.startswith("lin")}, tmp_path / "lpips_alex.pth")
    with pytest.raises(InputError, match="never read here") as told:
        PerceptualNetwork.read(tmp_path / "alexnet.pth")
    assert CONVERT in str(told.value)
    shutil.copy(tmp_path / "alexnet.pth", tmp_path / "renamed.safetensors")
    with pytest.raises(InputError, match="never read here"):
        PerceptualNetwork.read(tmp_path / "renamed.safetensors")
    command = CONVERT.removeprefix('python -c "').removesuffix('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True)
    converted = PerceptualNetwork.read(tmp_path / "lpips.safetensors").weights
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[key], weights[key]) for key in weights)


def test_the_distance_has_finite_gradients_where_nothing_is_found(network):
    x = torch.zeros(1, 48, 48, requires_grad=True)
    network.distance(x, torch.rand(1, 48, 48), 1.0).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() > 0
