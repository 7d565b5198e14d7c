"""Statistics over cases: bootstrap intervals of a mean, and paired comparison of two models.

The patient is the unit: average classes and seeds first, and say which cases are of one patient, because two cases of
a patient are not independent. Where nothing is said every case is a patient. Nothing here depends on global random
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES, SEED = 10_000, 20_240_607

LEAST_UNITS = 8
"""Patients that an interval needs to be shown; ``tests/performance/bootstrap_coverage.py`` measures what fewer cover."""


class Comparison(NamedTuple):
    """Paired difference of two models over the same cases.

    Attributes:
        n_cases: pairs in which both values are known, whoever they are of.
        difference: mean of ``a - b``.
        low, high: 95% bootstrap interval of it.
        p_value: two-sided paired sign-flip permutation test of "no difference".
    """

    n_cases: int
    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_intervals(
    table: np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap intervals of the mean, per row: expanded percentiles of the resampled means.

    The plain percentile interval is too short for few cases: a resample's variance lacks the factor n/(n-1), and
    it takes normal for Student's quantiles. So instead of 2.5% the tail is Phi(-sqrt(n/(n-1)) t), with t the 97.5%
    quantile of Student's distribution with n - 1 degrees of freedom: 1.1% for 12 cases, 2.0% for 40. The bounds
    are resampled means, so they never leave the range of the cases. Below about 8 cases they approach that whole
    range and cover less than 95% all the same.

    Source: T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4), 2015,
    section on expanded percentile intervals. Coverage: ``tests/performance/bootstrap_coverage.py``.

    Patients are drawn and bring all their cases, so n is the number of patients: with two frames of each, resampling
    frames gives intervals that are too short. Where every case is a patient this is the bootstrap over cases.

    All rows share the resampled indices, so rows over the same cases are compared in pairs. Sums avoid matrix
    products, whose last bits depend on the processor.

    Args:
        table: one row per quantity, one column per case, without NaN.
        patients: whom each case is of, in the order of the columns; None for a patient each.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Lower and upper bounds, one per row.

    Example:
        >>> low, high = bootstrap_intervals(np.array([[0.5, 0.5, 0.5]]))
        >>> low.tolist(), high.tolist()
        ([0.5], [0.5])
        >>> frames = np.array([[0.2, 0.2, 0.8, 0.8, 0.5, 0.5]])
        >>> low, high = bootstrap_intervals(frames, patients=["a", "a", "b", "b", "c", "c"])
        >>> round(low.item(), 2), round(high.item(), 2)
        (0.2, 0.8)

    Raises:
        ValueError: as many patients as there are cases were expected.
    """
    if patients is not None and len(patients) != table.shape[1]:
        raise ValueError(
            f"expected the patient of each of the {table.shape[1]} cases, got {len(patients)}; name one per column"
        )
    sums, sizes = by_patient(table, patients)
    return percentile_intervals(
        sums, expanded_tail(sums.shape[1]), sizes=sizes, resamples=resamples, seed=seed
    )


