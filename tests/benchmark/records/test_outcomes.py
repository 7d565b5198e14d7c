"""Outcomes beside the records: one line per check, stable bytes, and flags in the right rows only."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from robustvox.benchmark.records.outcomes import CheckOutcome, load_flags, load_outcomes, save
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import RecordsError, Unit
from robustvox.benchmark.show.files import check, write
from robustvox.benchmark.show.tables.results import transfer, white_box


def outcome(id: str, status: str, **changes: Any) -> CheckOutcome:
    values: dict[str, Any] = {
        "dataset": "phantom",
        "protocol": "robustvox-1",
        "surrogate": "unet",
        "surrogate_sha256": "a" * 64,
        "attack": "pgd:eps=8/255",
        "flag": f"{id}:{status}" if status in ("warn", "fail") else "",
        **{"number": 0.5, "rule": "rule", "detail": "detail", "cases": ("c1",), "seed": 0, "queries": 1000},
        **{"robustvox": "0.1.0", "commit": "abc", "torch": "2.9"},
    }
    return CheckOutcome(check=id, slug="slug", status=status, **values | changes)


def scored(store: RecordStore, attack: str, target: str = "a" * 64, flags: tuple[str, ...] = ()) -> None:
    unit = Unit(
        dataset="phantom", case="c1", attack=attack, surrogate="unet", surrogate_sha256="a" * 64,
        target="unet", target_sha256=target, protocol="robustvox-1", seed=0, data_sha256="",
    )  # fmt: skip
    row = {"class_id": 1, "class_name": "x", "dice": 0.5, "hd95_mm": 1.0, "nsd": 0.5, "status": "ok"}
    cost = {"linf": 0.0, "l2": 0.0, "psnr": 1.0, "ssim": 1.0, "forwards": 1, "backwards": 0, "seconds": 1.0}
    store.append(unit, [row], {**cost, "flags": list(flags), "provenance": ""})


@pytest.fixture
def results(tmp_path) -> Path:
    with RecordStore(tmp_path / "phantom" / "records") as store:
        for target in ("a" * 64, "b" * 64):
            scored(store, "none", target)
            scored(store, "pgd:eps=8/255", target, flags=("slow",))
            scored(store, "pgd:eps=4/255", target)
    return tmp_path


def flags(results: Path) -> dict[str, list[str]]:
    records, checks = (
        load_records(results / "phantom" / "records"),
        load_flags(results / "phantom" / "checks"),
    )
    return {
        name: dict(zip(table["attack"], table["flags"], strict=True))
        for name, table in (("white", white_box(records, checks)), ("transfer", transfer(records, checks)))
    }


def test_warnings_and_failures_reach_the_rows_of_this_attack_and_surrogate(results):
    folder = results / "phantom" / "checks"
    found = [
        outcome("C2", "pass"),
        outcome("C8", "fail"),
        outcome("C6", "warn"),
        outcome("C9", "skip"),
        outcome("C3", "fail", surrogate_sha256="c" * 64),
        outcome("C4", "fail", protocol="bmvc2024"),
        outcome("C5", "fail", dataset="other"),
    ]
    save(folder, found)
    rows = {"pgd:eps=8/255": "C6:warn;C8:fail;slow", "pgd:eps=4/255": ""}
    assert flags(results) == {"white": rows, "transfer": rows}
    write(results)
    assert check(results) == []
    assert "C6:warn;C8:fail;slow" in (results / "phantom" / "white_box.csv").read_text()
    save(folder, [outcome("C8", "pass")])
    assert flags(results)["white"]["pgd:eps=8/255"] == "C6:warn;slow"
    assert check(results)


def test_without_checks_nothing_changes(results):
    assert flags(results)["white"] == {"pgd:eps=8/255": "slow", "pgd:eps=4/255": ""}
    assert load_flags(results / "phantom" / "checks").empty


def test_same_bytes_whatever_the_order_and_no_leftovers(tmp_path):
    found = [outcome(f"C{n}", "warn", attack=attack) for n in (10, 2, 1) for attack in ("z", "a")]
    save(tmp_path / "one", found)
    for entry in reversed(found):
        save(tmp_path / "two", [entry])
    (one,) = (tmp_path / "one").iterdir()
    (two,) = (tmp_path / "two").iterdir()
    assert one.name == two.name == "robustvox-1.jsonl"
    assert one.read_bytes() == two.read_bytes()
    entries = [json.loads(text) for text in one.read_text().splitlines()]
    assert [e["attack"] + e["check"] for e in entries] == ["aC1", "aC2", "aC10", "zC1", "zC2", "zC10"]
    assert list(entries[0])[:6] == [
        "dataset", "protocol", "surrogate", "surrogate_sha256", "attack", "check",
    ]  # fmt: skip


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    save(tmp_path, [outcome("C1", "pass")])
    before = (tmp_path / "robustvox-1.jsonl").read_bytes()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        save(tmp_path, [outcome("C1", "fail")])
    assert (tmp_path / "robustvox-1.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        {"flag": "C8:none"},
        {"flag": 1},
        {"check": "../x"},
        {"protocol": "../../x"},
        {"status": None},
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, damage):
    save(tmp_path, [outcome("C1", "pass")])
    path = tmp_path / "robustvox-1.jsonl"
    bad = dataclasses.replace(outcome("C2", "warn"), **damage)
    path.write_text(path.read_text() + json.dumps(dataclasses.asdict(bad)) + "\n")
    with pytest.raises(RecordsError, match=r"robustvox-1\.jsonl, line 2: expected the outcome of a check"):
        load_flags(tmp_path)
    with pytest.raises((ValueError, RecordsError)):
        save(tmp_path / "new", [bad])
    path.write_text("{")
    with pytest.raises(RecordsError, match="line 1"):
        load_flags(tmp_path)


def test_a_line_with_more_than_an_outcome_makes_no_wider_table(tmp_path: Path) -> None:
    save(tmp_path, [outcome("C1", "pass")])
    (path,) = tmp_path.glob("*.jsonl")
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, **{f"k{number}": 0 for number in range(1000)}}) + "\n")
    assert load_outcomes(tmp_path).columns.tolist() == list(line)
