"""Order of the models under the worst of several attacks, like compared with like.

One budget, the same attacks and the same cases for all. Per case the attack that hurts most counts, as in
AutoAttack (Croce and Hein, arXiv 2003.01690); then the mean over cases.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ...metrics.statistics import bootstrap_intervals
from ..labels import NOISE, UNBOUNDED, AttackName, model_defence, model_family
from .board import CLEAN, Board, Frame, own

BUDGET = "L∞ 8/255"  # of the literature; another one only where nothing was attacked at this


SHARE = 0.9  # of the usual cases that a model needs to be ranked


Scores = dict[str, dict[str, dict[str, tuple[float, int]]]]  # model, attack, case -> Dice, lost organs


@dataclass(frozen=True)
class Place:
    """One ranked model: Dice in 0..1, interval of the worst case over attacks."""

    place: int
    tied: bool
    model: str
    family: str
    defence: str
    clean: float
    worst: float
    low: float
    high: float
    lost: int
    failed: int
    hardest: str
    hardest_cases: int


@dataclass(frozen=True)
class Ranking:
    """The ranked models of one protocol, on what they were compared, and who could not be."""

    protocol: str
    budget: str
    attacks: tuple[AttackName, ...]
    n_cases: int
    places: tuple[Place, ...]
    unranked: tuple[tuple[str, str], ...]


def rank(board: Board, protocol: str, names: Mapping[str, AttackName]) -> Ranking:
    """Rank the models of a protocol by their worst case over the attacks that all of them have met.

    An attack counts for a model when it was run on at least nine in ten of the usual cases; a model is ranked
    when one such attack takes more than one step. Models share a place with the first of their group while the
    95% paired bootstrap interval of the difference to it holds zero.
    """
    scores, failed = _scores(board, protocol), _failed(board, protocol)
    budget = _common_budget(scores, names)
    # model -> attack at the budget -> cases that have a clean score too
    covered = {
        model: {a: found[a].keys() & found.get(CLEAN, {}).keys() for a in _comparable(found, names, budget)}
        for model, found in scores.items()
    }
    usual = _usual_cases(covered)
    attacked = {
        model: {a for a, cases in found.items() if len(cases & usual) >= SHARE * len(usual) > 0}
        for model, found in covered.items()
    }
    ranked = [m for m in sorted(attacked) if not all(names[a].one_step for a in attacked[m])]
    attacks = sorted(set.intersection(*(attacked[m] for m in ranked))) if ranked else []
    cases = sorted(usual.intersection(*(covered[m][a] for m in ranked for a in attacks)))
    places = (
        _places(scores, ranked, attacks, cases, names, failed, board.patients) if attacks and cases else []
    )
    unranked = sorted(scores.keys() - {place.model for place in places})
    return Ranking(
        protocol,
        budget,
        tuple(names[a] for a in attacks),
        len(cases),
        tuple(places),
        tuple((model, _missing(covered[model], usual, names, budget)) for model in unranked),
    )


def worst_cases(board: Board, names: Mapping[str, AttackName]) -> dict[tuple[str, str, str], float]:
    """Mean over cases of the worst Dice among the attacks of one budget, by protocol, model and budget.

    Over the cases that every one of those attacks has. Attacks without a common budget have no entry.
    """
    found = {}
    for protocol in board.protocols:
        for model, by_attack in _scores(board, protocol).items():
            budgets = {names[a].budget for a in by_attack if a != CLEAN} - {UNBOUNDED}
            for budget in sorted(budgets):
                attacks = _comparable(by_attack, names, budget)
                cases = set.intersection(*(set(by_attack[a]) for a in attacks)) if attacks else set()
                if cases:
                    worst = [min(by_attack[a][c][0] for a in attacks) for c in sorted(cases)]
                    found[protocol, model, budget] = _mean(worst)
    return found


def _scores(board: Board, protocol: str) -> Scores:
    cases: Frame = own(board.cases)
    cases = cases[(cases["protocol"] == protocol) & cases["dice"].notna()]
    scores: Scores = {}
    columns = (cases[name].tolist() for name in ("surrogate", "attack", "case", "dice", "missing"))
    for model, attack, case, dice, missing in zip(*columns, strict=True):
        scores.setdefault(model, {}).setdefault(attack, {})[case] = (dice, missing)
    return scores


def _failed(board: Board, protocol: str) -> Counter[str]:
    failures = own(board.failures)
    failures = failures[failures["protocol"] == protocol].drop_duplicates(["surrogate", "case"])
    return Counter(failures["surrogate"].tolist())


def _common_budget(scores: Scores, names: Mapping[str, AttackName]) -> str:
    """:data:`BUDGET` if any model was attacked at it, else the bounded one of the most models."""
    met = Counter(
        budget
        for found in scores.values()
        for budget in {names[a].budget for a in found if a != CLEAN and names[a].budget.startswith("L∞ ")}
    )
    return BUDGET if BUDGET in met or not met else min(met, key=lambda b: (-met[b], b))


def _comparable(found: Mapping[str, object], names: Mapping[str, AttackName], budget: str) -> set[str]:
    """Specs of real attacks at a budget; noise is a control, not an attack."""
    return {a for a in found if a != CLEAN and names[a].budget == budget and names[a].family != NOISE}


def _usual_cases(covered: Mapping[str, Mapping[str, AbstractSet[str]]]) -> set[str]:
    """The set of cases that the most pairs of model and attack have; ties go to the larger set."""
    sets = Counter(tuple(sorted(cases)) for found in covered.values() for cases in found.values())
    return set(min(sets, key=lambda s: (-sets[s], -len(s), s))) if sets else set()


def _missing(
    covered: Mapping[str, AbstractSet[str]], usual: set[str], names: Mapping[str, AttackName], budget: str
) -> str:
    """Why a model cannot be ranked."""
    several = [cases for attack, cases in covered.items() if not names[attack].one_step]
    if not several:
        return f"no attack of several steps at {budget}"
    most = max(len(cases & usual) for cases in several)
    return f"{most} of {len(usual)} cases" if most < SHARE * len(usual) else "no attack in common"


def _places(
    scores: Scores,
    models: Sequence[str],
    attacks: Sequence[str],
    cases: Sequence[str],
    names: Mapping[str, AttackName],
    failed: Mapping[str, int],
    patients: Mapping[str, str],
) -> list[Place]:
    hardest = {
        m: [min(attacks, key=lambda a, m=m, c=c: (scores[m][a][c][0], a)) for c in cases] for m in models
    }
    worst = {m: [scores[m][a][c][0] for a, c in zip(hardest[m], cases, strict=True)] for m in models}
    order = sorted(models, key=lambda m: (-_mean(worst[m]), m))
    low, high, separate = _intervals(np.array([worst[m] for m in order]), [patients[c] for c in cases])
    places: list[Place] = []
    leader = 0
    for i, model in enumerate(order):
        tied = i > 0 and not separate[i, leader]
        leader = leader if tied else i
        mean = _mean(worst[model])
        attack, times = min(Counter(hardest[model]).items(), key=lambda item: (-item[1], item[0]))
        lost = sum(scores[model][a][c][1] for a, c in zip(hardest[model], cases, strict=True))
        places.append(
            Place(
                place=leader + 1,
                tied=tied,
                model=model,
                family=model_family(model),
                defence=model_defence(model),
                clean=_mean([scores[model][CLEAN][c][0] for c in cases]),
                worst=mean,
                low=min(float(low[i]), mean),
                high=max(float(high[i]), mean),
                lost=lost,
                failed=failed.get(model, 0),
                hardest=names[attack].label,
                hardest_cases=times,
            )
        )
    return places


def _intervals(
    values: np.ndarray, patients: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, dict[tuple[int, int], bool]]:
    """Intervals of the means of rows, and for rows i > j whether that of the difference j - i lies above zero."""
    pairs = [(i, j) for i in range(len(values)) for j in range(i)]
    # In front the rows, then the differences of all pairs: everything resampled in the same way.
    table = np.vstack([values, *(values[j] - values[i] for i, j in pairs)])
    low, high = bootstrap_intervals(table, patients=patients)
    return low, high, dict(zip(pairs, (low > 0)[len(values) :].tolist(), strict=True))


def _mean(values: Sequence[float]) -> float:
    # Exact summation: the same on every machine and in every order.
    return math.fsum(values) / len(values)
