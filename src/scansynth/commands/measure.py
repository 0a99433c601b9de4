"""`measure`: sets of generated volumes beside real ones."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from scansynth.commands.console import Output, bars, out
from scansynth.ranges import Seed


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure sets of generated volumes: variety, distance to real ones, memorised subjects, stage borders."""

    sets: Annotated[tuple[Path, ...], arg(name="set")]
    """One folder of volumes or several, of one number each; the folder's name stands in the tables."""
    cohort: Path
    """The prepared cohort that the generators were trained on; its val and test subjects are what is compared with."""
    external: Path | None = None
    """People from elsewhere, prepared with --like a run of that cohort: sets are held against these, the held-out
    volumes too, so that it is seen how far apart the places are."""
    output: Output
    """Folder of tables, pictures and the report."""
    contrast: str | None = None
    """What the volumes show; by default what their sidecars say."""
    extractor: str = "derivative-pyramid-1"
    """Features for Fréchet distances and memorisation: derivative-pyramid-1 (no download) or inception-v3."""
    weights: Path | None = None
    """Weights of inception-v3, a safetensors file (keys: scansynth.sets.inception)."""
    memorisation: bool = True
    """Search for memorised training volumes: minutes for ten volumes, hours for 500 at 128×128×128."""
    seed: Seed = 0
    """Seed of the pairs and volumes that are drawn."""

    def run(self) -> None:
        """Measure and print the tables."""
        from scansynth.data.cohort import Cohort
        from scansynth.report.set_report import write_set_report
        from scansynth.sets.features import find_extractor
        from scansynth.sets.measure import measure_generated

        extractor = find_extractor(self.extractor, self.weights)
        with bars() as move:
            found = measure_generated(
                self.sets,
                Cohort.open(self.cohort),
                self.output,
                contrast=self.contrast,
                external=Cohort.open(self.external) if self.external else None,
                extractor=extractor,
                memorisation=self.memorisation,
                seed=self.seed,
                report=partial(move, "measuring"),
            )
        for name in ("sets.md", "coherence.md"):
            out.print((self.output / name).read_text("utf-8"), markup=False)
        for label, one in found.memorisation.items():
            out.print(f"{label}: {one.verdict()}", markup=False)
        out.print(f"Report, for a browser: {write_set_report(found, self.output)}", markup=False)
        pairs = "look at the closest pairs in the report" if self.memorisation else "the same without --no-memorisation"
        out.print(f"Next: {pairs}, before a volume is shared")
