"""A report on paper, in headless Chromium: nothing clipped, nothing folded away, light; and no overflow on a phone.

Needs node, Chromium and ROBUSTVOX_NODE_MODULES, a folder that holds playwright-core; see show/page/test_browser.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from robustvox.benchmark import report
from robustvox.benchmark.show.html import environment, policy

MODULES = os.environ.get("ROBUSTVOX_NODE_MODULES", "")
CHROMIUM = os.environ.get("ROBUSTVOX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
HEADINGS = ["cases", "failed", "Dice clean", "Dice attacked", "95% interval", "HD95 mm, clean → attacked"]
HEADINGS += ["NSD, clean → attacked", "organs lost, invented", "L∞ (1/255)", "L2", "PSNR (dB)", "SSIM"]
HEADINGS += ["forwards, backwards", "seconds per case", "checks"]
CELLS = [
    "48",
    "0",
    "0.941",
    "0.820",
    "0.801–0.839",
    "5.4 → 11.8",
    "0.951 → 0.756",
    "12, 3",
    "8.00",
    "8.36",
    "32.2",
]
CELLS += ["0.943", "1200, 1200", "138.1", "unchecked"]


def wide_report() -> str:
    """The template with the widest cells a run writes: long names, every flag, folded checks."""
    here = Path(report.__file__).parent
    style = (here / "report.css").read_text(encoding="utf-8")
    row = {
        "models": ["umamba_enc@pgd_at", "swin_unetr@trades"],
        "attack": "vafa:eps=30,alpha=8/255,loss=cosine,steps=100",
        "spec": "vafa",
        "cells": CELLS,
        "flags": ["C10:fail", "random-restart-won", "training-case", "no-progress"],
    }
    check = {
        "check": "C16",
        "slug": "gradient-detector",
        "status": "fail",
        "detail": "word " * 40,
        "rule": "a" * 90,
    }
    context: dict[str, Any] = {
        "dataset": "hippocampus", "protocol": "robustvox-1", "command": "python -m benchmark " + "--model unet " * 40,
        "cases": ["hippocampus_001"] * 48, "models": [("unet", "0" * 64)], "attacks": [row["attack"]],
        "counts": {"computed": 3, "recorded": 0, "failed": 1}, "duration": "34.5 s", "seed": 0,
        "failures": [{"case": "hippocampus_001", "what": "pgd on unet", "reason": "/" + "folder" * 30}],
        "tables": [{"title": "Transfer", "pairs": True, "headings": HEADINGS, "rows": [row] * 40}],
        "figures": [], "missing": "", "check_command": "python -m benchmark check", "readings": [("unet", ["RAS"])],
        "checks": [{"model": "unet", "attack": "pgd", "flags": [], "found": [check] * 24}],
        "environment": [("torch", "2.14.1")], "data": [("folder", "/" + "folder" * 40)],
    }  # fmt: skip
    template = environment(here).get_template("report.html.j2")
    return template.render(**context, style=Markup(style), policy=policy([style]))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not shutil.which("node") or not CHROMIUM:
        pytest.skip("no node or no Chromium: install both to print a report")
    if not MODULES or not (Path(MODULES) / "playwright-core").is_dir():
        pytest.skip("no playwright-core: set ROBUSTVOX_NODE_MODULES to a node_modules folder that holds it")
    folder = tmp_path_factory.mktemp("print")
    (folder / "report.html").write_text(wide_report(), encoding="utf-8")
    script = Path(__file__).with_name("print.cjs")
    command = ["node", str(script), str(folder / "report.html"), str(folder / "report.pdf")]
    variables = os.environ | {"ROBUSTVOX_CHROMIUM": CHROMIUM}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"pdf": (folder / "report.pdf").read_bytes()}


def test_no_cell_is_clipped_on_paper(printed: dict[str, Any]) -> None:
    assert printed["print"]["cells"] > 40 * len(CELLS)
    assert printed["print"]["clipped"] == []
    assert printed["pdf"].startswith(b"%PDF")


def test_paper_is_light_and_nothing_is_folded(printed: dict[str, Any]) -> None:
    assert printed["print"]["background"] == "rgb(255, 255, 255)"
    assert printed["print"]["folded"] > 0


def test_screens_do_not_scroll_sideways_and_nothing_is_complained_about(printed: dict[str, Any]) -> None:
    assert printed["widths"] == {"1440": 1440, "390": 390}
    assert printed["console"] == []
