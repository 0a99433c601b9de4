"""Seconds until the command line has answered, beside a Python that does nothing.

    python benchmarks/start.py -o benchmarks/results/start.json

Each answer comes from a process of its own. They take turns, round after round, so that other work on the machine
strikes all alike; the first round, which reads the files from disk, does not count. Beside the seconds by the clock
stand those that processors worked, and the load of the machine at the start: on busy processors the clock tells of the
others. The budget is kept by tests/test_start.py, by what is imported.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from measuring import save

NOTHING = "python -c pass"
COMMANDS = {
    NOTHING: ["-c", "pass"],
    "import scansynth": ["-c", "import scansynth"],
    "scansynth --help": ["-m", "scansynth", "--help"],
    "scansynth methods": ["-m", "scansynth", "methods"],
    "scansynth prepare --help": ["-m", "scansynth", "prepare", "--help"],
    "scansynth methods --recipes syndiff": ["-m", "scansynth", "methods", "--recipes", "syndiff"],
}
BUDGET = {"scansynth --help": 0.5, "scansynth methods": 1.0}
"""Seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="rounds that count")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    worked: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(arguments.repeats + 1):
        for name, words in COMMANDS.items():
            begun, before = time.perf_counter(), processor_seconds()
            subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
                worked[name].append(processor_seconds() - before)
    rows = []
    for name, words in COMMANDS.items():
        median = statistics.median(seconds[name])
        row = {
            "command": name,
            "seconds": round(median, 3),
            "least": round(min(seconds[name]), 3),
            "most": round(max(seconds[name]), 3),
            "processor seconds": round(statistics.median(worked[name]), 3),
            "above Python": round(median - statistics.median(seconds[NOTHING]), 3),
            "budget": BUDGET.get(name),
            "modules": imported(words),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    save(arguments.output, {"repeats": arguments.repeats, "load": load, "results": rows})


def processor_seconds() -> float:
    """Of all processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def imported(words: list[str]) -> int:
    """How many modules a command imports."""
    command = [sys.executable, "-X", "importtime", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(line.startswith("import time:") for line in told.splitlines()) - 1  # without the head of the table


if __name__ == "__main__":
    main()
