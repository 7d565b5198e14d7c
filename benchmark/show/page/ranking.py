"""Order of the models under the worst of the suite's attacks: the same rows and the same cases for all.

What counts is the suite of the protocol and nothing else, so no row that somebody adds or leaves out moves a place. Per
case the attack that hurts most counts, as in AutoAttack (Croce and Hein, arXiv 2003.01690); then the mean over cases.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from ...metrics.statistics import bootstrap_intervals
from ...records.states import UNCHECKED, worst_state
from ...specs.suites import Suite, SuiteRow, find_suite
from ..labels import NOISE, UNBOUNDED, AttackName, model_defence, model_family
from .board import CLEAN, Board, Frame, own

Scores = dict[str, dict[str, dict[str, tuple[float, int]]]]  # model, attack, case -> Dice, lost organs


@dataclass(frozen=True)
class Place:
    """One ranked model: Dice in 0..1, interval of the worst case over attacks, what its rows' checks found."""

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
    hardest: str
    hardest_cases: int
    checks: str = UNCHECKED
    failing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unranked:
    """A model without the whole suite: what it lacks, and the command that fills it."""

    model: str
    lacks: str
    command: str


@dataclass(frozen=True)
class Ranking:
    """The ranked models of one protocol, on what they were compared, and who could not be."""

    protocol: str
    suite: Suite | None
    n_cases: int
    places: tuple[Place, ...]
    unranked: tuple[Unranked, ...]


def rank(board: Board, protocol: str, suite: Suite | None = None) -> Ranking:
    """Rank the models that have the whole suite of a protocol, by their worst case over it.

    Every row of the suite, on every case of it, with its seed: a model that lacks one, or failed on one, is listed and
    not ranked. The cases are those that the suite names for the dataset; where it names none, the ones that the most
    pairs of model and row have. Models share a place with the first of their group while the 95% paired bootstrap
    interval of the difference to it holds zero.

    Args:
        board: the dataset.
        protocol: its name.
        suite: of the protocol, unless given.
    """
    suite = suite or find_suite(protocol)
    everybody = set(own(board.cases)["surrogate"][own(board.cases)["protocol"] == protocol].tolist())
    if suite is None:
        return Ranking(protocol, None, 0, (), tuple(Unranked(m, "no suite", "") for m in sorted(everybody)))
    scores, failed = _scores(board.suited, protocol), _failed(board, protocol)
    frozen = suite.cases(board.name)
    cases = sorted(frozen.data) if frozen else sorted(_usual_cases(scores))
    lacking = {m: _lacking(scores.get(m, {}), suite, cases) for m in sorted(everybody)}
    ranked = [m for m, lacks in lacking.items() if cases and not lacks]
    unranked = [
        Unranked(m, _told(lacks, failed.get(m, {}), len(cases)), _command(board, suite, m))
        for m, lacks in lacking.items()
        if m not in ranked
    ]
    places = _places(board, scores, ranked, suite, cases) if ranked else []
    return Ranking(protocol, suite, len(cases), tuple(places), tuple(unranked))


def _lacking(
    found: Mapping[str, Mapping[str, object]], suite: Suite, cases: Sequence[str]
) -> list[tuple[SuiteRow, int]]:
    """Rows of the suite that a model has not on every case, with the number of those that it has."""
    have = [(row, len(found.get(row.spec, {}).keys() & {*cases})) for row in suite.rows]
    return [(row, number) for row, number in have if number < len(cases) or not cases]


def _told(lacks: Sequence[tuple[SuiteRow, int]], failed: Mapping[str, int], wanted: int) -> str:
    """What is lacking, whole rows first and by number of cases."""
    groups: dict[str, list[str]] = {}
    for row, number in lacks:
        broken = f", {failed[row.spec]} failed" if failed.get(row.spec) else ""
        groups.setdefault(f"{number} of {wanted} cases{broken}" if number or broken else "", []).append(
            row.label
        )
    return "; ".join(
        f"{', '.join(names)}{f' ({how})' if how else ''}" for how, names in sorted(groups.items())
    )


