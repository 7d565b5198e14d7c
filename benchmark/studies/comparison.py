"""Two models on the same recorded cases: is the difference more than chance?

White-box rows only, every model under the attack on itself. The patient is the unit; the interval and the test are
those of :func:`robustvox.benchmark.metrics.statistics.compare`, and Holm's correction runs over the attacks compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..metrics import statistics
from ..specs.defences import split_hash
from ..specs.program import pasted
from ..specs.protocols import DEFAULT_PROTOCOL
from ..specs.spec import CLEAN, UsageError, match

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..records.reading import Records


COLUMNS = (
    *("dataset", "protocol", "attack", "metric", "model_a", "model_b", "n_cases", "mean_a", "mean_b"),
    *("difference", "low", "high", "p_value", "p_holm"),
)


TEXT = COLUMNS[:6]
"""Columns of text; names come from records and are escaped."""

METRICS = ("dice", "hd95_mm", "nsd")


def compare_models(
    records: Records,
    models: Sequence[str],
    attacks: Sequence[str] = (),
    *,
    protocol: str = DEFAULT_PROTOCOL,
    metric: str = "dice",
) -> DataFrame:
    """Paired comparison of two models per attack.

    Args:
        records: of one dataset, from :func:`robustvox.benchmark.records.reading.load_records`.
        models: two names; ``name@hash``, as in the tables, where several checkpoints go by one name.
        attacks: canonical specs, ``"none"`` for the clean volumes; empty for every attack that both have.
        protocol: name of the protocol.
        metric: ``"dice"``, ``"hd95_mm"`` or ``"nsd"``.

    Returns:
        One row per attack, columns :data:`COLUMNS`: the mean difference ``a - b`` over the cases that both have,
        its 95% bootstrap interval, the p-value of a sign-flip permutation test and that after Holm's correction.

    Raises:
        UsageError: unless there are two known models, a known metric, and cases in common for every attack.
    """
    from pandas import DataFrame

    from ..metrics.statistics import holm
    from ..show.tables.cases import per_case

    if len(models) != 2:
        raise UsageError(f"expected two models to compare, got {len(models)}; give --model A --model B")
    if metric not in METRICS:
        raise UsageError(f"expected --metric among {', '.join(METRICS)}, got {metric!r}")
    cases = per_case(records)
    own = (cases["surrogate"] == cases["target"]) & (cases["surrogate_sha256"] == cases["target_sha256"])
    cases = cases[own & (cases["protocol"] == protocol)]
    (name_a, a), (name_b, b) = (_of_model(cases, model, metric) for model in models)
    a, b = a.rename("a").to_frame(), b.rename("b").to_frame()
    patients = dict(zip(cases["case"], cases["patient"], strict=True))
    if name_a == name_b:
        raise UsageError(f"expected two different models, got {name_a} twice; give another --model")
    shared = a.index.unique("attack").intersection(b.index.unique("attack"))
    pairs = a.join(b, how="inner").dropna()
    rows = [
        {
            "attack": attack,
            "metric": metric,
            "protocol": protocol,
            **_compared(pairs, patients, name_a, name_b, attack),
        }
        for attack in attacks or sorted(set(shared) - {CLEAN})
    ]
    if not rows:
        raise UsageError(
            f"expected attacks recorded for both {name_a} and {name_b}, found none; run some first"
        )
    corrected = holm([row["p_value"] for row in rows])
    return DataFrame([{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)])


def _compared(
    pairs: Any, patients: Mapping[str, str], name_a: str, name_b: str, attack: str
) -> dict[str, Any]:
    """Two models under one attack, on the cases that both have."""
    from ..metrics.statistics import compare

    pairs = pairs.query("attack == @attack")
    if pairs.empty:
        both = ("--model", name_a, "--model", name_b)
        raise UsageError(
            f"expected cases recorded for both {name_a} and {name_b} under {attack}, found none; "
            f"attack both on the same cases, such as `{pasted(['run', *both, '--attack', attack])}`"
        )
    first, second = (pairs[side].to_numpy() for side in ("a", "b"))
    whose = [patients[case] for case in pairs.index.get_level_values("case")]
    found = compare(first, second, patients=whose)
    if len(set(whose)) < statistics.LEAST_UNITS:
        found = found._replace(low=float("nan"), high=float("nan"))
    return {
        **{"model_a": name_a, "model_b": name_b, "n_cases": found.n_cases},
        **{"mean_a": first.mean(), "mean_b": second.mean(), "difference": found.difference},
        **{"low": found.low, "high": found.high, "p_value": found.p_value},
    }


def _of_model(cases: Any, model: str, metric: str) -> tuple[str, Any]:
    """A model's name as the tables have it, and the metric by attack and case."""
    name, prefix = split_hash(model)
    name = match(name, sorted(cases["target"].unique()), "model in the records")
    mine = cases[(cases["target"] == name) & cases["target_sha256"].str.startswith(prefix)]
    hashes = sorted(mine["target_sha256"].unique())
    if len(hashes) != 1:
        found = ", ".join(f"{name}@{sha256[:8]}" for sha256 in hashes) or "none"
        raise UsageError(f"expected one checkpoint of {model}, found {found}; name it as NAME@HASH")
    several = cases.loc[cases["target"] == name, "target_sha256"].nunique() > 1
    shown = f"{name}@{hashes[0][:8]}" if several else name
    return shown, mine.set_index(["attack", "case"])[metric]
