"""Records as they are shown: a model that its user gave a label goes by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from robustvox.models import CATALOG

from ..records.model_labels import Labels, read_labels
from ..records.reading import Frame, Records
from ..specs.model_labels import label_problem
from ..specs.spec import UsageError

_ROLES = ("surrogate", "target")


def shown_labels(folder: Path, records: Records) -> Labels:
    """The labels beside records that tables may use.

    Left out are texts that are no label, however they came into the file, and a label that would make one model of two:
    several of one hash that only their names tell apart.

    Args:
        folder: ``<dataset>/records``.
        records: what is there.
    """
    labels = {
        model: label for model, label in read_labels(folder).items() if not label_problem(label, CATALOG)
    }
    if not labels:
        return {}
    named = {(labels.get(model, model[0]), model) for model in {*_models(records), *labels}}
    meant = Counter((shown, sha256) for shown, (_, sha256) in named)
    return {(name, sha256): label for (name, sha256), label in labels.items() if meant[label, sha256] == 1}


def require_free(folder: Path, records: Records, wanted: Labels) -> None:
    """Refuse a label that another model of the records goes by; the same name with other weights may have it too.

    Raises:
        UsageError: naming the other model.
    """
    known = read_labels(folder)
    names = {*_models(records), *known}
    for (name, sha256), label in wanted.items():
        for other in sorted(names):
            if other[0] != name and label in (other[0], known.get(other)):
                raise UsageError(
                    f"expected a --label that no other model of {folder.parent} goes by, got {label!r}, which is "
                    f"{other[0]}@{other[1][:8]}; give another --label for {name}@{sha256[:8]}, or another --out"
                )


def relabelled(records: Records, labels: Labels) -> Records:
    """The records with labels in place of names; hashes and units stay.

    Example:
        >>> from pandas import DataFrame
        >>> row = {"unit": ["u"], "surrogate": ["net"], "target": ["net"]}
        >>> hashes = {"surrogate_sha256": ["ab"], "target_sha256": ["cd"]}
        >>> frame = DataFrame({**row, **hashes})
        >>> shown = relabelled(Records(DataFrame(row), frame, frame), {("net", "ab"): "mine"})
        >>> shown.scores[["surrogate", "target"]].values.tolist()
        [['mine', 'net']]
    """
    if not labels:
        return records
    costs, failures = (_named(frame, labels) for frame in (records.costs, records.failures))
    by_unit, scores = costs.set_index("unit"), records.scores.copy()
    for role in _ROLES:
        scores[role] = scores["unit"].map(by_unit[role])
    return replace(records, scores=scores, costs=costs, failures=failures)


def _models(records: Records) -> Iterable[tuple[str, str]]:
    """Every model of the records by its name and sha256."""
    for frame in (records.costs, records.failures):
        for role in _ROLES:
            yield from zip(frame[role], frame[f"{role}_sha256"], strict=True)


def _named(frame: Frame, labels: Labels) -> Frame:
    if not len(frame):
        return frame
    pairs = {role: zip(frame[role], frame[f"{role}_sha256"], strict=True) for role in _ROLES}
    return frame.assign(**{role: [labels.get(m, m[0]) for m in pairs[role]] for role in _ROLES})
