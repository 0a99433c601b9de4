"""Damaged files of a cohort, of a run and of the user: each is one line that names the file, or is seen to be whole."""

import ast
import json
import os
import random
import shutil
from pathlib import Path

import blosc2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import scansynth
from scansynth.config import read_yaml
from scansynth.data import arrays
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.dry_run import dry_run
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.record import PreparationRecord
from scansynth.data.splits import check_own_files
from scansynth.errors import InputError, shown
from scansynth.networks.users_weights import read_weights
from scansynth.planning.pipeline import begun
from scansynth.planning.proposal import Asked
from scansynth.records import build
from scansynth.report.curves import read_curves
from scansynth.training.metrics_file import cut_back
from scansynth.users_files import parse_json

TEXTS = [
    b"", b"{", b"null", b"[]", b'"x"', b"\0" * 200, b"\xff\xfe\x00", b"[" * 200_000, b'{"a": ' * 100_000,
    b'{"format": ' + b"9" * 5000 + b"}", b'{"format": 2, "format": 2}',
]  # fmt: skip
"""What no record is."""


def refusal(use):
    try:
        use()
    except InputError as error:
        return str(error)
    return None


def mutations(value, path=()):
    """(Where, changed value): each part of a record in turn gone, or of another type or size, lists by their first."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*path, key, "gone"), {name: one for name, one in value.items() if name != key}
            for where, changed in mutations(part, (*path, key)):
                yield where, {**value, key: changed}
    elif isinstance(value, list) and value:
        yield (*path, "short"), value[1:]
        for where, changed in mutations(value[0], (*path, 0)):
            yield where, [changed, *value[1:]]
    for other in (None, "text", -1, 10**400, [], {}, float("nan"), "../../x"):
        if type(other) is not type(value) or value != other:
            yield (*path, str(other)[:8]), other


@pytest.fixture
def own(cohort, tmp_path):
    return Cohort.open(shutil.copytree(cohort.folder, tmp_path / "cohort"))


def use(folder):
    """All that a training reads."""
    cohort = Cohort.open(folder)
    for subject in cohort.subjects():
        for contrast in cohort.available(subject):
            cohort.shape(subject, contrast), cohort.affine(subject, contrast), cohort.acquisition(subject, contrast)
            cohort.foreground(subject, contrast), cohort.read(subject, contrast, 1)
            cohort.crop(subject, [contrast])
    return cohort.settings, cohort.statistics, cohort.usual


@pytest.mark.parametrize("sealed", [True, False])
def test_a_damaged_index_is_named(own, sealed):
    path = own.folder / "cohort.json"
    index = json.loads(path.read_text())
    if not sealed:  # as an older version wrote it: no hash tells, but its form
        del index["record_sha256"]
    first, *rest = index["subjects"]
    small = {**index, "subjects": {first: index["subjects"][first]}}
    texts = list(TEXTS)
    for where, changed in mutations(small):
        if where[0] == "record_sha256":
            continue
        if isinstance(changed, dict) and isinstance(changed.get("subjects"), dict):
            others = {name: index["subjects"][name] for name in rest}
            changed = {**changed, "subjects": {**changed["subjects"], **others}}
        texts.append(json.dumps(changed).encode())
    texts.append(path.read_bytes()[:500])
    random.Random(0).shuffle(texts)
    refused = 0
    for text in texts[:250]:
        path.write_bytes(text)
        said = refusal(lambda: use(own.folder))
        refused += said is not None
        assert said is None or ("\n" not in said and str(own.folder) in said and len(said) < 500)
        assert said is not None or not sealed
    assert refused > 0.8 * min(len(texts), 250)


def test_any_changed_byte_of_an_array_is_seen(own):
    draw = random.Random(1)
    files = sorted(own.folder.glob("scans/*/*.b2nd"))
    for number in range(60):
        path = files[number % len(files)]
        whole = bytearray(path.read_bytes())
        if number % 3 == 0:
            changed = whole[: draw.randrange(len(whole))]
        else:
            changed = bytearray(whole)
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        arrays._whole.clear()  # as in another process
        subject, name = path.parent.name, path.name
        said = refusal(lambda: own._read(subject, name, 1))  # noqa: B023
        assert said
        assert f"{subject}/{name}: missing or damaged" in said
        path.write_bytes(whole)
    assert use(own.folder)


def test_the_hash_is_worked_out_once_and_the_size_each_time(own, monkeypatch):
    arrays._whole.clear()
    counted = []
    monkeypatch.setattr(arrays, "sum_of", lambda path, sum_of=arrays.sum_of: counted.append(path) or sum_of(path))
    subject = own.subjects("train")[0]
    for place in range(4):
        own.read(subject, "T1w", place)
    assert len(counted) == 1
    path = own.folder / "scans" / subject / "T1w.b2nd"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(InputError, match="missing or damaged"):
        own.read(subject, "T1w", 1)


@pytest.fixture
def prepared(phantoms, tmp_path):
    listing = phantoms
    settings = Preparation(size=(32, 32, None))

    def again():
        return build_cohort(listing, tmp_path / "out", settings)

    return again(), again


def test_preparing_again_mends_what_is_damaged_and_keeps_the_rest(prepared):
    cohort, again = prepared
    folder = cohort.folder / "scans" / cohort.subjects("train")[0]
    subject, array = folder.name, (folder / "T1w.b2nd").read_bytes()
    whole, image = (folder / "T2w.b2nd").read_bytes(), cohort.read(folder.name, "T1w")
    damages = [("T1w.b2nd", b""), ("T1w.b2nd", array[:-1] + bytes([array[-1] ^ 1]))]
    damages += [("T1w.json", text) for text in (*TEXTS, b'{"key": 1}', b'{"key": "k", "masks": 3}')]
    for name, text in damages:
        (folder / name).write_bytes(text)
        mended = again()
        assert mended.fingerprint == cohort.fingerprint, (name, text[:20])
        assert (folder / "T2w.b2nd").read_bytes() == whole
        np.testing.assert_array_equal(mended.read(subject, "T1w"), image)
    for text in (*TEXTS, b'{"sub": 3}', b'{"x y": {"key": [], "facts": 3}}'):
        (cohort.folder / "census.json").write_bytes(text)
        assert again().fingerprint == cohort.fingerprint


def test_a_cohort_of_before_reads_with_one_warning_and_gets_hashes(prepared, caplog):
    cohort, again = prepared
    index = json.loads((cohort.folder / "cohort.json").read_text())
    del index["record_sha256"]
    for subject in index["subjects"].values():
        del subject["files"]
    (cohort.folder / "cohort.json").write_text(json.dumps(index))
    for path in cohort.folder.glob("scans/*/SHA256SUMS"):
        path.unlink()
    older = Cohort.open(cohort.folder)
    image = older.read(older.subjects("train")[0], "T1w")
    for subject in older.subjects():
        older.read(subject, "T1w", 2)
    assert caplog.text.count("without hashes of its arrays") == 1
    emptied = cohort.folder / "scans" / cohort.subjects("train")[0] / "T1w.b2nd"
    emptied.write_bytes(b"")
    newer = again()
    assert newer.fingerprint == cohort.fingerprint
    assert newer.index["subjects"].keys() == cohort.index["subjects"].keys()
    assert all(one["files"].keys() == {"T1w.b2nd", "T2w.b2nd"} for one in newer.index["subjects"].values())
    np.testing.assert_array_equal(newer.read(emptied.parent.name, "T1w"), image)
    assert emptied.stat().st_size > 0


@pytest.mark.parametrize("text", [*TEXTS, b'{"spacing": [1, 2]}', b'{"spacing": 3, "size": [], "intensity": "x"}'])
def test_a_damaged_marker_is_named_and_overwritten_on_demand(phantoms, tmp_path, text):
    listing, folder = phantoms, tmp_path / "out"
    folder.mkdir()
    (folder / "preparation.json").write_bytes(text)
    with pytest.raises(InputError, match=r"preparation\.json: damaged.*--overwrite") as caught:
        build_cohort(listing, folder, Preparation(size=(32, 32, None)))
    assert "\n" not in str(caught.value)
    if text == b"":
        assert build_cohort(listing, folder, Preparation(size=(32, 32, None)), overwrite=True).subjects()


def test_a_damaged_preparation_of_a_run_is_named(cohort, tmp_path):
    record = PreparationRecord.of(cohort, cohort.contrasts)
    record.write(tmp_path)
    assert PreparationRecord.read(tmp_path) == record
    path = tmp_path / "preparation.json"
    values = json.loads(path.read_text())
    unsealed = {name: value for name, value in values.items() if name != "record_sha256"}
    path.write_text(json.dumps(unsealed))
    assert PreparationRecord.read(tmp_path) == record
    for start in (values, unsealed):
        texts = [*TEXTS, *(json.dumps(changed).encode() for _, changed in mutations(start))]
        refused = 0
        for text in texts:
            path.write_bytes(text)
            said = refusal(lambda: PreparationRecord.read(tmp_path))
            refused += said is not None
            assert said is None or ("\n" not in said and "preparation.json" in said and len(said) < 500)
        assert refused > 0.8 * len(texts)


def test_a_file_that_wants_something_computed_is_refused(tmp_path):
    """blosc2 keeps expressions, and functions as source, in such files too; reading one runs nothing."""
    array = blosc2.asarray(np.ones((4, 4, 2), np.float32), urlpath=str(tmp_path / "operand.b2nd"), mode="w")
    (array + 1).save(urlpath=str(tmp_path / "T1w.b2nd"))
    with pytest.raises(ValueError, match="deserialize"):
        blosc2.open(str(tmp_path / "T1w.b2nd"), mode="r")
    with pytest.raises(InputError, match=r"T1w\.b2nd: missing or damaged: mend it"):
        arrays.read_array(tmp_path / "T1w.b2nd", None, "mend it")
    blosc2.SChunk(chunksize=64, data=b"x" * 64, urlpath=str(tmp_path / "T2w.b2nd"), mode="w")
    with pytest.raises(InputError, match=r"T2w\.b2nd: missing or damaged: mend it"):
        arrays.read_array(tmp_path / "T2w.b2nd", None, "mend it")
    assert arrays.read_note(tmp_path / "T1w.b2nd", "key") is None


def bomb(levels):
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, "method: regression", f"settings: *a{levels - 1}"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(9), "aliases"),
        ("method: regression\nsettings: &s {channels: 8}\ndata: *s", "aliases"),
        ("method: regression\nsettings: {<<: *s}", "not a YAML"),
        ("method: regression\nseed: 1\nseed: 2", "seed is there twice"),
        ("method: regression\nsettings: " + "[" * 5000, "nested too deeply"),
        ("method: regression\nsettings: " + "{a: " * 5000, "nested too deeply"),
        ("method: regression\nseed: " + "9" * 5000, "not a YAML"),
        ("method: regression\nseed: 1999-99-99", "not a YAML"),
        ("method: regression\nseed: " + "9" * 400, "seed: a number of some 400 digits is not of type int"),
        ("method: regression\nsettings: [" + "x, " * 20_000 + "]", "expected a group"),
        ("method: " + "m" * 90_000, "mmm"),
        ("method: regression\n" + "k" * 900 + ": 1", "unknown key"),
        ("method: regression\ncontrasts: [" + "'" + "c" * 90_000 + "', 5]", "5 is not of type str"),
        ("method: regression\ntraining: {steps: " + "s" * 90_000 + "}", "is not of type int"),
        ("method: regression\ntraining: {learning: " + "9" * 4000 + "}", "unknown key"),
        ("method: regression\ntraining: {minutes: " + "9" * 400 + "}", "not of type float"),
    ],
)
def test_settings_that_would_hang_their_reader_are_one_line(tmp_path, text, says):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_large_settings_file_and_a_long_name(tmp_path):
    (tmp_path / "large.yaml").write_bytes(b"method: regression\n#" + b"x" * 200_000)
    with pytest.raises(InputError, match="more than 100 kB"):
        read_yaml(tmp_path / "large.yaml")
    with pytest.raises(InputError, match="File name too long"):
        read_yaml(tmp_path / f"{'x' * 300}.yaml")


def test_a_message_is_not_without_end_and_keeps_both_of_its_own():
    assert str(InputError("x" * 2000)) == "x" * 2000
    said = str(InputError(f"/a/file states {'7 ' * 9000}: mend its header"))
    assert len(said) <= 2000
    assert said.startswith("/a/file states 7 7")
    assert said.endswith("7 : mend its header")


def test_what_a_message_shows_is_short():
    nested: list = []
    for _ in range(60):
        nested = [nested] * 10
    for value in (nested, "x" * 10**6, 10**9999, {"k" * 999: nested}, [10**5000], b"\0" * 10**6, "a\nb"):
        text = shown(value)
        assert len(text) <= 80
        assert "\n" not in text
    assert shown("half") == "'half'"
    assert shown(1.5) == "1.5"


def test_json_keys_that_are_there_twice():
    with pytest.raises(ValueError, match="'b' is there twice"):
        parse_json('{"a": [{"b": 1, "b": 2}]}')
    assert parse_json("\ufeff[1]") == [1]
    assert build(dict[str, list[int]], {"a": [1]}, "it") == {"a": [1]}


LINES = [
    b'{"step": 2, "G/l1": 0.5}', b'{"step": 2.5}', b'{"step": -1}', b'{"G/l1": 1}', b"null", b"[1]", b'{"step": "2"}',
    b"\0" * 80, b"\xff", b'{"step": 4, "G/l1": "x"}', b'{"step": 4, "step": 4}', b"[" * 100_000,
    b'{"step": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("line", LINES[1:])
def test_a_damaged_line_of_figures_is_named_and_left_out(tmp_path, caplog, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join([LINES[0], line, LINES[0], b'{"step": 6, "half']))
    with pytest.raises(InputError, match=r"metrics\.jsonl line 2: damaged: the same `scansynth train`"):
        read_curves(tmp_path)
    cut_back(path, 4)
    assert path.read_bytes() == LINES[0] + b"\n" + LINES[0] + b"\n"
    assert "1 damaged lines are left out" in caplog.text
    assert read_curves(tmp_path)["G/l1"][1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "text", [*TEXTS, b'{"asked": {}}', b'{"asked": 3, "preparation": {}, "why_so": "", "lines": []}']
)
def test_a_damaged_request_of_all_in_one_command_is_named(tmp_path, text):
    (tmp_path / "request.json").write_bytes(text)
    asked = Asked(data="in", targets=(), hours=1.0, seed=0, skip_bad=False, fractions=(1.0, 0.0, 0.0))
    with pytest.raises(InputError, match=r"request\.json: damaged or not readable .*restore it") as caught:
        begun(tmp_path, asked)
    assert "\n" not in str(caught.value)


def linked_listing(tmp_path, link, names=("p1", "p2", "p3", "p4"), last="test"):
    write_phantom_cohort(tmp_path / "in", 4, ("T1w",), layout="IXI", shape=(24, 24, 8), spacing=8.0)
    files = sorted((tmp_path / "in").rglob("*.nii.gz"))
    rows = ["subject,contrast,path,split"]
    for name, file, split in zip(names, files, ("train", "train", "val", last), strict=True):
        rows.append(f"{name},T1w,{file},{split}")
    files[3].unlink()
    link(files[0], files[3])
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return find_subjects(tmp_path / "table.csv")


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_one_scan_of_two_people_is_refused(tmp_path, link):
    listing = linked_listing(tmp_path, link)
    with pytest.raises(InputError, match=r"are one file \(linked\), of p1 and of p4"):
        build_cohort(listing, tmp_path / "out", Preparation(size=(32, 32, None)))
    assert not (tmp_path / "out").exists()
    foreseen = dry_run(listing, Preparation(size=(32, 32, None)))
    assert any("are one file (linked), of p1 and of p4" in problem for problem in foreseen.problems)


def test_visits_of_one_person_may_share_a_file(tmp_path):
    listing = linked_listing(tmp_path, os.symlink, ("sub-1_ses-1", "sub-2", "sub-3", "sub-1_ses-2"), last="train")
    check_own_files(listing.subjects)


@pytest.mark.parametrize(
    "text", ['{"train": ["a"], "train": ["b"], "test": ["c"]}', "[" * 100_000, '{"train": [' + "9" * 5000 + "]}"]
)
def test_a_list_of_splits_that_stands_twice_is_refused(tmp_path, text):
    write_phantom_cohort(tmp_path, 2, ("T1w",), layout="IXI", shape=(24, 24, 8), spacing=8.0)
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(InputError, match=r"splits\.json is not valid JSON") as caught:
        find_subjects(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        b'{"RepetitionTime": NaN}',
        b'{"EchoTime": 1' + b"0" * 400 + b"}",
        b'{"EchoTime": {"a": 1}}',
        b'{"FlipAngle": [[1]]}',
    ],
)
def test_a_damaged_sidecar_is_named(tmp_path, text):
    write_phantom_cohort(tmp_path / "in", 3, ("T1w",), layout="BIDS", shape=(24, 24, 8), spacing=8.0)
    sidecar = sorted((tmp_path / "in").rglob("sub-*_T1w.json"))[0]
    sidecar.write_bytes(text)
    with pytest.raises(InputError, match=r"_T1w\.json .*(mend or remove it|save it again)") as caught:
        build_cohort(find_subjects(tmp_path / "in"), tmp_path / "out", Preparation(size=(32, 32, None)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_published_weights_that_are_no_numbers_are_refused(tmp_path):
    save_file({"a": torch.ones(3), "n/num_batches_tracked": torch.ones(1).long()}, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors", "LPIPS", "x")[0].keys() == {"a", "n/num_batches_tracked"}
    save_file({"a": torch.ones(3) > 0}, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"'a' holds torch\.bool, no weights"):
        read_weights(tmp_path / "w.safetensors", "LPIPS", "x")


def test_records_are_read_by_one_function():
    """Who reads JSON by himself forgets one of: depth, size, keys that stand twice, numbers that are too long."""
    root = Path(scansynth.__file__).parent
    own = {"json.loads(json.dumps(asdict(asked)))", "json.loads(_json(asdict(settings)))"}  # as written, not as read
    for room in ("data", "training", "planning", "reproduction", "sets", "report", "commands"):
        for path in (root / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                reads = isinstance(node, ast.Call) and ast.unparse(node.func)
                if reads in ("json.loads", "json.load", "yaml.safe_load"):
                    assert ast.unparse(node) in own, f"{path.relative_to(root)}:{node.lineno}: use records.read_json"
