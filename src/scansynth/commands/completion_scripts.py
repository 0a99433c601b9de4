"""Completion scripts of bash, zsh and fish, in their own languages; nothing is started when Tab is pressed."""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

FILE = "/FILE"
"""Among values: any file or folder."""
MANY = 999
"""Values of an option that takes any number."""


@dataclass(frozen=True)
class Option:
    """An option of a command."""

    flags: tuple[str, ...]
    text: str
    """What it is, in a sentence."""
    values: tuple[str, ...] = ()
    """What may be offered after it."""
    count: int = 0
    """How many values follow; none after a switch."""


@dataclass(frozen=True)
class Command:
    """What may follow a verb."""

    text: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...] = ()
    """What may be offered as an argument without a flag."""
    further: Mapping[tuple[str, ...], tuple[Option, ...]] | None = None
    """Options that there are after some first arguments: the settings of recipes."""


def bash(commands: Mapping[str, Command]) -> str:
    """The script for bash 3.2 and later (a Mac's)."""
    cases = []
    for verb, command in commands.items():
        cases += [f"    {verb})", f"        flags={_quoted(_flags(command.options))}"]
        first = "(( COMP_CWORD == 2 )) && " if command.further else ""
        if command.arguments:
            cases.append(f"        {first}{_bash_offer(command.arguments, 'rest', 'rest_files')}")
        cases += _bash_values(command.options, 8)
        if command.further:
            cases.append("        case ${COMP_WORDS[2]} in")
            for names, options in command.further.items():
                cases += [f"        {'|'.join(names)})", f"            flags+={_quoted(['', *_flags(options)])}"]
                cases += [*_bash_values(options, 12), "            ;;"]
            cases.append("        esac")
        cases.append("        ;;")
    return f"""\
# Completion of scansynth in bash. Keep it as ~/.local/share/bash-completion/completions/scansynth where the package
# bash-completion is installed; elsewhere in any file, with `source FILE` in ~/.bashrc.
_scansynth() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} flag= flags= words= files= rest= rest_files= most=0 i line
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=( $(compgen -W {_quoted([*commands, "--help", "--version"])} -- "$cur") )
        return
    fi
    for (( i = COMP_CWORD - 1; i > 1; i-- )); do  # the flag that the word may be a value of
        if [[ ${{COMP_WORDS[i]}} == -* ]]; then
            flag=${{COMP_WORDS[i]}}
            break
        fi
    done
    if [[ ${{COMP_WORDS[i + 1]}} == "=" ]]; then  # --flag=value: three words to bash
        (( i++ ))
        if [[ $cur == "=" ]]; then cur= i=$(( i - 1 )); fi
    fi
    case ${{COMP_WORDS[1]}} in
{_lines(cases)}
    esac
    if [[ $cur == -* ]]; then
        words=$flags files=
    elif (( COMP_CWORD - i > most )); then
        words=$rest files=$rest_files
        if [[ -z $words$files ]]; then words=$flags; fi
    fi
    COMPREPLY=( $(compgen -W "$words" -- "$cur") )
    if [[ $files ]]; then
        compopt -o filenames 2>/dev/null  # as bash 3.2 has none
        while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur")
    fi
}}
complete -F _scansynth scansynth
"""


def _bash_values(options: Iterable[Option], indent: int) -> list[str]:
    """The `case` that says what follows a flag; options of the same values share a line."""
    valued = sorted((one for one in options if one.count), key=_kind)
    if not valued:
        return []
    lines = ["case $flag in"]
    for (values, count), group in groupby(valued, key=_kind):
        flags = "|".join(flag for one in group for flag in one.flags)
        lines.append(f"{flags}) most={count} {_bash_offer(values, 'words', 'files')} ;;".replace("  ", " "))
    return [" " * indent + line for line in (*lines, "esac")]


def _kind(option: Option) -> tuple[tuple[str, ...], int]:
    return option.values, option.count


def _bash_offer(values: Iterable[str], words: str, files: str) -> str:
    names = [value for value in values if value != FILE]
    return " ".join([*([f"{words}={_quoted(names)}"] if names else []), *([f"{files}=1"] if FILE in values else [])])


