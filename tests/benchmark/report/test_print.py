"""A report on paper, in headless Chromium: nothing clipped, nothing folded away, light; and no overflow on a phone.

Needs node, Chromium and ROBUSTVOX_NODE_MODULES, a folder that holds playwright-core; see show/page/test_browser.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest

from robustvox.benchmark.report.asked import settings as every_setting
from robustvox.benchmark.report.chart import MOST, TICKS, chart
from robustvox.benchmark.report.evidence import Evidence, Organ, Row
from robustvox.benchmark.report.tables import Cell, Table, measured, plain, results
from robustvox.benchmark.report.trust import flags_explained, outcomes_table, states_table
from robustvox.benchmark.report.verdict import judge
from robustvox.benchmark.report.worst import worst_organs
from robustvox.benchmark.report.writing import page

MODULES = os.environ.get("ROBUSTVOX_NODE_MODULES", "")
CHROMIUM = os.environ.get("ROBUSTVOX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5ErkJggg=="
ATTACK = "vafa:eps=30,alpha=8/255,loss=cosine,steps=100"
ORGANS = ("gallbladder", "right_adrenal_gland_with_a_long_name", "liver")
ROWS = 40


def _row(number: int) -> dict[str, Any]:
    return {
        "surrogate": "umamba_enc@pgd_at", "target": "swin_unetr@trades", "attack": f"{ATTACK},seed={number}",
        "n_cases": 48, "failed": 1, "dice_clean": 0.941, "dice_adv": 0.82, "dice_adv_low": 0.801, "dice_adv_high": 0.839,
        "hd95_clean_mm": 5.4, "hd95_adv_mm": 111.8, "nsd_clean": 0.951, "nsd_adv": 0.756, "missing": 12, "hallucinated": 3,
        "linf": 8 / 255, "l2": 8.36, "psnr": 32.2, "ssim": 0.943, "forwards": 1200, "backwards": 1200, "seconds": 138.1,
        "flags": "C10:fail;random-restart-won;training-case;no-progress", "checks": "unchecked",
    }  # fmt: skip


def _evidence() -> Evidence:
    """A model with every kind of row, so that its verdict has every point it can have."""
    cases = {f"hippocampus_{k:03}": 0.3 for k in range(48)}
    base = Row(
        attack=ATTACK, label=ATTACK, surrogate="swin_unetr@trades", clean=0.9, dice=0.3, low=0.28, high=0.32, l2=9, psnr=30,
        patients=24, hd95_clean=5.4, hd95=111.8, missing=12, invented=3, state="failed", broken=("C8", "C23"), failed=2,
        lacking=tuple(f"C{k}" for k in range(28)), by_case=cases, clean_by_case=cases, flags=("training-case",),
    )  # fmt: skip
    noise = replace(base, label="gn std 8/255", noise=True, dice=0.8, broken=(), failed=0)
    rows = (
        base,
        replace(base, label="pgd 1", psnr=6.0),
        replace(base, label="short", failed=0, by_case={"a": 0.3}),
        noise,
    )
    organs = tuple(
        Organ(class_id=k, name=name, cases=48, lost=48 - k, unfound=k, case="hippocampus_001", label=ATTACK,
              dice_clean=0.9, dice=0.1, hd95_clean=1.0, hd95=70.0, gone=k == 0, mean_clean=0.9, mean=0.2)
        for k, name in enumerate(ORGANS)
    )  # fmt: skip
    others = (replace(base, surrogate="umamba_enc@pgd_at"),) * ROWS
    return Evidence(model="swin_unetr@trades", rows=rows, others=others, organs=organs, patients=24)


def wide_report() -> str:
    """The page with the widest cells a run writes: long names, every flag, folded checks, every setting."""
    model = _evidence()
    frame = pandas.DataFrame([_row(number) for number in range(ROWS)])
    outcome = {
        "check": "C16",
        "slug": "gradient-detector",
        "status": "fail",
        "detail": "word " * 40,
        "rule": "a" * 90,
    }
    worst = worst_organs(model, {0: 0.5, 1: 3.25, 2: 1520.0})
    asked = Table(
        "Attacks and budgets",
        ("attack", "what it is", "budget", "largest change", "whole specification"),
        ((Cell(ATTACK, "word"), Cell("word " * 12, "text"), Cell("q_max 20, no L∞ bound", "word"),
          Cell("38.8/255", "number"), Cell(f"{ATTACK}@l2~0.02={ATTACK * 3}", "spec")),) * 3,
    )  # fmt: skip
    settings = {
        "run": {"command": "x" * 200, "cases": ["hippocampus_001"] * 48},
        "compute": {"models": {"unet": {"sw": [4]}}},
    }
    return page(
        title="18 models on hippocampus under 14 attacks", dataset="hippocampus", protocol="robustvox-1", when="2026-01-01",
        counts={"computed": 3, "recorded": 0, "failed": 1, "lost": 0}, duration="34.5 s", controls=1, seed=0,
        models=[("unet", "0" * 64)] * 2, readings=[("unet", ["RAS"])], cases=["hippocampus_001"] * 48,
        command="python -m benchmark " + "--model unet " * 40, has_folders=True, attacks=asked,
        data=[("folder", "/" + "folder" * 40)], licences=[("unet", "CC-BY-SA 4.0")],
        verdicts=[judge(model), judge(replace(model, rows=()))], compared="word " * 60, worst=[worst], sizes_known=True, drops_lost=False,
        tables=[{"title": "Transfer", "results": results(frame, "Transfer results"), "measured": measured(frame, "Change")}],
        lines=chart([model]), ticks=TICKS, most=MOST, figures=[{"light": PIXEL, "dark": PIXEL, "caption": "c", "alt": "a"}],
        failures=plain("Failed cases", ("case", "jobs", "reason"), [("hippocampus_001", "pgd on unet", "/" + "folder" * 30)]),
        states=states_table([model]), check_command="python -m benchmark check", sample="48 cases", computed="cpu",
        groups=[{"name": f"unet, {ATTACK}", "flags": [], "found": 24,
                 "table": outcomes_table("Checks", [outcome] * 24)}],
        flags=flags_explained([model]), suite="robustvox-1", untried=["PGD 8/255"] * 6, untried_command="python " + "x " * 300,
        transfer=True, settings=every_setting(settings), viewers=[("hippocampus_001", "./view_hippocampus_001.html")],
        missing="No slices.", view_command="python -m benchmark view " + "x " * 200,
    )  # fmt: skip


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
    assert printed["print"]["cells"] > ROWS * 25
    assert printed["print"]["clipped"] == []
    assert printed["pdf"].startswith(b"%PDF")


def test_paper_is_light_and_nothing_is_folded(printed: dict[str, Any]) -> None:
    assert printed["print"]["background"] == "rgb(255, 255, 255)"
    assert min(printed["print"]["folded"]) > 0
    assert printed["print"]["pictures"] == {"light": True, "dark": False}


def test_screens_do_not_scroll_sideways_and_nothing_is_complained_about(printed: dict[str, Any]) -> None:
    assert printed["widths"] == {"1440": 1440, "390": 390}
    assert printed["console"] == []
    assert printed["requests"] == []


def test_a_wide_screen_shows_every_column_without_scrolling(printed: dict[str, Any]) -> None:
    assert printed["scrolling"]["1440"] == []


def test_pictures_are_those_of_the_page(printed: dict[str, Any]) -> None:
    assert printed["pictures"] == {
        "light": {"light": True, "dark": False},
        "dark": {"light": False, "dark": True},
    }


def test_what_scrolls_can_be_scrolled_with_the_keyboard(printed: dict[str, Any]) -> None:
    assert printed["scrolling"]["390"] != []
    assert printed["unreachable"] == []
