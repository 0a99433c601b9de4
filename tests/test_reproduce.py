"""Tables of the papers: what they say, what a forecast says, and a whole small reproduction that stops and goes on."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.methods import METHODS
from scansynth.methods.cdpm import CdpmConfig
from scansynth.methods.syndiff import SynDiffConfig
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.recipes import RECIPES
from scansynth.recipes.syndiff import ABLATIONS
from scansynth.reproduction.forecast import foresee, text
from scansynth.reproduction.request import Request, parse_data
from scansynth.reproduction.run import reproduce
from scansynth.reproduction.tables import TABLES
from scansynth.reproduction.tables.paper_table import DataSet, PaperTable, PaperTask, Row, transcribed
from scansynth.sets.set_measures import SUMMARY
from scansynth.training.parts import needs_of
from scansynth.training.trial import try_steps

CPU = torch.device("cpu")
STEPS = 4
RUNNABLE = [name for name, table in TABLES.items() if not table.obstacle]


def toy():
    settings = replace(SynDiffConfig.tiny(), variant="unpaired")
    return RunConfig("syndiff", settings, training=Training(steps=STEPS, batch_size=1, checkpoint_every=2))


def of(*contrasts):
    return lambda base: replace(base, contrasts=contrasts)


TABLE = PaperTable(
    name="toy-table1",
    shows="Table 1: toys",
    citation="Nobody et al.",
    data=(
        DataSet(
            name="toys",
            title="phantoms",
            contrasts=("T1w", "T2w", "PDw"),
            split=(2, 1, 1),
            scans="32 slices",
            preparation=Preparation(size=(32, 32, None)),
        ),
        DataSet(
            name="others",
            title="not given",
            contrasts=("T1w", "T2w"),
            split=(2, 1, 1),
            scans="any",
            preparation=Preparation(size=(32, 32, None)),
        ),
    ),
    training="short",
    tasks=(
        PaperTask("t1_t2", "toys", ("T1w", "T2w"), ("T2w",), of("T1w", "T2w")),
        PaperTask("pd_t1", "toys", ("PDw", "T1w"), ("T1w", "PDw"), of("PDw", "T1w")),
        PaperTask("other", "others", ("T1w", "T2w"), ("T1w",), of("T1w", "T2w")),
    ),
    rows=(
        Row("syndiff", "SynDiff", "tiny", "tiny"),
        Row("pretrained", "Pretrained", "tiny", "tiny", ABLATIONS["pretrained_frozen"].of),
        Row("cGAN", "cGAN"),
    ),
    protocol="syndiff",
    figures=transcribed(
        """
        syndiff    30.42±1.40 94.77±1.26 | ?          94.28±1.32 | 28.10±0.99 92.97±?
        pretrained 29.00±1.00 93.00±1.00 | 28.00±1.00 92.00±1.00 | 27.00±1.00 91.00±1.00
        cGAN       20.00±1.00 90.00±1.00 | 21.00±1.00 90.50±1.00 | 22.00±1.00 90.25±1.00
        """,
        [("t1_t2", "T2w"), ("pd_t1", "T1w"), ("other", "T1w")],
    ),
)


@pytest.fixture(scope="module", autouse=True)
def tiny_recipe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", toy)
        yield


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    write_phantom_cohort(folder, 5, ("T1w", "T2w", "PDw"), layout="IXI", shape=(32, 32, 8), spacing=6.0)
    return folder


def test_every_asked_table_is_listed(capsys):
    assert main(["reproduce", "--list"]) == 0
    listed = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert {"syndiff-table2", "mrdiff-fig4", "cola-diff-table2", "cg-ddpm-fig5", "cdpm-table1"} <= listed.keys()
    listed_rows = "methods: SynDiff, cGAN, UNIT, MUNIT, AttGAN, SAGAN, DDPM, UNIT-DDPM;"
    assert listed_rows in listed["syndiff-table2"]
    assert "1 of them marked as not readable" in listed["syndiff-table2"]
    assert "methods: 3D-DPM, cDPM; absent: 3D-VAE-GAN" in listed["cdpm-table1"]
    assert "33 figures transcribed" in listed["cdpm-table1"]
    assert "methods: MM-GAN, Hi-Net, ProvoGAN, LDM, CoLa-Diff; absent: none;" in listed["cola-diff-table1"]
    assert "methods: HiNet, ResViT, BlochGAN, CM, cDPM, M2DN, MRDiff; absent: none" in listed["mrdiff-table1"]
    assert "nothing measures FID" in listed["syndiff-table6"]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_recipes_contrasts_and_protocol(name):
    table = TABLES[name]
    assert len({row.name for row in table.rows}) == len(table.rows)
    for task in table.tasks:
        assert set(task.contrasts) <= set(table.data_set(task.data).contrasts)
        assert set(task.targets) <= set(task.contrasts)
    for row in table.present:
        assert row.recipe in RECIPES
        assert row.small in RECIPES
        assert {name for names in row.before for name in names} <= RECIPES.keys()
    if table.protocol:
        own = PROTOCOLS[table.protocol]
        assert set(table.columns) <= (SUMMARY if own.unit == "set" else own.columns).keys()
    cells = {(row.name, task.name, target) for row in table.rows for task in table.tasks for target in task.targets}
    assert table.figures.keys() == (cells if table.present else set())
    for (row, _, _), columns in table.figures.items():
        # The paper has no coronal and sagittal FID of 3D-DPM, which makes 32 slices.
        given = table.columns[:3] if (name, row) == ("cdpm-table1", "ddpm_3d") else table.columns
        assert tuple(columns) == given


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize("small", [False, True])
def test_every_run_of_a_table_has_settings_of_its_task(name, small, tmp_path):
    table, seen = TABLES[name], set()
    request = Request(table=table, out=tmp_path, small=small, seed=3)
    for task in table.tasks:
        for part, row in request.runs(task):
            config = request.config(part, row)
            assert config.contrasts == task.contrasts
            assert not row.by_target or config.settings.targets == part.targets
            assert dict(config.data.acceleration) == ({task.contrasts[0]: 4} if "accelerated" in task.name else {})
            assert config.seed == 3
            seen.add((config.settings, config.training, task))
    count = sum(len(task.targets) if row.by_target else 1 for task in table.tasks for row in table.present)
    assert len(seen) == count, "two rows are one run"


def test_a_method_of_one_direction_sees_as_many_samples_of_it_as_one_of_both(tmp_path):
    """IDDPM and cGAN make one contrast: one network for both would share its samples between them."""
    table = TABLES["cg-ddpm-table1"]
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        found = {}
        for part, row in request.runs(task):
            training = request.config(part, row).training
            assert request.run_folder(part, row).name == row.name
            found.setdefault(row.name, []).append((part.targets, training.steps * training.batch_size))
        ((both, samples),) = found.pop("cg_ddpm")
        assert both == task.targets
        for runs in found.values():
            assert runs == [((target,), samples) for target in both]


def test_the_papers_budget_is_kept_and_variants_share_it(tmp_path):
    table = TABLES["syndiff-table9"]
    request, (ixi, _, pelvis) = Request(table=table, out=tmp_path), table.tasks
    base, frozen, _ = table.present
    assert request.config(ixi, base).training.steps == 50 * 25 * 100
    assert request.config(pelvis, base).training.steps == 50 * 9 * 90
    assert request.config(pelvis, frozen).training.steps == 2 * 50 * 9 * 90
    assert request.config(pelvis, frozen).settings.diffusive_from == 50 * 9 * 90


@pytest.mark.parametrize(
    ("name", "group", "column", "stated"),
    [
        ("syndiff-table2", ("AttGAN", "SAGAN"), "psnr_db", 1.4),
        ("syndiff-table2", ("AttGAN", "SAGAN"), "ssim_percent", 1.2),
        ("syndiff-table2", ("DDPM", "UNIT-DDPM"), "psnr_db", 5.7),
        ("syndiff-table2", ("DDPM", "UNIT-DDPM"), "ssim_percent", 6.6),
        ("syndiff-table2", ("cGAN", "UNIT", "MUNIT"), "ssim_percent", 2.5),
        ("syndiff-table3", ("cGAN", "UNIT", "MUNIT"), "psnr_db", 1.5),
        ("syndiff-table3", ("cGAN", "UNIT", "MUNIT"), "ssim_percent", 3.5),
        ("syndiff-table3", ("AttGAN", "SAGAN"), "psnr_db", 2.7),
        ("syndiff-table3", ("AttGAN", "SAGAN"), "ssim_percent", 5.0),
        ("syndiff-table3", ("DDPM", "UNIT-DDPM"), "psnr_db", 4.2),
        ("syndiff-table3", ("DDPM", "UNIT-DDPM"), "ssim_percent", 6.8),
        ("syndiff-table4", ("cGAN", "UNIT", "MUNIT"), "psnr_db", 2.1),
        ("syndiff-table4", ("cGAN", "UNIT", "MUNIT"), "ssim_percent", 7.6),
        ("syndiff-table4", ("AttGAN", "SAGAN"), "psnr_db", 3.3),
        ("syndiff-table4", ("AttGAN", "SAGAN"), "ssim_percent", 14.4),
        ("syndiff-table4", ("DDPM", "UNIT-DDPM"), "ssim_percent", 6.1),
    ],
)
def test_figures_agree_with_the_averages_that_syndiffs_text_states(name, group, column, stated):
    figures = TABLES[name].figures
    ahead = [
        figures["syndiff", task, target][column].mean - figure[column].mean
        for (row, task, target), figure in figures.items()
        if row in group
    ]
    assert np.mean(ahead) == pytest.approx(stated, abs=0.05)


def test_a_table_that_nothing_measures_cannot_run(tmp_path, capfd):
    out = tmp_path / "out"
    assert main(["reproduce", "syndiff-table6", "--small", "-o", str(out)]) == 1
    assert "nothing measures FID" in capfd.readouterr().err
    assert not out.exists()


def generator():
    training = Training(steps=2, batch_size=1, validation_slices=1)
    return RunConfig("cdpm", replace(CdpmConfig.tiny(), translator=False), ("T1w",), training=training)


def test_a_table_of_generated_sets_beside_real_ones(tmp_path, monkeypatch):
    write_phantom_cohort(tmp_path / "scans", 8, ("T1w",), layout="IXI", shape=(32, 32, 16), spacing=6.0)
    monkeypatch.setitem(RECIPES, "generator", generator)
    monkeypatch.setattr(Request, "volumes", 3)
    heads = DataSet(
        name="t1w",
        title="phantoms",
        contrasts=("T1w",),
        split=None,
        scans="any",
        preparation=Preparation((6.0, 6.0, 6.0), (32, 32, 16)),
    )
    rows = (Row("HA-GAN", "HA-GAN"), Row("cdpm", "cDPM", "generator", "generator"))
    table = replace(TABLES["cdpm-table1"], data=(heads,), rows=rows)
    request = Request(table=table, out=tmp_path / "out", data={"t1w": tmp_path / "scans"})
    printed = reproduce(request, CPU).read_text()
    records = json.loads((tmp_path / "out/reproduction.json").read_text())["figures"]
    lines = {record["method"]: record for record in records if record["figure"] == "ms_ssim"}
    assert list(lines) == ["real, held out", "real, train", "HA-GAN", "cDPM"]
    assert [line["subjects"] for line in lines.values()] == [3, 3, 0, 3]
    assert (lines["cDPM"]["paper_mean"], lines["HA-GAN"]["paper_mean"]) == (78.6, 36.8)
    assert (
        lines["cDPM"]["mean"]
        == json.loads((tmp_path / "out/evaluation/t1w/sets.json").read_text())[1]["ms_ssim_3_scales_percent"]
    )
    assert "no method HA-GAN yet" in printed
    assert "FID stands here only for Inception" in printed
    before = (tmp_path / "out/evaluation/t1w/sets/cdpm/synthetic-0003_T1w.nii.gz").stat().st_mtime_ns
    reproduce(request, CPU)
    assert (tmp_path / "out/evaluation/t1w/sets/cdpm/synthetic-0003_T1w.nii.gz").stat().st_mtime_ns == before


def test_wrong_input_is_one_line_and_writes_nothing(scans, tmp_path, capfd):
    out = tmp_path / "out"
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    cases = [
        ([], "--list"),
        (["syndiff-table1"], "unknown: choose from syndiff-table2"),
        (["syndiff-table2"], "40 subjects (25 train, 5 val, 10 test), each with T1w, T2w, PDw"),
        (["syndiff-table2", "--data", str(scans)], "5 people are there, but 40 are needed (25 train, 5 val, 10 test)"),
        (["syndiff-table3", "--data", str(scans)], "0 subjects have T1w and T2w and FLAIR"),
        (["syndiff-table7", "--data", str(scans)], "ixi|brats|pelvis=FOLDER"),
        (["syndiff-table7", "--data", f"ixi={scans}", f"ixi={scans}"], "given twice"),
        (["syndiff-table2", "--data", str(tmp_path / "none")], "does not exist"),
        (["syndiff-table2", "--minutes", "2"], "--small"),
        (["syndiff-table2", "--small", "--minutes", "-1"], "above 0"),
        (["syndiff-table2", "--small", "-o", str(tmp_path / "full")], "not a reproduction and not empty"),
    ]
    for arguments, message in cases:
        where = [] if "-o" in arguments else ["-o", str(out)]
        assert main(["reproduce", *arguments, *where, "--device", "cpu"]) == 1, arguments
        printed = capfd.readouterr().err
        assert message in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1, printed
        assert not out.exists()


@pytest.mark.parametrize("method", METHODS)
def test_a_trial_takes_what_each_method_trains_on(method, tiny):
    config = tiny(method)
    shape = needs_of(config).image_shape((32, 48))
    trial = try_steps(config, (32, 48), CPU)
    assert trial.shape == shape
    assert trial.seconds > 0


def test_latent_methods_come_after_their_first_stage(tmp_path):
    request = Request(table=TABLES["cola-diff-table1"], out=tmp_path, small=True)
    stages = [(task.name, row.name, request.config(task, row)) for task, row in request.first_stages]
    assert [(task, row) for task, row, _ in stages] == [
        ("first_stage_brats", "autoencoder"),
        ("first_stage_ixi", "autoencoder"),
    ]
    assert stages[1][2].contrasts == ("T1w", "T2w", "PDw")
    assert {stage[2].method for stage in stages} == {"autoencoder"}
    first = next(task for task in request.tasks if task.data == "ixi")
    assert request.first_stage_of(first) == tmp_path / "runs" / "first_stage_ixi" / "autoencoder"


def test_a_small_run_leaves_out_what_phantoms_do_not_have(tmp_path):
    table = TABLES["mrdiff-table1"]
    request = Request(table=table, out=tmp_path, small=True)
    assert [task.name for task in request.tasks] == ["adni"]
    given = Request(table=table, out=tmp_path, data={"spine": tmp_path}, small=True)
    assert [task.name for task in given.tasks] == ["spine", "adni"]
    rows = {row.name: row for row in table.present}
    config = request.config(request.tasks[0], rows["mrdiff"])
    assert config.data.defaults == "adni"  # the paper's TR and TE stand for unknown ones, small or not
    assert request.config(request.tasks[0], rows["cDPM"]).data.defaults == "none"  # which reads none


def test_a_data_set_of_which_no_split_is_told_keeps_its_own(scans, tmp_path):
    request = Request(table=replace(TABLE, data=(replace(TABLE.data[0], split=None), *TABLE.data[1:])), out=tmp_path)
    listing = find_subjects(scans)
    assert [one.split for one in request.chosen(request.table.data[0], listing).subjects] == [
        one.split for one in listing.subjects
    ]


def test_a_plan_tries_names_the_absent_and_writes_nothing(scans, tmp_path):
    request = Request(table=TABLE, out=tmp_path / "out", data={"toys": scans})
    foreseen = foresee(request, CPU)
    assert [run.task.name for run in foreseen.runs] == ["t1_t2", "t1_t2", "pd_t1", "pd_t1"]
    assert [run.config.training.steps for run in foreseen.runs] == [STEPS, 2 * STEPS] * 2
    for run in foreseen.runs:
        assert run.trial
        assert 0 < run.trial.seconds < 30
        assert run.trial.memory_gb > 0.05
        assert run.hours == pytest.approx(run.config.training.steps * run.trial.seconds / 3600)
    printed = text(foreseen)
    assert "no method cGAN yet" in printed
    assert "Not given (--data others=FOLDER)" in printed
    assert "| t1_t2 | T1w→T2w | SynDiff | 30.42 ± 1.40 | 94.77 ± 1.26 |" in printed
    assert "| pd_t1 | PDw→T1w | SynDiff | not readable | 94.28 ± 1.32 |" in printed
    assert "| other | T2w→T1w | SynDiff | 28.10 ± 0.99 | 92.97 ± not readable |" in printed
    assert not (tmp_path / "out").exists()


class Watch:
    """Remembers what is reported, and stops where it is told to."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def __call__(self, event):
        self.seen.append((event.what, event.done))
        if self.seen[-1] == self.stop_at:
            raise KeyboardInterrupt

    def of(self, kind):
        return [one for one in self.seen if one[0].startswith(kind)]


