"""The table of methods: one paper, one file, one line here."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scansynth.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from scansynth.method import Method  # which loads torch: the table alone is quick to read


@dataclass(frozen=True)
class Entry:
    """A method in the table."""

    location: str
    """`module:class`, imported when it is asked for."""
    description: str
    """What it is."""
    needs: str
    """What it trains on: paired or unpaired scans, the unit of a sample, and what else must be there."""
    when: str
    """When to take it, by what was measured (`docs/results.md`)."""
    citation: str

    def load(self) -> "type[Method]":
        """Import the method's class."""
        module, name = self.location.split(":")
        return getattr(importlib.import_module(module), name)


METHODS = {
    "autoencoder": Entry(
        "scansynth.methods.autoencoder:Autoencoder",
        "first stage of latent diffusion: one autoencoder for all contrasts (KL or VQ), on slices or 3D patches",
        "scans of any contrasts, of one subject or not: axial slices (autoencoder_3d: registered scans, 3D patches)",
        "before cola_diff or ldm, which build on it; by itself it makes no contrast from another",
        "Rombach et al., CVPR 2022; van den Oord et al., NeurIPS 2017",
    ),
    "bloch_gan": Entry(
        "scansynth.methods.bloch_gan:BlochGan",
        "BlochGAN: a GAN whose features must explain the sources by MR physics (TR and TE): all others to one",
        "paired scans of all the run's contrasts, axial slices; TR and TE of each source (or train --defaults); "
        "--settings.targets names the one",
        "as MRDiff's baseline; every weight is settled here, not the paper's; US patent 11,874,357 B2 claims it for "
        "fat suppression: find out whether you may use it",
        "Kim et al., Fat-saturated image generation from multi-contrast MRIs using generative adversarial networks "
        "with Bloch equation-based autoencoder regularization, Medical Image Analysis 73, 2021",
    ),
    "cdpm": Entry(
        "scansynth.methods.cdpm:Cdpm",
        "2D diffusion on sets of slices: whole 3D brain MRIs without a source, or any subset of sources to any target",
        "scans of one contrast on one grid, sets of axial slices; some held out. As a translator: paired scans",
        "to generate whole volumes, by age and sex too (cdpm_small_labelled); an hour on two cores gave heads without "
        "anatomy, so take a GPU",
        "Peng et al., Generating Realistic Brain MRIs via a Conditional Diffusion Probabilistic Model, MICCAI 2023",
    ),
    "cg_ddpm": Entry(
        "scansynth.methods.cg_ddpm:CgDdpm",
        "two 3D diffusion models that exchange latent codes: paired translation between two contrasts",
        "paired scans of two contrasts, 3D patches",
        "for 3D volumes, both ways, whose samples agree best; in our tests regression and iddim were more accurate",
        "CG-DDPM: Cycle-guided Denoising Diffusion Probability Model for 3D Cross-modality MRI Synthesis",
    ),
    "cola_diff": Entry(
        "scansynth.methods.cola_diff:ColaDiff",
        "latent diffusion guided by the sources' tissue: any number of contrasts to one",
        "paired scans, axial slices; a first stage (autoencoder) and tissue (prepare --tissue segment, skull-stripped)",
        "for less smooth images of many contrasts, with quick steps: above ldm, below regression in PSNR; the first "
        "stage bounds its detail",
        "Jiang et al., CoLa-Diff: Conditional Latent Diffusion Model for Multi-modal MRI Synthesis, MICCAI 2023",
    ),
    "consistency": Entry(
        "scansynth.methods.consistency:Consistency",
        "consistency models: a diffusion model's draw in one or two network calls, any subset of sources to any target",
        "paired scans, axial slices",
        "as the baseline of few calls that MRDiff's paper compares with; where a ddpm or mrdiff is trained already, "
        "distil it (scansynth distill), which starts from what it knows",
        "Song, Dhariwal, Chen & Sutskever, Consistency Models, ICML 2023; Song & Dhariwal, Improved Techniques for "
        "Training Consistency Models, ICLR 2024",
    ),
    "cycle_gan": Entry(
        "scansynth.methods.cycle_gan:CycleGAN",
        "CycleGAN, cGAN, AttGAN and SAGAN: unpaired GANs between two contrasts, both directions from one run",
        "unpaired scans of two contrasts, axial slices",
        "as the adversarial baseline of unpaired translation, which SynDiff's paper compares with, one network call an "
        "image; not compared here yet",
        "Zhu et al., ICCV 2017 (CycleGAN); Dar et al., IEEE TMI 38(10), 2019 (cGAN); Oktay et al., 2018 (attention "
        "gates); Zhang et al., ICML 2019 (self-attention)",
    ),
    "ddpm": Entry(
        "scansynth.methods.ddpm:Ddpm",
        "DDPM, IDDPM (learned variance) and DDIM, any subset of sources to any target, on slices or 3D patches",
        "paired scans, 3D patches (ddpm_x0_small: axial slices; ddpm_wavelet_small: whole volumes; ddpm_3d: one "
        "contrast, to generate)",
        "as the plain diffusion baseline, in 3D too: on slices as accurate as regression on phantoms, below it on "
        "patients, and some sixty times as slow",
        "Ho, Jain & Abbeel, NeurIPS 2020; Nichol & Dhariwal, ICML 2021; Song, Meng & Ermon, ICLR 2021",
    ),
    "flow": Entry(
        "scansynth.methods.flow:Flow",
        "flow from the sources, or from a regression's image, to a sample: any subset of sources to any target",
        "paired scans, axial slices (flow_wavelet: whole volumes)",
        "for texture in a few calls, or for the mean in one: translate --realism goes from one to the other",
        "Liu, Gong & Liu, ICLR 2023 (rectified flow); Li et al., CVPR 2023 (Brownian bridge); Ohayon, Michaeli & "
        "Elad, ICLR 2025 (posterior-mean rectified flow)",
    ),
    "hi_net": Entry(
        "scansynth.methods.hi_net:HiNet",
        "Hi-Net: a GAN with a branch for each source, fused at every level by sum, product and maximum: all others to "
        "one",
        "paired scans of all the run's contrasts, axial slices, seen through overlapping patches; --settings.targets "
        "names the one",
        "as the baseline of fixed sources that CoLa-Diff's and MRDiff's papers compare with; not yet compared here: "
        "take regression first",
        "Zhou, Fu, Chen, Shen & Shao, Hi-Net: Hybrid-Fusion Network for Multi-Modal MR Image Synthesis, IEEE "
        "Transactions on Medical Imaging 39(9), 2020",
    ),
    "ldm": Entry(
        "scansynth.methods.latent_diffusion:LatentDiffusion",
        "latent diffusion, conditional: any subset of sources to any target",
        "paired scans, axial slices; a first stage (autoencoder)",
        "where there is no tissue for cola_diff: the quickest steps, below cola_diff and regression in PSNR and SSIM",
        "Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022",
    ),
    "m2dn": Entry(
        "scansynth.methods.m2dn:M2DN",
        "M2DN: one diffusion over all contrasts, which makes all missing ones together, from any subset of the others",
        "paired scans, axial slices; subjects may lack some contrasts",
        "where several contrasts may be missing and are to be of one draw, as a diffusion baseline (MRDiff's paper has "
        "it so); hardly compared here yet: take regression first",
        "Meng et al., Multi-modal Modality-masked Diffusion Network for Brain MRI Synthesis with Random Modality "
        "Missing, IEEE Transactions on Medical Imaging 43(7), 2024",
    ),
    "mm_gan": Entry(
        "scansynth.methods.mm_gan:MmGan",
        "MM-GAN: a GAN that makes all missing contrasts in one call, from any subset of the others",
        "paired scans, axial slices; subjects may lack some contrasts",
        "as the GAN baseline for several contrasts of which any may be missing (CoLa-Diff's paper has it so); not yet "
        "compared here: take regression first",
        "Sharma & Hamarneh, Missing MRI Pulse Sequence Synthesis Using Multi-Modal Generative Adversarial Network, "
        "IEEE Transactions on Medical Imaging 39(4), 2020",
    ),
    "mrdiff": Entry(
        "scansynth.methods.mrdiff:MrDiff",
        "diffusion whose features must explain the sources by MR physics (TR and TE), any subset of sources",
        "paired scans, axial slices; TR and TE of each (or train --defaults)",
        "for known sequences whose equations are named (a wrong one costs more than none); below regression in PSNR",
        "Shin et al., Physics-driven Signal Regularization in Diffusion Models for Multi-contrast MR Image Synthesis",
    ),
    "munit": Entry(
        "scansynth.methods.munit:Munit",
        "MUNIT: unpaired GAN between two contrasts by a shared content and a drawn style, both directions from one run",
        "unpaired scans of two contrasts, axial slices of multiples of 4 pixels",
        "as the unpaired baseline of SynDiff's paper whose samples differ, by a style a volume; there below unit in "
        "nearly all tasks; not compared here yet",
        "Huang, Liu, Belongie & Kautz, Multimodal Unsupervised Image-to-Image Translation, ECCV 2018",
    ),
    "pix2pix": Entry(
        "scansynth.methods.pix2pix:Pix2Pix",
        "pix2pix and pGAN: a U-Net or ResNet judged patch by patch beside its sources, any subset of sources to any "
        "target",
        "paired scans, axial slices",
        "as the adversarial baseline of paired translation, which a new method must beat; one network call an image",
        "Isola, Zhu, Zhou & Efros, Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017; Dar et "
        "al., IEEE TMI 38(10), 2019 (pGAN)",
    ),
    "provogan": Entry(
        "scansynth.methods.provogan:ProvoGAN",
        "three 2D GANs along three axes, each a run that corrects the whole volume which the one before it made",
        "paired scans of all contrasts, of about equal voxel sides; the run before as --first-stage",
        "as the GAN baseline whose volumes fit along all axes (CoLa-Diff's paper has it so); three trainings; not yet "
        "compared here: take regression first",
        "Yurt et al., Progressively Volumetrized Deep Generative Models for Data-Efficient Contextual Learning of MR "
        "Image Recovery, Medical Image Analysis 78, 2022",
    ),
    "regression": Entry(
        "scansynth.methods.regression:Regression",
        "U-Net with an L1 loss, any subset of sources to any target: the plain reference of every comparison",
        "paired scans, axial slices (regression_wavelet: whole volumes)",
        "first, on any paired cohort: best or nearly so in PSNR in all our tests, and fastest by far; but smooth: a "
        "segmenter found no lesion in its T2w",
        "Ronneberger, Fischer & Brox, MICCAI 2015 (U-Net)",
    ),
    "resvit": Entry(
        "scansynth.methods.resvit:ResVit",
        "ResViT: a GAN whose residual generator has a vision transformer inside, any subset of sources to any target",
        "paired scans, axial slices; on request, a file of the transformer's first weights (else random)",
        "as the transformer among the paired baselines (MRDiff's paper has it so), with a GPU; not yet compared here: "
        "take regression or pix2pix first",
        "Dalmaz, Yurt & Çukur, ResViT: Residual Vision Transformers for Multimodal Medical Image Synthesis, IEEE "
        "Transactions on Medical Imaging 41(10), 2022",
    ),
    "syndiff": Entry(
        "scansynth.methods.syndiff:SynDiff",
        "adversarial diffusion between two contrasts, unpaired or supervised, both directions from one run",
        "unpaired scans of two contrasts, axial slices (syndiff_supervised: paired)",
        "unpaired, where nobody has both contrasts (far less accurate then); supervised, for sharper images of "
        "patients than regression's, just below it in PSNR",
        "Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023",
    ),
    "unit": Entry(
        "scansynth.methods.unit:Unit",
        "UNIT: unpaired GAN between two contrasts through a latent that both share, both directions from one run",
        "unpaired scans of two contrasts, axial slices of multiples of 4 pixels",
        "as the baseline of unpaired translation through a latent, which SynDiff's paper compares with, one network "
        "call an image; not compared here yet",
        "Liu, Breuel & Kautz, Unsupervised Image-to-Image Translation Networks, NeurIPS 2017",
    ),
    "unit_ddpm": Entry(
        "scansynth.methods.unit_ddpm:UnitDdpm",
        "UNIT-DDPM: two diffusion models, each conditioned on the other's noisy image, both directions from one run",
        "unpaired scans of two contrasts, axial slices",
        "as the baseline of unpaired diffusion without a discriminator, which SynDiff's paper compares with: below all "
        "others there in most tasks; not compared here yet",
        "Sasaki, Willcocks & Breckon, UNIT-DDPM: UNpaired Image Translation with Denoising Diffusion Probabilistic "
        "Models, arXiv 2104.05358, 2021",
    ),
}
"""Methods by name."""


def find_entry(name: str) -> tuple[str, Entry]:
    """A method in the table, by its name; hyphens may stand for underscores.

    Raises:
        InputError: if the table has no such method.
    """
    known = name.replace("-", "_")
    if known not in METHODS:
        raise InputError(
            f"method {name!r} is unknown: {did_you_mean(known, METHODS)}`scansynth methods` lists {', '.join(METHODS)}"
        )
    return known, METHODS[known]


def find_method(name: str) -> "type[Method]":
    """The class of a method.

    Raises:
        InputError: if the table has no such method.
    """
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown: choose from {', '.join(METHODS)}")
    return METHODS[name].load()
