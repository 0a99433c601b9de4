"""Where a run may be: a folder, an archive that `scansynth export` wrote, the Hugging Face Hub, or in this package.

Archives and the Hub's are unpacked once, into the user's cache: `$SCANSYNTH_CACHE`, or `scansynth` in
`$XDG_CACHE_HOME` (`~/.cache`).
"""

import logging
import os
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

from scansynth.data.raw.archives import is_archive, unpack
from scansynth.errors import InputError, why
from scansynth.files import LEADS_OUT, leading_out, place_beside, sha256_of
from scansynth.synthesis.card import FILE, read_card

log = logging.getLogger(__name__)

CACHE = "SCANSYNTH_CACHE"
STARTER = "starter"
"""As a --run: the run that comes with the package."""
HUB = "hf:/"
_HUB = re.compile(r"hf:/{1,2}([\w.-]+)/([\w.-]+?)(?:@([\w./-]+))?", re.ASCII)
_PARTS = ["*.json", "*.yaml", "*.safetensors", "*/current", "README.md"]
"""What is fetched of the Hub's files: data alone."""


def find_run(place: str | Path) -> Path:
    """The folder of a run, wherever it is.

    Args:
        place: a folder; a zip archive of an exported run; `hf://owner/name` or `hf://owner/name@revision`, which is
            fetched (extra `hub`) and said; or `starter`, where no folder has that name.

    Raises:
        InputError: for an archive of something else, a place on the Hub that cannot be read, or without the extra.
    """
    if str(place).startswith(HUB):
        return _from_hub(str(place))
    place = Path(place)
    if str(place) == STARTER and not place.exists():
        return Path(__file__).parents[1] / STARTER
    return _unpacked(place) if is_archive(place) else place


def checked(place: str | Path) -> Path:
    """The folder of a run, as `find_run`, held against its card where it was exported: for whoever loads no `Run`.

    Raises:
        InputError: as `find_run` and `read_card`, or for a link that leads out of it.
    """
    folder = find_run(place)
    for link in leading_out(folder):
        raise InputError(f"{link}: {LEADS_OUT}")
    read_card(folder)
    return folder


def cache_folder() -> Path:
    """Where unpacked runs are kept."""
    if own := os.environ.get(CACHE):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scansynth"


def _unpacked(archive: Path) -> Path:
    """The run that an archive holds; it is checked against its card whenever it is loaded."""
    if not archive.is_file():
        raise InputError(f"{archive} does not exist: check the path")
    kept = cache_folder() / "runs" / sha256_of(archive)[:32]
    if not kept.is_dir():
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = place_beside(kept)
        try:
            folder = beside / archive.stem
            folder.mkdir(parents=True)
            unpack(archive, folder)
            within = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
            if len(within) == 1 and within[0].is_dir():  # archived as a folder, as file managers do
                inner = beside / f".{archive.stem}"
                within[0].rename(inner)
                shutil.rmtree(folder)
                inner.rename(folder)
            if not (folder / FILE).is_file():
                raise InputError(f"{archive}: no exported run (it has no {FILE}): `scansynth export RUN -o FILE.zip` "
                                 "writes such archives")  # fmt: skip
            beside.rename(kept)
        except OSError as error:
            if not kept.is_dir():  # another command may have been first
                raise InputError(f"{archive} cannot be unpacked into {kept.parent} ({error.strerror}): set {CACHE} to "
                                 "another folder") from error  # fmt: skip
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return kept / archive.stem if (kept / archive.stem).is_dir() else next(kept.iterdir())


def _from_hub(place: str) -> Path:
    """A run of the Hugging Face Hub, at a revision; what is fetched is said."""
    found = _HUB.fullmatch(place)
    if not found:
        raise InputError(f"{place}: write hf://owner/name, or hf://owner/name@revision")
    owner, name, revision = found.groups()
    kept = cache_folder() / "runs" / "hub"
    if revision and re.fullmatch(r"[0-9a-f]{40}", revision) and (kept / revision / name / FILE).is_file():
        return kept / revision / name
    try:
        hub: Any = import_module("huggingface_hub")
    except ImportError:
        raise InputError(f"{place}: fetching needs pip install 'scansynth[hub]'") from None
    try:
        commit = str(hub.model_info(f"{owner}/{name}", revision=revision).sha)
        folder = kept / commit / name
        if not (folder / FILE).is_file():
            log.info("%s: fetching revision %s from huggingface.co into %s", place, commit, folder)
            hub.snapshot_download(f"{owner}/{name}", revision=commit, local_dir=folder, allow_patterns=_PARTS)
    except Exception as error:  # of the network, the Hub and the disk; the library has many
        raise InputError(f"{place} cannot be fetched ({why(error)}): fetch it yourself, and give the folder") from error
    if not (folder / FILE).is_file():
        raise InputError(f"{place}: no exported run (it has no {FILE})")
    if not revision:
        log.info("%s is at revision %s: hf://%s/%s@%s names it for good", place, commit, owner, name, commit)
    return folder
