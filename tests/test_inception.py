"""Inception-v3: the published sizes, a second calculation on random weights, and what is no weights file."""

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.sets.features import find_extractor
from scansynth.sets.inception import LAYERS, InceptionNetwork, shapes
from scansynth.sets.set_measures import measure_sets
from scansynth.sets.volume_sets import VolumeSet

A = ["1x1"], ["5x5_1", "5x5_2"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"], ["average", "_pool"]
C = ["1x1"], ["7x7_1", "7x7_2", "7x7_3"], [f"7x7dbl_{k}" for k in (1, 2, 3, 4, 5)], ["average", "_pool"]
E = (
    ["1x1"], ["3x3_1", "3x3_2a"], ["3x3_1", "3x3_2b"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3a"],
    ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3b"], ["average", "_pool"],
)  # fmt: skip
BLOCKS = {
    "Conv2d_1a_3x3": None, "Conv2d_2a_3x3": None, "Conv2d_2b_3x3": None, "maxpool1": None, "Conv2d_3b_1x1": None,
    "Conv2d_4a_3x3": None, "maxpool2": None, "Mixed_5b": A, "Mixed_5c": A, "Mixed_5d": A,
    "Mixed_6a": (["3x3"], ["3x3dbl_1", "3x3dbl_2", "3x3dbl_3"], ["max"]),
    "Mixed_6b": C, "Mixed_6c": C, "Mixed_6d": C, "Mixed_6e": C,
    "Mixed_7a": (["3x3_1", "3x3_2"], [f"7x7x3_{k}" for k in (1, 2, 3, 4)], ["max"]),
    "Mixed_7b": E, "Mixed_7c": E,
}  # fmt: skip
HALVING = {"Conv2d_1a_3x3", "Mixed_6a.branch3x3", "Mixed_6a.branch3x3dbl_3", "Mixed_7a.branch3x3_2",
           "Mixed_7a.branch7x7x3_4"}  # fmt: skip
UNPADDED = HALVING | {"Conv2d_2a_3x3", "Conv2d_4a_3x3"}


@pytest.fixture(scope="module")
def weights():
    """Random ones of a size that keeps the features'."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, shape in shapes().items():
        if len(shape) == 4:
            found[key] = (torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5).half()
        else:
            found[key] = (torch.rand(shape, generator=generator) * 0.5 + (0.75 if "mean" not in key else 0)).half()
        if key.endswith("bias"):
            found[key] -= 1
    return found


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    unused = {"fc.weight": torch.zeros(2, 2), "AuxLogits.fc.bias": torch.zeros(2)}
    counted = {"Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(0)}
    save_file({**weights, **unused, **counted}, path)
    return path


def by_hand(weights, x):
    """The network over again, in float64, block by block from the table above."""
    weights = {key: tensor.double() for key, tensor in weights.items()}

    def layer(name, x):
        kernel = weights[f"{name}.conv.weight"]
        padding = [0, 0] if name in UNPADDED else [side // 2 for side in kernel.shape[2:]]
        x = functional.conv2d(x, kernel, stride=2 if name in HALVING else 1, padding=padding)
        mean, var, gain, shift = (
            weights[f"{name}.bn.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return torch.clamp((x - mean) / torch.sqrt(var + 0.001) * gain + shift, min=0)

    for block, branches in BLOCKS.items():
        if branches is None:
            x = functional.max_pool2d(x, 3, 2) if block.startswith("maxpool") else layer(block, x)
            continue
        found = []
        for parts in branches:
            y = x
            for part in parts:
                if part == "average":
                    y = functional.pad(y, [1] * 4).unfold(2, 3, 1).unfold(3, 3, 1).mean((4, 5))
                elif part == "max":
                    y = y.unfold(2, 3, 2).unfold(3, 3, 2).amax((4, 5))
                else:
                    y = layer(f"{block}.branch{part}", y)
            found.append(y)
        x = torch.cat(found, 1)
    return x


def test_it_has_the_published_number_of_weights():
    # Keras' InceptionV3 without its top has 21,802,784, with a shift, mean and variance a channel; torchvision's
    # without its auxiliary head 23,834,568 to train, with gain and shift a channel and 2049·1000 in its last layer.
    kernels = sum(int(np.prod(shape)) for key, shape in shapes().items() if key.endswith("conv.weight"))
    channels = sum(layer.outward for layer in LAYERS.values())
    assert len(LAYERS) == 94
    assert kernels + 3 * channels == 21_802_784
    assert kernels + 2 * channels + 2049 * 1000 == 23_834_568


def test_its_maps_have_the_published_sizes():
    # Table 1 of the paper; without memory or arithmetic, on the meta device.
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes().items()}
    found = InceptionNetwork(weights, "").features(torch.empty(1, 3, 299, 299, device="meta"))
    assert found.shape == (1, 2048, 8, 8)


def test_features_are_those_of_a_second_calculation(weights, file):
    images = 2 * torch.rand((1, 3, 91, 83), generator=torch.Generator().manual_seed(1)) - 1
    found = InceptionNetwork.read(file).features(images)
    expected = by_hand(weights, images.double())
    assert found.shape == expected.shape == (1, 2048, 1, 1)
    deviation = float(expected.std())
    assert deviation > 0.02
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3 * deviation)


def test_slices_are_resized_and_grey(file, monkeypatch):
    network, seen = InceptionNetwork.read(file), []

    def features(self, x):
        seen.append(x)
        return x

    monkeypatch.setattr(InceptionNetwork, "features", features)
    network.of_slices(torch.tensor([[[0.0, 0.5], [0.5, 1.0]]]))
    (x,) = seen
    assert x.shape == (1, 3, 299, 299)
    assert x[0, :, 0, 0].tolist() == [-1, -1, -1]
    assert x[0, :, -1, -1].tolist() == [1, 1, 1]
    assert x[0, 1, 149, 149] == pytest.approx(0, abs=1e-6)


def test_the_weights_hash_stands_in_every_column(file, monkeypatch):
    # The network itself is tested above; here only the names count, so that a small image serves.
    monkeypatch.setattr("scansynth.sets.inception.SIDE", 75)
    extractor = find_extractor("inception-v3", file)
    digits = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    assert extractor.name == f"inception-v3-{digits}"
    rng = np.random.default_rng(0)
    one, other = (VolumeSet.of(name, {str(i): rng.random((8, 8, 8)) for i in range(2)}) for name in ("one", "other"))
    (_, row) = measure_sets([one], other, extractor)
    names = {figure.column: figure.heading for figure in row.figures}
    assert names[f"fid_coronal_inception-v3-{digits}"] == f"FID-C (inception-v3-{digits})"
    assert any("2 images for 2048 features" in note for note in row.notes)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "of another shape"])
def test_other_networks_are_refused(weights, tmp_path, fault):
    key = "Conv2d_1a_3x3.bn.bias"
    few = {
        "missing": {key: weights[key]},
        "unexpected": {key: weights[key], "x": torch.zeros(2)},
        "of another shape": {key: weights[key][:5].clone()},
    }[fault]
    save_file(few, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no Inception-v3 weights") as caught:
        InceptionNetwork.read(tmp_path / "weights.safetensors")
    assert f"{fault}: " in str(caught.value)


def test_pickles_are_not_read(tmp_path):
    path = tmp_path / "inception_v3.pth"
    torch.save({"x": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"files of pickle .* are never read here"):
        InceptionNetwork.read(path)
    with pytest.raises(InputError, match="no such file"):
        InceptionNetwork.read(tmp_path / "none")
