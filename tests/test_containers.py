"""The container: what its file says, that what it copies builds, and the program where a container would have it run.

Nothing here builds an image. The program runs as it would in one: another user, no network, a root that is read-only,
and only /tmp and one folder to write to.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

import scansynth
from scansynth.training.train import train

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "containers"


def instructions():
    """(Instruction, its text) of the file, lines that go on joined."""
    text = "\n".join(line for line in (FOLDER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def of_final(name):
    """Texts of an instruction, of the last stage alone."""
    told = instructions()
    begin = max(place for place, (instruction, _) in enumerate(told) if instruction == "FROM")
    return [text for instruction, text in told[begin:] if instruction == name]


def environment():
    """What the image sets."""
    return dict(word.split("=", 1) for text in of_final("ENV") for word in shlex.split(text))


def copied():
    """What is copied from the checkout."""
    return [
        source
        for instruction, text in instructions()
        if instruction == "COPY" and not text.startswith("--from")
        for source in text.split()[:-1]
    ]


def test_the_image_is_of_the_slim_python_and_of_no_root():
    assert {text.split()[0] for name, text in instructions() if name == "FROM"} == {"python:3.11-slim"}
    (user,) = of_final("USER")
    assert all(int(number) > 0 for number in user.split(":"))
    assert [json.loads(text) for text in of_final("ENTRYPOINT")] == [["scansynth"]]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"scansynth", "scansynth-bids"} <= scripts.keys()
    assert environment()["PATH"].split(":")[0] == "/opt/scansynth/bin"
    assert of_final("WORKDIR") == ["/data"]


def test_labels_are_those_of_the_project():
    labels = dict(word.split("=", 1) for text in of_final("LABEL") for word in shlex.split(text))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.title"] == project["name"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.description"].startswith(project["description"])


def test_all_that_is_kept_is_kept_in_tmp():
    places = {name: value for name, value in environment().items() if value.startswith("/") and name != "PATH"}
    assert {"HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"} <= places.keys()
    assert all(Path(value).is_relative_to("/tmp") for value in places.values())
    assert not any(name == "VOLUME" for name, _ in instructions())


def test_the_steps_are_of_a_shell_and_name_what_there_is():
    steps = [text for name, text in instructions() if name == "RUN"]
    for step in steps:
        done = subprocess.run(["sh", "-n", "-c", step], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), step
    installs = [step for step in steps if " install " in step]
    assert len(installs) == 2
    assert "https://download.pytorch.org/whl/cpu" in installs[0]
    assert "-c constraints.txt" in installs[1]
    extras = next(text for name, text in instructions() if name == "ARG" and text.startswith("EXTRAS=")).split("=")[1]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= known.keys() - {"dev", "docs"}


@pytest.mark.parametrize(
    ("build", "index"), [("cpu", ["--index-url", "https://download.pytorch.org/whl/cpu"]), ("cuda", [])]
)
def test_the_build_of_pytorch_is_the_pinned_one_from_its_index(tmp_path, build, index):
    (step,) = (text for name, text in instructions() if name == "RUN" and "pytorch.org" in text)
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    said = step.replace("/opt/scansynth/bin/pip", "printf '%s\\n'")
    done = subprocess.run(
        ["sh", "-c", said], cwd=tmp_path, env={"TORCH": build, "PATH": os.environ["PATH"]}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    (pinned,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.M)
    assert done.stdout.splitlines() == ["install", *index, pinned]
    wrong = subprocess.run(["sh", "-c", said], cwd=tmp_path, env={"TORCH": "rocm", "PATH": os.environ["PATH"]})
    assert wrong.returncode == 1


def test_the_context_has_what_is_copied_and_no_more():
    lines = [
        line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied())
    assert all((ROOT / source).exists() for source in copied())
    assert any(fnmatch("src/scansynth/__pycache__", line) for line in lines[1:])


def test_the_text_beside_it_shows_commands_that_there_are():
    blocks = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)
    commands = [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    builds = [words for words in commands if words[1] == "build"]
    assert {words[words.index("-f") + 1] for words in builds} == {"containers/Dockerfile"}
    arguments = {name for instruction, text in instructions() if instruction == "ARG" for name in [text.split("=")[0]]}
    given = {words[words.index("--build-arg") + 1].split("=")[0] for words in builds if "--build-arg" in words}
    assert given <= arguments
    for words in commands:
        if words[1] == "run":
            assert {"--read-only", "--network", "--tmpfs"} <= set(words)


@pytest.mark.slow
def test_what_is_copied_builds(tmp_path):
    for source in copied():
        ignore = shutil.ignore_patterns("__pycache__")
        target = tmp_path / "source" / source
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(ROOT / source, target, ignore=ignore) if (ROOT / source).is_dir() else shutil.copy(
            ROOT / source, target
        )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "."]
    subprocess.run([*command, "-w", str(tmp_path)], cwd=tmp_path / "source", check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "scansynth/cli.py" in names
    assert any(name.endswith("entry_points.txt") for name in names)


ENTER = r"""
set -eu
new=$1 data=$2; shift 2
mount --make-rprivate /
mount --rbind / "$new"
while read -r _ _ _ _ place options _; do  # all read-only, with the other options that each mount has
    case $place in "$new"/proc*|"$new"/sys*|"$new"/dev*) continue ;; esac
    case $place in "$new"|"$new"/*) mount -o "remount,bind,ro,${options#r[ow],}" "$place" ;; esac
done < /proc/self/mountinfo
mount -t tmpfs -o nosuid,nodev,noexec,mode=1777 tmpfs "$new/tmp"  # as docker's --tmpfs
for place in $READ; do
    mkdir -p "$new$place" 2>/dev/null || true
    mount --rbind "$place" "$new$place"
    mount -o remount,bind,ro "$new$place"
done
mkdir -p "$new$data" 2>/dev/null || true
mount --bind "$data" "$new$data"
exec unshare --user --map-user=1000 --map-group=1000 --root="$new" --wd="$data" env -i "$@"
"""
"""Inside a namespace of mounts: a root that is read-only but for /tmp and the data, and another user in it.

$READ: what of the present environment may lie under /tmp, and has to be seen.
"""


@pytest.fixture
def contained(tmp_path):
    """A function: a command → what came of it, run as in a container."""
    try:
        probe = ["unshare", "--user", "--map-root-user", "--net", "--mount", "mount", "-t", "tmpfs", "t", "/mnt"]
        subprocess.run(probe, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"namespaces are not to be had here: {error}")
    new, data = tmp_path / "root", tmp_path / "data"
    new.mkdir()
    data.mkdir()
    own = {name: value for name, value in environment().items() if name != "PATH"}
    own["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    read = {sys.prefix, sys.base_prefix, str(Path(scansynth.__file__).parents[1])}

    def run(*command):
        enter = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", ENTER, "sh", new, data]
        return subprocess.run(
            [*enter, *(f"{name}={value}" for name, value in own.items()), *command], capture_output=True, text=True,
            env={**os.environ, "READ": " ".join(sorted(read))}, check=False,
        )  # fmt: skip

    run.data = data
    return run


WRITES = """
import errno, os, socket
def writes(folder):
    try:
        open(os.path.join(folder, "x"), "w").close()
        return True
    except OSError as error:
        assert error.errno in (errno.EROFS, errno.EACCES, errno.ENOENT), error
        return False
import scansynth, sys
print(os.getuid(), *(writes(one) for one in ("/", "/usr", "/var/tmp", sys.prefix, scansynth.__path__[0])))
print(writes("/tmp"), writes("."), os.environ["HOME"])
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def test_the_container_of_these_tests_is_one(contained):
    done = contained("python", "-c", WRITES)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1000 False False False False False", "True True /tmp", "ENETUNREACH"]


def test_methods_are_listed_in_a_container(contained):
    done = contained("scansynth", "methods")
    assert (done.returncode, done.stderr) == (0, "")
    assert "syndiff" in done.stdout


@pytest.mark.slow
def test_training_translation_and_the_bids_app_in_a_container(contained, phantoms, cohort, tiny, tmp_path):
    from scansynth.data.phantom import write_phantom_cohort

    data = contained.data
    run = data / "runs/first"
    train(tiny(steps=2), cohort, run, device=torch.device("cpu"))
    shutil.copytree(cohort.folder, data / "cohort")
    write_phantom_cohort(data / "BIDS", 1, ("T1w",), layout="BIDS", shape=(32, 32, 16), spacing=6.0)
    (scan,) = (data / "BIDS").rglob("*_T1w.nii.gz")
    shutil.copy(scan, data / "t1.nii.gz")
    commands = (
        ["scansynth", "translate", "--run", "runs/first", "--t1w", "t1.nii.gz", "-o", "t2.nii.gz", "--page", "t2.html"],
        ["scansynth-bids", "BIDS", "out", "participant", "--run", "runs/first"],
        ["scansynth", "train", "runs/first/config.yaml", "--cohort", "cohort", "--run", "runs/second"],
        ["scansynth", "evaluate", "--run", "runs/second", "--cohort", "cohort", "-o", "evaluation"],
        ["scansynth", "runs", "."],
    )
    for command in commands:
        done = contained(*command)
        assert done.returncode == 0, (command, done.stderr)
        assert "rror" not in done.stderr, done.stderr
    assert (data / "t2.nii.gz").exists()
    assert list((data / "out").rglob("*_T2w.nii.gz"))
    assert (data / "evaluation/report.html").exists()
    assert done.stdout.count(" finished ") == 2
    assert not {".cache", ".config"} & set(os.listdir(data))
