"""`reproduce`: a table of a paper, beside the paper's figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from scansynth.commands.console import out, stage_bars
from scansynth.commands.next_step import command
from scansynth.errors import InputError
from scansynth.ranges import Positive, Seed


@dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Redo a table of a paper and put the paper's figures beside; the same command again goes on."""

    name: Annotated[Positional[str], arg(metavar="NAME")] = ""
    """Which table (--list)."""
    data: tuple[str, ...] = ()
    """The scans (BIDS, BraTS, IXI or a table of paths): FOLDER, or NAME=FOLDER for each data set of a table."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Folder to write into; by default reproduction/NAME (reproduction/NAME-small)."""
    list: bool = False
    """List the tables, which of their methods exist, and whether the figures are transcribed."""
    dry_run: bool = False
    """Show every run with steps, hours and memory on this machine, and the paper's figures; write nothing."""
    small: bool = False
    """Small recipes on 64×80 slices, on phantoms where no --data is given: the whole way on a laptop."""
    minutes: Positive | None = None
    """With --small: training time of a run, by default as many steps as its recipe has."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
    """Seed of phantoms, splits, weights and noise."""

    def run(self) -> None:
        """List, plan or carry out."""
        from scansynth.devices import find_device
        from scansynth.reproduction.forecast import foresee, listing, text
        from scansynth.reproduction.request import Request, parse_data
        from scansynth.reproduction.run import reproduce
        from scansynth.reproduction.tables import TABLES, find_table

        if self.list:
            out.print(f"{listing(TABLES)}\nNext: scansynth reproduce NAME --dry-run", markup=False)
            return
        if not self.name:
            raise InputError(f"reproduce: name a table ({', '.join(TABLES)}), or --list")
        table = find_table(self.name)
        folder = self.output or Path("reproduction") / (table.name + ("-small" if self.small else ""))
        request = Request(
            table=table,
            out=folder,
            data=parse_data(table, self.data),
            small=self.small,
            minutes=self.minutes,
            seed=self.seed,
        )
        device = find_device(self.device)
        if self.dry_run:
            with stage_bars() as report:
                foreseen = foresee(request, device, report)
            out.print(f"{text(foreseen)}\nNext: the same command without --dry-run", markup=False)
            return
        with stage_bars() as report:
            written = reproduce(request, device, report)
        out.print(written.read_text(encoding="utf-8"), markup=False)
        out.print(f"Tables: {written.parent}", markup=False)
        if self.small:
            data = ["--data", *(self.data or ["FOLDER"])]
            out.print(f"Next, at the paper's size: {command('reproduce', self.name, *data)}", markup=False)
        else:
            out.print(f"Next: open the reports in {written.parent / 'evaluation'}", markup=False)
