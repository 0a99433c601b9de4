"""The page for those who use parts of scansynth: its blocks run, in order and in one namespace, as the page says."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "library.md"
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the page's names stand for at its end."""
    namespace = {"__name__": "library"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("library"))
        torch.manual_seed(0)
        for language, block in BLOCKS:
            if language == "python":
                exec(compile(block, str(PAGE), "exec"), namespace)
                continue
            for line in block.splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
        namespace["written"] = sorted(path.name for path in Path().iterdir())
    return namespace


def test_the_pages_blocks_do_what_it_says(names):
    assert names["guess"].shape == names["made"].shape == (16, 1, 32, 32)
    assert names["seen"] == [20, 5, 0]
    assert torch.isfinite(names["edited"]).all()
    assert names["found"].protocol == "syndiff"
    assert np.isfinite(names["found"].mean("psnr_db"))
    assert names["t2_made"].provenance["sources"]["T1w"].startswith("in memory ")
    assert {"copy.nii.gz", "t2.nii.gz", "t2.json", "plan.yaml"} <= set(names["written"])
    assert names["planned"].config.settings.targets == ("T2w",)


def test_the_page_names_all_that_is_stable():
    text = PAGE.read_text(encoding="utf-8")
    for name in scansynth.__all__:
        assert f"`{name}`" in text, name
    for package in ("diffusion", "metrics", "networks", "noise", "method"):
        assert f"| `scansynth.{package}` |" in text
