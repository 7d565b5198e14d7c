"""The ranking against brute force, its fairness, and the names and groups it rests on."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from robustvox.benchmark.metrics.statistics import compare
from robustvox.benchmark.show.labels import attack_names, model_family
from robustvox.benchmark.show.page.board import Board
from robustvox.benchmark.show.page.curves import BOTTOM, LEFT, LINE, TOP, charts
from robustvox.benchmark.show.page.ranking import rank, worst_cases
from robustvox.benchmark.show.tables.results import COLUMNS
from robustvox.benchmark.specs.suite_cases import SUITE_CASES
from robustvox.benchmark.specs.suites import Suite, SuiteRow
from robustvox.models import CATALOG as MODELS

PGD, PGD4, APGD, FGSM = "pgd:eps=8/255,steps=20", "pgd:eps=4/255,steps=20", "apgd:eps=8/255", "fgsm:eps=8/255"
NAMES = attack_names(
    dict.fromkeys((PGD, APGD, FGSM, "pgd:eps=4/255,steps=20", "gn:std=8/255", "vafa:eps=none,q_max=20"), 1)
)
KEYS = ["protocol", "surrogate", "surrogate_sha256", "target", "target_sha256", "attack", "case"]


def board(scores: dict[tuple[str, str, str], float], failed: tuple[tuple[str, str], ...] = ()) -> Board:
    """From Dice by model, attack and case."""
    rows: list[dict[str, Any]] = [
        {
            **{"protocol": "p", "surrogate": m, "surrogate_sha256": m, "target": m, "target_sha256": m},
            **{"attack": a, "case": c, "dice": d, "missing": int(d == 0), "dataset": "toy", "stored": m},
        }
        for (m, a, c), d in scores.items()
    ]
    failures = [
        dict.fromkeys(("surrogate", "target", "surrogate_sha256", "target_sha256", "stored"), m)
        | {"protocol": "p", "attack": PGD, "case": c}
        for m, c in failed
    ]
    cases = pd.DataFrame(rows)
    table = pd.DataFrame(columns=list(COLUMNS))
    table["protocol"], table["dataset"] = ["p"], "toy"
    empty = pd.DataFrame(columns=KEYS)
    return Board(
        "toy", table, table[:0], cases, cases, pd.DataFrame(failures, columns=[*KEYS, "stored"]), empty
    )


def random_scores(models: str, attacks: tuple[str, ...], cases: int) -> dict[tuple[str, str, str], float]:
    rng = np.random.default_rng(0)
    scores = {
        (m, a, f"c{i}"): float(rng.random() * 0.2 + 0.1 * k)
        for (k, m), a, i in itertools.product(enumerate(models), attacks, range(cases))
    }
    return scores | {(m, "none", f"c{i}"): 0.9 for m in models for i in range(cases)}


SUITE = Suite(
    name="p",
    rows=(
        SuiteRow(text="", spec="none", label="clean", control=True),
        SuiteRow(text="gn:std=8/255", spec="gn:std=8/255", label="noise", control=True),
        *(SuiteRow(text=a, spec=a, label=a.partition(":")[0]) for a in (PGD, APGD, FGSM)),
    ),
)
ROWS = ("gn:std=8/255", PGD, APGD, FGSM)


def test_worst_case_is_the_mean_of_the_minima() -> None:
    scores = random_scores("abcd", ROWS, 12)
    found = rank(board(scores), "p", SUITE)
    worst = {m: [min(scores[m, a, f"c{i}"] for a in (PGD, APGD, FGSM)) for i in range(12)] for m in "abcd"}
    assert [place.model for place in found.places] == sorted("abcd", key=lambda m: -np.mean(worst[m]))
    leader = found.places[0]
    # Expanded percentiles (Hesterberg 2015, arXiv:1411.5279): as wide as Student's t for 12 cases.
    tail = 100 * stats.norm.cdf(np.sqrt(12 / 11) * stats.t.ppf(0.025, 11))
    for place in found.places:
        assert place.worst == pytest.approx(np.mean(worst[place.model]))
        means = np.random.default_rng(1).choice(worst[place.model], (50_000, 12)).mean(axis=1)
        assert (place.low, place.high) == pytest.approx(
            tuple(np.percentile(means, [tail, 100 - tail])), abs=0.004
        )
        difference = compare(worst[leader.model], worst[place.model])
        if place.place == 1 and place is not leader:
            assert difference.low <= 0
    assert (found.n_cases, found.unranked) == (12, ())


def test_equal_models_share_a_place_and_the_next_skips_it() -> None:
    scores = random_scores("ab", ROWS, 10)
    shift = {f"c{i}": 0.001 * (-1) ** i for i in range(10)}
    scores |= {("twin", a, c): d - shift[c] for (m, a, c), d in scores.items() if m == "b"}
    found = rank(board(scores), "p", SUITE)
    assert [(place.place, place.tied) for place in found.places] == [(1, False), (1, True), (3, False)]


def test_nothing_outside_the_suite_moves_a_place() -> None:
    """Neither rows beside it nor models without it, on whatever cases."""
    scores = random_scores("abc", ROWS, 10)
    before = rank(board(scores), "p", SUITE)
    extra = {("a", "mifgsm:steps=2", f"c{i}"): 0.0 for i in range(10)}  # harder, on one model
    extra |= {("b", "vafa:eps=none,q_max=20", f"c{i}"): 0.0 for i in range(10)}
    extra |= {("c", PGD, f"x{i}"): 0.0 for i in range(50)}  # other cases
    extra |= {("own", a, f"c{i}"): 0.99 for i in range(10) for a in ("none", "mifgsm:steps=2")}
    extra |= {("few", a, "c3"): 0.99 for a in ("none", *ROWS)}
    extra |= {(f"easy{k}", a, f"x{i}"): 0.99 for k in range(9) for i in range(3) for a in ("none", PGD)}
    after = rank(board(scores | extra), "p", SUITE)
    assert after.places == before.places
    assert after.n_cases == 10
    assert {u.model: u.lacks for u in after.unranked} == {
        "own": "noise, pgd, apgd, fgsm",
        "few": "clean, noise, pgd, apgd, fgsm (1 of 10 cases)",
        **{f"easy{k}": "clean, noise, pgd, apgd, fgsm" for k in range(9)},
    }


def test_noise_is_no_attack() -> None:
    scores = random_scores("a", ROWS, 9) | {("a", "gn:std=8/255", f"c{i}"): 0.0 for i in range(9)}
    (place,) = rank(board(scores), "p", SUITE).places
    assert place.worst > 0


def test_a_failed_case_takes_the_model_out_of_the_ranking() -> None:
    """Hard cases turned into failures do not leave the easy ones to be ranked by."""
    scores = random_scores("ab", ROWS, 10)
    del scores["a", PGD, "c9"]
    found = rank(board(scores, failed=(("a", "c9"),)), "p", SUITE)
    assert [place.model for place in found.places] == ["b"]
    (unranked,) = found.unranked
    assert unranked.lacks == "pgd (9 of 10 cases, 1 failed)"
    assert (
        unranked.command == "python -m benchmark suite --model a --dataset toy --data-root DIR --protocol p"
    )


def test_the_cases_of_a_published_dataset_are_the_suite_s() -> None:
    """However many models have easier ones in common."""
    frozen = SUITE_CASES["hippocampus"].data
    scores = {(m, a, c): 0.5 for m in "ab" for a in ("none", *ROWS) for c in frozen}
    scores |= {(f"m{k}", a, f"x{i}"): 0.9 for k in range(9) for a in ("none", *ROWS) for i in range(12)}
    here = board(scores)
    here = replace(here, white_box=here.white_box.assign(dataset="hippocampus"))
    found = rank(here, "p", SUITE)
    assert [place.model for place in found.places] == ["a", "b"]
    assert len(found.unranked) == 9


def test_a_protocol_without_a_suite_has_no_ranking() -> None:
    found = rank(board(random_scores("ab", ROWS, 9)), "p")
    assert (found.suite, found.places, [u.model for u in found.unranked]) == (None, (), ["a", "b"])


def test_failed_checks_stand_in_the_ranking() -> None:
    rows = (*SUITE.rows[:2], replace(SUITE.rows[2], checks=("C2", "C8")), *SUITE.rows[3:])
    suite = replace(SUITE, rows=rows)
    checks = {("p", "a", PGD): {"C2": "", "C8": "C8:fail"}, ("p", "b", PGD): {"C2": "C2:warn", "C8": ""}}
    here = replace(board(random_scores("abc", ROWS, 9)), checks=checks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustvox.benchmark.records.states.find_suite", lambda _: suite)
        found = {place.model: (place.checks, place.failing) for place in rank(here, "p", suite).places}
    assert found == {"a": ("failed", ("pgd C8",)), "b": ("warned", ()), "c": ("unchecked", ())}


def test_worst_cases_keep_budgets_apart() -> None:
    scores = random_scores("a", (PGD, APGD, "pgd:eps=4/255,steps=20", "vafa:eps=none,q_max=20"), 5)
    found = worst_cases(board(scores), NAMES)
    assert set(found) == {("p", "a", "L∞ 8/255"), ("p", "a", "L∞ 4/255")}
    expected = np.mean([min(scores["a", PGD, f"c{i}"], scores["a", APGD, f"c{i}"]) for i in range(5)])
    assert found["p", "a", "L∞ 8/255"] == pytest.approx(expected)


def test_a_bound_that_was_not_kept_is_none() -> None:
    names = attack_names({PGD: 1, APGD: 1}, {PGD: 8.001 / 255, APGD: 9 / 255})
    assert {spec: name.budget for spec, name in names.items()} == {PGD: "L∞ 8/255", APGD: "no L∞ bound"}


def test_short_names_tell_attacks_apart() -> None:
    specs = {
        "pgd:alpha=2/255,eps=8/255,loss=dice,steps=20": 5,
        "pgd:alpha=1/255,eps=4/255,loss=dice,steps=20": 5,
        "pgd:alpha=1/255,eps=8/255,loss=dice,steps=20": 1,
        "pgd:alpha=2/255,eps=8/255,loss=ce,steps=20": 1,
        "vafa:eps=none,q_max=20@l2~0.02=pgd:alpha=2/255,eps=8/255,loss=dice,steps=20": 1,
        "torchattacks:PGD:eps=4/255": 1,
        "broken:=,": 1,
    }
    names = attack_names(specs)
    assert len({name.label for name in names.values()}) == len(specs)
    labels = {name.label: name.budget for name in names.values()}
    assert labels["pgd 8/255 loss ce"] == "L∞ 8/255"
    assert labels["vafa at L2 of pgd 8/255"] == "L2 as pgd 8/255"
    assert labels["pgd 4/255"] == "L∞ 4/255"
    assert labels["broken:=,"] == "no L∞ bound"
    assert model_family("segmamba@12345678") == "Mamba"


def test_another_step_size_or_a_bound_beside_the_budget_is_a_curve_of_its_own() -> None:
    names = attack_names(
        {
            "pgd:alpha=2/255,eps=8/255": 5,
            "pgd:alpha=1/255,eps=4/255": 5,
            "pgd:alpha=0.0001,eps=8/255": 1,
            "vafa:eps=none,q_max=20": 5,
            "vafa:eps=none,q_max=30": 5,
            "vafa:eps=8/255,q_max=30": 1,
        }
    )
    lines = [[a.label for a in names.values() if a.series == s] for s in {a.series for a in names.values()}]
    assert sorted(map(sorted, lines)) == [
        ["pgd 4/255", "pgd 8/255 alpha 2/255"],
        ["pgd 8/255 alpha 0.0001"],
        ["vafa q_max 20", "vafa q_max 30"],
        ["vafa q_max 30 8/255"],
    ]
    assert {a.line for a in names.values()} == {"pgd", "pgd alpha 0.0001", "vafa", "vafa 8/255"}


def test_curves_pass_through_clean_and_names_do_not_overlap() -> None:
    base = dict.fromkeys(COLUMNS, 0.5) | {"protocol": "p"}
    rows = [
        base | {"surrogate": f"m{i}", "attack": spec, "l2": l2, "dice_adv": 0.6, "dice_clean": 0.9}
        for i in range(11)
        for spec, l2 in (("pgd:eps=4/255,steps=20", 4.0), (PGD, 8.0), (FGSM, 8.0))
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    (chart,) = charts(Board("toy", table, table[:0], *[table[:0]] * 4), NAMES)
    assert chart.title == "pgd: 4/255, 8/255"
    assert len(chart.curves) == 11
    heights = sorted(curve.label_y for curve in chart.curves)
    assert min(np.diff(heights)) > 11.9
    assert heights[0] >= TOP
    assert heights[-1] <= chart.height - BOTTOM
    for curve in chart.curves:
        assert len(curve.points) == 3
        assert curve.points[0].y < curve.points[1].y  # lower Dice lies lower
        assert (curve.points[1].x - curve.points[0].x) * 2 == pytest.approx(
            curve.points[2].x - curve.points[0].x
        )


def test_charts_share_their_axes_and_show_every_model() -> None:
    base = dict.fromkeys(COLUMNS, 0.5) | {"protocol": "p", "dice_clean": 0.9, "l2": 1.0}
    dice = {PGD4: 0.7, PGD: 0.2, "fgsm:eps=4/255": 0.8, FGSM: 0.75}
    both = [base | {"surrogate": "unet", "attack": spec, "dice_adv": value} for spec, value in dice.items()]
    weak = [base | {"surrogate": m, "attack": PGD, "dice_adv": 0.6, "dice_adv_low": np.nan} for m in MODELS]
    vafa = [
        base | {"surrogate": "unet", "attack": f"vafa:eps=none,q_max={q},steps=20", "dice_adv": 0.8}
        for q in (20, 30)
    ]
    table = pd.DataFrame([*both, *weak[1:], *vafa], columns=list(COLUMNS))
    pgd, fgsm, frequency = charts(
        Board("toy", table, table[:0], *[table[:0]] * 4), attack_names(dict.fromkeys(table["attack"], 1))
    )
    assert [chart.title.split(":")[0] for chart in (pgd, fgsm, frequency)] == ["pgd", "fgsm", "vafa"]
    # Whoever met one budget alone is there too, from clean to that budget.
    assert {curve.model for curve in pgd.curves} == set(MODELS)
    assert {len(curve.points) for curve in pgd.curves if curve.model != "unet"} == {2}
    assert pgd.y_ticks == fgsm.y_ticks == frequency.y_ticks
    assert pgd.height == fgsm.height == frequency.height
    assert pgd.x_ticks == fgsm.x_ticks
    assert pgd.x_ticks[-1][1] == "8"
    assert (pgd.axis, frequency.axis) == ("eps in 1/255 of the intensity range", "q_max")
    at = {chart.title[:3]: next(c for c in chart.curves if c.model == "unet").points for chart in (pgd, fgsm)}
    assert [p.x for p in at["pgd"]] == [p.x for p in at["fgs"]]
    assert [p.x for p in at["pgd"]][2] - LEFT == pytest.approx(2 * (at["pgd"][1].x - LEFT))
    assert at["pgd"][0].y < at["fgs"][2].y < at["pgd"][1].y < at["pgd"][2].y


def test_no_two_models_of_the_zoo_look_the_same_in_a_chart() -> None:
    names = [
        *MODELS,
        *(f"{m}@{d}" for m in ("unet", "segresnet", "swin_unetr", "mamba_unet") for d in ("pgd_at", "noise")),
    ]
    base = dict.fromkeys(COLUMNS, 0.5) | {"protocol": "p"}
    rows = [base | {"surrogate": m, "attack": spec} for m in names for spec in (PGD, PGD4)]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    (chart,) = charts(Board("toy", table, table[:0], *[table[:0]] * 4), attack_names({PGD: 1, PGD4: 1}))
    assert len({(curve.family, curve.marker) for curve in chart.curves}) == len(names)
    assert {curve.model for curve in chart.curves if curve.defended} == {
        name for name in names if "@" in name
    }
    assert min(np.diff(sorted(curve.label_y for curve in chart.curves))) > LINE - 0.1
