"""Several commands that share a folder: each image once, a dead command's share taken over, one list."""

import os

import pytest
import torch

import scansynth
from scansynth.errors import InputError
from scansynth.files import HERE
from scansynth.synthesis import folder, sharing_out
from scansynth.synthesis.folder import _claimed, translate_cohort
from scansynth.synthesis.sharing_out import FOLDER, shared_out
from scansynth.training.train import train


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("shared") / "run"
    train(tiny("regression", steps=2), cohort, place, device=torch.device("cpu"))
    return scansynth.load(place, "cpu")


def claim(out, name, process):
    """A claim by another process of this machine."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    path = out / FOLDER / f"{name}.0"
    path.write_text(f"{process}-{HERE}")
    return path


def test_what_others_are_at_work_on_is_waited_for(tmp_path, monkeypatch):
    done, held = {"d"}, claim(tmp_path, "b", os.getppid())
    pauses = []

    def others_end(_):
        pauses.append(1)
        if len(pauses) == 2:
            held.unlink()
            done.add("b")

    monkeypatch.setattr(sharing_out.time, "sleep", others_end)
    made = []
    for one in shared_out(tmp_path, "abcd", name=str, there=done.__contains__, first=2):
        made.append(one)
        done.add(one)
    assert made == ["c", "a"]  # d is there, b is made by the other
    assert len(pauses) == 2
    assert not (tmp_path / FOLDER).exists()


def test_a_dead_commands_share_is_taken_over(tmp_path):
    claim(tmp_path, "b", 2**22 - 1)
    done = set()
    for one in shared_out(tmp_path, "ab", name=str, there=done.__contains__):
        done.add(one)
    assert done == {"a", "b"}


def test_what_is_refused_is_not_tried_for_ever(tmp_path):
    assert list(shared_out(tmp_path, "ab", name=str, there=lambda one: False)) == ["a", "b"]
    assert list(shared_out(tmp_path, "", name=str, there=lambda one: False)) == []


def test_a_folder_is_translated_by_two_commands(run, phantoms, tmp_path, monkeypatch):
    whole = translate_cohort(run, phantoms, tmp_path / "alone", target="T2w")
    own, made = folder._translated, []

    def counted(*arguments, **named):
        made.append(arguments[2].name)
        return own(*arguments, **named)

    monkeypatch.setattr(folder, "_translated", counted)
    subject = phantoms.subjects[1]
    held = claim(tmp_path / "shared", _claimed((subject, "T2w")), os.getppid())

    def other_makes_it(_):
        monkeypatch.undo()
        held.unlink()
        one = phantoms.__class__(**{**phantoms.__dict__, "subjects": (subject,)})
        translate_cohort(run, one, tmp_path / "shared", target="T2w", shared=True)

    monkeypatch.setattr(sharing_out.time, "sleep", other_makes_it)
    found = translate_cohort(run, phantoms, tmp_path / "shared", target="T2w", shared=True)
    assert made == [one.name for one in phantoms.subjects if one != subject]
    assert found == whole
    for path in (tmp_path / "alone").rglob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "shared" / path.relative_to(tmp_path / "alone")).read_bytes()


def test_overwriting_is_not_shared(run, phantoms, tmp_path):
    with pytest.raises(InputError, match="--shared with --overwrite"):
        translate_cohort(run, phantoms, tmp_path, overwrite=True, shared=True)
