"""`completion`: what a shell offers where Tab is pressed.

tyro makes such scripts too, but knows nothing of recipes, offers no files for arguments without a flag nor after the
first of several, and starts Python at each Tab. These are of the same parsers, in the shells' own languages.
"""

from argparse import Action
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Positional

from scansynth.commands.completion_scripts import FILE, MANY, Command, Option, bash, fish, zsh
from scansynth.commands.console import out
from scansynth.commands.help import ALL, actions_of, flags_of, sentence_of

SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}
HELP = (Option(("-h", "--help"), "The options that are needed most."), Option((ALL,), "Every option."))


@dataclass(frozen=True)
class Completion:
    """Print a script that completes verbs, recipes, flags and file names where Tab is pressed.

    bash: `scansynth completion bash > ~/.local/share/bash-completion/completions/scansynth` where the package
    bash-completion is installed; elsewhere into any file, with `source FILE` in ~/.bashrc.

    zsh: `scansynth completion zsh > ~/.zfunc/_scansynth`, with `fpath=(~/.zfunc $fpath)` in ~/.zshrc before compinit.

    fish: `scansynth completion fish > ~/.config/fish/completions/scansynth.fish`.

    After an update of scansynth, print it anew.
    """

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """Which shell; the script's first lines say where it goes."""

    def run(self) -> None:
        """Print the script."""
        from scansynth.cli import VERBS

        out.file.write(SHELLS[self.shell](commands_of(VERBS)))


def commands_of(verbs: Mapping[str, Any]) -> dict[str, Command]:
    """What may follow each verb.

    Args:
        verbs: name → dataclass.
    """
    from scansynth.methods import METHODS
    from scansynth.recipes import RECIPES
    from scansynth.reproduction.tables import TABLES

    known = {
        ("methods", "--recipes"): tuple(METHODS),
        ("reproduce", "name"): tuple(TABLES),
        ("benchmark", "--methods"): tuple(RECIPES),
    }
    found = {}
    for verb, kind in verbs.items():
        text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        if verb == "train":
            found[verb] = training(text)
            continue
        actions = {name: (action, known.get((verb, name))) for name, action in actions_of(kind).items()}
        options = tuple(option_of(*one) for one in actions.values() if one[0].option_strings)
        arguments = [values_of(*one) for one in actions.values() if not one[0].option_strings]
        found[verb] = Command(text, (*options, *HELP), next((one for one in arguments if one), ()))
    return found


def training(text: str) -> Command:
    """What may follow `train`: recipes and settings files, what all have in common, and the settings of each method."""
    from scansynth.commands.train import recipe_options
    from scansynth.methods import METHODS
    from scansynth.recipes import RECIPES, recipes_of

    common: tuple[Option, ...] = ()
    further = {}
    for method in METHODS:
        names = tuple(recipes_of(method))
        kind, default = recipe_options(names[0])
        options = {name: option_of(action) for name, action in actions_of(kind, default=default).items()}
        common = tuple(one for name, one in options.items() if not name.startswith("--settings."))
        further[names] = tuple(one for name, one in options.items() if name.startswith("--settings."))
    return Command(text, (*common, *HELP), (*RECIPES, FILE), further)


def option_of(action: Action, known: tuple[str, ...] | None = None) -> Option:
    """An option of a parser.

    Args:
        action: as argparse has it.
        known: what its values may be, where the parser does not say.
    """
    count = MANY if action.nargs in ("*", "+") else int(action.nargs or 0)
    return Option(tuple(flags_of(action)), sentence_of(action)[0], values_of(action, known), count)


def values_of(action: Action, known: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """What may be offered as an option's value, or as an argument (arguments as of `option_of`)."""
    if known or action.choices:
        return known or tuple(map(str, action.choices or ()))
    return (FILE,) if "PATH" in str(action.metavar) else ()
