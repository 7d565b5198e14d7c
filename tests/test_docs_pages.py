"""What the hand-written pages say of the code is true of the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from robustvox.attacks.interop import SUPPORTED
from robustvox.benchmark.cli import app
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.studies.sanity.registry import CHECKS

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize("page", sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")))
def test_every_command_on_a_page_exists(page):
    commands = get_command(app).commands
    options = {option for command in commands.values() for one in command.params for option in one.opts}
    for line in re.findall(r"python -m benchmark[^`\n|]*", (DOCS / page).read_text()):
        words = shlex.split(line.replace("\\", "").split("#")[0])[3:]
        assert words, line
        assert words[0] in commands or words[0].startswith("--"), line
        assert {word for word in words if word.startswith("--")} <= options, line


def test_the_page_of_sanity_checks_names_every_check():
    text = (DOCS / "sanity_checks.md").read_text()
    assert re.findall(r"^\| (C\d+) \|", text, re.M) == list(CHECKS)


def test_the_page_of_torchattacks_names_what_runs():
    text = (DOCS / "torchattacks.md").read_text()
    (names,) = re.findall(r"right on volumes: ([^.]*)\.", text)
    assert {name.strip() for name in names.split(",")} == set(SUPPORTED)


def test_the_table_of_matched_budgets_follows_from_the_results():
    table = pd.read_csv(DOCS.parent / "results" / "hippocampus" / "white_box.csv", keep_default_na=False)
    table = table[table["surrogate"] == "unet"].set_index("attack")
    lines = re.findall(r"^\| `(.+?)` \| (.*) \|$", (DOCS / "matched_budgets.md").read_text(), re.M)
    assert len(lines) == 5
    for spec, cells in lines:
        row = table.loc[load_attack(spec).spec]
        expected = (
            f"{row['dice_adv']:.2f} ({row['dice_adv_low']:.2f}-{row['dice_adv_high']:.2f})",
            f"{row['l2']:.2f}",
            f"{row['ssim']:.3f}",
            f"{255 * row['linf']:.0f}/255",
        )
        assert cells.split(" | ") == list(expected), spec


def test_what_the_zoo_fails_is_explained():
    """A failed check of a published row says why on the page of the checks, by dataset, model, attack and id."""
    lines = [
        line.split(" | ")
        for line in (DOCS / "sanity_checks.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    told = set()
    for model, attacks, dataset, check in (
        (*re.fullmatch(r"\| (\S+), (.+?)(?: on (ACDC))?", cells[0]).groups(), cells[1])
        for cells in lines
        if len(cells) == 3 and re.fullmatch(r"C\d+", cells[1])
    ):
        for attack in re.split(", | and ", attacks):
            told.add(("acdc_light" if dataset else "hippocampus", model, attack.lower(), check))
    failed = {
        (path.parent.parent.name, outcome["surrogate"], outcome["attack"].partition(":")[0], outcome["check"])
        for path in (DOCS.parent / "results").glob("*/checks/*.jsonl")
        for outcome in map(json.loads, path.read_text().splitlines())
        if outcome["status"] == "fail"
    }
    assert failed <= told, f"explain in docs/sanity_checks.md: {sorted(failed - told)}"


def test_every_row_of_a_network_with_a_defence_was_checked():
    """As docs/robust_training.md says, with how many of them fail."""
    rows = pd.read_csv(DOCS.parent / "results" / "hippocampus" / "white_box.csv", keep_default_na=False)
    mine = rows[rows["target"].str.contains("@") & (rows["checks"] != "control")]
    assert mine["target"].nunique() == 7
    assert not mine["checks"].eq("unchecked").any()
    failed = mine[mine["checks"] == "failed"]
    assert set(failed["target"]) == {"unet@noise"}
    assert len(failed) == 2
    assert all(row.startswith("vafa:") for row in failed["attack"])
    assert "Two fail, VAFA on `unet@noise` by C2" in (DOCS / "robust_training.md").read_text()
