"""ResViT's generator: the transformer and its two blocks, the compression, positions, and sizes."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scansynth.networks.resvit import (
    GRID,
    TRANSFORMED,
    ArtBlock,
    Attention,
    Compression,
    Layer,
    ResVitGenerator,
    VisionTransformer,
)


def shaken(net):
    """A network whose every weight matters."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


def toy(in_channels=1, **size):
    torch.manual_seed(0)
    return ResVitGenerator(in_channels, 1, 4, **{"width": 16, "layers": 2, "heads": 2, **size})


def test_the_transformer_is_one_module_for_blocks_1_and_6():
    net = toy()
    assert [number for number, block in enumerate(net.blocks, 1) if isinstance(block, ArtBlock)] == [1, 6]
    assert len(net.blocks) == 9
    assert sum(isinstance(module, VisionTransformer) for module in net.modules()) == 1
    asked = []
    net.transformer.register_forward_hook(lambda net, given, made: asked.append(tuple(given[0].shape)))
    net(torch.zeros(1, 1, 48, 64))
    assert asked == [(1, 12, 16)] * len(TRANSFORMED)  # 3×4 tokens, a width of 16


@pytest.mark.parametrize("open_halves", [(), (0,), (1,), (0, 1)])
def test_gradients_reach_the_transformer_from_each_block(open_halves):
    net = shaken(toy())
    with torch.no_grad():
        for number, weight in enumerate(net.halves):  # two of each block
            weight.mul_(number // 2 in open_halves)
    net(torch.randn(1, 1, 32, 32)).square().sum().backward()
    reached = [parameter.grad.abs().max() > 0 for parameter in net.transformer.parameters()]
    assert all(reached) if open_halves else not any(reached)


def test_with_the_transformers_half_zero_stage_2_equals_stage_1():
    """It starts so, and so it is whatever the other weights are."""
    x = torch.randn(2, 1, 32, 48)
    net = toy()
    assert torch.equal(net(x), net(x, transformed=False))
    shaken(net)
    assert (net(x) - net(x, transformed=False)).abs().max() > 1e-3
    with torch.no_grad():
        for weight in net.halves:
            weight.zero_()
    assert torch.equal(net(x), net(x, transformed=False))


def test_compression_is_that_of_both_concatenated():
    compress = shaken(Compression(4)).double()
    x, seen = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64).unbind(0)
    both = torch.cat([x, seen], dim=1)
    three = torch.cat([compress.from_input.weight, compress.from_transformer.weight], dim=1)
    one = torch.cat([compress.skip_input.weight, compress.skip_transformer.weight], dim=1)
    h = compress.second(compress.norm(nn.functional.conv2d(both, three, padding=1)))
    torch.testing.assert_close(compress(x, seen), nn.functional.relu(h + nn.functional.conv2d(both, one)))


def test_a_layer_is_the_one_that_torch_has():
    torch.manual_seed(0)
    own = shaken(Layer(16, 4)).double()
    other = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).double()
    names = {
        "attn.qkv.": "self_attn.in_proj_", "attn.proj.": "self_attn.out_proj.", "mlp.fc1.": "linear1.",
        "mlp.fc2.": "linear2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    state = own.state_dict()
    other.load_state_dict({
        its + kind: state[mine + kind] for mine, its in names.items() for kind in ("weight", "bias")
    })  # fmt: skip
    tokens = torch.randn(2, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(own(tokens, lambda name, h: h), other(tokens))


def test_attention_never_holds_all_weights():
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where that kernel cannot be taken
        Attention(16, 2)(torch.randn(2, 12, 16)).sum().backward()


def test_positions_are_interpolated_for_other_grids():
    block = ArtBlock(4, 8)
    assert block.placed(torch.Size((GRID, GRID))) is block.positions
    with torch.no_grad():
        ramp = torch.arange(GRID, dtype=torch.float32)
        block.positions.copy_(ramp[:, None].expand(1, 8, GRID, GRID))  # linear down the grid
    for rows in (4, 32):
        placed = block.placed(torch.Size((rows, 3)))
        inner = placed[0, 0, 1:-1, 0]
        expected = (torch.arange(rows) + 0.5) * GRID / rows - 0.5
        torch.testing.assert_close(inner, expected[1:-1])
    block.placed(torch.Size((3, 4))).sum().backward()
    assert (block.positions.grad > 0).all()  # each has its part, however few tokens there are


@pytest.mark.parametrize("size", [(32, 32), (16, 24), (33, 47), (48, 64)])
def test_slices_of_any_size_keep_it_and_reach_every_weight(size):
    net = shaken(toy(2))
    made = net(torch.randn(2, 2, *size))
    assert made.shape == (2, 1, *size)
    assert made.abs().max() <= 1
    (made * torch.randn_like(made)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not [name for name in dead if not name.endswith("qkv.bias")]  # keys' biases cancel in the softmax


def test_an_image_does_not_depend_on_those_beside_it():
    net = shaken(toy()).double()
    images = torch.randn(3, 1, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


def test_weights_start_normal_and_the_transformers_half_at_zero():
    net = toy(width=64, layers=4)
    weights = torch.cat([
        module.weight.detach().flatten() for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not name.endswith(Compression.HALF)
    ])  # fmt: skip
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert len(net.halves) == 4
    assert not any(weight.any() for weight in net.halves)
    assert not net.opened


def test_what_is_dropped_has_names_of_its_own():
    """Two draws of one name would be equal: the blocks and layers would drop the same features."""
    names = []
    net = toy()
    net(torch.zeros(1, 1, 32, 32), lambda name, h: (names.append(name), h)[1])
    assert len(names) == len(set(names)) == 2 * (1 + 2 * 3)  # after the positions, and three in each of two layers
