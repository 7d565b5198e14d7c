"""The labels of ``--label``: what the models of a plan are called in tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robustvox.models import CATALOG
from robustvox.models.prompted import TARGETS

from ..craft.named import NamedModel
from ..specs.model_labels import require_label
from ..specs.spec import UsageError


def require_labels(labels: Sequence[str], option: str, count: int) -> None:
    """Refuse labels before anything is loaded.

    Args:
        labels: as typed.
        option: whose models they name.
        count: of these models.

    Raises:
        UsageError: too few or too many, one that cannot stand for a model, or one for two models.
    """
    if len(labels) not in (0, count):
        raise UsageError(
            f"expected one --label per {option} ({count}), got {len(labels)}; repeat it in the order of the models"
        )
    for label in labels:
        require_label(label, (*CATALOG, *TARGETS))


def with_labels(models: Sequence[NamedModel], labels: Sequence[str]) -> list[NamedModel]:
    """The models, the first of them with labels; one that comes again has its label again.

    Raises:
        UsageError: one label for two models, or two for one.
    """
    given: dict[tuple[str, str], str] = {}
    for model, label in zip(models, labels, strict=False):
        if given.setdefault(model.key, label) != label:
            raise UsageError(f"expected one --label for {model.name}, got {given[model.key]!r} and {label!r}")
    if len({*given.values()}) < len(given):
        twice = next(label for label in labels if list(given.values()).count(label) > 1)
        raise UsageError(f"expected another --label for every model, got {twice!r} twice")
    return [replace(model, label=given[model.key]) if model.key in given else model for model in models]
