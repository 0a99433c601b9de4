"""What methods share that translate between two contrasts from unpaired scans, each from the other, by one run."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from scansynth.errors import InputError
from scansynth.method import Batch, Method


class TwoContrasts(Method):
    """Base of such methods.

    Args:
        config: the method's settings.
        contrasts: names of the two.

    Raises:
        InputError: if there are not two.
    """

    name: ClassVar[str]
    """The method's name, for messages."""

    def __init__(self, config: Any, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if len(self.contrasts) != 2:
            raise InputError(
                f"{self.name} translates between two contrasts, got {len(self.contrasts)} "
                f"({', '.join(self.contrasts)}); name two with --contrasts"
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """Both contrasts."""
        return self.contrasts

    def other(self, contrast: str) -> str:
        """The run's other contrast."""
        return self.contrasts[1 - self.contrasts.index(contrast)]

    def by_contrast(self, batch: Batch) -> dict[str, Tensor]:
        """Images of each contrast, (B, 1, H, W): unpaired, they show different subjects and places."""
        return {contrast: batch["images"][:, [index]] for index, contrast in enumerate(self.contrasts)}

    def source(self, batch: Batch, target: str) -> Tensor:
        """The image that the target is made from, (1, 1, X, Y, Z).

        Raises:
            InputError: if it is not given.
        """
        source = self.other(target)
        index = self.contrasts.index(source)
        if not batch["available"][:, index].all():
            raise InputError(f"{self.name} makes {target} from {source}, which is not given")
        return batch["images"][:, [index]]
