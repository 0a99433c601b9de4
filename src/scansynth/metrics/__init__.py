"""Arrays in, figures out: metrics of images, and the protocols that say how they are taken.

A figure means nothing without its protocol: `measure` takes two prepared arrays under one, `scansynth.measure` two
files. The single metrics take `Images`, which hold range and mask. The names of `__all__` are stable.
"""

from typing import TYPE_CHECKING

from scansynth.lazy import names_of

if TYPE_CHECKING:
    from scansynth.metrics.image_metrics import (
        Images,
        Metric,
        fsim,
        gmsd,
        gradient_energy,
        mae,
        ms_ssim,
        nmse,
        psnr,
        ssim,
    )
    from scansynth.metrics.protocols import PROTOCOLS, Measurement, Protocol, find_protocol, measure
    from scansynth.metrics.statistics import Difference, corrected, difference

__all__ = [
    "PROTOCOLS",
    "Difference",
    "Images",
    "Measurement",
    "Metric",
    "Protocol",
    "corrected",
    "difference",
    "find_protocol",
    "fsim",
    "gmsd",
    "gradient_energy",
    "mae",
    "measure",
    "ms_ssim",
    "nmse",
    "psnr",
    "ssim",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "image_metrics": (
            "Images",
            "Metric",
            "fsim",
            "gmsd",
            "gradient_energy",
            "mae",
            "ms_ssim",
            "nmse",
            "psnr",
            "ssim",
        ),
        "protocols": (
            "PROTOCOLS",
            "Measurement",
            "Protocol",
            "find_protocol",
            "measure",
        ),
        "statistics": (
            "Difference",
            "corrected",
            "difference",
        ),
    },
)
