"""What a run says of code that is not what it was: its rows are computed anew, beside the old ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..records.reading import load_records
from ..specs.matched import SOURCE, without_source
from .model_text import is_architecture
from .plan import Plan


def changed_code(plan: Plan, records: Path) -> Iterator[str]:
    """A line per attack and model of somebody's own that is recorded with other code or other weights.

    Args:
        plan: what is about to run.
        records: ``<out>/<dataset>/records``.
    """
    models = [model for model in plan.models if not is_architecture(model.name.partition(":")[0])]
    attacks = [attack for attack in plan.attacks if f"{SOURCE}=sha-" in attack.spec]
    if not models and not attacks:
        return  # nothing of anybody's own, nothing to read
    costs: Any = load_records(records).costs
    for model in models:
        known = {*costs.loc[costs["surrogate"] == model.name, "surrogate_sha256"]}
        if known - {model.sha256} and model.sha256 not in known:
            yield f"{model.name}: its code or its weights changed since rows of it were recorded; computed anew"
    recorded = {*costs["attack"]}
    for attack in attacks:
        same = {spec for spec in recorded if without_source(spec) == without_source(attack.spec)}
        if same and attack.spec not in same:
            yield f"{without_source(attack.spec)}: its code changed since rows of it were recorded; computed anew"
