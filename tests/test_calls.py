"""Calls are by name: what two neighbouring arguments swapped would do, no type checker finds."""

import ast
from functools import cache
from pathlib import Path

import pytest

import scansynth

MOST = 5
"""Arguments that go by position."""
ROOT = Path(scansynth.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path, *kinds):
    return [node for node in ast.walk(parsed(path)) if isinstance(node, kinds)]


def by_position(function):
    """Names of the parameters that may be given by position, and which of them are flags."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    own = [one for one in parameters if one.arg not in ("self", "cls")]
    return own, [one.arg for one in own if one.annotation is not None and ast.unparse(one.annotation) == "bool"]


def fields_by_position(kind):
    """Fields of a dataclass that may be given by position; none of another class."""
    decorators = [ast.unparse(one) for one in kind.decorator_list]
    if not any(one.startswith("dataclass") for one in decorators) or any("kw_only=True" in one for one in decorators):
        return []
    fields = []
    for one in kind.body:
        if isinstance(one, ast.AnnAssign):
            if ast.unparse(one.annotation) == "KW_ONLY":
                break
            if not ast.unparse(one.annotation).startswith("ClassVar"):
                fields.append(ast.unparse(one.target))
    return fields


@cache
def ours():
    """Names of the package's functions and classes."""
    return {node.name for path in FILES for node in nodes(path, ast.FunctionDef, ast.ClassDef)}


def broken(path):
    """What of a file may be called, or is called, by too many positions."""
    for function in nodes(path, ast.FunctionDef):
        own, flags = by_position(function)
        if len(own) > MOST:
            yield f"{path.name}:{function.lineno}: {function.name} takes {len(own)} by position"
        if flags:
            yield f"{path.name}:{function.lineno}: {function.name} takes the flag {flags[0]} by position"
    for kind in nodes(path, ast.ClassDef):
        if len(fields := fields_by_position(kind)) > MOST:
            yield f"{path.name}:{kind.lineno}: {kind.name} has {len(fields)} fields by position"
    for call in nodes(path, ast.Call):
        name = ast.unparse(call.func).split(".")[-1]
        if isinstance(call.func, ast.Name) and len(call.args) > MOST and name in ours() and not takes_any(name):
            yield f"{path.name}:{call.lineno}: {name} is given {len(call.args)} by position"


@cache
def takes_any(name):
    """Whether a function of that name takes any number of arguments (`command(*words)`)."""
    return any(
        function.args.vararg is not None
        for path in FILES
        for function in nodes(path, ast.FunctionDef)
        if function.name == name
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_at_most_five_arguments_go_by_position_and_no_flag_does(path):
    assert not list(broken(path))


def test_what_breaks_the_rule_is_found(tmp_path):
    for number, text in enumerate(
        (
            "def f(a, b, c, d, e, g): ...",
            "def f(a, overwrite: bool): ...",
            "@dataclass(frozen=True)\nclass A:\n" + "".join(f"    {name}: int\n" for name in "abcdef"),
            "class A:\n    def __init__(self, a, b, c, d, e, g): ...",
            "translate_cohort(1, 2, 3, 4, 5, 6)",
        )
    ):
        path = tmp_path / f"{number}.py"
        path.write_text(text)
        assert len(list(broken(path))) == 1, text
    fine = tmp_path / "fine.py"
    fine.write_text("def f(self, a, b, c, d, e, *, g, overwrite: bool): ...\ncommand(1, 2, 3, 4, 5, 6)")
    assert not list(broken(fine))
