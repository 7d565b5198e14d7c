"""Adding a model or an attack touches one place in the code beside its own file; everything else finds it there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
FOLDERS = ("attacks", "models", "datasets", "benchmark")

ATTACK = '''
"""A throw-away attack."""

from dataclasses import dataclass

from .fgsm import FGSM


@dataclass(frozen=True, kw_only=True)
class Throwaway(FGSM):
    """One step, as FGSM."""
'''
ATTACK_ROW = """
    "throwaway": AttackEntry(
        module="throwaway", kind="Throwaway", summary="nobody needs it", family=SIGN, budget="eps",
        cite=("madry2018towards",), one_step=True,
    ),
"""
MODEL = '''
"""A throw-away network."""

from torch import nn


def build(*, in_channels, num_classes, roi_size, size):
    return nn.Conv3d(in_channels, num_classes, 1)
'''
MODEL_ROW = """
    "throwaway_net": ModelEntry(
        module=".throwaway", function="build", summary="nobody needs it either", family=CONVOLUTIONAL,
        source="none", cite=("kerfoot2018left",),
    ),
"""
QUESTIONS = """
import contextlib, io
from robustvox.benchmark.cli import main
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.show.labels import attack_names, model_family
from robustvox.models import build_model

def said(*arguments):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*arguments]) == 0
    return out.getvalue()

listed = said("list")
assert "throwaway " in listed and "nobody needs it" in listed
assert "throwaway_net" in listed and "nobody needs it either" in listed
name = attack_names({"throwaway:eps=8/255": 1})["throwaway:eps=8/255"]
assert (name.family, name.one_step, name.label) == ("sign gradient", True, "throwaway 8/255")
assert model_family("throwaway_net") == "convolutional"
cited = said("cite", "--attack", "throwaway", "--model", "throwaway_net")
assert "madry2018towards" in cited and "kerfoot2018left" in cited
assert load_attack("Throw-away:eps=4/255").spec == "throwaway:eps=4/255,loss=dice"
build_model("throwaway_net", in_channels=1, num_classes=3, roi_size=(8, 8, 8))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> dict[str, str]:
    """Environment in which robustvox has one attack and one model more, each by its file and its row alone."""
    root = tmp_path_factory.mktemp("extended") / "robustvox"
    for folder in FOLDERS:
        shutil.copytree(
            REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("zoo", "__pycache__")
        )
    (root / "attacks" / "throwaway.py").write_text(ATTACK)
    (root / "models" / "throwaway.py").write_text(MODEL)
    for file, head, row in (
        (root / "attacks" / "catalog.py", "CATALOG: dict[str, AttackEntry] = {", ATTACK_ROW),
        (root / "models" / "registry.py", "CATALOG: dict[str, ModelEntry] = {", MODEL_ROW),
    ):
        text = file.read_text()
        assert text.count(head) == 1
        file.write_text(text.replace(head, head + row))
    return {**os.environ, "PYTHONPATH": str(root.parent)}


def test_one_row_puts_it_everywhere(extended, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", QUESTIONS], env=extended, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_contract_suites_take_it_in(extended):
    suites = ("tests/attacks/test_contract.py", "tests/models/test_contract.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-p", "no:cacheprovider", *suites],
        env=extended, cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    for suite, name in zip(suites, ("throwaway", "throwaway_net"), strict=True):
        taken = [line for line in done.stdout.splitlines() if line.startswith(suite) and f"[{name}]" in line]
        assert taken, (suite, done.stdout[-500:])
