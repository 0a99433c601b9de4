"""What networks compute in: bfloat16 inside their forward alone, weights laid out for a CPU's synthesis."""

import pytest
import torch
from torch import nn

from scansynth.diffusion.windows import SliceWindows
from scansynth.methods.regression import Regression, RegressionConfig
from scansynth.network_precision import compute_in, prepare_synthesis
from scansynth.noise import Noise

CPU = torch.device("cpu")


class Parts(nn.Module):
    """Its outputs, and what they were before the cast."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 4), []

    def forward(self, x, *, factor):
        y = self.layer(x) * factor
        self.seen.append(y.dtype)
        return y, [y, torch.arange(3)]


@pytest.mark.processor
def test_whatever_networks_return_is_float32_and_integers_stay():
    for precision in ("float32", "bfloat16"):
        net = Parts()
        compute_in({"net": net}, precision, CPU)
        whole, (part, numbers) = net(torch.randn(2, 4), factor=2)
        assert net.seen == [getattr(torch, precision)]
        assert (whole.dtype, part.dtype, numbers.dtype) == (torch.float32, torch.float32, torch.int64)


@pytest.mark.processor
def test_synthesis_on_a_cpu_has_weights_channels_last_and_the_same_result():
    torch.manual_seed(0)
    method = Regression(RegressionConfig.tiny(), ("T1w", "T2w")).eval()
    batch = {"images": torch.rand(1, 2, 16, 16, 3), "available": torch.tensor([[True, False]])}

    def translate():
        with torch.no_grad():
            return method.translate(batch, "T2w", SliceWindows(), Noise([(0, "subject", 0)])).image

    before = translate()
    prepare_synthesis(method, CPU, "float32")
    weights = [parameter for parameter in method.parameters() if parameter.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not any(parameter.requires_grad for parameter in method.parameters())
    torch.testing.assert_close(translate(), before)
