"""The command line: `scansynth VERB …`. The verbs stand in `commands/`.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 128 and a signal's number: stopped by it.
"""

import errno
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

import scansynth
from scansynth.commands.app import App
from scansynth.commands.benchmark import Benchmark
from scansynth.commands.bids_app import BidsApp
from scansynth.commands.calibrate import Calibrate
from scansynth.commands.completion import Completion
from scansynth.commands.console import LineHandler, err, out
from scansynth.commands.distill import Distill
from scansynth.commands.evaluate import Compare, Conventions, Evaluate
from scansynth.commands.export import Export
from scansynth.commands.generate import Generate
from scansynth.commands.help import parse
from scansynth.commands.inspect import Inspect
from scansynth.commands.measure import Measure
from scansynth.commands.methods import Methods
from scansynth.commands.plan import Plan
from scansynth.commands.prepare import Prepare
from scansynth.commands.reproduce import Reproduce
from scansynth.commands.run import Pipeline
from scansynth.commands.runs import Runs
from scansynth.commands.start import Demo
from scansynth.commands.train import Train, parse_train
from scansynth.commands.translate import Translate
from scansynth.errors import InputError, StoppedError, ToldElsewhereError, out_of_memory, why
from scansynth.ranges import check_ranges

VERBS = {
    "demo": Demo,
    "run": Pipeline,
    "app": App,
    "methods": Methods,
    "prepare": Prepare,
    "plan": Plan,
    "train": Train,
    "distill": Distill,
    "calibrate": Calibrate,
    "translate": Translate,
    "generate": Generate,
    "evaluate": Evaluate,
    "compare": Compare,
    "benchmark": Benchmark,
    "measure": Measure,
    "reproduce": Reproduce,
    "runs": Runs,
    "inspect": Inspect,
    "export": Export,
    "completion": Completion,
}

WAYS_ON = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room: "),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its rights, or choose another place; "),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "move what is in the way, or choose another place; "),
    errno.ENAMETOOLONG: "choose a shorter name; ",
}
"""What to do about an error of the system, by its number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    typed, arguments = arguments is None, list(sys.argv[1:] if arguments is None else arguments)
    _log()
    if arguments[:1] == ["--version"]:
        out.print(scansynth.__version__)
        return 0
    if not arguments or arguments[0] not in VERBS:
        out.print("scansynth makes the medical scans nobody acquired. Verbs:\n")
        for name, verb in VERBS.items():
            out.print(f"  {name:10} {(verb.__doc__ or '').splitlines()[0]}", markup=False)
        out.print("\nscansynth VERB --help tells more.")
        if arguments and arguments[0] not in ("-h", "--help"):
            err.print(f"error: no verb {arguments[0]!r}", markup=False)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, rest = arguments[0], arguments[1:]

    def start() -> None:
        if verb == "train":
            command: Any = parse_train(rest)
        elif verb == "evaluate" and "--spread" in rest:
            files = [argument for argument in rest if argument != "--spread"]
            command = parse("evaluate --spread", Conventions, files, "scansynth evaluate --spread")
        else:
            command = parse(verb, VERBS[verb], rest, f"scansynth {verb}")
        check_ranges(command, flags="--")
        if not typed and getattr(command, "devices", 1) > 1:
            raise InputError("several --devices repeat the command line: call `scansynth`, not its main() from Python")
        command.start() if verb == "train" else command.run()

    return _ended(start)


def bids_app(arguments: Sequence[str] | None = None) -> int:
    """Run `scansynth-bids`; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _log()
    if arguments[:1] == ["--version"]:
        out.print(scansynth.__version__)
        return 0
    return _ended(lambda: parse("scansynth-bids", BidsApp, arguments, "scansynth-bids").run())


def _log() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LineHandler()])
    logging.getLogger("scansynth").setLevel(logging.INFO)


def _ended(start: Callable[[], None]) -> int:
    """Run a command; returns its exit code."""
    try:
        start()
    except ToldElsewhereError:
        return 1
    except InputError as error:
        err.print(f"error: {error}", markup=False)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        err.print(
            f"error: memory is out ({why(error)}): end other programs, or take smaller volumes, batches or networks; "
            "what was finished is kept, the same command goes on", markup=False,
        )  # fmt: skip
        return 1
    except OSError as error:  # a full disk, a folder that may not be written
        if error.errno is None:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        err.print(f"error: {what}; {WAYS_ON.get(error.errno, '')}what was finished is kept, the same command goes on")
        return 1
    except StoppedError as stop:
        err.print(f"{stop}", markup=False)
        return 128 + stop.by
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