def zsh(commands: Mapping[str, Command]) -> str:
    """The script for zsh."""
    cases = []
    for verb, command in commands.items():
        cases.append(f"        {verb})")
        if command.further:
            cases.append("            case $words[2] in")
            for names, options in command.further.items():
                cases += [f"            {'|'.join(names)})", "                further=("]
                cases += [f"                    {spec}" for one in options for spec in _zsh_specs(one)]
                cases += ["                ) ;;"]
            cases.append("            esac")
        specs = [spec for one in command.options for spec in _zsh_specs(one)]
        # Of an option that takes any number of values, zsh sees no end: the first is its own, the others arguments.
        several = [value for one in command.options if one.count == MANY for value in one.values]
        if values := dict.fromkeys([*command.arguments, *several]):
            specs.append(shlex.quote(f"{1 if command.further else '*'}:argument:{_zsh_action(values)}"))
        cases += ["            _arguments $further \\", *(f"                {spec} \\" for spec in specs[:-1])]
        cases += [f"                {specs[-1]} ;;"]
    verbs = [f"        {shlex.quote(f'{verb}:{command.text}')}" for verb, command in commands.items()]
    return f"""\
#compdef scansynth
# Completion of scansynth in zsh. Keep it as _scansynth in a folder of $fpath: in ~/.zfunc, say, with
# `fpath=(~/.zfunc $fpath)` in ~/.zshrc before compinit.
_scansynth() {{
    local context state state_descr line
    local -a verbs further
    typeset -A opt_args
    verbs=(
{_lines(verbs)}
    )
    _arguments -C '(- *)--version[Its version.]' '(- *)--help[The verbs.]' '1:verb:->verb' '*::rest:->rest' && return
    case $state in
    verb)
        _describe verb verbs ;;
    rest)
        case $words[1] in
{_lines(cases)}
        esac ;;
    esac
}}
if [[ $funcstack[1] == _scansynth ]]; then
    _scansynth "$@"
else
    compdef _scansynth scansynth
fi
"""


def _zsh_specs(option: Option) -> list[str]:
    """An option as `_arguments` has it, once a flag."""
    text = option.text.replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]")
    action = f":value:{_zsh_action(option.values)}"
    after = action * (1 if option.count == MANY else option.count)
    others = f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
    return [shlex.quote(f"{others}{flag}[{text}]{after}") for flag in option.flags]


def _zsh_action(values: Iterable[str]) -> str:
    names = " ".join(value for value in values if value != FILE)
    if FILE in values:
        return f"{{compadd -- {names}; _files}}" if names else "_files"
    return f"({names})" if names else " "


def fish(commands: Mapping[str, Command]) -> str:
    """The script for fish."""
    lines = [
        f"complete -c scansynth -n __scansynth_first -a {verb} -d {_fish(command.text)}"
        for verb, command in commands.items()
    ]
    for verb, command in commands.items():
        lines += [line for one in command.options for line in _fish_lines(f"__scansynth_verb {verb}", one)]
        if command.arguments:
            where = f"__scansynth_{'second' if command.further else 'verb'} {verb}"
            lines.append(f"complete -c scansynth -n '{where}' {_fish_offer(command.arguments)}")
        for names, options in (command.further or {}).items():
            where = f"__scansynth_verb {verb}; and __scansynth_recipe {' '.join(names)}"
            lines += [line for one in options for line in _fish_lines(where, one)]
    return f"""\
# Completion of scansynth in fish. Keep it as ~/.config/fish/completions/scansynth.fish.
function __scansynth_first
    test (count (commandline -opc)) -eq 1
end
function __scansynth_verb
    set -l words (commandline -opc)
    test (count $words) -ge 2; and contains -- $words[2] $argv
end
function __scansynth_second
    test (count (commandline -opc)) -eq 2; and __scansynth_verb $argv
end
function __scansynth_recipe
    set -l words (commandline -opc)
    test (count $words) -ge 3; and contains -- $words[3] $argv
end
function __scansynth_after # whether the last flag is one of these
    for word in (commandline -opc)[-1..1]
        if string match -q -- '-*' $word
            contains -- $word $argv
            return
        end
    end
    return 1
end
complete -c scansynth -f
complete -c scansynth -n __scansynth_first -l version -d 'Its version.'
complete -c scansynth -n __scansynth_first -l help -d 'The verbs.'
{_lines(lines)}
"""


def _fish_lines(where: str, option: Option) -> list[str]:
    """An option where a condition holds; of one that takes several values, also what follows the first of them."""
    flags = [f"-s {flag[1:]}" if len(flag) == 2 else f"-l {flag[2:]}" for flag in option.flags]
    offer = f" -r {_fish_offer(option.values)}".rstrip() if option.count else ""
    lines = [f"complete -c scansynth -n '{where}' {' '.join(flags)}{offer} -d {_fish(option.text)}"]
    if option.count > 1 and option.values:
        where = f"{where}; and __scansynth_after {' '.join(option.flags)}"
        lines.append(f"complete -c scansynth -n '{where}' {_fish_offer(option.values)}")
    return lines


def _fish_offer(values: Iterable[str]) -> str:
    names = [value for value in values if value != FILE]
    return " ".join(["-F" if FILE in values else "-f", *([f"-a {_quoted(names)}"] if names else [])])


def _fish(text: str) -> str:
    """A text in fish's single quotes."""
    text = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def _flags(options: Iterable[Option]) -> list[str]:
    return [flag for one in options for flag in one.flags]


def _quoted(names: Iterable[str]) -> str:
    """Names as one word of a shell."""
    return shlex.quote(" ".join(names))


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)
