"""Labels of subjects: read, described, encoded, kept with a run, and what a generator makes by them."""

import json
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.labels import Label, encode, fit_labels, subject_labels
from scansynth.data.layouts import describe, find_subjects
from scansynth.data.prepare import Preparation
from scansynth.data.record import FILE, PreparationRecord
from scansynth.data.samples import LABEL_WIDTH
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.methods.cdpm import CdpmConfig
from scansynth.methods.ddpm import Ddpm, DdpmConfig
from scansynth.noise import Noise
from scansynth.training.parts import make_method
from scansynth.training.train import train
from scansynth.training.validation import held_out_samples

CPU = torch.device("cpu")
ROWS = [
    ("sub-01", "60", "large", "a", "train"),
    ("sub-02", "62.0", "small", "a", "train"),
    ("sub-03", "n/a", "large", "n/a", "train"),
    ("sub-04", "67", "small", "", "train"),
    ("sub-05", "80", "large", "b", "val"),
    ("sub-06", "85", "small", "a", "test"),
]
COLUMNS = ("participant_id", "age", "head", "site", "split")
AGES = np.array([60.0, 62.0, 67.0])
GENERATOR = CdpmConfig(
    channels=8, multipliers=(1,), blocks=1, attention_levels=(), largest=4, stage=2, labels=("head",), steps=40,
    output="velocity", sampler="ddim", sampling_steps=10, learning_rate=5e-3,
)  # fmt: skip


def write_table(root, rows=ROWS, columns=COLUMNS):
    (root / "participants.tsv").write_text("".join("\t".join(row) + "\n" for row in [columns, *rows]))


def write_bids(root):
    """Heads of one brightness, which fill most of the volume or little of it: what is left of classes of mean
    intensity when scans are normalised."""
    for number, (name, _, size, *_) in enumerate(ROWS):
        array = np.zeros((16, 16, 6), np.float32)
        half = 7 if size == "large" else 3
        inside = slice(8 - half, 8 + half)
        array[inside, inside] = np.random.default_rng(number).uniform(90, 110, (2 * half, 2 * half, 6))
        file = root / name / "anat" / f"{name}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), file)


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    root = tmp_path_factory.mktemp("bids")
    write_bids(root)
    write_table(root)
    return root


@pytest.fixture(scope="module")
def labelled(bids, tmp_path_factory):
    return build_cohort(
        find_subjects(bids), tmp_path_factory.mktemp("cohort"), Preparation(spacing=(1.0, 1.0, 1.0), size=(16, 16, 6))
    )


def test_participants_tsv_gives_labels(bids):
    listing = find_subjects(bids)
    found = {subject.name: subject.labels for subject in listing.subjects}
    assert found["sub-01"] == {"age": "60", "head": "large", "site": "a"}
    assert found["sub-02"]["age"] == "62.0"  # as written
    assert found["sub-03"] == {"head": "large"}
    assert found["sub-04"] == {"age": "67", "head": "small"}
    assert describe(listing).endswith("\nlabels: 5 age, 6 head, 4 site")


def test_sessions_have_the_labels_of_their_participant(tmp_path):
    for name in ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-2/anat/sub-01_ses-2", "sub-02/anat/sub-02"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / f"{name}_T1w.nii.gz").touch()
    write_table(tmp_path, [("sub-01", "F"), ("sub-99", "M")], ("participant_id", "sex"))
    found = {subject.name: subject.labels for subject in find_subjects(tmp_path).subjects}
    assert found == {"sub-01_ses-1": {"sex": "F"}, "sub-01_ses-2": {"sex": "F"}, "sub-02": {}}


@pytest.mark.parametrize(
    ("rows", "columns", "wrong"),
    [
        ([("sub-01",)], ("participant_id", "age"), "has 1 cells"),
        ([("sub-01", "3")], ("subject", "age"), "lacks the columns participant_id"),
        ([("sub-01", "3"), ("sub-01", "4")], ("participant_id", "age"), "line 3 says something else of sub-01"),
    ],
)
def test_a_flawed_table_is_refused(tmp_path, rows, columns, wrong):
    write_bids(tmp_path)
    write_table(tmp_path, rows, columns)
    with pytest.raises(InputError, match=wrong):
        find_subjects(tmp_path)


def test_a_cohort_keeps_labels_and_its_fingerprint_does_not_know_them(bids, labelled, tmp_path):
    assert labelled.labels("sub-01") == {"age": "60", "head": "large", "site": "a"}
    assert labelled.labels("sub-03") == {"head": "large"}
    listing = find_subjects(bids)
    bare = replace(listing, subjects=tuple(replace(subject, labels={}) for subject in listing.subjects))
    without = build_cohort(bare, tmp_path / "cohort", labelled.settings)
    assert "labels" not in (tmp_path / "cohort" / "cohort.json").read_text()
    assert without.labels("sub-01") == {}
    assert without.fingerprint == labelled.fingerprint
    again = build_cohort(listing, tmp_path / "cohort", labelled.settings)  # labels that come later prepare nothing anew
    assert again.labels("sub-01") == labelled.labels("sub-01")


