"""What an attack cost, forward and backward passes and seconds, and what looked wrong on its way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustvox.attacks import StepInfo

_MANY_PASSES = 8  # a step: then its passes are told too


@dataclass(frozen=True)
class Cost:
    """What crafting one volume took: passes through the attacked model, and wall-clock seconds."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0


class Meter(nn.Module):
    """Counts the passes through a predictor without changing what it returns.

    A forward is one call on a batch of volumes, a backward one gradient that reached its logits, whatever
    number of windows either needed.

    Args:
        model: maps images to logits.
        limit: passes of both kinds that are allowed; None for any number.

    Raises:
        ValueError: by the call that begins one pass more than `limit`.

    Example:
        >>> import torch
        >>> meter = Meter(torch.nn.Conv3d(1, 2, 1))
        >>> _ = meter(torch.rand(1, 1, 4, 4, 4)).sum().backward()
        >>> meter.forwards, meter.backwards
        (1, 1)
    """

    def __init__(self, model: nn.Module, limit: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.limit = limit
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        if self.limit is not None and self.forwards + self.backwards >= self.limit:
            raise ValueError(
                f"expected at most {self.limit} forward and backward passes, found that the attack needs more; allow "
                "more, or take fewer steps"
            )
        self.forwards += 1
        logits = self.model(images)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, _gradient: Tensor) -> None:
        self.backwards += 1


class StepWatch:
    """Observes the steps of one attack on one volume, or on several in one batch, without any pass or wait of its own.

    Two flags, which one case suffices to put on a row: ``no-progress`` when no step beat the start (no gradient,
    a wrong sign, too large a step), ``nonfinite-loss`` when a loss was NaN or infinite somewhere. That the last
    point is the best one is no flag: twenty steps of PGD end so on most volumes, see check C6.

    As text it tells where the attack stands, ``step 3 of 20``; empty before the first step. ``share`` says it from 0 to
    1. An attack of many passes a step, or without steps, is told by its passes.

    Args:
        parts: how often the attack runs, once in every window where a protocol attacks one after another.
        most: passes that it takes at most; 0 for unknown.
    """

    def __init__(self, parts: int = 1, most: int = 0) -> None:
        self._steps = 0
        self._at = ""
        self._parts, self._part, self._step = parts, 0, -1
        self._most, self._share = most, 0.0
        self.passed: Callable[[], int] = int  # passes so far, as whoever crafts knows them
        self._progress: Tensor | None = None
        self._finite: Tensor | None = None

    def __call__(self, info: StepInfo) -> None:
        self._steps = max(self._steps, info.steps)
        if info.step <= self._step:
            self._part = min(self._part + 1, self._parts - 1)
        self._step = info.step
        self._at = f"step {info.step} of {info.steps}"
        if self._parts > 1:
            self._at += f", window {self._part + 1} of {self._parts}"
        within = min(info.step / info.steps, 1.0) if info.steps else 0.0
        self._share = (self._part + within) / self._parts
        progress, finite = info.best_step > 0, torch.isfinite(info.loss)
        self._progress = progress if self._progress is None else progress | self._progress
        self._finite = finite if self._finite is None else finite & self._finite

    @property
    def share(self) -> float:
        """How far the attack is, by its steps or its passes, whichever says more."""
        return max(self._share, min(self.passed() / self._most, 1.0) if self._most else 0.0)

    def __str__(self) -> str:
        passed = self.passed() if self._most > _MANY_PASSES * self._steps * self._parts else 0
        told = f"pass {passed} of at most {self._most}" if passed else ""
        return ", ".join(filter(None, (self._at, told)))

    def flags(self, sample: int = 0) -> set[str]:
        """What to say about the attack on one sample of its batch; nothing for one that showed no steps."""
        if self._progress is None or self._finite is None:
            return set()
        flags = set() if bool(self._finite[sample]) else {"nonfinite-loss"}
        return flags if self._steps == 0 or bool(self._progress[sample]) else flags | {"no-progress"}


class Stopwatch:
    """Wall-clock seconds of a ``with`` block, waiting for the accelerator at both ends."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
