"""Tables 1 and 2 of CoLa-Diff (Jiang et al.): any contrasts to one in a latent space, and the ablations."""

from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig
from scansynth.data.prepare import Preparation
from scansynth.recipes.cola_diff import ABLATIONS, STEPS, TASKS, OneFromOthers, cola_diff
from scansynth.reproduction.tables.paper_table import Change, DataSet, PaperTable, PaperTask, Row, transcribed

CITATION = "Jiang et al., CoLa-Diff: Conditional Latent Diffusion Model for Multi-modal MRI Synthesis"
TRAINING = (
    "Adam, learning rate 9.6e-5, batch 8, T = 1000 linear, moving average 0.9999; number of iterations not stated"
)
NOTES = (
    "Range and SSIM's window are not stated in the paper; here [0, 1] and Gaussian 11×11, σ 1.5.",
    "Slices: the paper chooses them by the area that they show and crops them to 224×224.",
    "The paper does not describe its first stage; here an autoencoder for all contrasts, trained on the same subjects.",
    "Tissue: FSL-FAST in the paper; here DIPY, each source alone, and no expert label.",
)
FIRST_STAGE = ("autoencoder", "autoencoder_small")
CROPPED = Preparation(size=(224, 224, None), intensity="percentile")

BRATS = DataSet(
    name="brats",
    title="BRATS 2018, 285 glioma patients",
    contrasts=("T1w", "T2w", "T1ce", "FLAIR"),
    split=(190, 40, 55),
    scans="as published; axial slices chosen by the area that they show",
    preparation=CROPPED,
)
IXI = DataSet(
    name="ixi",
    title="IXI, 200 healthy subjects",
    contrasts=("T1w", "T2w", "PDw"),
    split=(140, 25, 35),
    scans="T2w and PDw registered onto T1w; axial slices chosen by the area that they show",
    preparation=CROPPED,
)
T2W_FROM_ALL = TASKS["brats_t2w"]


def _arm(name: str, label: str) -> Row:
    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        return replace(base, settings=replace(base.settings, **ABLATIONS[name]))

    return Row(name, f"w/o {label}", "cola_diff", "cola_diff_small", change)


def _to_t2w(*contrasts: str) -> Change:
    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        return replace(base, contrasts=contrasts, settings=replace(base.settings, targets=("T2w",)))

    return change


