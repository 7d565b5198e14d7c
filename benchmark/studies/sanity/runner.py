"""Running checks one after another; what one does to itself is its own result."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from robustvox.attacks import ATTACKS, Attack
from robustvox.datasets import Volume

from ...craft.named import NamedAttack, NamedModel
from ...plan.attacks import attack_spec
from ...specs.protocols import DEFAULT_PROTOCOL
from .base import FAIL, SKIP, Check, Finding, Result
from .context import Context
from .registry import select


def run_checks(
    model: NamedModel | nn.Module,
    attack: NamedAttack | Attack,
    volumes: Sequence[Volume],
    *,
    num_classes: int,
    only: str = "",
    queries: int = 1000,
    dataset: str = "volumes",
    protocol: str = DEFAULT_PROTOCOL,
    seed: int = 0,
    device: str = "cpu",
) -> list[Result]:
    """Check whether the numbers of an attack on a model can be believed.

    Args:
        model: whole-volume predictor ``(B, C, *spatial)`` -> logits ``(B, K, *spatial)``, e.g. a
            :class:`~robustvox.models.SlidingWindow`.
        attack: the attack in question.
        volumes: cases, at least one; two show more than one, twenty hardly more than four.
        num_classes: K, background included.
        only: ids or slugs separated by commas; empty runs all.
        queries: forwards of the gradient-free probe C8, at least 1; 1000 or more say something.
        dataset: name that enters the seeds, so that volumes are those of `run` on that dataset.
        protocol: protocol that the predictor follows.
        seed: of all noise.
        device: where the networks run.

    Returns:
        One result per check, in order. A check that does not apply is skipped with its reason; one that raises
        fails with the message, and later ones that meet the same error are skipped.

    Raises:
        UsageError: if ``only`` names an unknown check.
        ValueError: without volumes.

    Example:
        >>> import torch
        >>> from robustvox.attacks import FGSM
        >>> from robustvox.datasets import open_dataset
        >>> class Halves(torch.nn.Module):
        ...     def forward(self, images):
        ...         return torch.cat([0.5 - images, images - 0.5] + [0 * images - 9] * 6, 1)
        >>> volume = open_dataset("phantom").load("val_000")
        >>> results = run_checks(Halves(), FGSM(), [volume], num_classes=8, only="C1,C9")
        >>> [(result.id, result.status, result.number) for result in results]
        [('C1', 'pass', 0.0), ('C9', 'pass', 0.0)]
    """
    if not volumes:
        raise ValueError("volumes: expected at least one, got none. Pass the cases to check on")
    if not isinstance(model, NamedModel):
        model = NamedModel(type(model).__name__, "", model)
    if not isinstance(attack, NamedAttack):
        keys = {kind: key for key, kind in ATTACKS.items()}
        attack = NamedAttack(attack_spec(keys.get(type(attack), type(attack).__name__), attack), attack)
    context = Context(
        model,
        attack,
        volumes,
        num_classes=num_classes,
        dataset=dataset,
        protocol=protocol,
        seed=seed,
        device=device,
        queries=queries,
    )
    return list(results(context, select(only)))


def results(
    context: Context, checks: Sequence[Check], announce: Callable[[Check], None] = lambda _: None
) -> Iterator[Result]:
    """The result of each check as it comes; ``announce`` hears which one starts."""
    met: dict[str, str] = {}
    for check in checks:
        announce(check)
        finding = _run(check, context, met)
        number = finding.number if finding.number is not None and math.isfinite(finding.number) else None
        flagged = check.flagged and finding.status in ("warn", "fail")
        yield Result(
            id=check.id,
            slug=check.slug,
            title=check.title,
            status=finding.status,
            number=number,
            rule=check.rule,
            detail=finding.detail,
            flag=f"{check.id}:{finding.status}" if flagged else "",
        )


def _run(check: Check, context: Context, met: dict[str, str]) -> Finding:
    """What a check finds; ``met`` remembers which check met which error first."""
    try:
        reason = next(filter(None, (need(context) for need in check.needs)), "")
        return Finding(SKIP, None, reason) if reason else check.run(context)
    except Exception as error:  # noqa: BLE001  a foreign model may raise anything; the other checks go on
        text = _plain(error)
    first = met.setdefault(text, check.id)
    if first != check.id:
        return Finding(SKIP, None, f"same error as {first}")
    return Finding(FAIL, None, text)


def _plain(error: BaseException) -> str:
    """One line without paths of this machine: results are published."""
    text = " ".join(f"{error}".split()) or "no message"
    text = re.sub(
        r"(?<![\w/])(?:[A-Za-z]:)?(?:[/\\][\w.+-]+){2,}", lambda path: re.split(r"[/\\]", path[0])[-1], text
    )
    return f"{type(error).__name__}: {text}"[:400]
