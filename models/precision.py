"""A network that computes in TF32 or bfloat16 inside and is float32 outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "tf32", "bf16")


class InPrecision(nn.Module):
    """Runs ``network`` in another precision, forward and backward, and gives its logits back in float32.

    TF32 rounds the factors of a product to 10 bits on cards that can, bfloat16 keeps 7 bits of all activations.
    Nothing outside the network is touched: an attack's own transforms stay float32. With TF32 the backward pass of
    matrix products is float32; that of convolutions is TF32 as well.

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
        return torch.autocast(device, dtype=torch.bfloat16) if self.precision == "bf16" else _tf32_products()


@contextmanager
def _tf32_products() -> Iterator[None]:
    """TF32 for matrix products of this block only: those of an attack, such as its DCT, must not round so."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@contextmanager
def exact_float32() -> Iterator[None]:
    """No TF32 in this block; what was allowed before is allowed again after it."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    set_tf32(convolutions=False)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def set_tf32(convolutions: bool) -> None:
    """Allow TF32 in convolutions, which only networks have, or nowhere; PyTorch allows it unless told.

    Example:
        >>> set_tf32(convolutions=False)
        >>> torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        (False, False)
    """
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = False
