"""All checks, by id, in order."""

from __future__ import annotations

from ...specs.spec import match
from . import budget, gradient, model, plausible, strength
from .base import Check

CHECKS: dict[str, Check] = {
    check.id: check
    for check in sorted(
        (*model.CHECKS, *strength.CHECKS, *budget.CHECKS, *gradient.CHECKS, *plausible.CHECKS),
        key=lambda check: check.number,
    )
}


def select(text: str) -> tuple[Check, ...]:
    """The checks that a list like ``C2,logits`` names; all of them when it is empty.

    Raises:
        UsageError: for a name that is neither an id nor a slug.

    Example:
        >>> [check.slug for check in select("c10, convergence")]
        ['convergence', 'logits']
    """
    names = {check.slug: check for check in CHECKS.values()} | CHECKS
    wanted = [match(part.strip(), names, "check") for part in text.split(",") if part.strip()]
    chosen = {names[name].id for name in wanted}
    return tuple(check for check in CHECKS.values() if not chosen or check.id in chosen)
