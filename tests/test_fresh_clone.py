"""A fresh clone stays clean after the README's commands, and one run of somebody's own moves nobody's place."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

COMMANDS = """
list
--model unet --attack fgsm --cases 1
--model unet --attack fgsm --cases 1 --save-adversarial --units original --no-report --recompute
--adversarial runs/phantom/adversarial --target segresnet --no-report
check --model unet --attack fgsm --cases 1 --only C9,C10
frequency --model unet --attack fgsm --cases 1 --bands radial
compare --model unet --model unetr --attack bim:steps=10
train --model unet --steps 1
cite --model unet --attack vafa
verify results/phantom --sample 0
leaderboard
leaderboard --check
"""

OWN = """
import torch

def factory(num_classes):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, num_classes, 1)
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    root = tmp_path_factory.mktemp("fresh")
    source = ["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(root / "clone")]
    try:
        subprocess.run(source, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no clone can be made: {error}")
    (root / "installed").mkdir()
    (root / "installed" / "robustvox").symlink_to(root / "clone")
    (root / "own.py").write_text(OWN)
    return root / "clone"


def run(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(clone.parent / name) for name in ("installed", "."))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *shlex.split(command)],
        cwd=clone, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def status(clone: Path) -> str:
    asked = ["git", "-C", str(clone), "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_leave_a_clone_clean(clone):
    for command in COMMANDS.strip().splitlines():
        done = run(clone, command)
        assert done.returncode in (0, 1), (command, done.stdout, done.stderr)
        assert status(clone) == "", command


@pytest.mark.slow
def test_a_run_of_ones_own_moves_nobody_s_place(clone):
    """All cases of the suite, one attack beside it; published, it stands in the tables and below the ranking."""

    def places() -> list[str]:
        text = (clone / "results" / "index.html").read_text()
        part = text[text.index('id="d-phantom"') :]
        return [line for line in part[: part.index("All white-box")].split("\n") if "<tr><td>" in line]

    before = places()
    own = run(clone, "--model own:factory --attack mifgsm:steps=2 --cases 12 --no-report --out runs/own")
    assert own.returncode == 0, own.stderr
    published = run(clone, "leaderboard --publish runs/own")
    assert published.returncode == 0, published.stdout + published.stderr
    assert places() == before
    assert "own:factory: noise 8/255, FGSM 8/255, " in (clone / "results" / "index.html").read_text()
