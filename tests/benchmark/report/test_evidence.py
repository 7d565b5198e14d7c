"""From records to what a report says of them: every number by hand."""

from __future__ import annotations

import math

import pytest

from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit
from robustvox.benchmark.report.evidence import evidence
from robustvox.benchmark.report.trust import states_table
from robustvox.benchmark.report.verdict import judge
from robustvox.benchmark.report.worst import mean_sizes, worst_organs

PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=20"
FGSM, NOISE, HUGE = "fgsm:eps=8/255,loss=dice", "gn:std=8/255", "fgsm:eps=1,loss=dice"
ORGANS = {1: "liver", 2: "gall_bladder"}


@pytest.fixture
def store(tmp_path):
    with RecordStore(tmp_path / "records") as store:
        yield store


def unit(case, attack="none", surrogate="net", target="net", sha256="aa"):
    return Unit(
        dataset="d", case=case, attack=attack, surrogate=surrogate, surrogate_sha256=sha256, target=target,
        target_sha256="aa", protocol="robustvox-1", seed=0, data_sha256=case,
    )  # fmt: skip


def put(store, case, dice, attack="none", *, psnr=30.0, patient="", hd95=2.0, **who):
    """A unit whose organs have these Dices; None stands for an organ that the case has not."""
    scores = [
        {"class_id": k, "class_name": ORGANS[k], "dice": value, "nsd": value, "hd95_mm": None if value is None else hd95,
         "status": "absent" if value is None else "ok" if value else "missing"}
        for k, value in zip(ORGANS, dice, strict=True)
    ]  # fmt: skip
    cost = {"linf": 8 / 255, "l2": 5.0, "psnr": psnr, "ssim": 0.9, "forwards": 1, "backwards": 1, "seconds": 0.1,
            "flags": [], "provenance": "", **({"patient": patient} if patient else {})}  # fmt: skip
    store.append(unit(case, attack, **who), scores, cost)


def test_rows_and_organs_are_those_of_the_records(store):
    for case in "abc":
        put(store, case, (0.9, None if case == "c" else 0.8), patient="p" if case != "c" else "q")
        put(store, case, (0.9, None if case == "c" else 0.7), NOISE, patient="p" if case != "c" else "q")
    put(store, "a", (0.8, 0.39), PGD, patient="p", hd95=9.0)
    put(store, "b", (0.6, 0.0), PGD, patient="p", hd95=70.0)
    put(store, "c", (0.5, None), PGD, patient="q")
    put(store, "a", (0.4, 0.5), FGSM, patient="p")
    store.fail(unit("b", FGSM), "out of memory")
    put(store, "a", (0.0, 0.0), HUGE, psnr=6.0, patient="p")
    (found,) = evidence(load_records(store.root))
    rows = {row.attack: row for row in found.rows}
    pgd, fgsm = rows[PGD], rows[FGSM]
    assert (found.model, found.white_box, found.patients) == ("net", True, 2)
    assert pgd.by_case == pytest.approx({"a": 0.595, "b": 0.3, "c": 0.5})
    assert pgd.clean_by_case == pytest.approx({"a": 0.85, "b": 0.85, "c": 0.9})
    assert (pgd.cases, pgd.patients, pgd.failed, pgd.missing) == (3, 2, 0, 1)
    assert (fgsm.cases, fgsm.failed, fgsm.one_step) == (1, 1, True)
    assert (rows[NOISE].noise, rows[HUGE].seen) == (True, True)
    assert [row.attack for row in found.attacks] == [FGSM, PGD]
    liver, bladder = found.organs
    assert (bladder.name, bladder.cases, bladder.lost, bladder.gone) == ("gall bladder", 2, 2, True)
    assert (bladder.case, bladder.dice_clean, bladder.dice, bladder.hd95_clean, bladder.hd95) == (
        "b",
        0.8,
        0,
        2,
        70,
    )
    assert (bladder.mean_clean, bladder.mean) == pytest.approx((0.8, (0.39 + 0.0) / 2))
    # Of the liver FGSM on case a is the worst, and below half of its clean Dice; what anybody sees does not count.
    assert (liver.cases, liver.lost, liver.case, liver.dice) == (3, 1, "a", 0.4)
    assert liver.mean == pytest.approx((0.4 + 0.6 + 0.5) / 3)


