"""What mkdocs is told beside mkdocs.yml: the pages that are made, and links that hold in the repository and here.

README, CONTRIBUTING and CHANGELOG become pages; links to files that are no page become plain text. Each package whose
names are stable gets a page of its docstrings: those in its `__all__`, or all that a module has. And one page has what
each command says of itself.
"""

import ast
import contextlib
import io
import os
import posixpath
import re
from pathlib import Path
from unittest import mock

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
MODULES = ("scansynth", "scansynth.diffusion", "scansynth.metrics", "scansynth.networks", "scansynth.noise",
           "scansynth.method")  # fmt: skip
RETURNED = {"scansynth": ("scansynth.synthesis.image.Synthesis",)}
"""What else a module's functions give, by its module."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add the pages that are made."""
    made = {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    made |= {f"api/{module.split('.')[-1]}.md": reference(module) for module in MODULES}
    made["api/commands.md"] = commands()
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown, page, **_):
    """A page with its links as they are between pages; in the repository they lead from file to file."""
    place = page.file.src_uri
    name = {made: name for name, made in PAGES.items()}.get(place, f"docs/{place}")

    def mend(link):
        picture, words, target = link.groups()
        if "://" in target or target.startswith("#"):
            return link[0]
        path, mark, part = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        if path not in PAGES and not path.startswith("docs/"):
            return words
        to = PAGES.get(path) or path.removeprefix("docs/")
        return f"{picture}[{words}]({posixpath.relpath(to, posixpath.dirname(place))}{mark}{part})"

    return _LINK.sub(mend, markdown)


def commands():
    """The page of what each command says of itself, as in a terminal of 100 columns."""
    from scansynth.cli import VERBS, bids_app, main

    parts = ["# Commands\n\nWhat `--help-all` tells. A recipe's own settings: `scansynth train RECIPE --help-all`.\n"]
    ways = {f"scansynth {verb}": (main, [verb]) for verb in VERBS} | {"scansynth-bids": (bids_app, [])}
    with mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"):
        for name, (run, words) in ways.items():
            told = io.StringIO()
            with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
                run([*words, "--help-all"])
            parts.append(f"## {name}\n\n```text\n{told.getvalue().strip()}\n```\n")
    return "\n".join(parts)


def reference(module):
    """The page of a module: its own words, then its names."""
    path = ROOT / "src" / Path(*module.split("."))
    if not path.is_dir():
        return f"# {module}\n\n::: {module}\n    options:\n      show_root_heading: false\n"
    tree = ast.parse((path / "__init__.py").read_text(encoding="utf-8"))
    (offered,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    places = {
        alias.name: f"{node.module}.{alias.name}"
        for node in checked.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("scansynth")
        for alias in node.names
    }
    more = [name for name in places if name not in offered]  # what functions return
    entries = [
        entry(places.get(name, f"{module}.{name}"))
        for name in sorted([*offered, *more], key=lambda name: name.isupper())
    ]
    entries += [entry(place) for place in RETURNED.get(module, ())]
    return "\n".join([f"# {module}\n", ast.get_docstring(tree) or "", "", *entries])


def entry(place):
    """A name's part of a page; of a table, without what is in it."""
    options = "    options:\n      show_attribute_values: false\n" if place.rpartition(".")[2].isupper() else ""
    return f"::: {place}\n{options}"