@pytest.fixture(scope="module")
def reproduced(scans, tmp_path_factory):
    """A reproduction that was stopped in its third run, the forecast of what was left, and its going on."""
    request = Request(table=TABLE, out=tmp_path_factory.mktemp("reproduced"), data={"toys": scans})
    with pytest.raises(KeyboardInterrupt):
        reproduce(request, CPU, Watch(("training pd_t1/syndiff", 3)))
    left, halfway = foresee(request, CPU), (request.out / "reproduction.md").read_text()
    on = Watch()
    reproduce(request, CPU, on)
    return request, left, halfway, on


def test_stopped_it_goes_on_and_trains_only_what_is_left(reproduced):
    _, left, halfway, on = reproduced
    assert [run.finished for run in left.runs] == [STEPS, 2 * STEPS, 2, 0]
    assert [run.trial is None for run in left.runs] == [True, True, False, False]
    assert halfway.count("not run yet") == 4
    trained = [(f"training pd_t1/{name}", done) for name, first, last in
               (("syndiff", 3, STEPS), ("pretrained", 1, 2 * STEPS)) for done in range(first, last + 1)]  # fmt: skip
    assert on.of("training") == trained
    assert {what for what, _ in on.of("evaluating")} == {"evaluating pd_t1"}


def test_the_table_has_own_figures_beside_the_papers(reproduced):
    request, *_ = reproduced
    out = request.out
    rows = list(csv.DictReader((out / "reproduction.csv").open()))
    own = json.loads((out / "evaluation/pd_t1/table.json").read_text())["rows"]
    found = {(row["task"], row["direction"], row["method"], row["figure"]): row for row in rows}
    here = found["pd_t1", "PDw→T1w", "SynDiff", "psnr_db"]
    measured = next(row for row in own if (row["label"], row["direction"]) == ("syndiff", "PDw→T1w"))
    assert float(here["mean"]) == measured["subjects"]["psnr_db"]["mean"]
    assert here["paper_mean"] == ""
    assert here["paper_readable"] == "False"
    assert found["t1_t2", "T1w→T2w", "SynDiff", "ssim_percent"]["paper_mean"] == "94.77"
    assert found["t1_t2", "T1w→T2w", "cGAN", "psnr_db"]["status"] == "absent: no method cGAN yet"
    assert found["other", "T2w→T1w", "SynDiff", "psnr_db"]["status"] == "not run: no --data others=FOLDER"
    assert found["t1_t2", "T1w→T2w", "copied source", "psnr_db"]["paper_mean"] == ""
    assert math.isfinite(float(found["t1_t2", "T1w→T2w", "copied source", "psnr_db"]["mean"]))
    # One task measures one target only, the other has no figures of the paper for PDw.
    assert ("t1_t2", "T2w→T1w", "SynDiff", "psnr_db") not in found
    assert found["pd_t1", "T1w→PDw", "SynDiff", "psnr_db"]["paper_readable"] == ""
    written = (out / "reproduction.md").read_text()
    assert "Nobody et al." in written
    assert "30.42 ± 1.40" in written
    assert "absent: no method cGAN yet" in written
    assert f"| pd_t1/pretrained | tiny, Pretrained | {2 * STEPS} | 1 |" in written
    assert "no reproduction of the paper's figures" not in written
    content = json.loads((out / "reproduction.json").read_text())
    assert content["citation"] == "Nobody et al."
    assert content["protocol"]["name"] == "syndiff"
    assert (out / "evaluation/t1_t2/comparison.md").exists()


