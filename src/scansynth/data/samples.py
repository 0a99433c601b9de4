"""What training samples are: the base of all data sets that a method trains on."""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.utils.data import Dataset

LABEL_WIDTH = 64
"""Numbers of a label: whether it is known, then a number, or one of up to 63 classes (`data/labels.py`)."""


class Samples(Dataset[dict[str, Tensor]], ABC):
    """Training samples: sample i, which counts on over the epochs, without the batch's first axis."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples in an epoch."""

    @abstractmethod
    def shows(self, i: int) -> list[str]:
        """Subjects whose scans sample i is of."""
