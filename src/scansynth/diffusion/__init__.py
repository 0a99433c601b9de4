"""Diffusion: schedules, the Gaussian process between any two times, what a network's output means, samplers, windows.

The names of `__all__` are stable.
"""

from typing import TYPE_CHECKING

from scansynth.lazy import names_of

if TYPE_CHECKING:
    from scansynth.diffusion.gaussian import q_posterior, q_sample, q_step
    from scansynth.diffusion.parameterisation import eps_from_output, eps_from_velocity, eps_from_x0, x0_from_eps
    from scansynth.diffusion.samplers import ancestral, ancestral_learned, ddim, dpm_solver, times
    from scansynth.diffusion.schedule import Schedule, make_schedule
    from scansynth.diffusion.windows import PatchWindows, SliceWindows

__all__ = [
    "PatchWindows",
    "Schedule",
    "SliceWindows",
    "ancestral",
    "ancestral_learned",
    "ddim",
    "dpm_solver",
    "eps_from_output",
    "eps_from_velocity",
    "eps_from_x0",
    "make_schedule",
    "q_posterior",
    "q_sample",
    "q_step",
    "times",
    "x0_from_eps",
]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "gaussian": (
            "q_posterior",
            "q_sample",
            "q_step",
        ),
        "parameterisation": (
            "eps_from_output",
            "eps_from_velocity",
            "eps_from_x0",
            "x0_from_eps",
        ),
        "samplers": (
            "ancestral",
            "ancestral_learned",
            "ddim",
            "dpm_solver",
            "times",
        ),
        "schedule": (
            "Schedule",
            "make_schedule",
        ),
        "windows": (
            "PatchWindows",
            "SliceWindows",
        ),
    },
)
