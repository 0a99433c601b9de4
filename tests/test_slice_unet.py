"""The U-Net on sets of slices: order, padding and positions."""

import math

import pytest
import torch

from scansynth.errors import InputError
from scansynth.networks.blocks import SelfAttention
from scansynth.networks.slice_unet import RelativeEncoding, SliceAttention, SliceUNet, heads_of

DEPTH = torch.tensor([40, 60])
INDEX = torch.tensor([[3, 4, 17, 30], [0, 20, 21, 59]])
TIMES = torch.tensor([5, 900])


@pytest.fixture(params=[True, False], ids=["absolute", "relative"])
def absolute(request):
    return request.param


def unet(absolute=True):
    """A tiny network all of whose parts count: its first weights would hide what attention does."""
    torch.manual_seed(0)
    net = SliceUNet(
        2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(1,), absolute=absolute, across_levels=(0,)
    ).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


def slices(n=4, seed=0):
    return torch.randn(2, n, 2, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_permuting_the_slices_of_a_set_permutes_the_output(absolute):
    net, x, order = unet(absolute), slices(), [2, 0, 3, 1]
    made = net(x, TIMES, INDEX, DEPTH)
    assert made.shape == (2, 4, 1, 8, 4)
    torch.testing.assert_close(net(x[:, order], TIMES, INDEX[:, order], DEPTH), made[:, order], rtol=0, atol=1e-12)


def test_padding_changes_nothing_and_is_empty(absolute):
    net, x = unet(absolute), slices(6, seed=1)
    index = torch.cat([INDEX, torch.tensor([[7, 9], [0, 0]])], dim=1)
    valid = torch.tensor([[True] * 4 + [False] * 2, [True, True, False, True, False, False]])
    made = net(x, TIMES, index, DEPTH, valid=valid)
    assert not made[~valid].any()
    for row, number in enumerate(valid):
        alone = net(x[row : row + 1, number], TIMES[row : row + 1], index[row : row + 1, number], DEPTH[row : row + 1])
        torch.testing.assert_close(made[row, number], alone[0], rtol=0, atol=1e-12)
    changed = torch.where(valid[..., None, None, None], x, 1e6)
    torch.testing.assert_close(net(changed, TIMES, index, DEPTH, valid=valid), made, rtol=0, atol=1e-12)


def test_slices_see_the_other_slices_of_their_own_set_only(absolute):
    net, x = unet(absolute), slices().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, TIMES, INDEX, DEPTH)[0, 1].sum(), x)
    assert gradient[0].abs().amax((1, 2, 3)).min() > 1e-6
    assert not gradient[1].any()


def test_only_absolute_positions_tell_a_shift_of_all_indices(absolute):
    net, x = unet(absolute), slices()
    shift = (net(x, TIMES, INDEX + 1, DEPTH) - net(x, TIMES, INDEX, DEPTH)).abs().max()
    assert (shift > 1e-6) if absolute else (shift < 1e-12)
    assert (net(x, TIMES, 2 * INDEX, DEPTH) - net(x, TIMES, INDEX, DEPTH)).abs().max() > 1e-6


def test_absolute_positions_are_shares_of_the_depth():
    """With differences made unimportant, twice the index in twice the depth is the same place."""
    net, x = unet(), slices()
    for module in net.modules():
        if isinstance(module, RelativeEncoding):
            torch.nn.init.zeros_(module.distance.weight)
    made = net(x, TIMES, INDEX, DEPTH)
    torch.testing.assert_close(net(x, TIMES, 2 * INDEX, 2 * DEPTH), made, rtol=0, atol=1e-12)
    assert (net(x, TIMES, INDEX, 2 * DEPTH) - made).abs().max() > 1e-6


def test_the_time_is_read(absolute):
    net, x = unet(absolute), slices()
    assert (net(x, TIMES + 7, INDEX, DEPTH) - net(x, TIMES, INDEX, DEPTH)).abs().max() > 1e-6


def test_labels_are_a_part_of_the_time_embedding(absolute):
    torch.manual_seed(0)
    net, x, c = (
        SliceUNet(2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(1,), absolute=absolute, labels=5).double(),
        slices(),
        torch.rand(2, 5),
    )
    assert not net.labels.weight.any()  # at the start they change nothing
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    made, unknown = net(x, TIMES, INDEX, DEPTH, labels=c), net(x, TIMES, INDEX, DEPTH)
    assert torch.equal(net(x, TIMES, INDEX, DEPTH, labels=torch.zeros(2, 5)), unknown)
    assert (made - unknown).abs().amax((1, 2, 3, 4)).min() > 1e-6
    one = net(x, TIMES, INDEX, DEPTH, labels=torch.cat([torch.zeros(1, 5), c[1:]]))
    torch.testing.assert_close(one, torch.cat([unknown[:1], made[1:]]), rtol=0, atol=1e-12)
    part = net.labels(c.double())
    with_labels = net.describe(TIMES, INDEX, DEPTH, torch.ones_like(INDEX, dtype=torch.bool), labels=c)
    without = net.describe(TIMES, INDEX, DEPTH, torch.ones_like(INDEX, dtype=torch.bool))
    torch.testing.assert_close(with_labels.time - without.time, part)
    torch.testing.assert_close(with_labels.slice_time - without.slice_time, part.repeat_interleave(4, 0))