def test_the_split_is_the_papers(reproduced):
    request, *_ = reproduced
    splits = json.loads((request.out / "cohort/toys/cohort.json").read_text())["splits"]
    assert sorted(splits.values()) == ["test", "train", "train", "val"]


def test_finished_it_does_nothing_again_and_other_settings_are_refused(reproduced):
    request, *_ = reproduced
    before, again = (request.out / "reproduction.json").read_text(), Watch()
    reproduce(request, CPU, again)
    assert not again.of("training")
    assert not again.of("evaluating")
    assert (request.out / "reproduction.json").read_text() == before
    with pytest.raises(InputError, match="seed 0 there, 1 here"):
        reproduce(replace(request, seed=1), CPU)


def test_figures_of_other_weights_are_measured_again(reproduced):
    request, *_ = reproduced
    stamp = request.evaluation_folder(TABLE.tasks[0]) / "measured.json"
    state = json.loads(stamp.read_text())
    stamp.write_text(json.dumps({**state, "weights": {**state["weights"], "syndiff": "0"}}))
    again = Watch()
    reproduce(request, CPU, again)
    assert {what for what, _ in again.of("evaluating")} == {"evaluating t1_t2"}
    assert json.loads(stamp.read_text()) == state


def test_a_small_run_gives_every_variant_the_steps_of_its_recipes_minutes(scans, tmp_path):
    small = replace(TABLE, data=TABLE.data[:1], tasks=TABLE.tasks[:1])
    request = Request(table=small, out=tmp_path / "out", data={"toys": scans}, small=True, minutes=0.02)
    watch = Watch()
    written = reproduce(request, CPU, watch).read_text()
    steps = json.loads((tmp_path / "out/settings.json").read_text())["steps"]["tiny"]
    assert max(done for what, done in watch.of("training") if what.endswith("/syndiff")) == steps
    assert max(done for what, done in watch.of("training") if what.endswith("/pretrained")) == 2 * steps
    assert "no reproduction of the paper's figures" in written
    assert "own data: toys" in written
    again = Watch()
    reproduce(request, CPU, again)
    assert not again.of("training")


