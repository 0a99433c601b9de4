"""What mkdocs is told beside mkdocs.yml: the pages that are made of the repository's own files.

README, CONTRIBUTING and CHANGELOG become pages; links to files that are no page become plain text. Each package whose
names are stable gets a page of its docstrings: those in its `__all__`, or all that a module has.
"""

import ast
import re
from pathlib import Path

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
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=linked(text)))
    for module in MODULES:
        content = reference(module)
        files.append(File.generated(config, f"api/{module.split('.')[-1]}.md", content=content))
    return files


def linked(text):
    """A page of the root with its links as they are from `docs/`."""

    def mend(link):
        picture, words, target = link.groups()
        if "://" in target or target.startswith("#"):
            return link[0]
        path = target.partition("#")[0]
        if path in PAGES:
            return f"[{words}]({PAGES[path]})"
        if path.startswith("docs/"):
            return f"{picture}[{words}]({target.removeprefix('docs/')})"
        return words

    return _LINK.sub(mend, text)


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
