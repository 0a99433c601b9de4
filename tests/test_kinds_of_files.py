"""Files as they come: each kind (tests/files) is taken right, named, or refused, and nothing is silently wrong."""

import logging

import pytest
import torch

from files.kinds import KINDS, Named, Refused, Right, missing_words
from scansynth.cli import main
from scansynth.data.cohort import Cohort
from scansynth.training.train import train

PREPARED = [one for one in KINDS.values() if one.verb == "prepare"]


def prepare(kind, folder):
    """The command on a kind's files: exit code and the cohort's folder."""
    (folder / "in").mkdir()
    kind.make(folder / "in")
    words = []
    for name, value in kind.options.items():
        if name == "tissue":
            words += ["--tissue", "segment"]
        else:
            values = [value] if isinstance(value, str) else value
            words += [f"--{name}", *map(str, values)]
    data = folder / "in" / kind.data if kind.data else folder / "in"
    code = main(["prepare", "-i", str(data), "-o", str(folder / "out"), *words])
    return code, folder / "out"


@pytest.mark.parametrize("kind", PREPARED, ids=lambda kind: kind.name)
def test_a_kind_of_file_is_taken_right_or_named_or_refused(kind, tmp_path, capsys, caplog):
    caplog.set_level(logging.WARNING)
    code, out = prepare(kind, tmp_path)
    told = capsys.readouterr()
    said = "\n".join([told.err, caplog.text])
    if isinstance(kind.expect, Refused):
        assert code == 1, f"not refused; said: {said}"
        assert not missing_words(kind.expect.words, said), said
        assert not (out / "cohort.json").exists()
        return
    assert code == 0, said
    if isinstance(kind.expect, Named):
        assert not missing_words(kind.expect.words, said), said
    if isinstance(kind.expect, Right) and kind.expect.quiet:
        assert "warning" not in said.lower(), said
    if kind.expect.check:
        kind.expect.check(Cohort.open(out))


def test_there_are_kinds_enough_and_the_public_ones_have_links():
    assert len(KINDS) >= 60
    assert len({kind.found for kind in KINDS.values() if kind.found}) >= 30


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "regression"
    train(tiny("regression", steps=1), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.mark.parametrize("kind", [one for one in KINDS.values() if one.verb == "translate"], ids=lambda kind: kind.name)
def test_a_kind_of_file_in_the_way_of_a_translation_is_refused(kind, run, tmp_path, capsys):
    kind.make(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    source, output = (str(tmp_path / kind.options[name]) for name in ("input", "output"))
    words = ["--overwrite"] if kind.options.get("overwrite") else []
    assert main(["translate", "--run", str(run), "--t1w", source, "--target", "T2w", "-o", output, *words]) == 1
    assert isinstance(kind.expect, Refused)
    said = capsys.readouterr().err
    assert not missing_words(kind.expect.words, said), said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
