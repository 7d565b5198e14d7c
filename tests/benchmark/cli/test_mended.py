"""Faults that were mended, as they met a user; each of these tests fails on commit 1c214c9."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robustvox.benchmark import run_benchmark
from robustvox.benchmark.cli import main
from robustvox.benchmark.specs.crossing import Computing, Crossing, Writing
from robustvox.benchmark.specs.requests import RunRequest
from robustvox.models import load_checkpoint, save_checkpoint

from ..first_form import rows_in

REPOSITORY = Path(__file__).resolve().parents[3]
MEASURED = ["seconds"]


@pytest.fixture
def importable(tmp_path, monkeypatch):
    """Factory of an importable module from its name and source; forgets it afterwards."""
    names = []
    folder = tmp_path / "importable"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(name: str, source: str) -> None:
        (folder / f"{name}.py").write_text(source)
        names.append(name)

    yield write
    for name in names:
        sys.modules.pop(name, None)


def rows_of(results: Path) -> list[dict]:
    files = sorted((results / "toy" / "records").glob("*/*/*.jsonl"))
    return [row for file in files for row in rows_in(file)]


def entries_of(results: Path) -> list[dict]:
    text = (results / "toy" / "records" / "robustvox-1" / "provenance.jsonl").read_text()
    return [json.loads(line)["entry"] for line in text.splitlines()]


# --- two checkpoints of one name --------------------------------------------------------------------


@pytest.fixture
def two_unets(toy):
    """Two checkpoints of one architecture; runs an attack on both of them."""
    loaded = load_checkpoint(toy.checkpoints["unet"])
    torch.manual_seed(7)
    with torch.no_grad():
        for weights in loaded.network.parameters():
            weights += 0.1 * torch.randn_like(weights)
    other = toy.root / "other.safetensors"
    save_checkpoint(other, loaded.network, loaded.card)

    def run(out: Path, *more: str) -> int:
        return toy("--model", "unet", "--checkpoint", str(other), "--attack", "gn", *more, out=out)

    return run


@pytest.mark.slow
def test_workers_know_two_checkpoints_of_one_name_apart(toy, two_unets):
    one, many = toy.root / "one", toy.root / "many"
    assert two_unets(one) == two_unets(many, "--workers", "2") == 0
    assert_same_two(toy, one, many)


def test_jobs_know_two_checkpoints_of_one_name_apart(toy, two_unets):
    """As above, what travels resolved in this process."""
    one, many = toy.root / "one", toy.root / "many"
    assert two_unets(one, "--cases", "case_000") == 0
    crossing = Crossing(
        models=("unet", "unet"),
        checkpoints=(toy.checkpoints["unet"], toy.root / "other.safetensors"),
        attacks=("gn",),
        dataset=str(toy.folder),
        split="all",
        cases="case_000",
    )
    request = RunRequest(crossing=crossing, computing=Computing(), writing=Writing(out=many, report=False))
    with ThreadPoolExecutor(1) as executor:
        assert run_benchmark(request, executor) == 0
    assert_same_two(toy, one, many)


def assert_same_two(toy, one, many):
    serial, parallel = (toy.table(out).drop(columns=MEASURED) for out in (one, many))
    assert serial["dice_adv"].nunique() == 2
    pd.testing.assert_frame_equal(serial, parallel)


def test_provenance_knows_two_checkpoints_of_one_name_apart(toy, two_unets, capsys):
    results = toy.root / "results"
    assert two_unets(results, "--cases", "case_000") == 0
    (entry,) = entries_of(results)
    assert entry["models"] == {f"unet@{sha256[:8]}": sha256 for sha256 in entry["models"].values()}
    assert entry["surrogates"] == entry["targets"] == list(entry["models"])
    assert len(entry["models"]) == 2
    files = [a for name in ("unet", "other") for a in ("--checkpoint", str(toy.root / f"{name}.safetensors"))]
    verify = ["verify", str(results), "--dataset", str(toy.folder), *files, "--sample", "0"]
    assert main(verify) == 0
    # A row of the first checkpoint is missed as well as one of the second.
    path = results / "toy" / "records" / "robustvox-1" / "unet" / "gn.jsonl"
    rows = rows_in(path)
    for sha256 in entry["models"].values():
        gone = {row["unit"] for row in rows if row.get("target_sha256") == sha256}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["unit"] not in gone))
        capsys.readouterr()
        assert main(verify) == 1
        assert f"{path}: expected a row of case_000, gn:std=8/255, unet on unet" in capsys.readouterr().out


def test_provenance_of_an_ordinary_run_has_plain_names(toy):
    assert toy("--attack", "gn", "--cases", "case_000", models=("unet", "segresnet")) == 0
    (entry,) = entries_of(toy.root / "results")
    assert list(entry["models"]) == entry["surrogates"] == entry["targets"] == ["unet", "segresnet"]


# --- one rule for seeds -----------------------------------------------------------------------------


SPIES = """
from robustvox.attacks import GN, Uniform
SEEDS = []
class Noted:
    def perturb(self, task):
        SEEDS.extend(task.seeds)
        return super().perturb(task)
