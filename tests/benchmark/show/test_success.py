"""Success rates from records: by hand, for records old and new, and in the files of `leaderboard`."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.metrics.success import voxel_success
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.show.files import check, write
from robustvox.benchmark.show.tables.success import FILES, render, success_rates

from ..first_form import rows_in, spread

COST = {"linf": 0.0, "l2": 0.0, "psnr": 40.0, "ssim": 1.0, "forwards": 1, "backwards": 0, "seconds": 1.0,
        "flags": [], "provenance": "p"}  # fmt: skip
OLD = {name: None for name in ("asr_voxel", "asr_foreground")}


def append(store, case, attack, dice, seed=0, weights="a", **rates):
    unit = Unit(dataset="toy", case=case, attack=attack, surrogate="unet", surrogate_sha256=weights * 64, target="unet",
                target_sha256=weights * 64, protocol="robustvox-1", seed=seed, data_sha256="")  # fmt: skip
    rows = [
        {"class_id": i, "class_name": name, "dice": d, "hd95_mm": 1.0, "nsd": 1.0, "status": "ok"}
        for i, (name, d) in enumerate(zip(("liver", "a|b"), dice, strict=True), start=1)
    ]
    store.append(unit, rows, {**COST, **rates})


@pytest.fixture
def root(tmp_path):
    """Two cases; in `a` one organ of two is lost, in `b` none; a second seed of `a` loses both."""
    root = tmp_path / "toy" / "records"
    with RecordStore(root) as store:
        for case in "ab":
            append(store, case, "none", (0.8, 0.8))
        append(store, "a", "pgd", (0.39, 0.41), asr_voxel=0.1, asr_foreground=0.5)
        append(store, "a", "pgd", (0.1, 0.2), seed=1, asr_voxel=0.3, asr_foreground=0.7)
        append(store, "b", "pgd", (0.8, 0.7), asr_voxel=0.0, asr_foreground=float("nan"))
        append(store, "a", "=old", (0.8, 0.0))
    return root


@pytest.mark.usefixtures("few_patients")
def test_rates_by_hand(root):
    table = success_rates(load_records(root)).set_index("attack")
    pgd = table.loc["pgd"]
    assert (pgd["n_cases"], pgd["n_organs"], pgd["lost"]) == (2, 6, 3)
    assert pgd["asr_voxel"] == pytest.approx(0.1)
    assert pgd["asr_foreground"] == pytest.approx(0.6), "a case without a right voxel does not count"
    assert pgd["success"] == pytest.approx((0.75 + 0.0) / 2)
    assert (pgd["success_low"], pgd["success_high"]) == (0.0, 0.75)
    old = table.loc["=old"]
    assert math.isnan(old["asr_voxel"])
    assert (old["lost"], old["success"]) == (1, 0.5)


def test_old_rows_load_and_keep_their_bytes(root):
    path = root / "robustvox-1" / "unet" / "pgd.jsonl"
    rows = rows_in(path)
    old = [{name: value for name, value in row.items() if name not in OLD} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in old))
    before = path.read_bytes()
    costs = load_records(root).costs
    assert costs["asr_voxel"].isna().all()
    with RecordStore(root) as store:
        append(store, "c", "pgd", (0.5, 0.5), **OLD)
    assert path.read_bytes().startswith(before)


def test_a_rate_that_is_no_number_is_refused(root):
    with RecordStore(root) as store, pytest.raises(ValueError, match="asr_voxel='high'"):
        append(store, "c", "pgd", (0.5, 0.5), asr_voxel="high")
    with RecordStore(root) as store, pytest.raises(ValueError, match="asr_typo"):
        append(store, "c", "pgd", (0.5, 0.5), asr_typo=0.5)


@pytest.mark.usefixtures("few_patients")
def test_the_files_belong_to_the_leaderboard(root):
    results = root.parent.parent
    write(results)
    assert check(results) == []
    folder = results / "toy"
    assert {name for name in FILES if (folder / name).is_file()} == set(FILES)
    text = (folder / "success.md").read_text()
    assert r"a\|b" in text
    assert "0.375 (0.000 to 0.750)" in text
    assert "2/3" in text
    assert "'=old" in (folder / "success.csv").read_text(), "no spreadsheet may run it"
    (folder / "success.csv").write_text("stale")
    assert [problem.split()[1] for problem in check(results)] == [str(folder / "success.csv")]


def test_two_checkpoints_of_one_name_are_told_apart(root):
    with RecordStore(root) as store:
        append(store, "a", "none", (0.8, 0.8), weights="b")
        append(store, "a", "pgd", (0.1, 0.8), weights="b")
    files = render(root.parent, load_records(root))
    for name, lost in (("success.csv", [3, 1]), ("lost_organs.csv", [2, 1, 1, 0])):
        table = pd.read_csv(io.StringIO(files[root.parent / name]))
        attacked = table[table["attack"] == "pgd"]
        assert attacked["lost"].tolist() == lost
        expected = [f"unet@{letter * 8}" for letter in "ab" for _ in range(len(lost) // 2)]
        assert attacked["surrogate"].tolist() == attacked["target"].tolist() == expected
    rows = [line.split(" | ") for line in files[root.parent / "success.md"].splitlines() if "pgd" in line]
    assert [(row[0].strip("| "), row[-2]) for row in rows] == [
        ("unet@aaaaaaaa", "2/3"),
        ("unet@bbbbbbbb", "1/1"),
    ]


def test_order_of_records_changes_no_byte(root):
    first = render(root.parent, load_records(root))
    for path in root.glob("*/*/*.jsonl"):
        lines = spread(path).read_text().splitlines(keepends=True)
        blocks = [lines[i : i + 3] for i in range(0, len(lines), 3)]
        path.write_text("".join(line for block in reversed(blocks) for line in block))
    assert render(root.parent, load_records(root)) == first


def test_without_attacks_there_are_no_files(tmp_path):
    with RecordStore(tmp_path) as store:
        append(store, "a", "none", (0.8, 0.8))
    assert render(tmp_path, load_records(tmp_path)) == {}
    assert len(success_rates(load_records(tmp_path / "nowhere"))) == 0


@pytest.mark.usefixtures("few_patients")
def test_a_run_records_the_share_of_voxels_turned_wrong(toy, monkeypatch):
    from robustvox.benchmark.harness import bench as harness

    volumes: dict[str, list[np.ndarray]] = {}
    predict = harness.predict

    def spy(model, images):
        volumes.setdefault(model.name, []).append(predict(model, images))
        return volumes[model.name][-1]

    monkeypatch.setattr(harness, "predict", spy)
    assert toy("--attack", "fgsm", "--cases", "case_000") == 0
    (predicted,) = volumes.values()
    assert len(predicted) == 2, "the clean image is predicted once for its scores and the rates"
    from robustvox.datasets import open_dataset

    clean, attacked = predicted
    expected = voxel_success(attacked, clean, open_dataset(toy.folder).load("case_000").label)
    costs = load_records(toy.root / "results" / "toy" / "records").costs.set_index("attack")
    attack = next(name for name in costs.index if name != "none")
    assert tuple(costs.loc[attack, ["asr_voxel", "asr_foreground"]]) == pytest.approx(
        tuple(expected), nan_ok=True
    )
    assert costs.loc["none", ["asr_voxel", "asr_foreground"]].isna().all()
    table = pd.read_csv(toy.root / "results" / "toy" / "success.csv")
    assert table["asr_voxel"].tolist() == pytest.approx([expected.voxel])
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0
