"""Settings: what is written is read back, what is wrong is named by file and key."""

from dataclasses import replace

import pytest

from scansynth.commands.train import parse_train
from scansynth.config import DataSettings, read_yaml, to_yaml
from scansynth.data.augmentation import Augmentation
from scansynth.errors import InputError
from scansynth.recipes import RECIPES, find_recipe


def read(tmp_path, text):
    (tmp_path / "run.yaml").write_text(text)
    return read_yaml(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_yaml(name, tmp_path):
    recipe = find_recipe(name)
    assert read(tmp_path, to_yaml(recipe)) == recipe
    changed = replace(
        recipe,
        contrasts=("T1w", "FLAIR"),
        data=replace(recipe.data, min_foreground=1e-5, augmentation=Augmentation(flip=0.5, gamma=1e-7)),
        training=replace(recipe.training, minutes=0.1, precision="bfloat16"),
        seed=7,
    )
    assert changed != recipe
    assert read(tmp_path, to_yaml(changed)) == changed


ACCELERATED = DataSettings(acceleration=(("T1w", 4), ("T2w", 2)), slices_per_subject=90)


def test_acceleration_comes_back_from_yaml(tmp_path):
    recipe = replace(find_recipe("syndiff"), data=ACCELERATED)
    assert read(tmp_path, to_yaml(recipe)) == recipe
    by_hand = "method: regression\ndata: {acceleration: [[T1w, 4], [T2w, 2]], slices_per_subject: 90}\n"
    assert read(tmp_path, by_hand).data == ACCELERATED
    assert read(tmp_path, "method: regression\ndata: {slices_per_subject: null}\n").data == DataSettings()


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--data.acceleration", "PDw", "3"], {"acceleration": (("PDw", 3),)}),
        (["--data.acceleration", "PDw", "3", "T1w", "1"], {"acceleration": (("PDw", 3), ("T1w", 1))}),
        (["--data.acceleration"], {"acceleration": ()}),
        (["--data.slices-per-subject", "100"], {"slices_per_subject": 100}),
        (["--data.slices-per-subject", "None"], {"slices_per_subject": None}),
    ],
)
def test_acceleration_and_slices_on_the_command_line(tmp_path, arguments, changes):
    """What the recipe (here a file) sets is the default."""
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(replace(find_recipe("regression"), data=ACCELERATED)))
    parsed = parse_train([str(path), "--cohort", "c", "--run", "r", *arguments])
    assert parsed.config.data == replace(ACCELERATED, **changes)


def test_acceleration_and_slices_are_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse_train(["syndiff_small", "--help-all"])
    shown = capsys.readouterr().out
    assert "--data.acceleration [STR INT [STR INT ...]]" in shown
    assert "--data.slices-per-subject" in shown


def test_what_is_left_out_has_its_default(tmp_path):
    config = read(
        tmp_path, "method: syndiff\nsettings: {variant: supervised, learning_rate: 1}\ntraining: {steps: 5}\n"
    )
    recipe = find_recipe("syndiff-supervised")
    assert config == replace(
        recipe,
        settings=replace(recipe.settings, learning_rate=1.0),
        training=replace(type(recipe.training)(), steps=5),
    )
    assert isinstance(config.settings.learning_rate, float)


def test_numbers_may_be_written_as_people_do(tmp_path):
    """To YAML 1.1 a number with an exponent and no point is a text."""
    assert read(tmp_path, "method: regression\nsettings: {learning_rate: 1e-3}\n").settings.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seed: 1", "'method'"),
        ("- method\n- regression", "'method'"),
        ("", "'method'"),
        ("method: no_such_method", "no_such_method.*choose from"),
        ("method: regression\nsteps: 5", "'steps'"),
        ("method: regression\nsettings: {chanels: 5}", "settings: unknown key 'chanels'"),
        ("method: regression\ndata: {augmentation: {flips: 0.5}}", "data: augmentation: unknown key 'flips'"),
        ("method: regression\nsettings:", "settings: expected a group"),
        ("method: regression\ntraining: [1, 2]", "training: expected a group"),
        ("method: regression\ntraining: {steps: many}", "training: steps: 'many' is not of type int"),
        ("method: regression\ntraining: {steps: 1.5}", "training: steps"),
        ("method: regression\ntraining: {steps: true}", "training: steps"),
        ("method: regression\ntraining: {minutes: true}", "training: minutes"),
        ("method: regression\ntraining: {minutes: half}", "training: minutes: 'half' is not of type float"),
        ("method: regression\ntraining: {precision: float16}", "training: precision: 'float16' is not one of"),
        ("method: regression\ncontrasts: T1w", "contrasts: expected a list"),
        ("method: regression\ncontrasts: [1, 2]", "contrasts: 1 is not of type str"),
        ("method: regression\nsettings: {multipliers: [1, two]}", "settings: multipliers"),
        ("method: syndiff\nsettings: {variant: 1}", "settings: variant"),
        ("method: regression\ntraining: {batch_size: 0}", "training: batch_size 0: must"),
        ("method: regression\ntraining: {log_every: -1}", "training: log_every"),
        ("method: regression\ntraining: {gradient_clip: -1}", "training: gradient_clip"),
        ("method: regression\ndata: {augmentation: {flip: 2}}", "data: augmentation: flip 2.0: must lie in 0 to 1"),
        ("method: regression\ndata: {acceleration: {T1w: 4}}", "data: acceleration: expected a list"),
        ("method: regression\ndata: {acceleration: [T1w, 4]}", "data: acceleration: expected a list, got 'T1w'"),
        ("method: regression\ndata: {acceleration: [[T1w]]}", "data: acceleration: expected 2 values, got 1"),
        ("method: regression\ndata: {acceleration: [[T1w, 2.5]]}", "data: acceleration: 2.5 is not of type int"),
        ("method: regression\ndata: {acceleration: [[T1w, 0]]}", "data: acceleration T1w 0: the fold must"),
        ("method: regression\ndata: {acceleration: [[ct, 4]]}", "data: acceleration CT: a CT has no k-space"),
        ("method: regression\ndata: {acceleration: [[T1w, 4], [T1w, 2]]}", "data: acceleration: T1w is named 2 times"),
        ("method: regression\ndata: {slices_per_subject: 0}", "data: slices_per_subject 0: must be at least 1"),
        ("method: regression\ndata: {slices_per_subject: 2.0}", "data: slices_per_subject: 2.0 is not of type int"),
        ("method: [", "not a YAML settings file"),
        ("method: regression\n\tseed: 1", "not a YAML settings file"),
    ],
)
def test_what_is_wrong_is_named_by_file_and_key(tmp_path, text, named):
    with pytest.raises(InputError, match=named) as caught:
        read(tmp_path, text)
    assert "run.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match="no such settings file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "image.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r"image\.yaml: not a YAML"):
        read_yaml(tmp_path / "image.yaml")
