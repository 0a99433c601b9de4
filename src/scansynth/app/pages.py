"""The pages, and what their buttons do: each starts a command, and none does a command's work itself."""

import re
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import scansynth
from scansynth.app import jobs, look
from scansynth.app.server import SANDBOX, Answer, Asked, safe_name, within
from scansynth.commands.next_step import command
from scansynth.data.contrasts import standard_name
from scansynth.data.planes import BANNER
from scansynth.data.readers import ending_of
from scansynth.data.subject import stem_of
from scansynth.errors import InputError
from scansynth.training.listing import ListedRun, list_runs

HERE = Path(__file__).parent
STYLES = (HERE.parent / "report" / "report.css", HERE / "app.css")
SCRIPTS = {"/app.js": HERE / "app.js"}
SUBJECTS = 200
"""Subjects of a folder that are shown."""
MADE = 200
"""Images that are listed."""
PICTURES = 6
"""Newest pictures of a training's validation that are shown."""


class Pages:
    """What is answered for a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path):
        self.root = root.resolve()
        self.environment = Environment(
            loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self.environment.globals |= {"banner": BANNER, "version": scansynth.__version__, "root": str(self.root)}
        self.environment.filters |= {
            "url": partial(quote, safe=""), "path": partial(quote, safe="/"), "size": _size, "time": _time,
        }  # fmt: skip

    def __call__(self, asked: Asked) -> Answer:
        """Answer a request."""
        shown: dict[str, Callable[[Asked], Answer]] = {
            "/": self.home, "/data": self.data, "/run": self.run, "/translate": self.translate, "/work": self.work,
            "/work.json": self.work_state, "/view": self.view, "/reports": self.reports, "/small": self.small,
            "/curves": self.curves, "/style.css": self.style, "/error": self.error,
        }  # fmt: skip
        done: dict[str, Callable[[Asked], Answer]] = {
            "/start": self.start, "/make": self.make, "/stop": self.stop, "/again": self.again,
        }  # fmt: skip
        if asked.method == "GET" and asked.path in SCRIPTS:
            return Answer(content=SCRIPTS[asked.path], kind="text/javascript; charset=utf-8")
        found = (shown if asked.method == "GET" else done).get(asked.path)
        if found is None:
            return self.error(Asked(method="GET", path="/error", query={"message": "no such page", "status": "404"}))
        return found(asked)

    # ---- what is shown

    def home(self, asked: Asked) -> Answer:
        """A folder, what is in it, and what is at work."""
        folder = self._folder(asked)
        at, kind = self._name(folder), look.kind_of(folder)
        steps = [("", self.root.name or str(self.root))]
        steps += [("/".join(at.split("/")[: number + 1]), part) for number, part in enumerate(at.split("/")) if part]
        return self._page(
            "home.html.j2", title="Folder", steps=steps, at=at, kind=kind,
            entries=[(self._name(one.path), one) for one in look.entries(folder)],
            runs=[(self._name(run.folder), run) for run in list_runs(folder)],
            made=[self._name(path) for path in look.images_made(folder)[:MADE]] if kind == "made" else [],
            jobs=jobs.jobs(self.root)[:20],
        )  # fmt: skip

    def data(self, asked: Asked) -> Answer:
        """What was found in a folder of scans."""
        folder = self._folder(asked)
        try:
            listing, problem = look.listing_of(folder), None
        except InputError as error:
            listing, problem = None, str(error)
        subjects, contrasts = (listing.subjects, listing.contrasts) if listing else ((), ())
        counts = [(name, sum(name in subject.scans for subject in subjects)) for name in contrasts]
        return self._page(
            "data.html.j2", title="Scans", at=self._name(folder), listing=listing, problem=problem, counts=counts,
            shown=[
                (subject, [(name, self._name_if_within(subject.scans.get(name))) for name, _ in counts])
                for subject in subjects[:SUBJECTS]
            ],
            left=max(0, len(subjects) - SUBJECTS),
            not_taken=[(str(one.path), one.why) for one in listing.not_taken] if listing else [],
            output=self._free(f"{folder.name}-filled"),
        )  # fmt: skip

    def run(self, asked: Asked) -> Answer:
        """A run: what it is, its curves, pictures and reports."""
        folder = self._folder(asked)
        found = [one for one in list_runs(folder) if one.folder == folder]
        if not found:
            raise InputError(f"{self._name(folder)}: no run")
        at = self._name(folder)
        return self._page("run.html.j2", title=folder.name, at=at, run=found[0], training=self._watched(folder))

    def translate(self, asked: Asked) -> Answer:
        """Places to drop a subject's files on."""
        run = self._run(asked.query.get("run", ""))
        return self._page(
            "translate.html.j2", title="Translate", at=self._name(run.folder), run=run, group=secrets.token_hex(8),
            targets=_targets(run),
        )  # fmt: skip

    def work(self, asked: Asked) -> Answer:
        """A command that was started."""
        job = jobs.read(self.root, asked.query.get("id", ""))
        return self._page("work.html.j2", title=job.title, job=job, **self._state(job))

    def work_state(self, asked: Asked) -> Answer:
        """The same, as its page asks for it again and again: the part that changes, as HTML."""
        job = jobs.read(self.root, asked.query.get("id", ""))
        part = self.environment.get_template("work_state.html.j2").render(job=job, **self._state(job))
        return Answer.of({"state": job.state, "html": part})

    def view(self, asked: Asked) -> Answer:
        """The viewer of an image that was made: source, synthesis, uncertainty, truth."""
        from scansynth.report.viewer import view_page

        image = within(self.root, asked.query.get("at", ""))
        job = next((job for job in jobs.jobs(self.root) if image == job.output or job.output in image.parents), None)
        page = view_page(image, self._sources(image, job), Path(job.truth) if job and job.truth else None)
        # Its scripts stand in it, known by their hashes: its own policy is stricter than this server's.
        return Answer(content=page.encode(), headers={"Content-Security-Policy": SANDBOX})

    def reports(self, asked: Asked) -> Answer:
        """All pages that commands have written."""
        pages = [(self._name(path), path.stat().st_mtime) for path in look.reports(self.root)]
        return self._page("reports.html.j2", title="Reports", pages=pages)

    def small(self, asked: Asked) -> Answer:
        """Three planes of a scan."""
        path = within(self.root, asked.query.get("at", ""))
        if not ending_of(path.name):
            raise InputError(f"{path.name}: no image file")
        kept = {"Cache-Control": "private, max-age=60"}
        return Answer(content=look.small_picture(path), kind="image/png", headers=kept)

    def curves(self, asked: Asked) -> Answer:
        """Training curves of a run, SVG."""
        from scansynth.report.curves import loss_plot, read_curves, validation_plot

        folder = self._folder(asked)
        curves = {folder.name: read_curves(folder)}
        plot = (validation_plot if asked.query.get("of") == "validation" else loss_plot)(curves)
        if plot is None:
            raise InputError("no curve yet")
        return Answer(content=plot.encode(), kind="image/svg+xml", headers={"Content-Security-Policy": SANDBOX})

    def style(self, asked: Asked) -> Answer:
        """The style of all pages."""
        style = "\n".join(path.read_text("utf-8") for path in STYLES)
        return Answer(content=style.encode(), kind="text/css; charset=utf-8")

    def error(self, asked: Asked) -> Answer:
        """What went wrong."""
        page = self._page("error.html.j2", title="This did not work", message=asked.query["message"])
        return Answer(content=page.content, status=int(asked.query["status"]))

    # ---- what is done

    def start(self, asked: Asked) -> Answer:
        """Plan or start `scansynth run` on a folder of scans."""
        data = within(self.root, _text(asked, "at"))
        output = self._new(_text(asked, "output"))
        targets = [standard_name(one) for one in asked.body.get("targets", []) if isinstance(one, str)]
        if not targets:
            raise InputError("choose at least one contrast to make")
        try:
            hours = float(_text(asked, "hours"))
        except ValueError:
            raise InputError("write the hours as a number") from None
        words = ["run", "-i", str(data), "-o", str(output), "--hours", f"{hours:g}"]
        words += [word for target in targets for word in ("--target", target)]
        plan = asked.body.get("plan") is True
        made = ", ".join(targets)
        job = jobs.start(
            self.root, [*words, "--dry-run"] if plan else words,
            title=f"Plan of {made}" if plan else f"{made} of {data.name}",
            output=output.with_name(f"{output.name}.yaml") if plan else output,
        )  # fmt: skip
        return _go(job)

    def make(self, asked: Asked) -> Answer:
        """Translate the files that were dropped."""
        run, group = self._run(_text(asked, "run")), _text(asked, "group")
        target = standard_name(_text(asked, "target"))
        if not re.fullmatch(r"[0-9a-f]{16}", group):
            raise InputError("drop the files on the page")
        folder = self.root / jobs.FOLDER / jobs.UPLOADS / group
        sources, truth = {}, ""
        for slot, name in asked.body.get("files", {}).items():
            path = folder / safe_name(slot) / safe_name(str(name))
            if not path.is_file():
                raise InputError(f"{slot}: the file did not arrive; drop it again")
            if slot == "truth":
                truth = str(path)
            else:
                sources[standard_name(slot)] = str(path)
        if not sources:
            raise InputError("drop at least one scan")
        samples = asked.body.get("samples", 1)
        if not isinstance(samples, int) or not 1 <= samples <= 100:
            raise InputError("draw 1 to 100 samples")
        stem = stem_of(Path(next(iter(sources.values()))).name)
        output = self.root / "translated" / group / f"{stem}_{target}_synthetic.nii.gz"
        words = ["translate", "--run", str(run.folder), "--target", target, "-o", str(output)]
        words += ["--page", str(output.with_name(f"{stem}_{target}_synthetic.html"))]
        words += [word for name, path in sources.items() for word in ("--source", f"{name}={path}")]
        words += ["--samples", str(samples), "--moments-only"] if samples > 1 else []
        job = jobs.start(
            self.root, words, title=f"{target} of {stem}", output=output, sources=sources, truth=truth
        )  # fmt: skip
        return _go(job)

    def stop(self, asked: Asked) -> Answer:
        """Ask a command to stop."""
        job = jobs.read(self.root, _text(asked, "id"))
        job.stop()
        return _go(job)

    def again(self, asked: Asked) -> Answer:
        """Let a command go on; or, of a plan, do what was planned."""
        job = jobs.read(self.root, _text(asked, "id"))
        if "--dry-run" in job.words:
            words = [word for word in job.words if word != "--dry-run"]
            output = job.output.with_suffix("")
            return _go(jobs.start(self.root, words, title=job.title.replace("Plan of ", "", 1), output=output))
        job.again()
        return _go(job)

    # ---- help

    def _page(self, template: str, **values: Any) -> Answer:
        return Answer(content=self.environment.get_template(template).render(**values).encode())

    def _folder(self, asked: Asked) -> Path:
        folder = within(self.root, asked.query.get("at", ""))
        if not folder.is_dir():
            raise InputError(f"{self._name(folder)}: no folder")
        return folder

    def _name(self, path: Path) -> str:
        """A path as addresses have it: from the folder on."""
        name = path.relative_to(self.root).as_posix()
        return "" if name == "." else name

    def _name_if_within(self, path: Path | None) -> str | None:
        """The same of a file, which may be a link to somewhere else."""
        return self._name(path) if path and path.is_relative_to(self.root) else None

    def _run(self, name: str) -> ListedRun:
        folder = within(self.root, name)
        found = [one for one in list_runs(folder) if one.folder == folder] if folder.is_dir() else []
        if not found or found[0].fault:
            raise InputError(f"{name}: {found[0].fault if found else 'no run'}")
        return found[0]

    def _new(self, name: str) -> Path:
        """A place for an output, which need not be there."""
        path = (self.root / name.strip()).resolve()
        if not name.strip() or path == self.root or not path.is_relative_to(self.root):
            raise InputError(f"write into a folder of {self.root}: give it a name")
        return path

    def _free(self, name: str) -> str:
        """A name that is not taken."""
        count = 2
        free = name
        while (self.root / free).exists():
            free, count = f"{name}-{count}", count + 1
        return free

    def _state(self, job: jobs.Job) -> dict[str, Any]:
        """What the page of a command shows of it: state, output, what it trains and what it has made."""
        training = job.output / "run"
        made = look.images_made(job.output) if job.output.exists() else []
        pages = [path for path in (job.output / "report.html", job.output.with_name(f"{stem_of(job.output.name)}.html"))
                 if path.is_file()]  # fmt: skip
        return {
            "state": job.state, "log": job.log, "command": command(*job.words), "is_plan": "--dry-run" in job.words,
            "made": [self._name(path) for path in made[:MADE]], "more": max(0, len(made) - MADE),
            "pages": [self._name(path) for path in pages],
            "training": self._watched(training) if training.is_dir() else None,
        }  # fmt: skip

    def _watched(self, run: Path) -> dict[str, Any]:
        """Curves and pictures of a training."""
        metrics = run / "metrics.jsonl"
        pictures = sorted((run / "validation").glob("*.png"), key=lambda path: path.stat().st_mtime, reverse=True)
        lines = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
        return {
            "of": self._name(run), "lines": lines,
            "validated": metrics.is_file() and b'"validation/' in metrics.read_bytes(),
            "pictures": [self._name(path) for path in pictures[:PICTURES]],
        }  # fmt: skip

    def _sources(self, image: Path, job: jobs.Job | None) -> dict[str, Path]:
        """What an image was made of, as far as it is there: dropped files, or by their places in the data."""
        from scansynth.data.subject import sidecar_of
        from scansynth.synthesis.image import content_of

        if job and job.sources:
            return {name: Path(path) for name, path in job.sources.items() if ending_of(path)}
        told = content_of(sidecar_of(image)).get("sources", {})
        data = Path(job.words[job.words.index("-i") + 1]) if job and "-i" in job.words else None
        found = {name: (data / place).resolve() for name, place in told.items()} if data else {}
        return {name: path for name, path in found.items() if path.is_relative_to(self.root) and path.is_file()}


def _targets(run: ListedRun) -> list[str]:
    """What a run makes: its method says so, which is built for that once."""
    settings = run.folder / "config.yaml"
    return list(_built_targets(settings, settings.stat().st_mtime_ns))


@lru_cache(maxsize=64)
def _built_targets(settings: Path, _changed: int) -> tuple[str, ...]:
    from scansynth.config import read_yaml
    from scansynth.training.parts import make_method

    return make_method(read_yaml(settings)).targets


def _text(asked: Asked, name: str) -> str:
    value = asked.body.get(name)
    if not isinstance(value, str | int | float):
        raise InputError(f"{name} is missing")
    return str(value)


def _go(job: jobs.Job) -> Answer:
    return Answer.of({"go": f"/work?id={quote(job.name)}"})


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
