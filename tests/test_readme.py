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
from robustvox.benchmark.loading import load_attack

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text()
#: heading -> how the attack is spelled on the command line
COLUMNS = {
    "noise 8/255": "gn:std=8/255",
    "FGSM 8/255": "fgsm",
    "PGD 4/255": "pgd:eps=4/255",
    "PGD 8/255": "pgd",
    "CosPGD 8/255": "cospgd",
    "VAFA 20": "vafa",
    "VAFA 30": "vafa:q_max=30",
}


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
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "class Darken" in block)
    module = types.ModuleType("readme")
    sys.modules["readme"] = module
    exec(code, module.__dict__)
    images, labels = torch.rand(1, 1, 6, 7, 8), torch.ones(1, 1, 6, 7, 8, dtype=torch.int64)
    adversarial = module.Darken()(torch.nn.Conv3d(1, 2, 1), images, labels)
    assert torch.allclose(adversarial, (images - 4 / 255).clamp(0, 1), atol=1e-6)


def test_the_table_follows_from_the_results():
    table = pd.read_csv(REPOSITORY / "results" / "hippocampus" / "white_box.csv", keep_default_na=False)
    lines = [line.strip("|").split("|") for line in README.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines]
    header = next(line for line in cells if "PGD 8/255" in line)
    rows = [line for line in cells if line[0] in set(table["surrogate"]) and len(line) == len(header)]
    assert len(rows) == 5
    for row in rows:
        mine = table[table["surrogate"] == row[0]]
        assert row[1] == f"{mine['dice_clean'].iloc[0]:.2f}"
        for name, cell in list(zip(header, row, strict=True))[2:]:
            (found,) = mine[mine["attack"] == load_attack(COLUMNS[name]).spec].to_dict("records")
            expected = f"{found['dice_adv']:.2f} ({found['dice_adv_low']:.2f}-{found['dice_adv_high']:.2f})"
            assert cell == expected, (row[0], name)


def test_the_table_of_attacks_follows_from_the_results():
    table = pd.read_csv(REPOSITORY / "results" / "hippocampus" / "white_box.csv", keep_default_na=False)
    table = table[table["surrogate"] == "unet"].set_index("attack")
    rows = re.findall(r"^\| `(\S+)` \| (\d.*) \|$", README.partition("| attack on `unet`")[2], re.M)
    assert {spec.split(":")[0] for spec, _ in rows} == set(ATTACKS) - {"gn", "bim", "square"}
    for spec, cells in rows:
        row = table.loc[load_attack(spec).spec]
        expected = (
            f"{row['dice_adv']:.2f} ({row['dice_adv_low']:.2f}-{row['dice_adv_high']:.2f})",
            f"{row['hd95_adv_mm']:.1f}",
            f"{row['l2']:.1f}",
            f"{255 * row['linf']:.0f}/255",
        )
        assert cells.split(" | ") == list(expected), spec