def test_attention_across_slices_equals_its_formula():
    """(q_i + r^Q)·(k_j + r^K)/√width and v_j + r^V, pixel by pixel and pair by pair."""
    torch.manual_seed(1)
    attention, channels = SliceAttention(64, 12).double(), 64
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    assert attention.heads == 2
    net = SliceUNet(1, 1, 3, multipliers=(1,), blocks=1, attention_levels=()).double()  # its time embedding is 12 wide
    sets = net.describe(TIMES[:1], INDEX[:1], DEPTH[:1], torch.ones(1, 4, dtype=torch.bool))
    h = torch.randn(4, channels, 2, 3, dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(h)).chunk(3, dim=1)
    r_q, r_k, r_v = attention.relative(sets.differences[0], sets.time[0]).chunk(3, dim=-1)
    read, width = torch.zeros_like(h), channels // 2
    for head in (slice(0, width), slice(width, channels)):
        for i in range(4):
            logits = [
                ((q[i, head] + r_q[i, j, head, None, None]) * (k[j, head] + r_k[i, j, head, None, None])).sum(0)
                for j in range(4)
            ]
            weights = (torch.stack(logits) / math.sqrt(width)).softmax(0)
            values = torch.stack([v[j, head] + r_v[i, j, head, None, None] for j in range(4)])
            read[i, head] = (weights[:, None] * values).sum(0)
    expected = (h + attention.out(read)) / math.sqrt(2)
    torch.testing.assert_close(attention(h, sets), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("levels", "across", "expected"),
    [
        ((), (), {4: (1, 1)}),
        ((1,), (), {4: (3, 3)}),
        ((1,), (0,), {4: (3, 3), 8: (2, 0)}),
        ((), (0, 1), {8: (2, 0), 4: (3, 1)}),
    ],
)
def test_levels_with_attention_across_slices_and_inside_them(levels, across, expected):
    """By the height of the features: how often across, how often inside; the bottleneck once more."""
    net, seen = SliceUNet(2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=levels, across_levels=across), []
    for module in net.modules():
        if isinstance(module, (SliceAttention, SelfAttention)):
            module.register_forward_pre_hook(lambda module, inputs: seen.append((inputs[0].shape[2], type(module))))
    net(slices().float(), TIMES, INDEX, DEPTH)
    heights = {height for height, _ in seen}
    assert {h: (seen.count((h, SliceAttention)), seen.count((h, SelfAttention))) for h in heights} == expected


def test_space_to_depth_is_the_network_on_squares_of_pixels_as_channels():
    """Channel 4c + 2i + j of a coarse place is the pixel at (2y + i, 2x + j) of channel c."""
    torch.manual_seed(0)
    net = SliceUNet(
        2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(1,), across_levels=(0,), space_to_depth=2
    ).double()
    inner = SliceUNet(8, 4, 8, multipliers=(1, 2), blocks=1, attention_levels=(1,), across_levels=(0,)).double()
    inner.load_state_dict(net.state_dict())
    x = slices()
    squares = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 1, 2, 4, 6, 3, 5).flatten(2, 4)
    made = inner(squares, TIMES, INDEX, DEPTH).unflatten(2, (2, 2))  # (B, n, i, j, H/2, W/2)
    expected = made.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)[:, :, None]
    torch.testing.assert_close(net(x, TIMES, INDEX, DEPTH), expected, rtol=0, atol=1e-12)


def test_relative_features():
    encoding = RelativeEncoding(4, 2)
    seen = []
    encoding.distance.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoding(torch.tensor([[0.0, 3.0], [-1.0, 0.0]]), torch.zeros(2))
    expected = [[[0, 0, 1], [math.log(4), 0, 0]], [[0, math.log(2), 0], [0, 0, 1]]]
    torch.testing.assert_close(seen[0], torch.tensor(expected))


def test_heads_divide_the_channels():
    assert [heads_of(channels) for channels in (8, 32, 64, 112, 256)] == [1, 1, 2, 2, 8]


def test_every_parameter_gets_a_gradient_at_the_start(absolute):
    torch.manual_seed(0)
    net = SliceUNet(
        2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(1,), absolute=absolute, labels=3, across_levels=(0,)
    )
    net(slices().float(), TIMES, INDEX, DEPTH, labels=torch.ones(2, 3)).square().sum().backward()
    assert [name for name, one in net.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="no attention level 2"):
        SliceUNet(2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(2,))
    with pytest.raises(InputError, match="no attention level 3"):
        SliceUNet(2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(), across_levels=(3,))
    with pytest.raises(InputError, match="all > 0"):
        SliceUNet(2, 1, 8, multipliers=(1, 0), blocks=1, attention_levels=())
    with pytest.raises(InputError, match="space_to_depth 0: all > 0"):
        SliceUNet(2, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(), space_to_depth=0)
    with pytest.raises(InputError, match="8×6: pad both sides to a multiple of 4"):
        SliceUNet(1, 1, 8, multipliers=(1, 2), blocks=1, attention_levels=(), space_to_depth=2)(
            torch.zeros(2, 4, 1, 8, 6), TIMES, INDEX, DEPTH
        )
    with pytest.raises(InputError, match="7×4: pad both sides to a multiple of 2"):
        unet()(slices()[..., :7, :], TIMES, INDEX, DEPTH)
