"""Chains of a sampler with exact Gaussian denoisers, whose means and variances are read off without Monte Carlo."""

import torch

from scansynth.noise import Noise


class OneDrawAPixel(Noise):
    """The i-th image that is drawn is `size` at the i-th pixel but one and 0 elsewhere: what that pixel differs by from
    the first, which no draw reaches, is the draw's coefficient."""

    def __init__(self, size=1.0):
        super().__init__([(0, "subject", 0)])
        self.names, self.images, self.size = [], 0, size

    def normal(self, name, shape):
        assert name not in self.names, f"{name} drawn twice: two draws of one name are equal"
        self.names.append(name)
        drawn = torch.zeros(shape[0], *shape[1:], dtype=torch.float64)
        for channel in drawn:
            self.images += 1
            channel.view(-1)[self.images] = self.size
        return drawn[None]

    def moments(self, made):
        """Mean and variance of a pixel over the draws, of an image that is affine in them."""
        pixels = made.flatten()
        return pixels[0].item(), ((pixels[1:] - pixels[0]) / self.size).square().sum().item()
