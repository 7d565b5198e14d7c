"""How a run is computed: what may change its speed and memory, and, where it says so, its rounding."""

from __future__ import annotations

from dataclasses import dataclass

from .spec import UsageError

PRECISIONS = ("float32", "tf32", "bf16")
MEMORY = ("auto", "keep", "recompute")
CUDA_GRAPHS = ("auto", "off")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How networks run. Only ``precision`` other than float32 changes a number beyond rounding.

    Args:
        precision: of the network; the attack's own arithmetic is float32 always. ``float32`` is without TF32, so
            that numbers agree with a CPU's. Anything else becomes part of the model's name and a flag of its rows.
        memory: whether the windows' graphs are kept for the backward pass; see
            :class:`~robustvox.models.SlidingWindow`.
        sw_batch_size: windows per forward, or ``auto``.
        case_batch: cases that are attacked together where one window holds each, or ``auto``: as many as fit on an
            accelerator, one on a CPU.
        cuda_graphs: ``auto`` replays a network as a CUDA graph where that is measured to be faster.

    Raises:
        UsageError: for a value outside these.

    Example:
        >>> Compute(precision="bf16").precision
        'bf16'
    """

    precision: str = "float32"
    memory: str = "auto"
    sw_batch_size: int | str = "auto"
    case_batch: int | str = "auto"
    cuda_graphs: str = "auto"

    def __post_init__(self) -> None:
        for name, options in (("precision", PRECISIONS), ("memory", MEMORY), ("cuda_graphs", CUDA_GRAPHS)):
            if getattr(self, name) not in options:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"expected {flag} among {', '.join(options)}, got {getattr(self, name)!r}")
        for flag, many in (("--sw-batch-size", self.sw_batch_size), ("--case-batch", self.case_batch)):
            if many != "auto" and (isinstance(many, str) or many < 1):
                raise UsageError(f"expected {flag} of at least 1 or auto, got {many!r}")


def count_or_auto(text: str) -> int | str:
    """A number as typed, or the word ``auto``.

    Example:
        >>> count_or_auto("4"), count_or_auto("Auto")
        (4, 'auto')
    """
    word = text.strip().lower()
    return int(word) if word.isdigit() else word
