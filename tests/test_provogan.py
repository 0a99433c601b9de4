"""ProvoGAN: equations of a stage, slices along each axis and back, and a chain of runs that holds what it needs."""

import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.config import to_yaml
from scansynth.data.augmentation import Augmentation
from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import SliceDataset, from_network, read_image, to_network, whole_subject
from scansynth.data.layouts import find_subjects
from scansynth.data.made import MadeStore
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.settings import DataSettings
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.evaluation.arms import arms_of
from scansynth.given import given, sources_for
from scansynth.method import Progress
from scansynth.methods.provogan import ProvoGAN, ProvoGANConfig
from scansynth.noise import Noise
from scansynth.recipes import RECIPES
from scansynth.reproduction import run as reproduction
from scansynth.reproduction.forecast import foresee
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.sharing.export import export_run
from scansynth.synthesis.inspection import inspect
from scansynth.training.first_stage import FOLDER, FirstStage
from scansynth.training.previous import make_previous
from scansynth.training.train import train
from scansynth.units import AXES, Slices

CPU = torch.device("cpu")
BOTH = ("T1w", "T2w")
PREPARED = Preparation(size=(24, 28, None))


def settings(axis, *, follows=True, **changes):
    return replace(ProvoGANConfig.tiny(), axis=axis, follows=follows, targets=("T2w",), **changes)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Four subjects of cubic voxels, no two sides alike: two train, one validates, one tests."""
    folder = tmp_path_factory.mktemp("deep")
    write_phantom_cohort(folder, 4, BOTH, layout="table", shape=(24, 28, 26), spacing=8.0)
    return folder


@pytest.fixture(scope="module")
def cohort(scans, tmp_path_factory):
    return build_cohort(find_subjects(scans / "table.csv"), tmp_path_factory.mktemp("cohort"), PREPARED)


@pytest.fixture(scope="module")
def chain(cohort, tiny, tmp_path_factory):
    """Folders of the three stages; those of the first two are moved away once the last is trained."""
    folder, before = tmp_path_factory.mktemp("chain"), None
    for axis in AXES:
        config = tiny("provogan", settings(axis, follows=before is not None), steps=1)
        train(config, cohort, folder / axis, device=CPU, first_stage=before)
        before = folder / axis
    runs = {}
    for axis in AXES:
        runs[axis] = folder / axis if axis == "sagittal" else (folder / axis).rename(folder / f"{axis} elsewhere")
    return runs


@pytest.fixture(scope="module")
def last(chain):
    return scansynth.load(chain["sagittal"], "cpu")


def stage_of(chain, axis, cohort, tiny):
    config = tiny("provogan", settings("sagittal" if axis == "coronal" else "coronal"))
    return FirstStage.of_run(chain[axis], cohort, config)


def subject(cohort, name=None):
    """A subject as a method is given it, to make T2w."""
    whole = whole_subject(cohort, name or cohort.subjects("test")[0], BOTH)
    return given(whole, sources_for("T2w", BOTH))


def made(method, batch):
    with torch.no_grad():
        return method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "subject", 0)])).image


def silenced(method):
    """The method with G_n = 0."""
    *_, convolution, _ = method.nets["generator"].layers
    torch.nn.init.zeros_(convolution.weight)
    torch.nn.init.zeros_(convolution.bias)
    return method


def test_networks_have_the_release_s_size():
    """Counted by hand: ResNet-9 of 64 channels with norms that scale and shift, and the 70×70 PatchGAN."""
    net = ProvoGAN(ProvoGANConfig(axis="coronal", follows=True, targets=("T2w",)), ("T1w", "T2w", "PDw"))
    seen = 2 + 1
    plain = 49 * 64 * seen + 9 * 64 * 128 + 9 * 128 * 256 + 9 * 2 * 9 * 256**2 + 9 * 256 * 128 + 9 * 128 * 64 + 49 * 64
    norms = 2 * (64 + 128 + 256 + 9 * 2 * 256 + 128 + 64)
    assert sum(p.numel() for p in net.nets["generator"].parameters()) == plain + norms + 1 == 11_377_153
    assert plain - 49 * 64 * (seen - 1) == pytest.approx(11.37e6, abs=0.01e6)  # one source, no scale and shift: cGAN's
    assert sum(p.numel() for p in net.nets["discriminator"].parameters()) == pytest.approx(2.766e6, abs=0.003e6)
    first = next(net.nets["generator"].parameters())
    assert first.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_stage_takes_twice_what_it_finds_from_what_was_made():
    method = ProvoGAN(settings("coronal"), BOTH)
    x = torch.rand(3, 2, 32, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        found = method.nets["generator"](x)
        assert torch.equal(method.make(x), (x[:, -1:] - 2 * found).clamp(-1, 1))
        assert not torch.equal(method.make(x), x[:, -1:])
        assert torch.equal(silenced(method).make(x), x[:, -1:])
        # G_n reaches ±1: what was made all wrong can be made all right.
        method.nets["generator"].layers[-2].bias.fill_(100.0)
        assert torch.equal(method.make(torch.ones(1, 2, 32, 24)), -torch.ones(1, 1, 32, 24))


def test_a_chain_that_corrects_nothing_gives_what_the_first_stage_made(chain, cohort):
    method, batch = scansynth.load(chain["sagittal"], "cpu").method, subject(cohort)
    first = scansynth.load(chain["axial"], "cpu").method
    assert not torch.equal(made(method, batch), made(first, batch))
    silenced(method)
    silenced(method.first_stage.method)
    assert torch.equal(made(method, batch), made(first, batch))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_reslicing_there_and_back_is_exact(axis, chain, cohort, tiny):
    stage = stage_of(chain, "axial", cohort, tiny)
    make_previous(stage, cohort, ("T2w",), (), CPU)
    store, name = stage.made(cohort, ()), cohort.subjects("train")[0]
    needs = Slices(axis=axis, previous=True)
    samples = needs.samples(cohort, BOTH, seed=0, data=DataSettings(min_foreground=0.0), made=store)
    assert isinstance(samples, SliceDataset)
    slices = {}
    for i in range(len(samples)):
        if samples.places(i)["T2w"][0] == name:
            slices[samples.places(i)["T2w"][1]] = samples[i]
    assert len(slices) == cohort.shape(name, "T2w")[axis]
    for key, k, whole in (
        ("previous", 1, torch.from_numpy(store.read(name, "T2w"))),
        ("images", 0, read_image(cohort, name, "T1w")),
    ):
        assert torch.equal(torch.stack([slices[z][key][k] for z in sorted(slices)], dim=axis), to_network(whole))
    assert not any(one["previous"][0].any() for one in slices.values())  # nothing is made of the source
    volume = torch.from_numpy(store.read(name, "T2w"))[None, None]
    assert torch.equal(SliceWindows(5, axis=axis).map(lambda x: x, volume), volume)


def test_a_stage_trains_on_what_it_is_given_in_synthesis(chain, cohort, tiny):
    """x̂ⁿ⁻¹ on the disk is what the chain makes of the same subject when it translates."""
    stage = stage_of(chain, "coronal", cohort, tiny)
    for name in cohort.subjects("train"):
        stored = torch.from_numpy(stage.made(cohort, ()).read(name, "T2w"))
        method = scansynth.load(chain["sagittal"], "cpu").method
        previous = method.previous(subject(cohort, name), "T2w", Noise([(5, "any", 0)]))
        # Synthesis lays weights out otherwise, and rounds otherwise.
        torch.testing.assert_close(stored, from_network(previous)[0, 0], rtol=0, atol=5e-5)
        assert stored.std() > 0.01
    assert not any(stage.made(cohort, ()).has(name, "T2w") for name in cohort.subjects("val"))


def test_what_a_stage_is_trained_with_was_made_from_the_sources_alone(chain, cohort, tiny, monkeypatch, tmp_path):
    stage, seen = stage_of(chain, "coronal", cohort, tiny), []
    monkeypatch.setattr(FirstStage, "made", lambda self, *_: MadeStore(tmp_path))
    for method in (stage.method, stage.before.method):
        translate = method.translate
        monkeypatch.setattr(method, "translate", lambda b, *rest, t=translate: seen.append(b) or t(b, *rest))
    make_previous(stage, cohort, ("T2w",), (), CPU)
    assert len(seen) == 2 * len(cohort.subjects("train"))
    for batch in seen:
        assert batch["available"].tolist() == [[True, False]]
        assert batch["images"][:, 0].any()
        assert not batch["images"][:, 1].any()
        assert "previous" not in batch


def test_what_was_made_of_a_source_is_never_read():
    """It was made from the target."""
    method = ProvoGAN(settings("coronal"), BOTH)
    batch = method.needs.random_batch(2, 3, (32, 24), seed=0)
    noise = Noise([(0, 0, place) for place in range(3)])

    def losses(**changed):
        found = {}
        method.training_step({**batch, **changed}, lambda _, losses: found.update(losses), Progress(0, 1, 0.0), noise)
        return torch.stack(list(found.values()))

    other = torch.rand(batch["previous"].shape, generator=torch.Generator().manual_seed(9))
    of_source, of_target = torch.tensor([True, False]), torch.tensor([False, True])
    for which, read in ((of_source, False), (of_target, True)):
        changed = torch.where(which[:, None, None], other, batch["previous"])
        assert torch.equal(losses(previous=changed), losses()) != read


def test_the_target_s_own_value_never_reaches_a_synthesis(last, cohort):
    name = cohort.subjects("test")[0]
    images = from_network(whole_subject(cohort, name, BOTH)["images"])
    noise = Noise([(0, name, 0)])
    image = last.make(images, torch.tensor([[True, True]]), "T2w", noise=noise).image
    images[:, 1] = torch.rand(images[:, 1].shape, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(last.make(images, torch.tensor([[True, True]]), "T2w", noise=noise).image, image)
    images[:, 0] = images[:, 0].flip(1)
    assert not np.array_equal(last.make(images, torch.tensor([[True, True]]), "T2w", noise=noise).image, image)


def test_the_end_of_a_chain_stands_alone(chain, last, scans, cohort, tmp_path):
    """Its folder holds the stages before it, one in the other; what is exported makes the same image."""
    run = chain["sagittal"]
    for inner, axis in ((run / FOLDER, "coronal"), (run / FOLDER / FOLDER, "axial")):
        assert f"axis: {axis}" in (inner / "config.yaml").read_text()
        assert (inner / "weights.safetensors").is_file()
    assert not (run / FOLDER / FOLDER / FOLDER).exists()
    looked = inspect(run)
    assert looked.off == ()
    assert looked.told["builds on"] == ["provogan, 1 steps", "provogan, 1 steps"]
    source = {"T1w": next(scans.glob("*_T1w.nii.gz"))}
    image = last.translate(source, "T2w")
    with pytest.raises(InputError, match="T1w is not given"):
        last.method.translate(
            {"images": torch.zeros(1, 2, 24, 28, 26), "available": torch.zeros(1, 2, dtype=torch.bool)}, "T2w",
            last.method.needs.windows(), Noise([(0, "subject", 0)]),
        )  # fmt: skip
    assert image.array.std() > 0
    handed = scansynth.load(export_run(run, tmp_path / "handed"), "cpu")
    assert np.array_equal(handed.translate(source, "T2w").array, image.array)
    assert inspect(handed.folder).off == ()
    assert arms_of([last, handed])[0].runs == ("sagittal",)
    with (handed.folder / FOLDER / FOLDER / "weights.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(InputError, match="not what was exported"):
        scansynth.load(handed.folder, "cpu")
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / FOLDER / FOLDER / "config.yaml").unlink()
    with pytest.raises(InputError, match="the first stage cannot be read"):
        scansynth.load(damaged, "cpu")


def test_stages_of_other_settings_two_runs_down_are_other_arms(last, tmp_path):
    runs = []
    for seed, channels in ((0, 8), (1, 8), (2, 16)):
        folder = tmp_path / f"chain-{seed}"
        (folder / FOLDER / FOLDER).mkdir(parents=True)
        (folder / FOLDER / "config.yaml").write_text(to_yaml(last.config))
        below = replace(last.config, settings=replace(last.config.settings, channels=channels))
        (folder / FOLDER / FOLDER / "config.yaml").write_text(to_yaml(below))
        runs.append(replace(last, folder=folder, config=replace(last.config, seed=seed)))
    assert [arm.runs for arm in arms_of(runs)] == [("chain-0", "chain-1"), ("chain-2",)]


def test_volumes_are_made_once_and_again_where_one_is_damaged(chain, cohort, tiny, tmp_path, monkeypatch):
    stage, store, calls = stage_of(chain, "axial", cohort, tiny), MadeStore(tmp_path), []
    monkeypatch.setattr(FirstStage, "made", lambda self, *_: store)
    translate = stage.method.translate
    monkeypatch.setattr(stage.method, "translate", lambda *rest: calls.append(rest[1]) or translate(*rest))
    one, two = cohort.subjects("train")
    make_previous(stage, cohort, ("T2w",), (), CPU)
    make_previous(stage, cohort, ("T2w",), (), CPU)
    assert calls == ["T2w", "T2w"]
    before = store.read(one, "T2w")
    (tmp_path / one / "T2w.b2nd").write_bytes(b"damaged")
    with pytest.raises(InputError, match="missing or damaged"):
        store.read(one, "T2w")
    make_previous(stage, cohort, ("T2w",), (), CPU)
    assert len(calls) == 3
    assert np.array_equal(store.read(one, "T2w"), before)
    assert store.has(two, "T2w")


def test_a_store_is_of_one_chain_and_one_cohort(chain, cohort, tiny):
    stage = stage_of(chain, "coronal", cohort, tiny)
    folder = stage.made(cohort, ()).folder
    assert folder.parent == cohort.folder / "made"
    assert FirstStage.read(chain["sagittal"] / FOLDER).made(cohort, ()).folder == folder
    assert stage.made(cohort, (("T1w", 4),)).folder != folder
    other = replace(cohort, index={**cohort.index, "fingerprint": "other"})
    assert stage.made(other, ()).folder != folder
    stage.before.sha256 = "other weights of the stage before"
    assert stage.made(cohort, ()).folder != folder


def test_a_stage_goes_on_without_being_told_the_one_before(chain, cohort, tiny, tmp_path):
    run = shutil.copytree(chain["sagittal"], tmp_path / "run")
    config = tiny("provogan", settings("sagittal"), steps=2)
    assert train(config, cohort, run, device=CPU).training.steps == 2
    with pytest.raises(InputError, match="another first stage"):
        train(config, cohort, run, device=CPU, first_stage=chain["axial"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": "axial"}, "sees axial slices, as this one does: give this one another --settings.axis"),
        ({"targets": ("T1w",)}, "name T2w as target, this one's T1w: give both the same --settings.targets"),
        ({"targets": ()}, "name T2w as target, this one's none"),
    ],
)
def test_a_stage_that_does_not_fit_is_refused(change, message, chain, cohort, tiny, tmp_path):
    config = tiny("provogan", replace(settings("coronal"), **change))
    with pytest.raises(InputError, match=message):
        train(config, cohort, tmp_path / "run", device=CPU, first_stage=chain["axial"])


def test_stages_see_the_same_scans(chain, cohort, tiny, tmp_path):
    config = tiny("provogan", settings("coronal"))
    for wrong, message in (
        (replace(config, contrasts=("T2w", "T1w")), "same ones in the same order, give --contrasts T1w T2w"),
        (replace(config, data=DataSettings(acceleration=(("T1w", 2),))), "other accelerations"),
    ):
        with pytest.raises(InputError, match=message):
            train(wrong, cohort, tmp_path / "run", device=CPU, first_stage=chain["axial"])
    with pytest.raises(InputError, match="builds on a trained provogan"):
        train(config, cohort, tmp_path / "run", device=CPU)
    first = tiny("provogan", settings("axial", follows=False))
    with pytest.raises(InputError, match="builds on no other run"):
        train(first, cohort, tmp_path / "run", device=CPU, first_stage=chain["axial"])
    coloured = replace(config, data=DataSettings(augmentation=Augmentation(gain=0.2)))
    with pytest.raises(InputError, match="gain, gamma and bias"):
        train(coloured, cohort, tmp_path / "run", device=CPU, first_stage=chain["axial"])


def test_what_is_made_is_moved_as_its_slice_is(chain, cohort, tiny):
    """Mirrored left to right, of which a sagittal slice shows nothing."""
    stage, flip = stage_of(chain, "axial", cohort, tiny), DataSettings(augmentation=Augmentation(flip=1.0))
    for axis, mirrored in (("coronal", True), ("sagittal", False)):
        needs = Slices(axis=AXES[axis], previous=True)
        plain, moved = (
            needs.samples(cohort, BOTH, seed=0, data=data, made=stage.made(cohort, ()))[0]
            for data in (DataSettings(), flip)
        )
        for key in ("images", "previous"):
            assert torch.equal(moved[key], plain[key].flip(1) if mirrored else plain[key])
            assert not torch.equal(plain[key][1], plain[key][1].flip(0))


def test_all_slices_are_seen_where_the_stage_before_sees_others():
    for needs in (Slices(previous=True), Slices(axis=0)):
        assert needs.slab(4, 6, 16) == slice(0, 16)
        assert needs.validated(np.arange(3, 9), 16, 2).tolist() == list(range(16))
    with pytest.raises(AssertionError, match="no sample of another"):
        Slices(paired=False, previous=True)


@pytest.fixture(scope="module")
def thick(scans, tmp_path_factory):
    """The subjects with voxels of 8 × 8 × 24 mm, and one of them lower than the others."""
    folder = tmp_path_factory.mktemp("thick")
    shutil.copyfile(scans / "table.csv", folder / "table.csv")
    for number, path in enumerate(sorted(scans.glob("*.nii.gz"))):
        scan = nib.load(path)
        array = np.asarray(scan.dataobj)[..., : 20 if number < 2 else None]
        nib.save(nib.Nifti1Image(array, scan.affine @ np.diag([1, 1, 3, 1])), folder / path.name)
    return build_cohort(find_subjects(folder / "table.csv"), tmp_path_factory.mktemp("cohort"), PREPARED), folder


def test_voxels_must_be_about_as_long_along_all_axes(thick, tiny, tmp_path, last):
    cohort, folder = thick
    needs = ProvoGAN.needs_of(ProvoGANConfig(), BOTH)
    needs.check_voxels((0.94, 0.94, 1.25), "IXI")
    needs.check_voxels((1.0, 1.0, 1.5), "at the edge")
    with pytest.raises(InputError, match=r"of 1 × 1 × 2 mm, one side 2 times another.*--spacing 1 1 1"):
        needs.check_voxels((1.0, 1.0, 2.0), "beyond")
    with pytest.raises(InputError, match="one side 3 times another"):
        train(tiny("provogan", settings("axial", follows=False)), cohort, tmp_path / "run", device=CPU)
    with pytest.raises(InputError, match="one side 3 times another"):
        last.translate({"T1w": next(folder.glob("*_T1w.nii.gz"))}, "T2w")


def test_lower_scans_get_background_above_them(thick):
    cohort, _ = thick
    samples = Slices(axis=1).samples(cohort, BOTH, seed=0, data=DataSettings())
    assert isinstance(samples, SliceDataset)
    heights = {name: cohort.shape(name, "T1w")[2] for name in cohort.subjects("train")}
    assert len(set(heights.values())) == 2
    assert samples.size == (24, max(heights.values()))
    low = min(heights, key=lambda name: heights[name])
    i = next(i for i in range(len(samples)) if samples.places(i)["T1w"][0] == low)
    whole = to_network(read_image(cohort, low, "T1w")[:, samples.places(i)["T1w"][1]])
    assert torch.equal(samples[i]["images"][0, :, : heights[low]], whole)
    assert (samples[i]["images"][0, :, heights[low] :] == -1).all()


def test_an_accelerated_contrast_is_sliced_after_it_is_accelerated(cohort):
    name = cohort.subjects("train")[0]
    whole = read_image(cohort, name, "T1w", acceleration=(("T1w", 2),))
    for axis in (0, 1):
        found = read_image(cohort, name, "T1w", acceleration=(("T1w", 2),), z=9, axis=axis)
        assert torch.equal(found, whole.select(axis, 9))
        assert not torch.equal(found, read_image(cohort, name, "T1w", z=9, axis=axis))


def test_recipes_are_stages_of_one_order():
    for base in ("provogan", "provogan_small"):
        stages = [RECIPES[name]().settings for name in (base, f"{base}_coronal", f"{base}_sagittal")]
        assert [one.axis for one in stages] == ["axial", "coronal", "sagittal"]
        assert [one.follows for one in stages] == [False, True, True]
        assert len({replace(one, axis="axial", follows=False) for one in stages}) == 1
    paper = RECIPES["provogan_sagittal"]().settings
    assert (paper.learning_rate, paper.l1_weight, paper.residual_blocks) == (2e-4, 100.0, 9)


def test_rates_fall_to_zero_in_the_second_half():
    method = ProvoGAN(settings("axial", follows=False), BOTH)
    factors = [method.lr_factor("G", Progress(step, 8, 0.0)) for step in (0, 4, 6, 7)]
    assert factors == [1, 1, 0.5, 0.25]
    assert {group["betas"] for one in method.optimizers().values() for group in one.param_groups} == {(0.5, 0.999)}


def test_a_table_trains_the_chain_before_it_measures_its_end(cohort, tiny, tmp_path, monkeypatch):
    table = TABLES["cola-diff-table1"]
    row = next(row for row in table.rows if row.name == "ProvoGAN")
    table = replace(table, rows=(row,), tasks=table.tasks[1:2], first_stage=None)
    request = Request(table=table, out=tmp_path, small=True, data={"brats": tmp_path})
    (task,) = request.tasks
    configs = [request.config(task, one) for one in request.chain(row)]
    assert [(one.settings.axis, one.settings.follows) for one in configs] == [
        ("axial", False), ("coronal", True), ("sagittal", True),
    ]  # fmt: skip
    assert {one.settings.targets for one in configs} == {("T2w",)}
    paper = request.config(task, replace(row, small=row.recipe))
    assert paper.settings == replace(RECIPES["provogan_sagittal"]().settings, targets=("T2w",))
    trained = []
    monkeypatch.setattr(reproduction, "prepared", lambda *_: cohort)
    monkeypatch.setattr(Request, "listings", lambda self: {})
    monkeypatch.setattr(reproduction, "train", lambda *rest, first_stage, **_: trained.append((rest[2], first_stage)))
    monkeypatch.setattr(reproduction, "measure_task", lambda *_: trained.append("measured"))
    monkeypatch.setattr(reproduction, "write_reproduction", lambda *_: None)
    reproduction.reproduce(request, CPU)
    runs = [tmp_path / "runs" / "brats_t2w" / name for name in ("ProvoGAN-stage1", "ProvoGAN-stage2", "ProvoGAN")]
    assert trained == [(runs[0], None), (runs[1], runs[0]), (runs[2], runs[1]), "measured"]
    toy = replace(tiny("provogan", settings("coronal")), contrasts=())
    monkeypatch.setitem(RECIPES, "provogan_small_coronal", lambda: toy)
    for name in ("provogan_small", "provogan_small_sagittal"):
        monkeypatch.setitem(RECIPES, name, lambda: toy)
    assert [run.row.name for run in foresee(request, CPU).runs] == [run.name for run in runs]
