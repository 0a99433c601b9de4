import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.losses.adversarial import r1_penalty
from scansynth.networks import cpu
from scansynth.networks.attention_unet import AttentionUNet
from scansynth.networks.blocks import (
    FirConvolution,
    ResidualBlock,
    SelfAttention,
    convolution,
    downsample,
    fir_downsample,
    fir_upsample,
    group_norm,
    upsample,
)
from scansynth.networks.discriminator import Discriminator
from scansynth.networks.embedding import MappingNetwork, TimeEmbedding, sinusoidal
from scansynth.networks.pix2pix import Pix2PixUNet
from scansynth.networks.public_syndiff import PatchDiscriminator, public_unet
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.start import normal_start
from scansynth.networks.unet import UNet, window_unet

T_BATCH = torch.tensor([250, 1000])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def tiny_unet(dims: int = 2, **settings) -> UNet:
    settings = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention_levels": (1,), **settings}
    return UNet(dims, 2, 1, time_width=8, latent_width=6, **settings)


def tiny_public_unet() -> UNet:
    return public_unet(8, (1, 2), blocks=1, attention_levels=(1,), latent_width=6)


def shake(net: nn.Module) -> nn.Module:
    """Take every parameter off its initial value."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def assert_all_get_gradients(net: nn.Module, output: Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead, f"no gradient: {dead}"


# U-Net


@pytest.mark.parametrize(("dims", "shape"), [(2, (16, 24)), (3, (8, 8, 4))])
def test_unet_keeps_the_size_and_trains_every_parameter(dims, shape):
    net = tiny_unet(dims)
    output = shake(net)(torch.randn(2, 2, *shape), T_BATCH, torch.randn(2, 6))
    assert output.shape == (2, 1, *shape)
    assert_all_get_gradients(net, output)


@pytest.mark.parametrize("make", [tiny_unet, tiny_public_unet])
def test_unet_trains_every_parameter_from_its_first_values(make):
    net = make()
    assert_all_get_gradients(net, net(torch.randn(2, 2, 16, 16), T_BATCH, torch.randn(2, 6)))


@pytest.mark.parametrize("make", [tiny_unet, tiny_public_unet])
def test_time_and_latent_matter_and_samples_do_not_mix(make):
    net, x, w = shake(make()), torch.randn(2, 2, 16, 16), torch.randn(2, 6)
    with torch.no_grad():
        output = net(x, T_BATCH, w)
        torch.testing.assert_close(net(x[:1], T_BATCH[:1], w[:1]), output[:1])
        later = net(x, torch.tensor([500, 1000]), w)
        other = net(x, T_BATCH, torch.stack([w[0], w[1] + 1]))
    torch.testing.assert_close(later[1], output[1])
    assert (later[0] - output[0]).abs().max() > 1e-3
    torch.testing.assert_close(other[0], output[0])
    assert (other[1] - output[1]).abs().max() > 1e-3


def test_unet_without_time_and_latent():
    net = UNet(2, 1, 3, channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), bottleneck_attention=False)
    assert net(torch.randn(1, 1, 8, 8)).shape == (1, 3, 8, 8)
    with pytest.raises(AssertionError, match="time_width"):
        net(torch.randn(1, 1, 8, 8), t=torch.tensor([1]))
    with pytest.raises(AssertionError, match="latent_width"):
        tiny_unet()(torch.randn(1, 2, 8, 8), torch.tensor([1]))


def test_attention_is_placed_by_level_and_a_missing_level_is_an_error():
    def widths(**settings) -> list[int]:
        net = tiny_unet(multipliers=(1, 2, 4), **settings)
        return [module.norm.num_channels for module in net.modules() if isinstance(module, SelfAttention)]

    # on the way down after every block of the level, in the bottleneck, on the way up once
    assert widths(attention_levels=(1,), blocks=2) == [16, 16, 32, 16]
    assert widths(attention_levels=(), blocks=2) == [32]
    assert widths(attention_levels=(), bottleneck_attention=False) == []
    for level in (3, -1):
        with pytest.raises(InputError, match=f"no attention level {level}: 3 multipliers give levels 0 to 2"):
            widths(attention_levels=(level,))


def test_unet_sizes():
    net = tiny_unet(multipliers=(1, 1, 1))
    assert net.size_multiple == 4
    with pytest.raises(InputError, match=r"\(16, 18\).*multiple of 4"):
        net(torch.randn(1, 2, 16, 18), torch.tensor([1]), torch.randn(1, 6))
    with pytest.raises(InputError, match="channels 0"):
        tiny_unet(channels=0)


def test_unet_of_the_paper_reaches_the_whole_image():
    """Six levels and attention: every output pixel depends on every corner."""
    net = UNet(2, 2, 1, channels=4, attention_levels=(4,), blocks=1)
    x = torch.randn(1, 2, 64, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(shake(net)(x)[0, 0, 0, 0], x)
    assert gradient[0, :, -1, -1].abs().max() > 0


def test_parameter_names_of_the_default_unet():
    """Those of the checkpoints that exist."""
    block = ("norm1", "conv1", "time", "norm2", "latent", "conv2")
    attention = ("attention.norm", "attention.qkv", "attention.out")
    widens, attends = ("down.2", "up.0", "up.1", "up.3", "up.4"), ("down.2", "bottleneck.0", "up.1")
    layers = {"first", "time.layers.0", "time.layers.2", "norm", "last"}
    for part in (*(f"down.{n}" for n in range(3)), "bottleneck.0", "bottleneck.1", *(f"up.{n}" for n in range(5))):
        layers |= {f"{part}.residual.{name}" for name in block}
        layers |= {f"{part}.residual.shortcut"} if part in widens else set()
        layers |= {f"{part}.{name}" for name in attention} if part in attends else set()
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert set(tiny_unet().state_dict()) == expected


def test_input_pyramid_joins_the_features_after_each_downsampling():
    net = shake(UNet(2, 2, 1, channels=8, multipliers=(1, 2, 2), blocks=1, attention_levels=(), input_pyramid=True))
    x = torch.randn(1, 2, 16, 16)
    made: list[Tensor] = []  # by the layers of the way down
    read: list[Tensor] = []
    for layer in net.down:
        layer.register_forward_pre_hook(lambda _layer, arguments: read.append(arguments[0]))
        layer.register_forward_hook(lambda _layer, _arguments, output: made.append(output))
    net(x)
    assert [layer.resample for layer in net.levels.down] == [None, "down", None, "down", None]
    first = (net.pyramid[0](x) + made[1]) / 2**0.5
    second = (net.pyramid[1](first) + made[3]) / 2**0.5
    torch.testing.assert_close(read[2], first)
    torch.testing.assert_close(read[4], second)


# Blocks


def test_groups_of_group_norm():
    groups = {channels: group_norm(channels).num_groups for channels in (2, 4, 16, 20, 36, 64, 128, 192, 256)}
    assert groups == {2: 1, 4: 1, 16: 4, 20: 5, 36: 9, 64: 16, 128: 32, 192: 32, 256: 32}


@pytest.mark.processor
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("side", [8, 48])  # a small map, and one above the bound
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_group_norm_is_the_library_s_and_keeps_the_layout(dtype, side, layout):
    torch.manual_seed(0)
    norm = group_norm(16)
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 16, side, side, dtype=dtype).contiguous(memory_format=layout)
    made = norm.to(dtype)(x)
    expected = functional.group_norm(x.double(), 4, norm.weight.double(), norm.bias.double(), 1e-6)
    assert made.dtype == dtype
    assert made.is_contiguous(memory_format=layout)
    torch.testing.assert_close(made.double(), expected, rtol=0.01, atol=0.01 if dtype == torch.bfloat16 else 1e-5)


def test_a_new_residual_block_is_close_to_its_shortcut():
    x, time, w = torch.randn(2, 8, 8, 8), torch.randn(2, 5), torch.randn(2, 6)
    block = ResidualBlock(2, 8, 8, time_width=5, latent_width=6)
    torch.testing.assert_close(block(x, time, w) * 2**0.5, x, rtol=0, atol=0.1)


def test_time_is_a_bias_and_the_latent_scales_and_shifts():
    x, time, w = torch.randn(2, 8, 8, 8), torch.randn(2, 5), torch.randn(2, 6)
    block = ResidualBlock(2, 8, 12, time_width=5, latent_width=6)
    shake(block)
    assert block.time is not None
    assert block.latent is not None
    silu = nn.functional.silu
    h = block.conv1(silu(block.norm1(x))) + block.time(silu(time))[:, :, None, None]
    scale, shift = block.latent(w)[:, :12, None, None], block.latent(w)[:, 12:, None, None]
    h = block.conv2(silu(block.norm2(h) * (1 + scale) + shift))
    torch.testing.assert_close(block(x, time, w), (block.shortcut(x) + h) / 2**0.5)


@pytest.mark.parametrize("dims", [2, 3])
def test_resampling(dims):
    x = torch.randn(2, 8, *[4] * dims)
    assert ResidualBlock(dims, 8, 12, resample="down")(x).shape == (2, 12, *[2] * dims)
    assert ResidualBlock(dims, 8, 12, resample="up")(x).shape == (2, 12, *[8] * dims)
    torch.testing.assert_close(downsample(upsample(x)), x)
    corner = x[(..., *[slice(2)] * dims)].flatten(2).mean(2)
    torch.testing.assert_close(downsample(x).flatten(2)[..., 0], corner)


def test_both_norms_modulated():
    """The latent's scale and shift take the place of the norms' own."""
    x, time, w = torch.randn(2, 8, 8, 8), torch.randn(2, 5), torch.randn(2, 6)
    block = ResidualBlock(2, 8, 12, time_width=5, latent_width=6, modulate="both")
    shake(block)
    assert block.norm1.weight is None
    assert block.norm2.weight is None
    h, channels = x, 8
    for norm, latent, conv in ((block.norm1, block.latent1, block.conv1), (block.norm2, block.latent, block.conv2)):
        assert latent is not None
        scale, shift = latent(w)[:, :channels, None, None], latent(w)[:, channels:, None, None]
        h = conv(functional.silu(norm(h) * (1 + scale) + shift))
        if conv is block.conv1:
            assert block.time is not None
            h, channels = h + block.time(functional.silu(time))[:, :, None, None], 12
    torch.testing.assert_close(block(x, time, w), (block.shortcut(x) + h) / 2**0.5)


def test_shortcut_of_a_resampling_block():
    assert isinstance(ResidualBlock(2, 8, 8, resample="down").shortcut, nn.Identity)
    assert isinstance(ResidualBlock(2, 8, 8, project_resampled=True).shortcut, nn.Identity)
    block = ResidualBlock(2, 8, 8, resample="down", kernel="fir", project_resampled=True)
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x), block.shortcut(fir_downsample(x)) / 2**0.5, rtol=0, atol=0.1)


@pytest.mark.processor
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 1, 1), (1, 2, 2), (2, 4, 3), (1, 8, 8)])
def test_wide_convolutions_of_small_maps_are_the_same_convolutions(batch, height, width):
    """Value, gradients and second gradient, in float64, against PyTorch's own."""
    own = convolution(2, 256, 256, kernel=3).double()
    plain = nn.Conv2d(256, 256, 3, padding=1).double()
    plain.load_state_dict(own.state_dict())
    x = torch.randn(batch, 256, height, width, dtype=torch.float64, requires_grad=True)
    results = []
    for layer in (own, plain):
        y = layer(x)
        (gradient,) = torch.autograd.grad(y.tanh().sum(), x, create_graph=True)
        results.append([y, gradient, *torch.autograd.grad(gradient.square().sum(), [x, layer.weight])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


# The resampling filter [1, 3, 3, 1]


def full_fir(x: Tensor) -> Tensor:
    """Each channel (B, C, H, W), padded by 2 zeros, under the 4×4 kernel: (B, C, H + 1, W + 1)."""
    line = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 8
    padded = functional.pad(x, (2, 2, 2, 2)).flatten(0, 1)[:, None]
    return functional.conv2d(padded, torch.outer(line, line)[None, None]).unflatten(0, x.shape[:2])[:, :, 0]


def test_fir_is_the_padded_convolution_with_values_left_out_or_zeros_put_in():
    x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    torch.testing.assert_close(fir_downsample(x), full_fir(x)[:, :, 1:-1:2, 1:-1:2])
    spread = torch.zeros(2, 3, 12, 20, dtype=torch.float64)
    spread[:, :, ::2, ::2] = x
    torch.testing.assert_close(fir_upsample(x), 4 * full_fir(spread)[:, :, :-1, :-1])
    convolution = FirConvolution(2, 3, 5).double()
    expected = functional.conv2d(full_fir(x), *convolution.convolution.parameters(), stride=2)
    torch.testing.assert_close(convolution(x), expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_fir_keeps_constants_and_halves_and_doubles(dims):
    x, inside = torch.full((2, 3, *[8] * dims), 5.0), (..., *[slice(1, -1)] * dims)
    down, up = fir_downsample(x), fir_upsample(x)
    assert down.shape == (2, 3, *[4] * dims)
    assert up.shape == (2, 3, *[16] * dims)
    for y in (down, up):
        torch.testing.assert_close(y[inside], torch.full_like(y[inside], 5.0))
        assert (y[(..., *[0] * dims)] < 5).all()  # zeros lie outside
    assert FirConvolution(dims, 3, 4)(x).shape == (2, 4, *[4] * dims)
    assert fir_downsample(torch.ones(1, 1, 2, 5)).shape == (1, 1, 1, 2)


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (fir_downsample, (2, 2, 4, 6)),
        (fir_downsample, (1, 1, 3, 5)),
        (fir_upsample, (2, 2, 2, 3)),
        (FirConvolution(2, 2, 1).double(), (1, 2, 4, 4)),
    ],
)
def test_fir_can_be_differentiated_twice(function: Callable[[Tensor], Tensor], shape):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))


