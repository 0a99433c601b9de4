"""The table of methods: one paper, one file, one line here."""

import importlib
from dataclasses import dataclass

from scansynth.errors import InputError
from scansynth.method import Method


@dataclass(frozen=True)
class Entry:
    """A method in the table."""

    location: str
    """`module:class`, imported when it is asked for."""
    description: str
    citation: str

    def load(self) -> type[Method]:
        """Import the method's class."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(module), name)


METHODS = {
    "autoencoder": Entry(
        "scansynth.methods.autoencoder:Autoencoder",
        "first stage of latent diffusion: one autoencoder for all contrasts (KL or VQ), on slices or 3D patches",
        "Rombach et al., CVPR 2022; van den Oord et al., NeurIPS 2017",
    ),
    "cdpm": Entry(
        "scansynth.methods.cdpm:Cdpm",
        "2D diffusion on sets of slices: whole 3D brain MRIs without a source, or any subset of sources to any target",
        "Peng et al., Generating Realistic Brain MRIs via a Conditional Diffusion Probabilistic Model, MICCAI 2023",
    ),
    "cg_ddpm": Entry(
        "scansynth.methods.cg_ddpm:CgDdpm",
        "two 3D diffusion models that exchange latent codes: paired translation between two contrasts",
        "CG-DDPM: Cycle-guided Denoising Diffusion Probability Model for 3D Cross-modality MRI Synthesis",
    ),
    "cola_diff": Entry(
        "scansynth.methods.cola_diff:ColaDiff",
        "latent diffusion guided by the sources' tissue: any number of contrasts to one",
        "Jiang et al., CoLa-Diff: Conditional Latent Diffusion Model for Multi-modal MRI Synthesis, MICCAI 2023",
    ),
    "ddpm": Entry(
        "scansynth.methods.ddpm:Ddpm",
        "DDPM, IDDPM (learned variance) and DDIM, any subset of sources to any target, on slices or 3D patches",
        "Ho, Jain & Abbeel, NeurIPS 2020; Nichol & Dhariwal, ICML 2021; Song, Meng & Ermon, ICLR 2021",
    ),
    "ldm": Entry(
        "scansynth.methods.latent_diffusion:LatentDiffusion",
        "latent diffusion, conditional: any subset of sources to any target",
        "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022",
    ),
    "mrdiff": Entry(
        "scansynth.methods.mrdiff:MrDiff",
        "diffusion whose features must explain the sources by MR physics (TR and TE), any subset of sources",
        "Shin et al., Physics-driven Signal Regularization in Diffusion Models for Multi-contrast MR Image Synthesis",
    ),
    "regression": Entry(
        "scansynth.methods.regression:Regression",
        "U-Net with an L1 loss, any subset of sources to any target: the plain reference of every comparison",
        "Ronneberger, Fischer & Brox, MICCAI 2015 (U-Net)",
    ),
    "syndiff": Entry(
        "scansynth.methods.syndiff:SynDiff",
        "adversarial diffusion between two contrasts, unpaired or supervised, both directions from one run",
        "Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023",
    ),
}


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        InputError: if the table has no such method.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown: choose from {', '.join(METHODS)}")
    return METHODS[name].load()
