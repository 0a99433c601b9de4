"""Mean and deviation of images that come one by one."""

import numpy as np


class Moments:
    """Mean and standard deviation of images that come one by one (Welford 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean, self._squares = np.zeros(()), np.zeros(())  # float64

    def add(self, image: np.ndarray) -> None:
        """Take one in, (X, Y, Z)."""
        self.count += 1
        away = image - self._mean
        self._mean = self._mean + away / self.count
        self._squares = self._squares + away * (image - self._mean)

    def mean(self) -> np.ndarray:
        """(X, Y, Z) float32; of one image, itself."""
        return self._mean.astype(np.float32)

    def deviation(self) -> np.ndarray | None:
        """(X, Y, Z) float32, with n − 1 in the denominator; None for one image."""
        return np.sqrt(self._squares / (self.count - 1)).astype(np.float32) if self.count > 1 else None