def shown_intervals(
    table: np.ndarray, *, patients: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The intervals of :func:`bootstrap_intervals` that may be shown: NaN for fewer than :data:`LEAST_UNITS` patients.

    Below that many they cover less than they say, whatever is done about the tail, so a table gives the mean alone.

    Args:
        table, patients: as there.

    Example:
        >>> low, high = shown_intervals(np.array([[0.5, 0.6, 0.7]]))
        >>> with_interval(0.6, low[0], high[0])
        '0.600'
    """
    units = table.shape[1] if patients is None else len(set(patients))
    if units < LEAST_UNITS:
        return np.full(len(table), np.nan), np.full(len(table), np.nan)
    return bootstrap_intervals(table, patients=patients)


def with_interval(mean: float, low: float, high: float, *, digits: int = 3, between: str = " to ") -> str:
    """A mean with its interval in brackets, or alone where there is none.

    Example:
        >>> with_interval(0.6, 0.55, 0.65), with_interval(0.6, 0.55, 0.65, digits=2, between="-")
        ('0.600 (0.550 to 0.650)', '0.60 (0.55-0.65)')
    """
    if np.isnan(low):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({low:.{digits}f}{between}{high:.{digits}f})"


def by_patient(table: np.ndarray, patients: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Sums over the cases of each patient, in the order of their first case, and how many those are.

    Args:
        table: one row per quantity, one column per case.
        patients: whom each case is of.

    Returns:
        The table itself and None where every case is a patient.

    Example:
        >>> sums, sizes = by_patient(np.array([[1.0, 2.0, 3.0]]), ["a", "b", "a"])
        >>> sums.tolist(), sizes.tolist()
        ([[4.0, 2.0]], [2.0, 1.0])
    """
    names = {} if patients is None else dict.fromkeys(patients)
    if patients is None or len(names) == len(patients):
        return table, None
    own = [[i for i, other in enumerate(patients) if other == name] for name in names]
    sums = np.zeros((len(table), len(own)))
    for place, columns in enumerate(own):
        for column in columns:  # one after the other: the same bits on every processor
            sums[:, place] += table[:, column]
    return sums, np.array([float(len(columns)) for columns in own])


def percentile_intervals(
    table: np.ndarray,
    tail: float,
    *,
    sizes: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles ``tail`` and ``1 - tail`` of the resampled means; see :func:`bootstrap_intervals`.

    With ``sizes`` the columns are sums over so many cases, and the mean is that over cases.
    """
    rows, size = table.shape
    low, high = np.empty((2, rows))
    counts = _counts(size, resamples, seed)
    for start in range(0, rows, 64):
        block = table[start : start + 64]
        total = np.zeros((len(block), resamples))
        for case in range(size):
            total += block[:, case, None] * counts[case]
        drawn = size if sizes is None else sum(n * count for n, count in zip(sizes, counts, strict=True))
        bounds = np.quantile(total / drawn, [tail, 1.0 - tail], axis=1)
        low[start : start + 64], high[start : start + 64] = bounds
    return low, high


@lru_cache(maxsize=4)
def _counts(size: int, resamples: int, seed: int) -> np.ndarray:
    """How often every case (row) is in every resample; thousands of calls for a table share it."""
    # RandomState, because its stream is frozen for good; that of default_rng may change with numpy.
    drawn = np.random.RandomState(seed).randint(0, size, (resamples, size))
    return np.stack([(drawn == case).sum(axis=1) for case in range(size)]).astype(np.float64)


@lru_cache(maxsize=256)
def expanded_tail(size: int) -> float:
    """Share of the resampled means left out on either side for that many cases, so that 95% are covered.

    Example:
        >>> [round(expanded_tail(size), 4) for size in (4, 12, 40)]
        [0.0001, 0.0108, 0.0203]
    """
    from scipy.stats import norm, t

    if size == 1:
        return 0.0
    # Rounded, so that the last bit of another scipy cannot reach a table.
    return round(float(norm.cdf(-np.sqrt(size / (size - 1)) * t.ppf(0.975, size - 1))), 9)


def compare(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """Compare two models on paired cases.

    The test flips the signs of the differences, exactly when there are fewer sign patterns than ``resamples``
    and at random otherwise. Pairs with a NaN are left out.

    Args:
        a, b: one value per case, in the same order of cases.
        patients: whom each case is of; None for a patient each.
        resamples: bootstrap samples and sign patterns.
        seed: of both.

    Raises:
        ValueError: on different lengths or no complete pair.

    Example:
        >>> result = compare([0.9, 0.8, 0.7, 0.9, 0.8, 0.9], [0.8, 0.7, 0.6, 0.8, 0.7, 0.8])
        >>> round(result.difference, 3), result.p_value
        (0.1, 0.03125)
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"expected two lists of one value per case, got shapes {first.shape} and {second.shape}; "
            "pair the values by case id"
        )
    known = np.isfinite(first) & np.isfinite(second)
    differences = (first - second)[known]
    of = None if patients is None else [name for name, kept in zip(patients, known, strict=True) if kept]
    if not len(differences):
        raise ValueError("expected at least one case with a finite value on both sides, got none")
    low, high = bootstrap_intervals(differences[None], patients=of, resamples=resamples, seed=seed)
    p_value = sign_flip(differences, patients=of, resamples=resamples, seed=seed)
    return Comparison(
        len(differences), float(differences.mean()), float(low[0]), float(high[0]), float(p_value)
    )


def sign_flip(
    differences: np.ndarray,
    *,
    patients: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """Two-sided p-value of a mean of 0 under exchange of the two models within each patient.

    Args:
        differences: one finite value per case.
        patients: whom each case is of, whose signs flip together; None for a patient each.
        resamples: patterns drawn where there are more sign patterns than that; all of them otherwise.
        seed: of the drawing.

    Example:
        >>> sign_flip(np.array([0.1, 0.2, 0.1]))
        0.25
    """
    differences = by_patient(differences[None], patients)[0][0]
    positive, drawn = _signs(len(differences), resamples, seed)
    means = np.where(positive, differences, -differences).mean(axis=1)
    slack = 1e-12 * np.abs(differences).max()  # equal means must not differ in the last bit
    extreme = np.count_nonzero(np.abs(means) >= abs(differences.mean()) - slack)
    # Of drawn patterns the observed one is another.
    return float((extreme + drawn) / (len(means) + drawn))


@lru_cache(maxsize=8)
def _signs(size: int, resamples: int, seed: int) -> tuple[np.ndarray, bool]:
    """Sign patterns, and whether they were drawn; a table asks for the same ones thousands of times."""
    if 2.0**size <= resamples:
        return (np.arange(2**size)[:, None] >> np.arange(size)) & 1 == 1, False
    return np.random.RandomState(seed).randint(0, 2, (resamples, size)) == 1, True


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm's step-down correction: adjusted p-values, in the order given (Holm 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    return adjusted
