"""The README stays true: its commands exist, its example attack runs, its table follows from the results."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import pandas as pd
import torch

from robustvox.attacks import ATTACKS
from robustvox.benchmark.cli import app
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.show.excerpt import BRIEF_END, BRIEF_START, END, START

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
RESULTS = (REPOSITORY / "docs" / "results.md").read_text()
OWN_ATTACK = (REPOSITORY / "docs" / "own_attack.md").read_text()


def test_the_quick_start_has_two_lines():
    lines = [line for line in README.splitlines() if line.startswith("pip install")]
    assert lines == [
        "pip install -e . && python -m benchmark --model unetr --attack vafa",
        'pip install -e ".[dev]" && pytest',
    ]


def test_every_option_in_the_readme_exists():
    from typer.main import get_command

    commands = get_command(app).commands
    known = {option for command in commands.values() for p in command.params for option in p.opts}
    for line in re.findall(r"python -m benchmark[^`\n]*", README):
        words = shlex.split(line.split("#")[0])[3:]
        assert words[0] in commands or words[0].startswith("--"), line
        assert {w for w in words if w.startswith("--")} <= known, line


def test_the_example_attack_runs():
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", OWN_ATTACK, re.S) if "class Darken" in block
    )
    module = types.ModuleType("readme")
    sys.modules["readme"] = module
    exec(code, module.__dict__)
    images, labels = torch.rand(1, 1, 6, 7, 8), torch.ones(1, 1, 6, 7, 8, dtype=torch.int64)
    adversarial = module.Darken()(torch.nn.Conv3d(1, 2, 1), images, labels)
    assert torch.allclose(adversarial, (images - 4 / 255).clamp(0, 1), atol=1e-6)


def test_the_excerpt_follows_from_the_results():
    """Numbers by pandas from the CSV; `leaderboard --check` compares the text byte by byte."""
    table = pd.read_csv(REPOSITORY / "results" / "hippocampus" / "white_box.csv", keep_default_na=False)
    table = table[table["protocol"] == "robustvox-1"]
    text = RESULTS.partition(START)[2].partition(END)[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    header = next(line for line in lines if "PGD 8/255" in line)
    rows = [line for line in lines if line[0] in set(table["surrogate"])]
    assert len(rows) == table["surrogate"].nunique() >= 5
    pgd = table.set_index(["attack", "surrogate"]).loc[load_attack("pgd").spec]
    for row in rows:
        assert row[1] == f"{table.loc[table['surrogate'] == row[0], 'dice_clean'].iloc[0]:.2f}"
        if row[0] in pgd.index:
            found = pgd.loc[row[0]]
            expected = f"{found['dice_adv']:.2f} ({found['dice_adv_low']:.2f}-{found['dice_adv_high']:.2f})"
            unfinished = "C6:fail" in found["flags"].split(";")
            assert row[header.index("PGD 8/255")] == expected + " ‡" * unfinished
    unet = table[table["surrogate"] == "unet"].set_index("attack")
    attacks = [line for line in lines if line[0].startswith("`")]
    # `smooth` and its control are measured in docs/stealing.md, marks in docs/marking.md, long runs in docs/strength.md.
    elsewhere = {"annealed", "ensemble2", "gn", "bim", "square", "smooth", "smooth_noise", "keyed_mark"}
    assert {line[0].strip("`").split(":")[0] for line in attacks} >= set(ATTACKS) - elsewhere
    for name, *cells in attacks:
        row = unet.loc[load_attack(name.strip("`")).spec]
        assert cells == [
            f"{row['dice_adv']:.2f} ({row['dice_adv_low']:.2f}-{row['dice_adv_high']:.2f})",
            f"{row['hd95_adv_mm']:.1f}",
            f"{row['l2']:.1f}",
            f"{255 * row['linf']:.0f}/255",
        ], name


def test_the_table_of_the_readme_is_that_of_the_results_with_fewer_columns():
    def table(text):
        lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
        return {
            line[0]: dict(zip(lines[0], line, strict=True))
            for line in lines[2:]
            if len(line) == len(lines[0])
        }

    brief = table(README.partition(BRIEF_START)[2].partition(BRIEF_END)[0])
    whole = table(RESULTS.partition(START)[2].partition(END)[0].partition("The attacks side by side")[0])
    assert brief.keys() == whole.keys()
    for name, row in brief.items():
        assert list(row) == ["model", "clean", "noise 8/255", "PGD 8/255", "worst case", "checks"]
        assert row == {column: whole[name][column] for column in row}


def test_the_readme_is_one_screen_of_prose_a_picture_two_commands_and_links():
    text = re.sub(r"```.*?```|<!-- .*? -->", "", README, flags=re.S)
    prose = [line for line in text.splitlines() if line and line[0] not in "|#!"]
    assert sum(map(len, prose)) < 2500
    assert len(re.findall(r"^!\[", README, re.M)) == 1
    for target in re.findall(r"\]\(([^)#]+?)\)", README):
        assert target.startswith("https://") or (REPOSITORY / target).is_file(), target
