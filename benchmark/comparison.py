"""Two models on the same recorded cases: is the difference more than chance?

White-box rows only, every model under the attack on itself. The case is the unit; the interval and the test are
those of :func:`robustvox.benchmark.statistics.compare`, and Holm's correction runs over the attacks compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .console import brief, make_console
from .specs import UsageError, match

if TYPE_CHECKING:
    from pandas import DataFrame

    from .records import Records

COLUMNS = (
    *("dataset", "protocol", "attack", "metric", "model_a", "model_b", "n_cases", "mean_a", "mean_b"),
    *("difference", "low", "high", "p_value", "p_holm"),
)
METRICS = ("dice", "hd95_mm", "nsd")
CLEAN = "none"


@dataclass(frozen=True)
class CompareRequest:
    """What ``compare`` was asked; see its help."""

    models: Sequence[str]
    attacks: Sequence[str] = ()
    dataset: str = "phantom"
    protocol: str = "robustvox-1"
    metric: str = "dice"
    csv: Path | None = None
    out: Path = Path("results")


def compare_models(
    records: Records,
    models: Sequence[str],
    attacks: Sequence[str] = (),
    *,
    protocol: str = "robustvox-1",
    metric: str = "dice",
) -> DataFrame:
    """Paired comparison of two models per attack.

    Args:
        records: of one dataset, from :func:`robustvox.benchmark.records.load_records`.
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

    from .statistics import compare, holm
    from .tables import per_case

    if len(models) != 2:
        raise UsageError(f"expected two models to compare, got {len(models)}; give --model A --model B")
    if metric not in METRICS:
        raise UsageError(f"expected --metric among {', '.join(METRICS)}, got {metric!r}")
    cases = per_case(records)
    own = (cases["surrogate"] == cases["target"]) & (cases["surrogate_sha256"] == cases["target_sha256"])
    cases = cases[own & (cases["protocol"] == protocol)]
    (name_a, a), (name_b, b) = (_of_model(cases, model, metric) for model in models)
    a, b = a.rename("a").to_frame(), b.rename("b").to_frame()
    if name_a == name_b:
        raise UsageError(f"expected two different models, got {name_a} twice; give another --model")
    shared = a.index.unique("attack").intersection(b.index.unique("attack"))
    rows = []
    for attack in attacks or sorted(set(shared) - {CLEAN}):
        pairs: Any = a.join(b, how="inner").dropna().query("attack == @attack")
        if pairs.empty:
            raise UsageError(
                f"expected cases recorded for both {name_a} and {name_b} under {attack}, found none; "
                f"run `python -m benchmark --model ... --attack {attack}` for both on the same cases"
            )
        first, second = (pairs[side].to_numpy() for side in ("a", "b"))
        found = compare(first, second)
        rows.append(
            {
                **{"attack": attack, "metric": metric, "protocol": protocol},
                **{"model_a": name_a, "model_b": name_b, "n_cases": found.n_cases},
                **{"mean_a": first.mean(), "mean_b": second.mean(), "difference": found.difference},
                **{"low": found.low, "high": found.high, "p_value": found.p_value},
            }
        )
    if not rows:
        raise UsageError(
            f"expected attacks recorded for both {name_a} and {name_b}, found none; run some first"
        )
    corrected = holm([row["p_value"] for row in rows])
    return DataFrame([{**row, "p_holm": p} for row, p in zip(rows, corrected, strict=True)])


def compare_command(request: CompareRequest, console: Console | None = None) -> int:
    """Print the comparison of a request, and write it where asked; returns the exit code."""
    from .records import load_records

    folder = request.out / request.dataset / "records"
    if not folder.is_dir():
        known = sorted(path.parent.name for path in request.out.glob("*/records"))
        raise UsageError(
            f"expected records of {request.dataset} in {request.out}, found none; "
            f"recorded there: {', '.join(known) or 'nothing'}"
        )
    table = compare_models(
        load_records(folder),
        request.models,
        [_canonical(text) for text in request.attacks],
        protocol=request.protocol,
        metric=request.metric,
    )
    table.insert(0, "dataset", request.dataset)
    table = table[list(COLUMNS)]
    (console or make_console()).print(_view(table))
    if request.csv is not None:
        request.csv.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(request.csv, index=False, lineterminator="\n")
    return 0


def _of_model(cases: Any, model: str, metric: str) -> tuple[str, Any]:
    """A model's name as the tables have it, and the metric by attack and case."""
    name, _, prefix = model.partition("@")
    name = match(name, sorted(cases["target"].unique()), "model in the records")
    mine = cases[(cases["target"] == name) & cases["target_sha256"].str.startswith(prefix)]
    hashes = sorted(mine["target_sha256"].unique())
    if len(hashes) != 1:
        found = ", ".join(f"{name}@{sha256[:8]}" for sha256 in hashes) or "none"
        raise UsageError(f"expected one checkpoint of {model}, found {found}; name it as NAME@HASH")
    several = cases.loc[cases["target"] == name, "target_sha256"].nunique() > 1
    shown = f"{name}@{hashes[0][:8]}" if several else name
    return shown, mine.set_index(["attack", "case"])[metric]


def _canonical(attack: str) -> str:
    if attack == CLEAN:
        return attack
    from .loading import load_attack

    return load_attack(attack).spec


def _view(table: Any) -> Table:
    first = table.iloc[0]
    title = f"{first['model_a']} minus {first['model_b']}, {first['metric']}, {first['dataset']}, {first['protocol']}"
    view = Table(title=escape(title), title_justify="left", box=None, padding=(0, 1), header_style="bold")
    view.add_column("attack", overflow="fold", min_width=16)
    for name in (
        "n",
        str(first["model_a"]),
        str(first["model_b"]),
        "difference",
        "95% interval",
        "p",
        "p Holm",
    ):
        view.add_column(escape(name), justify="right", no_wrap=True)
    for row in table.to_dict("records"):
        view.add_row(
            escape("clean" if row["attack"] == CLEAN else brief(row["attack"])),
            str(row["n_cases"]),
            f"{row['mean_a']:.3f}",
            f"{row['mean_b']:.3f}",
            f"[bold]{row['difference']:+.3f}[/bold]",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['p_value']:.4f}",
            f"{row['p_holm']:.4f}",
        )
    return view
