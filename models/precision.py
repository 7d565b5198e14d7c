"""A network that computes in TF32 or bfloat16 inside and is float32 outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

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
    with _restored():
        _set("tf32")
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """:func:`settle` for this block; what was set before is set again after it."""
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    try:
        with _restored():
            settle()
            yield
    finally:
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark


def settle() -> None:
    """Numbers of a card that agree with a CPU's and with themselves, for the whole process.

    No TF32, which PyTorch allows in convolutions unless told, and no bfloat16 in a CPU's float32 products. No algorithm
    of cuDNN that adds in the order in which threads happen to end, and none chosen by a race, which another one may win
    the next time: under the sign of a gradient one unit in the last place is another attack.
    """
    _set("ieee")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def float32_switches() -> tuple[str | bool, ...]:
    """What float32 products are computed in, by kind: ``"ieee"``, ``"tf32"``, ``"bf16"``, or ``"none"`` if nobody asked.

    Before PyTorch 2.9: whether convolutions may use TF32, and ``"highest"``, ``"high"`` or ``"medium"`` for products.

    Example:
        >>> with exact_float32():
        ...     "tf32" in float32_switches()
        False
    """
    if places := _places():
        return tuple(getattr(place, _NEW) for place in places)
    return torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()


_MATMUL = {"ieee": "highest", "tf32": "high"}


def _set(precision: str) -> None:
    """Float32 products in ``"ieee"`` or ``"tf32"``, by all switches that there are.

    Since PyTorch 2.9 there are two generations. The old ones leave the parents of the new ones as they are, so that
    these have to be set; and whatever reads the old ones, such as ``torch.backends.cudnn.flags`` in a network, fails
    where the two disagree.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.set_float32_matmul_precision(_MATMUL[precision])
    places = _places()
    _set_new(places, [precision] * len(places))


@contextmanager
def _restored() -> Iterator[None]:
    """Set all switches back after this block. Convolutions then have the value they had, no longer their parent's."""
    cudnn: Any = torch.backends.cudnn
    places = _places()
    before = [getattr(place, _NEW) for place in places]
    convolutions, products = _told(lambda: cudnn.allow_tf32), _products()
    try:
        yield
    finally:
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
        _set_new(places, before)


_T = TypeVar("_T")
_NEW = "fp32_precision"


def _products() -> str:
    """The old switch of matrix products, or what it must be, as far as is told, where a new one disagrees."""
    told = _told(torch.get_float32_matmul_precision)
    of_cards = told is None and _told(lambda: torch.backends.cuda.matmul.allow_tf32)
    return told or ("high" if of_cards else "highest")


def _told(ask: Callable[[], _T]) -> _T | None:
    """What an old switch says; None where it disagrees with the new ones."""
    try:
        return ask()
    except RuntimeError:
        return None


def _places() -> tuple[Any, ...]:
    """Where PyTorch keeps its new switches, parents before what inherits from them; none before 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return ()
    cudnn, cpu = backends.cudnn, backends.mkldnn
    # Not the parent of those of CPUs: setting it sets the parent of all (torch 2.14).
    of_cpus = (cpu.conv, cpu.rnn, cpu.matmul) if hasattr(cpu, "conv") else ()
    return (backends, cudnn, cudnn.conv, cudnn.rnn, backends.cuda.matmul, *of_cpus)


def _set_new(places: Sequence[Any], wanted: Sequence[str]) -> None:
    """Set what is not as wanted yet: what inherits follows its parent and goes on inheriting."""
    for place, value in zip(places, wanted, strict=True):
        if getattr(place, _NEW) != value:
            setattr(place, _NEW, value)