def test_labels_are_encoded_exactly(labelled):
    age, head = fit_labels(labelled, ("age", "head"), ("T1w",))
    assert age == Label("age", mean=AGES.mean(), deviation=AGES.std())
    assert head == Label("head", classes=("large", "small"))
    expected = torch.zeros(2 * LABEL_WIDTH)
    expected[0], expected[1] = 1, (85 - AGES.mean()) / AGES.std()
    expected[LABEL_WIDTH], expected[LABEL_WIDTH + 2] = 1, 1
    found = subject_labels(labelled, "sub-06", (age, head))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(encode({"head": "small", "age": "85"}, (age, head)), expected)
    expected[:2] = 0
    torch.testing.assert_close(encode({"head": "small", "age": "n/a"}, (age, head)), expected)
    torch.testing.assert_close(encode({"head": "small"}, (age, head)), expected)
    torch.testing.assert_close(encode({"head": "small", "age": "N/A"}, (age, head)), expected)
    assert not encode({}, (age, head)).any()
    assert encode({}, ()).shape == (0,)


def test_two_numbers_are_a_class_and_three_are_none():
    assert Label.of("sex", ["0", "1", "1"]).classes == ("0", "1")
    assert Label.of("site", ["1", "2", "3"]) == Label("site", 2.0, float(np.std([1, 2, 3])))
    assert Label.of("site", ["s1", "s2", "s3"]).classes == ("s1", "s2", "s3")
    classes = [f"c{number:02}" for number in range(LABEL_WIDTH - 1)]
    assert encode({"group": classes[-1]}, [Label.of("group", classes)])[-1] == 1


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        (["60", "61", "89+", "62"], "label x has numbers and '89\\+'"),
        (["60", "61", "nan", "62"], "has numbers and 'nan'"),
        (["F", "F"], "label x is 'F' wherever"),
        (["F", "M", "NA"], "label x is 'NA' for some: where it is not known, write n/a"),
        (["1", "2", "NaN"], "label x is 'NaN' for some"),
        ([f"c{number}" for number in range(LABEL_WIDTH)], f"{LABEL_WIDTH} classes, more than {LABEL_WIDTH - 1}"),
    ],
)
def test_labels_that_say_nothing_clear_are_refused(values, wrong):
    with pytest.raises(InputError, match=wrong):
        Label.of("x", values)


def test_wrong_values_are_named(labelled):
    labels = fit_labels(labelled, ("age", "head"), ("T1w",))
    with pytest.raises(InputError, match=r"label age 'old': give a number"):
        encode({"age": "old"}, labels)
    with pytest.raises(InputError, match="label head 'huge': training had large, small alone"):
        encode({"head": "huge"}, labels)
    with pytest.raises(InputError, match="label 'sex': the run was trained with age, head"):
        encode({"sex": "F"}, labels)
    with pytest.raises(InputError, match=r"no training subject has the label 'sex' \(there are: age, head, site\)"):
        fit_labels(labelled, ("age", "sex"), ("T1w",))
    with pytest.raises(InputError, match="label site is 'a' wherever"):  # b is the class of no training subject
        fit_labels(labelled, ("site",), ("T1w",))
    with pytest.raises(InputError, match="sub-05: label site 'b': training had a, c alone"):
        subject_labels(labelled, "sub-05", [Label("site", classes=("a", "c"))])


def test_a_run_keeps_what_its_labels_are(labelled, tmp_path):
    record = PreparationRecord.of(labelled, ("T1w",), ("head", "age"))
    record.write(tmp_path)
    assert PreparationRecord.read(tmp_path) == record
    assert [label.name for label in record.labels] == ["head", "age"]
    assert not {"60", "62.0", "67"} & set((tmp_path / FILE).read_text().split('"'))  # no subject's own
    older = {key: value for key, value in asdict(record).items() if key != "labels"}
    (tmp_path / FILE).write_text(json.dumps(older))
    assert PreparationRecord.read(tmp_path) == replace(record, labels=())


def test_a_run_of_other_labels_does_not_go_on(labelled, tmp_path):
    record = PreparationRecord.of(labelled, ("T1w",), ("age",))
    subjects = {**labelled.index["subjects"]}
    subjects["sub-01"] = {**subjects["sub-01"], "labels": {"age": "61"}}
    other = Cohort(labelled.folder, {**labelled.index, "subjects": subjects})
    record.check_same(labelled, tmp_path)
    with pytest.raises(InputError, match=r"the labels \(age\) are not those"):
        record.check_same(other, tmp_path)
    PreparationRecord.of(labelled, ("T1w",)).check_same(other, tmp_path)