@pytest.mark.processor
def test_fir_keeps_the_number_format():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for function in (fir_downsample, fir_upsample):
            assert function(x).dtype == torch.float32
            y = function(x.bfloat16())
            assert y.dtype == torch.bfloat16
            torch.testing.assert_close(y.float(), function(x), rtol=0.01, atol=0.02)
            (gradient,) = torch.autograd.grad(y.float().square().sum(), x)
            assert gradient.dtype == torch.float32


def test_attention_is_that_of_the_paper_and_moves_with_its_places():
    """The heads written out by hand, and no notion of order: permuted places give permuted outputs."""
    net, x = SelfAttention(2, 8, heads=2), torch.randn(2, 8, 3, 5)
    shake(net)
    q, k, v = net.qkv(net.norm(x)).flatten(2).chunk(3, dim=1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = torch.softmax(q[:, part].transpose(1, 2) @ k[:, part] / 2, dim=-1)  # √(8 / 2) = 2
        heads.append((weights @ v[:, part].transpose(1, 2)).transpose(1, 2))
    expected = (x + net.out(torch.cat(heads, dim=1).reshape(x.shape))) / 2**0.5
    torch.testing.assert_close(net(x), expected)
    order = torch.randperm(15)
    permuted = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(net(permuted).flatten(2), net(x).flatten(2)[..., order])


@pytest.mark.processor
def test_attention_without_all_weights_at_once_is_the_same(monkeypatch):
    net, x = SelfAttention(2, 8, heads=2), torch.randn(2, 8, 3, 5, requires_grad=True)
    shake(net)
    found = []
    for most in (2**22, 0):
        monkeypatch.setattr(cpu, "MANY_WEIGHTS", most)
        y = net(x)
        found.append((y, torch.autograd.grad(y.square().sum(), x)[0]))
    assert not torch.equal(found[0][1], found[1][1])  # another kernel
    torch.testing.assert_close(found[0], found[1])


# Embeddings


def test_sinusoidal_encoding():
    encoding = sinusoidal(torch.tensor([0, 3, 1000]), 32)
    assert encoding.shape == (3, 32)
    assert encoding.dtype == torch.float32
    torch.testing.assert_close(encoding[0], torch.cat([torch.ones(16), torch.zeros(16)]))
    angle = 3 * 10_000 ** (-1 / 16)
    assert encoding[1, [1, 17]].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], rel=1e-5)
    torch.testing.assert_close(encoding.square().sum(1), torch.full((3,), 16.0))