def _table_1(task: OneFromOthers) -> PaperTask:
    """A contrast from the others; a GAN is trained on as many samples as CoLa-Diff, ProvoGAN in each stage."""

    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        config = task.of(base)
        if base.method not in ("mm_gan", "hi_net", "provogan"):
            return config
        samples = STEPS * cola_diff().training.batch_size
        return replace(config, training=replace(config.training, steps=samples // config.training.batch_size))

    return PaperTask(task.name, task.data, task.contrasts, (task.target,), change)


COLA = Row("cola_diff", "CoLa-Diff", "cola_diff", "cola_diff_small")
TABLE_1 = """
MM-GAN    25.78±2.16 90.67±1.45 | 26.11±1.62 90.58±1.39 | 26.30±1.91 91.22±2.08 | 24.09±2.14 88.32±1.98 | 30.61±1.64 95.42±1.90 | 27.32±1.70 92.35±1.58 | 30.87±1.75 94.68±1.42
Hi-Net    27.42±2.58 93.46±1.75 | 25.64±2.01 92.59±1.42 | 27.02±1.26 93.35±1.34 | 25.87±2.82 91.22±2.13 | 31.79±2.26 96.51±2.03 | 28.89±1.43 93.78±1.31 | 32.58±1.85 96.54±1.74
ProvoGAN  27.79±4.42 93.51±3.16 | 26.72±2.87 92.98±3.91 | 29.26±2.50 93.96±2.34 | 25.64±2.77 90.42±3.13 | 29.93±3.11 94.62±2.40 | 24.21±2.63 90.46±3.58 | 29.19±3.04 94.08±3.87
ldm       24.55±2.62 88.34±2.51 | 24.79±2.67 88.47±2.60 | 25.61±2.48 89.18±2.55 | 23.12±3.16 86.90±3.24 | 27.36±2.48 91.52±2.39 | 24.19±2.51 88.75±2.47 | 27.04±2.31 91.23±2.24
cola_diff 28.26±3.13 93.65±3.02 | 28.33±2.27 93.80±2.75 | 29.35±2.40 94.18±2.46 | 26.68±2.74 91.89±3.11 | 32.24±2.95 96.95±2.26 | 30.20±2.38 94.49±2.15 | 32.86±2.83 96.57±2.27
"""  # noqa: E501
PLACES_1 = [TASKS[name] for name in ("brats_t1w", "brats_t2w", "brats_t1ce", "brats_flair")] + [
    TASKS[name] for name in ("ixi_pdw", "ixi_t1w", "ixi_t2w")
]
TABLE_2_TOP = """
no_network   27.1074 90.1268
no_structure 27.7542 91.4865
no_weighting 26.3896 89.7129
no_filter    27.9753 92.1584
cola_diff    28.3126 93.7041
"""
TABLE_2_BOTTOM = """
cola_diff 26.6355 91.7438 | 27.3089 92.9772 | 28.3126 93.7041 | 32.1640 96.0253 | 32.8721 96.5932
"""
FROM = {
    "brats_from_t1": ("brats", ("T1w", "T2w")),
    "brats_from_t1_t1ce": ("brats", ("T1w", "T1ce", "T2w")),
    "brats_from_t1_t1ce_flair": ("brats", T2W_FROM_ALL.contrasts),
    "ixi_from_t1": ("ixi", ("T1w", "T2w")),
    "ixi_from_t1_pd": ("ixi", TASKS["ixi_t2w"].contrasts),
}

TABLES = (
    PaperTable(
        name="cola-diff-table1",
        shows="Table 1: each contrast from the others, BRATS and IXI",
        citation=CITATION,
        data=(BRATS, IXI),
        training=TRAINING,
        tasks=tuple(map(_table_1, PLACES_1)),
        rows=(
            Row("MM-GAN", "MM-GAN", "mm_gan", "mm_gan_small"),
            Row("Hi-Net", "Hi-Net", "hi_net", "hi_net_small"),
            Row(
                "ProvoGAN",
                "ProvoGAN",
                "provogan_sagittal",
                "provogan_small_sagittal",
                before=(("provogan", "provogan_small"), ("provogan_coronal", "provogan_small_coronal")),
            ),
            Row("ldm", "LDM", "ldm", "ldm_small"),
            COLA,
        ),
        protocol="cola-diff",
        figures=transcribed(TABLE_1, [(one.name, one.target) for one in PLACES_1]),
        notes=(
            *NOTES,
            "MM-GAN: the paper tells no settings. Here those of Sharma & Hamarneh (2020), trained on as many slices as "
            "CoLa-Diff; each task has a run of its own, in which the target is always missing, beside any others.",
            "Hi-Net: the paper tells no settings. Here those of Zhou et al. (2020), whose own figures are from two "
            "sources; here from all others of a task, three of BRATS, on as many patches of 128×128 as CoLa-Diff has "
            "slices of 224×224.",
            "ProvoGAN: the paper tells no settings. Here those of the release of Yurt et al. (2022), without its "
            "perceptual loss: three runs one after another (axial, coronal, sagittal: no order was chosen by "
            "validation), each trained on as many slices as CoLa-Diff.",
        ),
        first_stage=FIRST_STAGE,
    ),
    PaperTable(
        name="cola-diff-table2",
        shows="Table 2, top: ablations, T2w from the other contrasts of BRATS",
        citation=CITATION,
        data=(BRATS,),
        training=TRAINING,
        tasks=(PaperTask(T2W_FROM_ALL.name, "brats", T2W_FROM_ALL.contrasts, ("T2w",), T2W_FROM_ALL.of),),
        rows=(
            _arm("no_network", "Modified latent diffusion network"),
            _arm("no_structure", "Structural guidance"),
            _arm("no_weighting", "Auto-weight adaptation"),
            _arm("no_filter", "Similar cooperative filtering"),
            COLA,
        ),
        protocol="cola-diff",
        figures=transcribed(TABLE_2_TOP, [(T2W_FROM_ALL.name, "T2w")]),
        notes=(*NOTES, "The whole method's figures are those of the table's bottom."),
        first_stage=FIRST_STAGE,
    ),
    PaperTable(
        name="cola-diff-table2-contrasts",
        shows="Table 2, bottom: T2w from one to three contrasts, BRATS and IXI",
        citation=CITATION,
        data=(BRATS, IXI),
        training=TRAINING,
        tasks=tuple(PaperTask(name, data, names, ("T2w",), _to_t2w(*names)) for name, (data, names) in FROM.items()),
        rows=(COLA,),
        protocol="cola-diff",
        figures=transcribed(TABLE_2_BOTTOM, [(name, "T2w") for name in FROM]),
        notes=NOTES,
        first_stage=FIRST_STAGE,
    ),
)
