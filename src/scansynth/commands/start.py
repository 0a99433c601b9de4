"""`demo`: a first look."""

from dataclasses import dataclass
from pathlib import Path

from scansynth.commands.console import Output, out, stage_bars
from scansynth.errors import InputError
from scansynth.ranges import Positive, Seed


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train and translate on phantom scans (or --data) in minutes, with tables and pictures."""

    output: Output = Path("demo")
    """Folder to write into."""
    data: Path | None = None
    """Your own scans (BIDS, BraTS, IXI or a table) instead of phantoms."""
    contrasts: tuple[str, str] = ("T1w", "T2w")
    """The two contrasts to translate between."""
    minutes: Positive | None = None
    """Training time in all, in place of the demo's own number of steps."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
    """Seed of phantoms, splits, weights and noise."""

    def run(self) -> None:
        """Run the demo and print its table."""
        from scansynth.data.contrasts import standard_name
        from scansynth.demo import announcement, demo
        from scansynth.devices import find_device

        first, second = map(standard_name, self.contrasts)
        device = find_device(self.device)
        out.print(announcement(self.output, device, self.data, (first, second), self.minutes), markup=False)
        with stage_bars() as report:
            outcome = demo(
                self.output,
                device,
                data=self.data,
                contrasts=(first, second),
                minutes=self.minutes,
                seed=self.seed,
                report=report,
            )
        out.print((self.output / "evaluation" / "table.md").read_text(), markup=False)
        out.print(f"Done in {outcome.seconds / 60:.1f} minutes. Tables and pictures: {self.output / 'evaluation'}")
        out.print(f"Report, for a browser: {self.output / 'evaluation' / 'report.html'}")
        out.print(f"Synthetic NIfTI files: {self.output / 'translated'}. Synthetic images are not scans.")
        if not outcome.beats_copied_source:
            if self.data or self.minutes:
                raise InputError("a run is not better than its copied source: give it more --minutes")
            raise InputError(
                "a run is not better than its copied source, though the demo's steps are enough on every machine: "
                f"please report it with {self.output / 'runs'}/*/metrics.jsonl and environment.json"
            )
