"""What `prepare` does with each kind of file in tests/files: taken right, named, refused, or silently wrong.

    python benchmarks/kinds_of_files.py --name after -o benchmarks/results/kinds-of-files.json

Another version's Python, with its own scansynth, adds its column under another name to the same file.
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from files.kinds import KINDS, Kind, Named, Refused, Right, missing_words
from scansynth.cli import main as scansynth
from scansynth.data.cohort import Cohort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the column")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    stored = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for kind in KINDS.values():
        if kind.verb != "prepare":
            continue
        wanted = type(kind.expect).__name__.lower()
        row = stored.setdefault(kind.name, {"found": kind.found, "wanted": wanted})
        if arguments.name not in row:  # stopped, the same command goes on
            row[arguments.name] = outcome(kind)
            print(kind.name, row, flush=True)
            arguments.output.write_text(json.dumps(stored, indent=1) + "\n")


def outcome(kind: Kind) -> str:
    """In words."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        kind.make(folder / "in")
        try:
            code, said = prepare(kind, folder)
        except (Exception, SystemExit) as error:
            return f"crash: {type(error).__name__}"
        if code:
            unsaid = missing_words(kind.expect.words, said) if isinstance(kind.expect, Refused) else []
            if not isinstance(kind.expect, Refused):
                return "refused, though it can be taken"
            return "refused, the reason unsaid" if unsaid else "refused"
        if isinstance(kind.expect, Refused):
            return "silent and wrong"
        wrong = ""
        if kind.expect.check:
            try:
                kind.expect.check(Cohort.open(folder / "out"))
            except Exception:  # an assertion of the check, or a cohort that lacks what it looks for
                wrong = "wrong"
        if isinstance(kind.expect, Named) and missing_words(kind.expect.words, said):
            return "silent and wrong" if wrong else "silent"
        if wrong:
            return "named and wrong" if isinstance(kind.expect, Named) else "silent and wrong"
        if isinstance(kind.expect, Right):
            return "right, with a needless warning" if kind.expect.quiet and "warning" in said.lower() else "right"
        return "named"


def prepare(kind: Kind, folder: Path) -> tuple[int, str]:
    """Exit code, and all that was said."""
    words = []
    for name, value in kind.options.items():
        if name == "tissue":
            words += ["--tissue", "segment"]
        else:
            words += [f"--{name}", *map(str, [value] if isinstance(value, str) else value)]
    data = folder / "in" / kind.data if kind.data else folder / "in"
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = scansynth(["prepare", "-i", str(data), "-o", str(folder / "out"), *words])
    finally:
        logging.getLogger().removeHandler(handler)
    return code, said.getvalue()


if __name__ == "__main__":
    main()
