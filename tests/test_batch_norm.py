"""Batch norm over the parts of a batch that several processes have: as if one process had all of it."""

import pytest
import torch

from scansynth.networks.batch_norm import BatchNorm


class Halves:
    """Two processes, of which the other's statistics are known: its mean, then its mean square around both's mean."""

    count = 2

    def __init__(self, own, other):
        both = torch.cat([own, other]).mean((0, 2, 3), keepdim=True)
        self.others = [other.mean((0, 2, 3)), (other - both).square().mean((0, 2, 3))]

    def mean(self, x):
        return (x + self.others.pop(0)) / 2


def norm():
    one = BatchNorm(3)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([1.0, 2.0, 0.5]))
        one.bias.copy_(torch.tensor([0.0, -1.0, 3.0]))
    return one


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_part_is_normalised_as_in_the_whole_batch(dtype):
    x = (torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0)) * 3 + 7).to(dtype)
    whole, part = norm(), norm()
    part.parts = Halves(x[:2].float(), x[2:].float())
    expected = whole(x.float())
    made = part(x[:2])
    assert made.dtype == dtype
    torch.testing.assert_close(made.float(), expected[:2], atol=1e-5 if dtype == torch.float32 else 0.03, rtol=1e-2)
    assert part.num_batches_tracked == whole.num_batches_tracked == 1
    torch.testing.assert_close(part.running_mean, whole.running_mean)
    torch.testing.assert_close(part.running_var, whole.running_var)
    for one in (whole, part):  # in synthesis there is only the running one
        one.eval()
    torch.testing.assert_close(part(x.float()), whole(x.float()))


def test_alone_it_is_pytorchs_own():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, other = norm(), torch.nn.BatchNorm2d(3)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert torch.equal(one.running_var, other.running_var)