class Spy(Noted, Uniform):
    pass
class Reference(Noted, GN):
    pass
"""


def test_every_command_gives_an_attack_the_same_seed(toy, importable):
    """Of a matched attack that of its reference: its own volumes, and those it is matched to, are the same everywhere."""
    importable("spies", SPIES)
    one, out = ("--cases", "case_000"), ("--out", str(toy.root / "results"))
    given = (
        "--model",
        "unet",
        "--checkpoint",
        str(toy.checkpoints["unet"]),
        "--dataset",
        str(toy.folder),
        *one,
    )
    reference, matched = "spies:Reference:std=0.02", "spies:Spy@l2=spies:Reference:std=0.02"
    seen = {}
    for attack in (reference, matched):
        for command, more in (
            ("run", ["--no-report", *out]),
            ("check", ["--only", "C13", *out]),
            ("frequency", ["--bands", "low_high", "--cuts", "0.5", *out]),
            ("figures", ["--results", str(toy.root / "results"), "--out", str(toy.root / "figures")]),
        ):
            if (command, attack) in (("frequency", reference), ("figures", reference)):
                continue
            sys.modules.pop("spies", None)
            assert main([command, *given, "--attack", attack, *more]) in (0, 1)
            seen[command, attack] = set(sys.modules["spies"].SEEDS)
    assert len(set().union(*seen.values())) == 1, seen
    assert all(seen.values()), seen


# --- what a report says -----------------------------------------------------------------------------


def test_a_report_scores_clean_images_as_the_protocol_does(toy):
    one, protocol = ("--cases", "case_000"), ("--protocol", "bmvc2024")
    assert toy("--attack", "gn", *one, *protocol) == 0
    # The clean image is in the records: its prediction is computed for the picture.
    assert toy("--attack", "fgsm", *one, *protocol, "--report") == 0
    (path,) = (toy.root / "results" / "toy" / "reports").glob("[0-9]*.html")
    found = re.search(r"mean Dice ([\d.]+) before\s+and ([\d.]+) after the attack", path.read_text())
    table = toy.table().set_index("attack")
    (row,) = (table.loc[spec] for spec in table.index if spec.startswith("fgsm"))
    assert found is not None
    assert found.groups() == (f"{row['dice_clean']:.3f}", f"{row['dice_adv']:.3f}")


# --- a failing model --------------------------------------------------------------------------------


def test_a_failing_model_leaves_the_others_their_clean_rows(toy, importable, capsys):
    importable(
        "boom",
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        if images.mean().item() >= 0:\n"
        "            raise ValueError('boom')\n"
        "        return images\n"
        "def net():\n    return Net()\n",
    )
    models = ("--model", str(toy.checkpoints["unet"]), "--model", "boom:net")
    data = ("--dataset", str(toy.folder), "--cases", "case_000", "--split", "all")
    assert main([*models, "--attack", "gn", *data, "--no-report", "--out", str(toy.root / "results")]) == 1
    assert "Traceback" not in capsys.readouterr().err
    table = toy.table().set_index("surrogate")
    assert table.loc["unet", "n_cases"] == 1
    assert np.isfinite(float(table.loc["unet", "dice_clean"]))
    assert table.loc["boom:net", "failed"] == 1
    rows = rows_of(toy.root / "results")
    failed = {(row["target"], row["attack"]) for row in rows if row["kind"] == "failure"}
    assert failed == {("boom:net", "none"), ("boom:net", "gn:std=8/255")}


# --- odd names in the files of the frequency study --------------------------------------------------


def test_the_files_of_the_frequency_study_escape_names(toy, msd_folder, tmp_path):
    name = "=1+1 [x](y) _z_ `q`"
    odd = msd_folder(1, name=name)
    command = ["frequency", "--model", "unet", "--checkpoint", str(toy.checkpoints["unet"]), "--attack", "gn",
               "--dataset", str(odd), "--split", "all", "--bands", "low_high", "--cuts", "0.5"]  # fmt: skip
    for _ in range(2):  # what was written is read back, and the rows are the same ones
        assert main([*command, "--out", str(tmp_path / "out")]) == 0
    (folder,) = (tmp_path / "out").glob("*/frequency")
    for file, count in (("cases.csv.gz", 3), ("bands.csv", 3)):
        rows = pd.read_csv(folder / file, dtype=str, keep_default_na=False).to_dict("records")
        assert len(rows) == count
        for row in rows:
            assert row["dataset"] == f"'{name}"
            assert not any(str(cell).startswith(("=", "+", "@", "\t")) for cell in row.values())
    heading = next(line for line in (folder / "bands.md").read_text().splitlines() if line.startswith("## "))
    assert r"=1+1 \[x\](y) _z_ \`q\`" in heading


# --- list, data, README -----------------------------------------------------------------------------


def test_list_ends_with_a_table(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "hippocampus 0." in out
    assert not any(line.startswith("{") for line in out.splitlines())
    assert "': ['" not in out


def test_data_shows_the_test_split(tmp_path, capsys):
    for part in ("imagesTr", "labelsTr"):
        (tmp_path / part).mkdir()
    (tmp_path / "imagesTr" / "patient089_frame01.nii.gz").write_bytes(b"")
    assert main(["data", "--dataset", "acdc", "--data-root", str(tmp_path)]) == 1
    rows = {
        line.split()[0]: line.split()[1:5] for line in capsys.readouterr().out.splitlines() if line.strip()
    }
    assert rows["test"] == ["40", "0", "40", "0"]
    assert rows["validation"][0] == "20"
    assert rows["train"][0] == "140"
    assert "all" not in rows


def test_a_variant_beside_an_attack_is_not_its_row_in_the_readme(tmp_path):
    """`pgd:alpha=0.0001` sorts before `pgd`, and is another attack."""
    source = REPOSITORY / "results" / "hippocampus" / "records" / "robustvox-1" / "unet"
    folder = tmp_path / "results" / "hippocampus" / "records" / "robustvox-1" / "unet"
    folder.mkdir(parents=True)
    for name in ("clean", "pgd"):
        shutil.copy(source / f"{name}.jsonl", folder)
    readme = tmp_path / "README.md"
    readme.write_text("<!-- leaderboard:start -->\n<!-- leaderboard:end -->\n")
    assert main(["leaderboard", "--out", str(tmp_path / "results")]) == 0
    before = readme.read_text()
    assert "| `pgd` | 0.60 " in before
    plain = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=20"
    rows = rows_in(folder / "pgd.jsonl")
    rows = [
        row | {"attack": plain.replace("alpha=2/255", "alpha=0.0001")}
        for row in rows
        if row["attack"] == plain
    ]
    keys = {row["unit"]: key_of(row) for row in rows if row["kind"] == "cost"}
    with (folder / "pgd.jsonl").open("a") as file:
        for row in rows:
            worse = {"dice": 0.86} if row["kind"] == "score" else {}
            file.write(json.dumps(row | worse | {"unit": keys[row["unit"]]}) + "\n")
    assert main(["leaderboard", "--out", str(tmp_path / "results")]) == 0
    assert "alpha=0.0001" in (tmp_path / "results" / "hippocampus" / "white_box.csv").read_text()
    assert readme.read_text() == before


def key_of(row: dict) -> str:
    """The unit of a row, as the records define it."""
    names = ("dataset", "case", "attack", "surrogate", "surrogate_sha256", "target", "target_sha256",
             "protocol", "seed", "data_sha256")  # fmt: skip
    text = json.dumps({k: row[k] for k in names}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
