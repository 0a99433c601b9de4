"""The knob between faithful and realistic: from the mean given the sources to a sample of the target.

    x(r) = m + r (x − m),  r in [0, 1]

m = E[x | y] has the least error of all images, and is smooth; a sample x has the texture of scans, and errs in it. Of
an exact method the squared error is (1 + r²) times that of m: at r = ½ a quarter of what a sample adds. Such straight
lines hold all best compromises between distortion and perception, in mean squared error and 2-Wasserstein distance,
where their end is the best image of full realism (Freirich, Michaeli & Meir, "A Theory of the Distortion-Perception
Tradeoff in Wasserstein Space", NeurIPS 2021, theorem 2); a sample is a good one.
"""

from typing import TypeVar

import numpy as np
from torch import Tensor

from scansynth.errors import InputError
from scansynth.method import Method

Image = TypeVar("Image", np.ndarray, Tensor)


def between(mean: Image, sample: Image, realism: float) -> Image:
    """The image so far on the way from the mean to a sample, float32 as they are."""
    return mean + realism * (sample - mean)


def is_between(realism: float) -> bool:
    """Whether an image is neither the mean nor a sample: two are made for it."""
    return 0 < realism < 1


def check_realism(method: Method, name: str, realism: float, *, samples: int, mean: bool) -> None:
    """Raise InputError if a method has no such image.

    Args:
        method: what shall make it.
        name: of the method or its run, for messages.
        realism: from 0, the mean, to 1, a sample.
        samples: that are asked for.
        mean: whether the mean is asked for.
    """
    if not 0 <= realism <= 1:
        raise InputError(f"realism {realism:g}: from 0, the mean given the sources, to 1, a sample")
    if realism == 1:
        return
    if mean or samples > 1:
        raise InputError(
            f"realism {realism:g}: of one image. The spread of several samples tells of uncertainty where they are "
            "whole: leave out --samples and --mean, or --realism"
        )
    if not method.stochastic:
        raise InputError(f"{name} draws nothing: its image is the mean, realism 0; leave --realism out")
    if not method.gives_mean:
        raise InputError(
            f"{name} with these settings gives no mean in one call, where realism begins: take --mean --samples 8 for "
            "the mean, or a draw"
        )