def test_time_embedding_and_mapping_network():
    assert TimeEmbedding(24)(torch.tensor([0.5, 7])).shape == (2, 24)
    mapping, z = MappingNetwork(16, 12, 3), torch.randn(4, 16)
    w = mapping(z)
    assert w.shape == (4, 12)
    torch.testing.assert_close(mapping(5 * z), w)  # pixel norm: only the direction counts
    assert w.std(0).mean() > 0.1
    assert sum(isinstance(module, nn.Linear) for module in mapping.modules()) == 3


# Translator


@pytest.mark.parametrize("upsample_kernel", [3, 4])
def test_translator_keeps_the_size_and_trains_every_parameter(upsample_kernel):
    net = ResNetTranslator(channels=4, residual_blocks=2, upsample_kernel=upsample_kernel)
    output = net(torch.randn(2, 1, 12, 16))
    assert output.shape == (2, 1, 12, 16)
    assert output.abs().max() <= 1
    assert_all_get_gradients(net, output)


@pytest.mark.parametrize("size", [(14, 16), (16, 4)])
def test_translator_refuses_sizes_that_it_cannot_take(size):
    with pytest.raises(InputError, match="multiples of 4"):
        ResNetTranslator(channels=4)(torch.randn(1, 1, *size))


def test_translator_of_the_paper():
    """6-block translators at 64 channels have 7.8 M parameters."""
    net = ResNetTranslator()
    assert sum(isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) for module in net.modules()) == 2 + 12
    assert sum(parameter.numel() for parameter in net.parameters()) / 1e6 == pytest.approx(8, rel=0.1)


