"""Table 1 and Figure 4 of MRDiff (Shin et al.): several contrasts to one, and the ablations.

Figure 4 shows bars without numbers.
"""

from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig
from scansynth.data.prepare import Preparation
from scansynth.recipes.mrdiff import ARMS, PaperTraining, mrdiff
from scansynth.recipes.mrdiff import TASKS as PAPERS_TASKS
from scansynth.reproduction.tables.paper_table import DataSet, PaperTable, PaperTask, Row, transcribed

CITATION = "Shin et al., Physics-driven Signal Regularization in Diffusion Models for Multi-contrast MR Image Synthesis"
TRAINING = (
    "Adam, learning rate 2e-4, batch 8, T = 1000 and 50 sampling steps; 300,000 iterations (spine), 350,000 (ADNI)"
)
COLUMNS = ("psnr_db", "ssim_percent", "fsim", "gmsd")
NOTES = (
    "The paper does not say which contrast is the target; here fat-saturated T2w of the spine and T2w of ADNI.",
    "The paper tests over slices, the protocol over subjects.",
    "The paper prints SSIM as a share; here in per cent.",
    "Range and SSIM's window are not stated in the paper; here [0, 1] and Gaussian 11×11, σ 1.5.",
)
M2DN = (
    "M2DN: the paper tells no settings. Here those of Meng et al. (2024) as far as they are known; schedule (linear, "
    "1000 steps), sampler (DDIM, 50 steps) and optimiser (Adam, 1e-4) are settled. It trains on as many slices as "
    "MRDiff, the target always missing, beside any others."
)
RESVIT = (
    "ResViT: the paper tells no settings. Here those of Dalmaz et al. (2022), trained on as many slices as MRDiff, "
    "from any subset of the sources; its transformer starts at random, where Dalmaz et al. had weights of ImageNet-21k."
)
PERCENTILE = Preparation(intensity="percentile")

ADNI = DataSet(
    name="adni",
    title="ADNI, 737 scans of people without cognitive impairment and with Alzheimer's disease",
    contrasts=("T1w", "T2w", "PDw"),
    split=None,
    scans="70 % train; 1,000 slices of 100 subjects test; the paper's TR and TE where sidecars give none",
    preparation=PERCENTILE,
)
SPINE = DataSet(
    name="spine",
    title="spine of one hospital, not public: 240 subjects, and 70 with bone metastasis or red marrow hyperplasia",
    contrasts=("T1w", "T2w", "T2wFS"),
    split=None,
    scans="T2wFS: fat-saturated T2w; 17 slices a subject; 2,040 slices train, 1,003 slices of the 70 subjects test",
    preparation=PERCENTILE,
)