def _command(board: Board, suite: Suite, model: str) -> str:
    """What measures the rest of the suite."""
    stored = board.stored.get(model, model)
    words = ["python -m benchmark suite --model", stored]
    words += ["--checkpoint FILE"] if stored != model else []
    words += [f"--dataset {board.name}"] + (["--data-root DIR"] if board.name != "phantom" else [])
    words += [f"--protocol {suite.name}"] if suite.name != "robustvox-1" else []
    return " ".join(words)


def worst_cases(board: Board, names: Mapping[str, AttackName]) -> dict[tuple[str, str, str], float]:
    """Mean over cases of the worst Dice among the attacks of one budget, by protocol, model and budget.

    Over the cases that every one of those attacks has. Attacks without a common budget have no entry.
    """
    found = {}
    for protocol in board.protocols:
        for model, by_attack in _scores(board.cases, protocol).items():
            budgets = {names[a].budget for a in by_attack if a != CLEAN} - {UNBOUNDED}
            for budget in sorted(budgets):
                attacks = _comparable(by_attack, names, budget)
                cases = set.intersection(*(set(by_attack[a]) for a in attacks)) if attacks else set()
                if cases:
                    worst = [min(by_attack[a][c][0] for a in attacks) for c in sorted(cases)]
                    found[protocol, model, budget] = _mean(worst)
    return found


def _scores(frame: Frame, protocol: str) -> Scores:
    cases: Frame = own(frame)
    cases = cases[(cases["protocol"] == protocol) & cases["dice"].notna()]
    scores: Scores = {}
    columns = (cases[name].tolist() for name in ("surrogate", "attack", "case", "dice", "missing"))
    for model, attack, case, dice, missing in zip(*columns, strict=True):
        scores.setdefault(model, {}).setdefault(attack, {})[case] = (dice, missing)
    return scores


def _failed(board: Board, protocol: str) -> dict[str, dict[str, int]]:
    """Failed cases by model and attack."""
    failures = own(board.failures)
    found: dict[str, dict[str, int]] = {}
    for (model, attack), cases in failures[failures["protocol"] == protocol].groupby(["surrogate", "attack"])[
        "case"
    ]:
        found.setdefault(model, {})[attack] = cases.nunique()
    return found


def _comparable(found: Mapping[str, object], names: Mapping[str, AttackName], budget: str) -> set[str]:
    """Specs of real attacks at a budget; noise is a control, not an attack."""
    return {a for a in found if a != CLEAN and names[a].budget == budget and names[a].family != NOISE}


def _usual_cases(scores: Scores) -> AbstractSet[str]:
    """The set of cases that the most pairs of model and row have; ties go to the larger set."""
    sets = Counter(tuple(sorted(cases)) for found in scores.values() for cases in found.values())
    return set(min(sets, key=lambda s: (-sets[s], -len(s), s))) if sets else set()


def _places(
    board: Board, scores: Scores, models: Sequence[str], suite: Suite, cases: Sequence[str]
) -> list[Place]:
    attacks = {row.spec: row.label for row in suite.attacked}
    hardest = {
        m: [min(attacks, key=lambda a, m=m, c=c: (scores[m][a][c][0], a)) for c in cases] for m in models
    }
    worst = {m: [scores[m][a][c][0] for a, c in zip(hardest[m], cases, strict=True)] for m in models}
    order = sorted(models, key=lambda m: (-_mean(worst[m]), m))
    low, high, separate = _intervals(np.array([worst[m] for m in order]), [board.patients[c] for c in cases])
    places: list[Place] = []
    leader = 0
    for i, model in enumerate(order):
        tied = i > 0 and not separate[i, leader]
        leader = leader if tied else i
        mean = _mean(worst[model])
        attack, times = min(Counter(hardest[model]).items(), key=lambda item: (-item[1], item[0]))
        lost = sum(scores[model][a][c][1] for a, c in zip(hardest[model], cases, strict=True))
        state, failing = _checked(board, suite, model)
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
                hardest=attacks[attack],
                hardest_cases=times,
                checks=state,
                failing=failing,
            )
        )
    return places


def _checked(board: Board, suite: Suite, model: str) -> tuple[str, tuple[str, ...]]:
    """The worst state among the rows of the suite, and what fails in which row."""
    states = [(row, board.state(suite.name, model, row.spec)) for row in suite.attacked if row.checks]
    failing = [f"{row.label} {check}" for row, state in states for check in state.failed]
    return worst_state([state.name for _, state in states]), tuple(failing)


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
