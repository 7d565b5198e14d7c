"""From the row of a frame to the interval of a table: frames of one patient are resampled together."""

from __future__ import annotations

import numpy as np
import pytest

from robustvox.benchmark.craft.meter import Cost
from robustvox.benchmark.harness.compute import Outcome
from robustvox.benchmark.metrics.distortion import Distortion
from robustvox.benchmark.metrics.statistics import bootstrap_intervals, sign_flip
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.show.files import render
from robustvox.benchmark.show.page.board import load_notes
from robustvox.benchmark.show.tables.results import white_box
from robustvox.benchmark.studies.comparison import compare_models

PGD = "pgd:eps=8/255,steps=20"
NOMINAL = "millimetres are nominal"


def outcome(patient: str) -> Outcome:
    distortion = Distortion(linf=0.03, l2=5.0, psnr=30.0, ssim=0.9)
    return Outcome(
        scores=(), cost=Cost(1, 1, 1.0), distortion=distortion, success=None, flags=(), patient=patient
    )


def write(folder, dice: dict[str, list[float]], patients: bool) -> None:
    with RecordStore(folder / "records") as store:
        for model, values in dice.items():
            for number, value in enumerate(values):
                for attack, found in (("none", 0.9), (PGD, value)):
                    what = Unit(
                        dataset="frames", case=f"p{number // 2}_frame{number % 2}", attack=attack, surrogate=model,
                        surrogate_sha256=model, target=model, target_sha256=model, protocol="robustvox-1", seed=0,
                        data_sha256="",
                    )  # fmt: skip
                    row = {
                        "class_id": 1,
                        "class_name": "a",
                        "dice": found,
                        "hd95_mm": 1.0,
                        "nsd": 1.0,
                        "status": "ok",
                    }
                    cost = outcome(f"p{number // 2}" if patients else "").cost_row("")
                    store.append(what, [row], cost)
        store.provenance(
            {"protocol": "robustvox-1", "dataset": {"source": "s", "licence": "l", "note": NOMINAL}}
        )


DICE = {"a": [0.9, 0.88, 0.5, 0.52, 0.7, 0.72, 0.3, 0.33], "b": [0.8, 0.8, 0.45, 0.5, 0.6, 0.66, 0.2, 0.3]}


@pytest.mark.usefixtures("few_patients")
@pytest.mark.parametrize("patients", [True, False])
def test_intervals_and_tests_of_tables_are_by_patient(tmp_path, patients):
    write(tmp_path / "frames", DICE, patients)
    records = load_records(tmp_path / "frames" / "records")
    whose = [f"p{number // 2}" for number in range(8)] if patients else None
    table = white_box(records).set_index("surrogate")
    for model, values in DICE.items():
        low, high = bootstrap_intervals(np.array([values]), patients=whose)
        assert table.loc[model, "n_cases"] == 8
        assert (table.loc[model, "dice_adv_low"], table.loc[model, "dice_adv_high"]) == (low[0], high[0])
    compared = compare_models(records, ["a", "b"]).iloc[0]
    apart = np.array(DICE["a"]) - np.array(DICE["b"])
    assert compared["p_value"] == sign_flip(apart, patients=whose)
    low, high = bootstrap_intervals(apart[None], patients=whose)
    assert (compared["low"], compared["high"]) == (low[0], high[0])


def test_every_table_says_what_is_to_be_said_of_the_data(tmp_path):
    write(tmp_path / "frames", DICE, True)
    assert load_notes(tmp_path / "frames" / "records") == (NOMINAL,)
    files = {path.name: text for path, text in render(tmp_path).items()}
    for name in ("white_box.md", "white_box.tex", "summary.md", "summary.tex", "index.html"):
        assert NOMINAL in files[name], name


def test_a_patient_of_one_case_leaves_rows_as_they_were():
    assert "patient" not in outcome("").cost_row("")
    assert outcome("p1").cost_row("")["patient"] == "p1"