def test_scans_on_different_grids_cannot_be_measured(tmp_path):
    folder = tmp_path / "scans"
    write_phantom_cohort(folder, 4, ("T1w", "T2w"), layout="IXI", shape=(32, 32, 16), spacing=6.0)
    write_phantom_cohort(folder, 4, ("PDw",), layout="IXI", shape=(32, 32, 14), spacing=6.0)
    with pytest.raises(InputError, match=r"2 subjects who validate or test .* different grids"):
        reproduce(Request(table=TABLE, out=tmp_path / "out", data={"toys": folder}), CPU)
    assert not (tmp_path / "out/runs").exists()


def test_data_is_named_where_a_table_has_several_sets(tmp_path):
    assert parse_data(TABLE, [f"toys={tmp_path}"]) == {"toys": tmp_path}
    with pytest.raises(InputError, match=r"toys\|others=FOLDER"):
        parse_data(TABLE, [str(tmp_path)])
    assert parse_data(TABLES["syndiff-table2"], ["a=b"]) == {"ixi": type(tmp_path)("a=b")}


@pytest.mark.slow
def test_a_small_table_runs_from_phantoms_to_figures(tmp_path, capfd):
    command = ["reproduce", "syndiff-table9", "--small", "--minutes", "0.05", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    assert (tmp_path / "out/reproduction.md").read_text() in capfd.readouterr().out
