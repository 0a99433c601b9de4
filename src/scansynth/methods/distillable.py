"""Methods of one denoiser, whose trained runs can be distilled into runs of the same method that need few calls.

A distilled run is one whose settings say in how many calls it draws (`distilled`). It has its teacher's networks, and
its teacher as first stage; `diffusion/distillation.py` has the equations.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from scansynth.diffusion.distillation import DECAY, distillation_loss
from scansynth.diffusion.samplers import Denoise
from scansynth.diffusion.schedule import Schedule
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import AnyToAny
from scansynth.networks.lagging import Lagging
from scansynth.noise import Noise


class Distillable(AnyToAny):
    """A method whose settings have `distilled`, the network calls of a draw; 0 where it is trained on images alone."""

    schedule: Schedule
    lagging: Lagging
    """θ⁻ of all networks, once they are there."""

    @classmethod
    def distilled_settings(cls, config: Any, calls: int) -> Any:
        """The same, in so many calls."""
        if config.distilled:
            raise InputError(
                f"it is distilled already, to {config.distilled} calls: distil the run that it was distilled from"
            )
        return replace(config, distilled=calls)

    @classmethod
    def builds_on(cls, config: Any) -> str | None:
        """A run of the same method, where it is distilled."""
        return cls.name if config.distilled else None

    @classmethod
    def check_first_stage(cls, config: Any, method: str, settings: Any, name: str) -> None:
        """The same networks and process: all settings alike but for how fast it learns."""
        super().check_first_stage(config, method, settings, name)
        if replace(config, distilled=0, learning_rate=settings.learning_rate) != settings:
            raise InputError(
                f"--first-stage {name}: its settings are others than those of the run that is distilled from it: take "
                f"them from it, as `scansynth distill {name}` does"
            )

    @property
    def teacher(self) -> Any:
        """The trained method.

        Raises:
            InputError: if it knows other contrasts.
        """
        assert self.first_stage is not None, "the engine gives the method its first stage"
        trained = self.first_stage.method
        if trained.contrasts != self.contrasts:
            raise InputError(
                f"{self.name} distilled from a run on {', '.join(trained.contrasts)} has the same contrasts, in that "
                f"order, got {', '.join(self.contrasts)}: leave --contrasts out"
            )
        return trained

    def distillation(
        self, student: Denoise, *, teacher: Denoise, x0: Tensor, noise: Noise, progress: Progress
    ) -> dict[str, Tensor]:
        """The loss of a training step; arguments as of `distillation_loss`, and of `training_step`."""
        if self.training:  # a validation moves nothing
            self.lagging.follow(DECAY, progress.step)
        in_place = self.lagging.in_place
        return {
            "consistency": distillation_loss(
                self.schedule,
                student,
                teacher=lambda x_t, t: teacher(x_t, t).clamp(-1, 1),  # as its sampler has it
                lagging=in_place,
                x0=x0,
                noise=noise,
            )
        }

    def memory(self) -> Mapping[str, Tensor]:
        """θ⁻, of a distilled run."""
        return self.lagging.weights

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put θ⁻ back."""
        self.lagging.remember(memory) if self.config.distilled else super().remember(memory)