def test_volumes_of_others_stand_beside_white_box_rows_or_alone(store):
    put(store, "a", (0.9, 0.9))
    put(store, "a", (0.8, 0.8), PGD, surrogate="thief", sha256="bb")
    (alone,) = evidence(load_records(store.root))
    assert (alone.white_box, [row.surrogate for row in alone.rows]) == (False, ["thief"])
    assert alone.organs[0].dice == 0.8
    put(store, "a", (0.5, 0.5), FGSM)
    (both,) = evidence(load_records(store.root))
    assert (both.white_box, [row.attack for row in both.rows], [row.attack for row in both.others]) == (
        True, [FGSM], [PGD],
    )  # fmt: skip
    assert both.organs[0].dice == 0.5
    assert (
        "Volumes of others",
        "On volumes made against thief under pgd 8/255, the worst of 1: 0.800.",
    ) in judge(both).points


def test_checks_come_with_what_their_failure_means(store):
    put(store, "a", (0.9, 0.9))
    put(store, "a", (0.4, 0.4), PGD)
    states = {("robustvox-1", "aa", PGD): {"C2": "", "C8": "C8:fail"}}
    found = evidence(load_records(store.root), states=states)
    (row,) = states_table(found).rows
    model, label, state, failed, lacking = (cell.text for cell in row)
    assert (model, label, state) == ("net", "pgd 8/255", "failed")
    assert (
        failed
        == "C8: a search without gradients does better, so the model hides its gradients and the number is too high"
    )
    assert lacking.startswith("C0, C1, C3")


def test_sizes_order_the_organs_and_none_left_is_no_distance(store):
    put(store, "a", (0.9, 0.8))
    put(store, "a", (0.8, 0.0), PGD, hd95=70.0)
    (found,) = evidence(load_records(store.root))
    sizes = mean_sizes({"a": {1: 1500.0, 2: 30.0}, "b": {1: 1700.0}})
    worst = worst_organs(found, sizes)
    assert worst is not None
    assert [[cell.text for cell in row] for row in worst.table.rows] == [
        [
            "gall bladder",
            "30",
            "1 of 1",
            "0.800 → 0.000",
            "a",
            "pgd 8/255",
            "0.800 → 0.000",
            "2.0 → none left",
        ],
        ["liver", "1600", "0 of 1", "0.900 → 0.800", "a", "pgd 8/255", "0.900 → 0.800", "2.0 → 70.0"],
    ]
    assert worst.sentence == (
        "The smallest organ, gall bladder (30 ml), goes from 0.800 to 0.000 and is lost in 1 of 1 cases. "
        "The largest organ, liver (1600 ml), goes from 0.900 to 0.800 and is lost in 0 of 1 cases."
    )
    unknown = worst_organs(found, {})
    assert unknown is not None
    assert (unknown.sentence, unknown.table.rows[0][1].text) == ("", "unknown")


def test_an_organ_that_no_attack_met_is_said_to_be_unfound(store):
    put(store, "a", (0.9, 0.0))
    put(store, "a", (0.8, 0.0), PGD)
    (found,) = evidence(load_records(store.root))
    worst = worst_organs(found, {})
    assert worst is not None
    assert worst.table.rows[1][4].text == "not found on the clean volume in 1"
    assert (
        dict(judge(found).points)["Before any attack"]
        == "Not found on the clean volume: gall bladder in 1 case."
    )


def test_a_model_without_any_result_still_has_its_rows(store):
    put(store, "a", (0.9, 0.9))
    store.fail(unit("a", PGD), "no memory")
    (found,) = evidence(load_records(store.root))
    assert (found.rows[0].failed, found.rows[0].cases, math.isnan(found.rows[0].dice)) == (1, 0, True)
    assert judge(found).headline == "No answer: no attacked volume has a score."