def _task(task: PaperTraining) -> PaperTask:
    """A target from the others; a GAN is trained on as many slices as MRDiff."""

    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        config = task.of(base)
        if base.method not in AS_MANY_SLICES:
            return config
        samples = task.steps * mrdiff().training.batch_size
        return replace(config, training=replace(config.training, steps=samples // config.training.batch_size))

    return PaperTask(task.name, task.name, task.contrasts, (task.target,), change)


AS_MANY_SLICES = ("resvit",)
"""Methods whose batch is not MRDiff's."""
TASKS = tuple(map(_task, PAPERS_TASKS.values()))
TABLE_1 = """
HiNet    27.33±2.34 79.38±6.06 0.8765±0.0316 0.1035±0.0250 | 19.47±1.73 73.50±5.52 0.8657±0.0328 0.1842±0.0245
ResViT   28.12±2.72 80.56±7.07 0.8826±0.0331 0.0964±0.0266 | 19.62±1.90 73.35±6.18 0.8658±0.0372 0.1844±0.0289
BlochGAN 28.24±2.70 81.36±6.95 0.8868±0.0332 0.0940±0.0263 | 19.67±2.17 73.51±6.94 0.8680±0.0429 0.1841±0.0315
CM       25.98±2.28 79.45±5.64 0.8526±0.0287 0.1173±0.0240 | 18.35±2.08 75.10±6.90 0.8600±0.0341 0.1857±0.0451
cDPM     28.36±3.05 80.51±8.02 0.8909±0.0372 0.0925±0.0288 | 20.07±2.30 75.68±8.39 0.8739±0.0434 0.1797±0.0331
M2DN     25.00±1.94 78.35±6.43 0.8468±0.0280 0.1358±0.0237 | 18.77±1.25 75.76±4.51 0.8620±0.0233 0.1875±0.0165
mrdiff   28.54±3.41 82.28±6.24 0.8893±0.0357 0.0913±0.0292 | 20.78±2.33 77.15±7.57 0.8804±0.0416 0.1727±0.0313
"""
PLACES = [("spine", "T2wFS"), ("adni", "T2w")]


def _arm(name: str, label: str) -> Row:
    def change(base: RunConfig[Any]) -> RunConfig[Any]:
        return replace(base, settings=replace(base.settings, **ARMS[name]))

    return Row(name, label, "mrdiff", "mrdiff_small", change)


def _without_times(base: RunConfig[Any]) -> RunConfig[Any]:
    """For a method that reads no TR and TE."""
    return replace(base, data=replace(base.data, defaults="none"))


TABLES = (
    PaperTable(
        name="mrdiff-table1",
        shows="Table 1: comparison with six methods on spine and ADNI",
        citation=CITATION,
        data=(SPINE, ADNI),
        training=TRAINING,
        tasks=TASKS,
        rows=(
            Row("HiNet", "HiNet", "hi_net", "hi_net_small", _without_times),
            Row("ResViT", "ResViT", "resvit", "resvit_small", _without_times),
            Row("BlochGAN", "BlochGAN", "bloch_gan", "bloch_gan_small"),
            Row("CM", "CM", "consistency", "consistency_small", _without_times),
            Row("cDPM", "cDPM", "cdpm_translator", "cdpm_translator_small", _without_times),
            Row("M2DN", "M2DN", "m2dn", "m2dn_small", _without_times),
            Row("mrdiff", "MRDiff", "mrdiff", "mrdiff_small"),
        ),
        protocol="mrdiff",
        columns=COLUMNS,
        figures=transcribed(TABLE_1, PLACES, COLUMNS),
        notes=(
            *NOTES,
            RESVIT,
            M2DN,
            "HiNet: the paper tells no settings. Here those of Zhou et al. (2020), on as many patches of 128×128 as "
            "MRDiff has slices.",
            "BlochGAN: neither this paper's settings nor BlochGAN's own are known. Here every weight is settled by "
            "this project (methods/bloch_gan.py), with as many slices as MRDiff.",
            "CM: the paper tells no settings. Here the improved training of Song & Dhariwal (2024), two calls an "
            "image, a network as wide as MRDiff's, its batch and number of steps.",
        ),
    ),
    PaperTable(
        name="mrdiff-fig4",
        shows="Figure 4: effect of the components on spine and ADNI (bars)",
        citation=CITATION,
        data=(SPINE, ADNI),
        training=TRAINING,
        tasks=TASKS,
        rows=(
            _arm("generator_only", "L_G"),
            _arm("plain_decoder", "L_G + L_D without M"),
            _arm("no_consistency", "L_G + L_D"),
            Row("mrdiff", "L_G + L_D + L_CCT", "mrdiff", "mrdiff_small"),
        ),
        protocol="mrdiff",
        columns=COLUMNS,
        figures=transcribed(
            """
            generator_only ? ? ? ? | ? ? ? ?
            plain_decoder  ? ? ? ? | ? ? ? ?
            no_consistency ? ? ? ? | ? ? ? ?
            mrdiff         ? ? ? ? | ? ? ? ?
            """,
            PLACES,
            COLUMNS,
        ),
        notes=(*NOTES, "Not readable: the figure shows bars without numbers."),
    ),
)
