"""Adversarial losses: the non-saturating pair, the least-squares pair, at several scales too, and the penalty R1."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def generator_loss(logit_fake: Tensor) -> Tensor:
    """Non-saturating loss of the generator, the mean of -log D = softplus(-logit) (SynDiff, Eqs. 11 and 17).

    It is the binary cross entropy with the label 1 (pix2pix: Isola et al. 2017, section 3.3).

    Args:
        logit_fake: the discriminator's logits of made images, (B,), or of their patches, (B, 1, h, w).
    """
    return functional.softplus(-logit_fake).mean()


def discriminator_loss(logit_real: Tensor, logit_fake: Tensor) -> Tensor:
    """Loss of the discriminator, the mean of -log D(real) - log(1 - D(fake)) (SynDiff, Eqs. 12 and 18).

    The penalty of Eq. 12 is `r1_penalty`. It is the sum of the binary cross entropies with the labels 1 and 0 (pix2pix:
    Isola et al. 2017, Eq. 1).

    Args:
        logit_real: logits of real images, (B,), or of their patches, (B, 1, h, w).
        logit_fake: the same of made images, detached from their generator.
    """
    return functional.softplus(-logit_real).mean() + functional.softplus(logit_fake).mean()


def least_squares_generator_loss(logit_fake: Tensor) -> Tensor:
    """Least-squares loss of the generator, the mean of (D(fake) − 1)² (LSGAN: Mao et al., ICCV 2017, labels 0 and 1).

    It is CycleGAN's (Zhu et al., ICCV 2017, section 4), without the factor ½ of Mao et al.

    Args:
        logit_fake: the discriminator's values of made images, (B,), or of their patches, (B, 1, h, w).
    """
    return (logit_fake - 1).square().mean()


def least_squares_discriminator_loss(logit_real: Tensor, logit_fake: Tensor) -> Tensor:
    """Least-squares loss of the discriminator, half the mean of (D(real) − 1)² + D(fake)² (Mao et al. 2017).

    CycleGAN halves it where D is optimised, so that D learns more slowly than G (Zhu et al. 2017, section 7.1).

    Args:
        logit_real: values of real images, (B,), or of their patches, (B, 1, h, w).
        logit_fake: the same of made images, detached from their generator.
    """
    return 0.5 * ((logit_real - 1).square().mean() + logit_fake.square().mean())


def multi_scale_generator_loss(logits_fake: Sequence[Tensor]) -> Tensor:
    """The least-squares loss of the generator, summed over scales (MUNIT: Huang et al., ECCV 2018, section 5).

    Args:
        logits_fake: of each scale, the discriminator's values of the patches of made images, (B, 1, h, w).
    """
    return torch.stack([least_squares_generator_loss(fake) for fake in logits_fake]).sum()


def multi_scale_discriminator_loss(logits_real: Sequence[Tensor], logits_fake: Sequence[Tensor]) -> Tensor:
    """The least-squares loss of the discriminator, summed over scales, and not halved as CycleGAN's is.

    Args:
        logits_real: of each scale, values of the patches of real images, (B, 1, h, w).
        logits_fake: the same of made images, detached from their generator.
    """
    pairs = zip(logits_real, logits_fake, strict=True)
    return torch.stack([2 * least_squares_discriminator_loss(real, fake) for real, fake in pairs]).sum()


def r1_penalty(logit_real: Tensor, x: Tensor) -> Tensor:
    """Squared gradient of the logit on real images (Mescheder et al. 2018; last term of SynDiff, Eq. 12, without η).

    The gradient is taken with respect to `x` alone. What else the discriminator sees (SynDiff: x_t and t) must have
    been joined to `x` after `x.requires_grad_()`. It can be differentiated again.

    Args:
        logit_real: logits of real images, (B,), each a function of its own row of `x` (no batch statistics).
        x: the real images they were computed from, (B, C, *S), requiring gradients.

    Returns:
        A scalar: the squared norm summed over channels and pixels, averaged over the batch.
    """
    (gradient,) = torch.autograd.grad(logit_real.sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()
