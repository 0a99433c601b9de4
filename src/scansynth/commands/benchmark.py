"""`benchmark`: a leaderboard of methods on a task, all trained at equal cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scansynth.commands.console import Output, out, stage_bars
from scansynth.commands.next_step import to_translate
from scansynth.ranges import Count, Positive, Seed


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Train every method that fits a task at equal cost, measure all, and write one table; stopped, it goes on.

    The same command started several times, on machines that share the folder too, shares out trainings and drawings.
    More methods and seeds may be asked for later: what is there is kept.
    """

    cohort: Positional[Path]
    """A prepared cohort."""
    output: Output
    """Folder of runs, figures and the table."""
    minutes: Positive
    """Processor minutes of each training, its first stage included. On a GPU minutes."""
    target: str | None = None
    """Contrast to make; of two the second, by default."""
    source: tuple[str, ...] = ()
    """Contrasts to make it from; by default all others."""
    methods: tuple[str, ...] = ()
    """Recipes, or patterns of their names; by default '*_small'. That is each paper's small one; '*_small*' are its
    variants, too. Those that do not fit are listed with the reason."""
    seed: Annotated[tuple[Seed, ...], arg(aliases=["--seeds"])] = (0,)
    """A training of each recipe for each seed; from three on stars speak of methods."""
    samples: Count = 4
    """To draw of each test subject, for how often intervals hold."""
    defaults: bool = False
    """Take usual values of a contrast, with a warning, where a method reads TR or TE and a scan's are not known."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    dry_run: bool = False
    """Show what would be trained, for how long, and what does not fit. Write nothing."""

    def run(self) -> None:
        """Plan, or train, measure and print the table."""
        from scansynth.data.cohort import Cohort
        from scansynth.devices import find_device
        from scansynth.files import check_place
        from scansynth.leaderboard.plan import foresee, text
        from scansynth.leaderboard.request import Request, parse_recipes, parse_task
        from scansynth.leaderboard.table import best_run
        from scansynth.leaderboard.work import benchmark

        cohort = Cohort.open(self.cohort)
        sources, target = parse_task(cohort, self.source, self.target)
        check_place(self.output)
        request = Request(
            cohort=cohort,
            out=self.output,
            sources=sources,
            target=target,
            minutes=self.minutes,
            recipes=parse_recipes(self.methods),
            seeds=tuple(dict.fromkeys(self.seed)),
            samples=self.samples,
            defaults=self.defaults,
            device=find_device(self.device),
        )
        with stage_bars() as report:
            if self.dry_run:
                told = text(foresee(request, report))
            else:
                written = benchmark(request, report)
                told = written.read_text(encoding="utf-8")
        out.print(told, markup=False)
        if self.dry_run:
            out.print("Next: the same command without --dry-run", markup=False)
            return
        out.print(f"Report, for a browser: {self.output / 'evaluation' / 'report.html'}", markup=False)
        out.print(to_translate(best_run(request)), markup=False)