@pytest.fixture(scope="module")
def run(labelled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled") / "run"
    training = Training(steps=150, batch_size=4, validate_every=150, checkpoint_every=150, validation_slices=2)
    train(RunConfig("cdpm", GENERATOR, ("T1w",), training=training), labelled, folder, device=CPU)
    return scansynth.load(folder, "cpu")


def made(run, number=0, **labels):
    noise, c = Noise([(0, number)]), encode(labels, run.record.labels)[None]
    with torch.no_grad():
        return run.method.generate((16, 16, 6), run.method.needs.windows(), noise, labels=c)


def test_volumes_have_the_mean_intensity_of_their_class(run):
    """In training they are 0.39 and −0.74, and the noise is the same."""
    for number in range(3):
        large, small = (made(run, number, head=size).mean() for size in ("large", "small"))
        assert large - small > 0.4


def test_the_command_makes_volumes_of_a_class_and_keeps_sets_apart(run, tmp_path, capsys):
    arguments = ["generate", "--run", str(run.folder), "-n", "1", "--device", "cpu", "-o"]
    sets = {size: tmp_path / size for size in ("large", "small")}
    for size, folder in sets.items():
        assert main([*arguments, str(folder), "--label", f"head={size}"]) == 0
    means = {size: Volume.read(folder / "synthetic-0001_T1w.nii.gz").array.mean() for size, folder in sets.items()}
    assert means["large"] - means["small"] > 0.2
    assert json.loads((sets["large"] / "synthetic-0001_T1w.json").read_text())["labels"] == {"head": "large"}
    for wrong in (["--label", "head=small"], ["--label", "head=huge"], ["--label", "sex=F"], ["--label", "large"], []):
        assert main([*arguments, str(sets["large"]), *wrong]) == 1
    told = capsys.readouterr().err
    assert "from another run, seed or plan, or of other labels" in told
    assert "training had large, small alone" in told
    assert "write NAME=VALUE" in told


def test_without_labels_a_volume_is_of_no_class(run):
    unknown = made(run)
    assert torch.isfinite(unknown).all()
    assert unknown.abs().max() <= 1
    with torch.no_grad():
        unsaid = run.method.generate((16, 16, 6), run.method.needs.windows(), Noise([(0, 0)]))
    torch.testing.assert_close(unsaid, unknown, rtol=0, atol=1e-6)
    assert not torch.equal(made(run, head="large"), unknown)


def test_held_out_samples_have_labels(run, labelled):
    sets = held_out_samples(labelled, run.method, run.config)
    assert sets is not None
    torch.testing.assert_close(sets[0]["labels"], subject_labels(labelled, "sub-05", run.record.labels))
    config = replace(run.config, settings=replace(run.config.settings, labels=()))
    without = held_out_samples(labelled, make_method(config), config)
    assert without is not None
    assert "labels" not in without[0]


def test_training_asks_for_labels_that_are_there(labelled, tmp_path):
    config = RunConfig("cdpm", replace(GENERATOR, labels=("sex",)), ("T1w",), training=Training(steps=1))
    with pytest.raises(InputError, match="no training subject has the label 'sex'"):
        train(config, labelled, tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_ddpm_generates_by_no_labels():
    ddpm = Ddpm(replace(DdpmConfig.tiny(), unconditional=True), ("T1w",))
    with pytest.raises(InputError, match="ddpm generates by no labels"):
        ddpm.generate((16, 16, 6), ddpm.needs.windows(), Noise([(0,)]), labels=torch.zeros(1, LABEL_WIDTH))


def test_validation_subjects_that_do_not_fit_stop_a_training_before_it_starts(labelled, tmp_path):
    subjects = {**labelled.index["subjects"]}
    subjects["sub-05"] = {**subjects["sub-05"], "labels": {"head": "huge"}}
    config = RunConfig("cdpm", GENERATOR, ("T1w",), training=Training(steps=1))
    with pytest.raises(InputError, match="sub-05: label head 'huge'"):
        train(config, Cohort(labelled.folder, {**labelled.index, "subjects": subjects}), tmp_path / "run", device=CPU)
    assert not (tmp_path / "run").exists()


def test_other_classes_cannot_start_a_run(run, labelled, tmp_path):
    index = json.loads(json.dumps(labelled.index).replace('"large"', '"xl"'))
    with pytest.raises(InputError, match="other labels, or of other classes"):
        train(run.config, Cohort(labelled.folder, index), tmp_path / "run", device=CPU, init=run.folder)
