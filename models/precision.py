"""A network that computes in TF32 or bfloat16 inside and is float32 outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "tf32", "bf16")


class InPrecision(nn.Module):
    """Runs ``network`` in another precision and gives its logits back in float32.

    TF32 rounds the factors of a product to 10 bits on cards that can, forward only: which precision the backward
    pass takes is a setting of the whole process, and other networks and the attack share it. bfloat16 keeps 7 bits
    of all activations, forward and backward. An attack's own transforms stay float32.

    Args:
        network: maps windows to logits.
        precision: ``"tf32"`` or ``"bf16"``.

    Raises:
        ValueError: for another precision.

    Example:
        >>> half = InPrecision(torch.nn.Conv3d(1, 2, 1), "bf16")
        >>> half(torch.rand(1, 1, 4, 4, 4)).dtype
        torch.float32
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        if precision not in PRECISIONS[1:]:
            raise ValueError(
                f"expected precision to be one of {', '.join(PRECISIONS[1:])}, got {precision!r}"
            )
        self.network, self.precision = network, precision

    def forward(self, windows: Tensor) -> Tensor:
        with self._inside(windows.device.type):
            logits = self.network(windows)
        # What is no tensor is refused by the caller, who says what was expected.
        return logits.to(windows.dtype) if isinstance(logits, Tensor) else logits

    def _inside(self, device: str) -> AbstractContextManager[Any]:
        return torch.autocast(device, dtype=torch.bfloat16) if self.precision == "bf16" else _tf32()


@contextmanager
def _tf32() -> Iterator[None]:
    """TF32 in this block only: the matrix products of an attack, such as its DCT, must not round so."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def exact_float32() -> Iterator[None]:
    """:func:`settle` for this block; what was set before is set again after it."""
    before = (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.deterministic,
    )
    settle()
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[:2]
        torch.backends.cudnn.deterministic = before[2]


def settle() -> None:
    """Numbers of a card that agree with a CPU's and with themselves, for the whole process.

    No TF32, which PyTorch allows in convolutions unless told, and no algorithm of cuDNN that adds in the order in which
    threads happen to end: under the sign of a gradient one unit in the last place is another attack.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
