"""Table 1 of cDPM: whole 3D brain MRIs made without a source."""

from dataclasses import replace

from scansynth.data.prepare import find_preparation
from scansynth.reproduction.tables.paper_table import DataSet, PaperTable, PaperTask, Row, transcribed

T1W = DataSet(
    name="t1w",
    title="1,262 T1w of ADNI-1, UCSF and SRI International, all of which train",
    contrasts=("T1w",),
    split=None,
    scans="denoised, bias-corrected, skull-stripped, affinely registered to a template; 128×128×128 voxels of "
    "1.375×1.375×1 mm",
    preparation=find_preparation("cdpm"),
)

VIEWS = ("fid_axial", "fid_coronal", "fid_sagittal")
COLUMNS = ("ms_ssim", "mmd", *VIEWS)
PRINTED = """
3D-VAE-GAN  88.3  5.15   320.0   247.0   398.0
3D-GAN-GP   81.0  15.7   141.0   127.0   281.0
3D-α-WGAN   82.6  13.2   121.0   116.0   193.0
CCE-GAN     81.5  3.54   69.4    869.0   191.0
HA-GAN      36.8  226.0  477.0   1090.0  554.0
cdpm        78.6  3.14   32.4    45.8    91.1
"""
_FIGURES = transcribed(PRINTED, [("t1w", "T1w")], COLUMNS)
# Of 32 slices; the paper has no coronal and sagittal FID of it.
_SLAB = transcribed("ddpm_3d 79.7 15.2 188.0", [("t1w", "T1w")], COLUMNS[:3])

TABLES = (
    PaperTable(
        name="cdpm-table1",
        shows="Table 1: quality of 500 synthetic T1w",
        citation="Peng et al., Generating Realistic Brain MRIs via a Conditional Diffusion Probabilistic Model, "
        "MICCAI 2023",
        data=(T1W,),
        training="AdamW, learning rate 1e-4, batch 3, 200,000 iterations, at most 20 slices a sample",
        tasks=(PaperTask("t1w", "t1w", ("T1w",), ("T1w",), lambda base: replace(base, contrasts=("T1w",))),),
        rows=(
            *(Row(label, label) for label in ("3D-VAE-GAN", "3D-GAN-GP", "3D-α-WGAN", "CCE-GAN", "HA-GAN")),
            Row("ddpm_3d", "3D-DPM", "ddpm_3d", "ddpm_3d_small"),
            Row("cdpm", "cDPM", "cdpm", "cdpm_small"),
        ),
        protocol="cdpm",
        columns=COLUMNS,
        figures=_FIGURES | _SLAB,
        notes=(
            "The paper's MS-SSIM of real pairs is 79.2 %. Here sets are held against subjects who did not train, there "
            "against some who did. Its MMD names no kernel.",
            "The paper's 3D-DPM makes 32 slices, and its figures are of those. Here it makes whole volumes, at the "
            "paper's size by overlapping windows of 32 slices, which do not know where in the head they lie.",
            "FID stands here only for Inception's features, which need weights: `scansynth measure --extractor "
            "inception-v3 --weights FILE` on evaluation/t1w/sets. Fréchet distances of built-in features are in "
            "evaluation/t1w/sets.md, and can be compared with no FID.",
        ),
    ),
)
