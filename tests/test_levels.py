"""Levels of U-Nets: what layers read and give, and what is kept for the way up."""

import pytest
import torch

from scansynth.errors import InputError
from scansynth.networks.levels import check_attention, plan_levels, walk


def shapes(layers):
    return [(layer.level, layer.reads, layer.gives, layer.skip, layer.resample) for layer in layers]


def test_the_levels_of_ddpm():
    levels = plan_levels(8, [8, 16], 1)
    assert shapes(levels.down) == [(0, 8, 8, 0, None), (0, 8, 8, 0, "down"), (1, 8, 16, 0, None)]
    assert shapes(levels.bottleneck) == [(2, 16, 16, 0, None)] * 2
    assert shapes(levels.up) == [
        (1, 32, 16, 16, None), (1, 24, 16, 8, None), (1, 16, 16, 0, "up"), (0, 24, 8, 8, None), (0, 16, 8, 8, None),
    ]  # fmt: skip
    assert [layer.block for layer in levels.up] == [0, 1, 0, 0, 1]
    assert levels.gives == 8


def test_the_way_up_may_read_blocks_alone():
    levels = plan_levels(8, [8, 16], 2, keeps="blocks")
    assert [layer.kept for layer in levels.down] == [True, True, False, True, True]
    assert shapes(levels.up) == [
        (1, 32, 16, 16, None), (1, 32, 16, 16, None), (1, 16, 16, 0, "up"), (0, 24, 8, 8, None), (0, 16, 8, 8, None),
    ]  # fmt: skip


@pytest.mark.parametrize("keeps", ["all", "blocks"])
@pytest.mark.parametrize("widths", [[4], [4, 4], [8, 4, 2]])
def test_layers_are_given_what_they_read_and_maps_of_their_size(keeps, widths):
    levels, seen = plan_levels(4, widths, 2, keeps=keeps), []

    def apply(layer, h):
        seen.append(layer)
        side = 16 >> layer.level
        if layer.level < len(widths):
            assert h.shape == (1, layer.reads, side, side)
        side = {None: h.shape[2], "down": side // 2, "up": 2 * side}[layer.resample]
        return torch.zeros(1, layer.gives, side, side)

    assert walk(torch.zeros(1, 4, 16, 16), levels, apply).shape == (1, levels.gives, 16, 16)
    assert seen == [*levels.down, *levels.bottleneck, *levels.up]


def test_what_is_kept_last_is_read_first():
    levels, read = plan_levels(1, [1], 2), []

    def apply(layer, h):
        read.extend(h[0, 1:].tolist())
        return h[:, :1] + 1

    walk(torch.zeros(1, 1), levels, apply, keep=lambda h: 10 * h)
    assert read == [20, 10, 0]  # the first layer's input as it is


def test_a_missing_level_is_an_error():
    check_attention((0, 1), 2)
    with pytest.raises(InputError, match="no attention level 2: 2 multipliers give levels 0 to 1"):
        check_attention((0, 2), 2)
