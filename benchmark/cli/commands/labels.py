"""The labels of a run, and whether its results can have them."""

from __future__ import annotations

from pathlib import Path

from ...plan.plan import Plan
from ...records.model_labels import Labels
from ...records.reading import load_records
from ...show.model_labels import require_free


def labels_of(plan: Plan, out: Path) -> Labels:
    """What the models of a plan are called in the tables below ``out``.

    Raises:
        UsageError: another model goes by one of them.
    """
    labels = {model.key: model.label for model in plan.models if model.label}
    if labels:
        records = out / plan.dataset.name / "records"
        require_free(records, load_records(records), labels)
    return labels
