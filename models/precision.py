"""A network that computes in TF32 or bfloat16 inside and is float32 outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "tf32", "bf16")


class InPrecision(nn.Module):
    """Runs ``network`` in another precision and gives its logits back in float32.

    TF32 rounds the factors of a product to 10 bits on devices that can, forward only: which precision the backward
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
    places, before = _places(), float32_switches()
    _set(places, ["tf32"] * len(places))
    try:
        yield
    finally:
        _set(places, before)


@contextmanager
def exact_float32() -> Iterator[None]:
    """:func:`settle` for this block; what was set before is set again after it."""
    cudnn = torch.backends.cudnn
    before = float32_switches()
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    settle()
    try:
        yield
    finally:
        _set(_places(), before)
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


def settle(device: str = "cuda") -> None:
    """Numbers of a card that agree with a CPU's and with themselves, for the whole process.

    No TF32, which PyTorch allows in convolutions unless told, and no bfloat16 in a CPU's float32 products. No algorithm
    of cuDNN that adds in the order in which threads happen to end, and none chosen by a race, which another one may win
    the next time: under the sign of a gradient one unit in the last place is another attack.

    Since PyTorch 2.9 the newer switches do this, ``fp32_precision``. Where the older ones, ``allow_tf32``, say something
    else, PyTorch refuses to read those, and with them ``torch.backends.cudnn.flags``.

    Args:
        device: where the numbers are made; the TF32 of cards stays as it is where that is none.
    """
    places = _places() if device.startswith("cuda") else _places_of_cpus()
    _set(places, ["ieee"] * len(places))
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def float32_switches() -> tuple[str, ...]:
    """What float32 products are computed in, by kind: ``"ieee"``, ``"tf32"``, ``"bf16"``, or ``"none"`` if nobody asked.

    Example:
        >>> with exact_float32():
        ...     set(float32_switches())
        {'ieee'}
    """
    return tuple(_read(*place) for place in _places())


_NEW, _OLD = "fp32_precision", "allow_tf32"
_Place = tuple[Any, str]


def _places() -> tuple[_Place, ...]:
    """Where PyTorch keeps these switches, parents before what inherits from them.

    Since 2.9 there are two generations. Setting the old ones leaves the parents of the new ones as they are, and
    reading them fails where the two disagree: where there are new ones, only those are used.
    """
    backends: Any = torch.backends
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    if not hasattr(cudnn, "conv"):
        return (cudnn, _OLD), (matmul, _OLD)
    of_cards = (cudnn, _NEW), (cudnn.conv, _NEW), (cudnn.rnn, _NEW), (matmul, _NEW)
    return ((backends, _NEW), *of_cards, *_places_of_cpus())


def _places_of_cpus() -> tuple[_Place, ...]:
    # Not their own parent: setting it sets the parent of all (torch 2.14).
    cpu: Any = torch.backends.mkldnn
    return tuple((holder, _NEW) for holder in (cpu.conv, cpu.rnn, cpu.matmul)) if hasattr(cpu, "conv") else ()


def _read(holder: Any, name: str) -> str:
    value = getattr(holder, name)
    return value if name == _NEW else "tf32" if value else "ieee"


def _set(places: Sequence[_Place], wanted: Sequence[str]) -> None:
    """Set what is not as wanted yet, and nothing else.

    What inherits follows its parent without being set, and so inherits still when the parent is set back. Convolutions
    begin in a state, TF32 until a parent says otherwise, that nothing can set again.
    """
    for (holder, name), value in zip(places, wanted, strict=True):
        if _read(holder, name) != value:
            setattr(holder, name, value if name == _NEW else value == "tf32")
