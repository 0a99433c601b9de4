"""What holds of every method that takes any subset of contrasts: what is asked for reaches the image."""

from dataclasses import replace

import pytest
import torch

from conftest import CASES, find_case
from scansynth.config import RunConfig
from scansynth.methods.any_to_any import AnyToAny
from scansynth.noise import Noise
from scansynth.training.parts import make_method

CONTRASTS = ("T1w", "T2w", "FLAIR")
VARIANTS = {
    "pix2pix, residual": ("pix2pix", {"generator": "residual", "residual_blocks": 1, "dropout_in_synthesis": False}),
    "resvit, unified": ("resvit", {"unified": True}),
}


def found(case):
    if case not in VARIANTS:
        return find_case(case)
    name, changes = VARIANTS[case]
    return name, replace(find_case(name)[1], **changes)


def method_of(case):
    """The method on three contrasts; None for one that is none of these, or builds on another run."""
    name, settings = found(case)
    torch.manual_seed(0)
    try:
        method = make_method(RunConfig(name, settings, CONTRASTS))
    except ValueError:  # it makes one contrast, or of two
        return None
    fits = isinstance(method, AnyToAny) and not method.builds_on(settings) and len(method.targets) > 1
    return method.eval() if fits else None


@pytest.mark.parametrize("case", [case for case in (*CASES, *VARIANTS) if method_of(case)])
@torch.no_grad()
def test_what_is_asked_for_reaches_the_image(case):
    """T2w and FLAIR of one T1w differ. A constant plane is taken away by a norm that follows the first convolution."""
    method = method_of(case)
    for net in method.nets.modules():  # what starts at 0 says nothing of what it will read
        for parameter in net.parameters(recurse=False):
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    side = 16 if getattr(method.needs, "size", None) else 2
    images = torch.zeros(1, 3, 32, 32, side)
    images[:, 0] = torch.rand(images.shape[2:], generator=torch.Generator().manual_seed(2)) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, False, False]])}
    if method.needs.tissue:
        batch["tissue"] = torch.rand(1, 3, 4, 32, 32, side) / 4
    made = [
        method.translate(batch, target, method.needs.windows(), Noise([(0, "subject", 0)])).image
        for target in CONTRASTS[1:]
    ]
    assert (made[0] - made[1]).abs().max() > 1e-4
