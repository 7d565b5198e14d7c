"""What an attack cost: forward and backward passes through the whole-volume predictor, and seconds."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class Meter(nn.Module):
    """Counts the passes through a predictor without changing what it returns.

    A forward is one call on a batch of volumes, a backward one gradient that reached its logits, whatever
    number of windows either needed.

    Example:
        >>> import torch
        >>> meter = Meter(torch.nn.Conv3d(1, 2, 1))
        >>> _ = meter(torch.rand(1, 1, 4, 4, 4)).sum().backward()
        >>> meter.forwards, meter.backwards
        (1, 1)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = 0
        self.backwards = 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        logits = self.model(images)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, _gradient: Tensor) -> None:
        self.backwards += 1


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