# Discriminator


@pytest.mark.parametrize(("dims", "shape"), [(2, (16, 24)), (3, (8, 8, 8))])
def test_discriminator_gives_a_logit_an_image_and_trains_every_parameter(dims, shape):
    net = Discriminator(2, channels=4, blocks=3, time_width=8, dims=dims)
    logits = net(torch.randn(2, 2, *shape), T_BATCH)
    assert logits.shape == (2,)
    assert_all_get_gradients(net, logits)


def test_logits_depend_on_time_and_on_their_own_image_only():
    net, x = Discriminator(2, channels=4, blocks=2, time_width=8), torch.randn(2, 2, 8, 8)
    logits = net(x, T_BATCH)
    torch.testing.assert_close(net(x[:1], T_BATCH[:1]), logits[:1])
    changed = net(x, torch.tensor([250, 500]))
    torch.testing.assert_close(changed[0], logits[0])
    assert (changed[1] - logits[1]).abs() > 1e-5


def test_discriminator_can_be_differentiated_twice():
    net, x = Discriminator(1, channels=4, blocks=3), torch.randn(2, 1, 16, 16, requires_grad=True)
    penalty = r1_penalty(net(x), x)
    penalty.backward()
    assert penalty > 0
    gradients = {name: parameter.grad for name, parameter in net.named_parameters()}
    for name, gradient in gradients.items():
        if name.endswith("weight"):
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.abs().max() > 0, name


