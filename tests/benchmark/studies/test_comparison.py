"""Paired comparison of two recorded models, against the formulas by hand, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.metrics.statistics import compare, holm
from robustvox.benchmark.records.reading import Records, load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.specs.spec import UsageError
from robustvox.benchmark.studies.comparison import COLUMNS, compare_models

FGSM = "fgsm:eps=8/255,loss=dice"
HASHES = {"unet": "a" * 64, "unetr": "b" * 64}
COST: dict[str, Any] = {
    **dict.fromkeys(("linf", "l2", "psnr", "ssim", "seconds"), 1.0),
    **dict.fromkeys(("forwards", "backwards"), 1),
    **{"flags": [], "provenance": "p"},
}


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def record(
    store: RecordStore, case: str, attack: str, model: str, dice: tuple[float, ...], **more: str
) -> None:
    names = {"surrogate": model, "surrogate_sha256": HASHES[model]}
    names |= {"target": model, "target_sha256": HASHES[model], **more}
    unit = Unit(
        dataset="toy", case=case, attack=attack, protocol="robustvox-1", seed=0, data_sha256="", **names
    )
    rows = [
        {"class_id": i, "class_name": "x", "dice": d, "hd95_mm": 10 - d, "nsd": d, "status": "ok"}
        for i, d in enumerate(dice, 1)
    ]
    store.append(unit, rows, COST)


def dice_of(model: str, attack: str) -> np.ndarray:
    """(cases, classes), unet clearly worse under fgsm only."""
    rng = np.random.default_rng([len(model), len(attack)])
    return 0.6 + 0.05 * rng.random((8, 2)) - (0.2 if (model, attack) == ("unet", FGSM) else 0.0)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    with RecordStore(tmp_path / "toy" / "records") as store:
        for model in HASHES:
            for attack in ("none", FGSM, "mine:k=1"):
                for i, dice in enumerate(dice_of(model, attack)):
                    record(store, f"c{i}", attack, model, tuple(dice))
        # Neither a case of one model alone nor a transfer row may count.
        record(store, "c8", FGSM, "unet", (0.0, 0.0))
        record(store, "c0", FGSM, "unet", (0.0, 0.0), target="unetr", target_sha256=HASHES["unetr"])
    return tmp_path


@pytest.fixture
def records(results: Path) -> Records:
    return load_records(results / "toy" / "records")


def test_by_hand(records: Records) -> None:
    table = compare_models(records, ["unet", "unetr"])
    assert table.attack.tolist() == [FGSM, "mine:k=1"]
    expected = [
        compare(dice_of("unet", attack).mean(1), dice_of("unetr", attack).mean(1)) for attack in table.attack
    ]
    for row, found in zip(table.to_dict("records"), expected, strict=True):
        assert [row[k] for k in ("n_cases", "p_value")] == [8, found.p_value]
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(found[1:4])
        assert row["mean_a"] - row["mean_b"] == pytest.approx(found.difference)
    np.testing.assert_allclose(table.p_holm, holm([found.p_value for found in expected]))
    assert table.p_holm[0] < 0.05 < table.p_holm[1]
    assert table.high[0] < 0


def test_the_other_way_round_mirrors_it_and_a_distance_has_the_other_sign(records: Records) -> None:
    there = compare_models(records, ["unet", "unetr"])
    back = compare_models(records, ["unetr", "UNet"])
    np.testing.assert_allclose(
        there[["difference", "low", "high"]], -back[["difference", "high", "low"]], atol=1e-12
    )
    assert there.p_value.tolist() == back.p_value.tolist()
    far = compare_models(records, ["unet", "unetr"], metric="hd95_mm")
    np.testing.assert_allclose(far.difference, -there.difference)


def test_from_the_command_line(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = results / "out" / "table.csv"
    typed = ["compare", "--model", "unet", "--model", "UNETR", "--dataset", "toy", "--out", str(results)]
    assert main([*typed, "--attack", "fgsm", "--attack", "none", "--csv", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "unet minus unetr" in shown
    assert "fgsm:eps=8/255" in shown
    assert "clean" in shown
    table = pd.read_csv(path)
    assert tuple(table.columns) == COLUMNS
    assert table.attack.tolist() == [FGSM, "none"]
    assert f"{table.difference[0]:+.3f}" in shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ["unet"]}, "expected two models to compare, got 1"),
        ({"models": ["unet", "Unet"]}, "expected two different models"),
        ({"models": ["unet", "unett"]}, "did you mean unet"),
        ({"models": ["unet", "unetr@ff"]}, "expected one checkpoint of unetr@ff, found none"),
        ({"metric": "f1"}, "expected --metric among dice"),
        ({"attacks": ["pgd:steps=3"]}, "under pgd:steps=3, found none"),
        ({"protocol": "bmvc2024"}, "unknown model in the records"),
    ],
)
def test_unusable_requests_are_refused(records: Records, change: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compare_models(records, **({"models": ["unet", "unetr"]} | change))


def test_two_checkpoints_of_one_name_need_the_hash(results: Path) -> None:
    other = {"surrogate_sha256": "c" * 64, "target_sha256": "c" * 64}
    with RecordStore(results / "toy" / "records") as store:
        record(store, "c1", FGSM, "unet", (0.5, 0.5), **other)
    records = load_records(results / "toy" / "records")
    with pytest.raises(UsageError, match="found unet@aaaaaaaa, unet@cccccccc; name it as NAME@HASH"):
        compare_models(records, ["unet", "unetr"])
    table = compare_models(records, ["unet@c", "unet@a"])
    assert table[["model_a", "model_b", "n_cases"]].values.tolist() == [["unet@cccccccc", "unet@aaaaaaaa", 1]]


def test_without_records_says_what_there_is(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--model", "a", "--model", "b", "--dataset", "btcv", "--out", str(results)]) == 2
    assert "recorded there: toy" in capsys.readouterr().err
