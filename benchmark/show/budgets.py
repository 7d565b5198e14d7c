"""Whether the recorded changes keep the budgets of their attacks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robustvox.attacks import CATALOG as ATTACKS

from ..records.paths import records_file
from ..records.reading import Records
from ..specs.knobs import is_number
from ..specs.matched import parse_spec


def overruns(folder: Path, records: Records) -> Iterator[str]:
    """Rows whose recorded change is larger than the budget that their attack has, one line per file.

    Args:
        folder: ``results/<dataset>/records``.
        records: what was read there.
    """
    costs: Any = records.costs
    bounds = {spec: linf_bound(spec) for spec in set(costs["attack"])}
    bound = costs["attack"].map(bounds).astype(float)
    for keys, rows in costs[costs["linf"] > bound * 1.001 + 1e-6].groupby(
        ["protocol", "surrogate", "attack"]
    ):
        first = rows.iloc[0]
        yield (
            f"{folder / records_file(*keys)}, unit {first['unit']}: expected a change of at most {bounds[keys[2]]:.6g}, "
            f"got {first['linf']:.6g} ({len(rows)} rows); measure it again"
        )


def linf_bound(spec: str) -> float:
    """The L-inf ball of an attack of the registry; infinite where it has none.

    Example:
        >>> linf_bound("pgd:eps=0.5"), linf_bound("vafa:eps=none,q_max=20"), linf_bound("vafa(q_max=20)@l2~0.02=pgd:eps=0.5")
        (0.5, inf, inf)
    """
    name, parameters, matched = parse_spec(spec)
    eps = parameters.get("eps")
    if name not in ATTACKS or matched is not None or not is_number(eps):
        return math.inf
    return float(eps)