def test_widths_double_up_to_eight_times_the_base():
    net = Discriminator(1, channels=4, blocks=6)
    assert [len(block.get_parameter("conv2.weight")) for block in net.blocks] == [4, 8, 16, 32, 32, 32]


def test_more_blocks_than_the_image_can_take():
    with pytest.raises(InputError, match=r"4 blocks.*at least 16.*\(8, 16\)"):
        Discriminator(1, channels=4, blocks=4)(torch.randn(1, 1, 8, 16))


def test_a_learned_variance_starts_at_the_least_one():
    size = {"channels": 8, "multipliers": (1,), "blocks": 1, "window_levels": ()}
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 900])
    torch.manual_seed(0)
    out = window_unet(2, 3, learned_variance=True, **size)(x, t)
    assert out.shape == (2, 2, 16, 16)
    assert out[:, 1].sigmoid().mean() < 0.1
    assert out[:, 0].mean().abs() < 1
    assert window_unet(2, 3, learned_variance=False, **size)(x, t).shape == (2, 1, 16, 16)


def by_names(net, norms):
    """The rule that pix2pix's U-Net and the discriminator of patches had: weights but those of norms, by names."""
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif norms not in name:
            nn.init.normal_(parameter, std=0.02)


def by_layers(net, norms):
    """The rule that CycleGAN's generators had: convolutions, by layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@pytest.mark.parametrize(
    ("build", "rule"),
    [
        pytest.param(lambda: Pix2PixUNet(2, channels=4, halvings=4), by_names, id="pix2pix"),
        pytest.param(lambda: Pix2PixUNet(2, 3, 4, halvings=4, enlarged=True), by_names, id="mm-gan"),
        pytest.param(lambda: PatchDiscriminator(2, 4), by_names, id="patches"),
        pytest.param(lambda: PatchDiscriminator(2, 4, logits=3, halvings=4), by_names, id="patches of mm-gan"),
        pytest.param(lambda: ResNetTranslator(channels=8, attentive=2), by_layers, id="resnet"),
        pytest.param(lambda: AttentionUNet(channels=4, levels=3), by_layers, id="attention gates"),
    ],
)
def test_first_weights_are_bit_by_bit_those_of_the_rules_that_networks_had(build, rule):
    """One seed goes on to make one run, though the rule stands in one place now."""
    before = build()
    now = copy.deepcopy(before)
    torch.manual_seed(7)
    rule(before, "norms")
    torch.manual_seed(7)
    assert normal_start(now) is now
    assert all(map(torch.equal, now.state_dict().values(), before.state_dict().values()))
