"""How many windows a device holds at once, and whether their graphs may be kept: measured, never configured.

One window is run once with a graph and what its graph holds is counted. From that and from what the device has
free follow the number of windows per forward and whether the backward pass recomputes them. Neither changes a
result beyond the network's own arithmetic. Running out of memory halves the batch instead of failing the case.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

MEMORY = ("auto", "keep", "recompute")

CPU_BATCH = 4
"""Windows per forward on a CPU; beyond it nothing is gained (``tests/performance/window_memory.py``)."""

LARGEST_BATCH = 32
"""Windows per forward on an accelerator: the cost of a window no longer falls well before this."""

_SHARE = {"cpu": 0.25, "cuda": 0.8}
# Of what is free. On a CPU other processes, such as a run's own workers, count on the same memory, and asking for
# too much kills the process instead of raising an error.
_TEMPORARY = 4  # copies of the largest activation that a network's backward pass may need beside its graph
_INDEX_LIMIT = 2**31 - 1  # elements a 32-bit index reaches; larger tensors fall back to slow kernels


@dataclass(frozen=True)
class Execution:
    """How the last volume went through the network.

    Attributes:
        sw_batch_size: windows per forward.
        memory: ``"keep"`` or ``"recompute"``; without a gradient ``"none"``.
        cuda_graphs: whether the last windows were a replay; see :mod:`robustvox.models.cuda_graphs`.
    """

    sw_batch_size: int
    memory: str
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Footprint:
    """What one window needs.

    Attributes:
        held: bytes that its graph holds, the window and its logits included.
        largest: bytes of the largest tensor in it.
        elements: elements of that tensor.
        logits: bytes of its logits.
    """

    held: int
    largest: int
    elements: int
    logits: int


class WindowMemory:
    """Decides for one predictor, and remembers what it measured and where memory ran out.

    Args:
        network: what the windows go through.
        sw_batch_size: windows per forward, or ``"auto"``.
        memory: one of :data:`MEMORY`.
    """

    def __init__(self, network: nn.Module, sw_batch_size: int | str, memory: str) -> None:
        self._network, self._asked, self._memory = network, sw_batch_size, memory
        self._parameters = list(
            network.parameters()
        )  # walking through all modules takes as long as a small layer
        self._footprints: dict[tuple[Any, ...], Footprint | None] = {}
        self._batch: dict[tuple[Any, ...], int] = {}
        self._keeping: dict[torch.device, bool] = {}

    def batch_size(self, window: Tensor) -> int:
        """Windows per forward for windows like ``window`` ``(1, C, *roi)``; found once, less after a shortage."""
        key = self._key(window)
        if key not in self._batch:
            self._batch[key] = self._asked if isinstance(self._asked, int) else self._largest(window)
        return self._batch[key]

    def keeps(self, window: Tensor, count: int, volumes: float) -> bool:
        """Whether the graphs of ``count`` windows fit beside logits as large as those of ``volumes`` windows."""
        if self._memory == "recompute" or not self._keeping.get(window.device, True):
            return False
        if self._memory == "keep":
            return True
        need = self.footprint(window)
        if need is None:
            return False
        at_once = self.batch_size(window) * _TEMPORARY * need.largest
        whole = int(
            3 * volumes * need.logits
        )  # the blended logits, their gradient, and what a loss makes of them
        room = _SHARE.get(window.device.type, 0) * available_bytes(window.device)
        return count * need.held + at_once + whole <= room

    def shrink(self, window: Tensor, batch: int, error: RuntimeError) -> int:
        """The next smaller batch after ``batch`` ran out of memory; raises ``error`` if there is none."""
        if batch == 1:
            raise error
        key = self._key(window)
        self._batch[key] = min(self._batch.get(key, batch), batch // 2)
        release(window.device)
        return self._batch[key]

    def stop_keeping(self, device: torch.device) -> None:
        """Recompute from now on: memory ran out although it should have been enough."""
        self._keeping[device] = False
        release(device)

    def footprint(self, window: Tensor) -> Footprint | None:
        """What one window needs, measured once; None where it cannot be measured without side effects."""
        key = self._key(window)
        if key not in self._footprints:
            self._footprints[key] = self._measure(window)
        return self._footprints[key]

    def _largest(self, window: Tensor) -> int:
        if window.device.type == "cpu":
            return CPU_BATCH
        need = self.footprint(window)
        if need is None:
            return 1
        room = _SHARE.get(window.device.type, 0) * available_bytes(window.device)
        fits = int(room / (need.held + _TEMPORARY * need.largest))
        return max(1, min(fits, _INDEX_LIMIT // need.elements, LARGEST_BATCH))

    def _key(self, window: Tensor) -> tuple[Any, ...]:
        trainable = any(p.requires_grad for p in self._parameters)
        return tuple(window.shape[1:]), window.dtype, window.device, trainable, autocast_dtype(window.device)

    def _measure(self, window: Tensor) -> Footprint | None:
        if any(module.training for module in self._network.modules()):
            return None  # a forward for measuring would move running statistics and random states
        own = {
            t.untyped_storage().data_ptr() for t in (*self._network.parameters(), *self._network.buffers())
        }
        held: dict[int, int] = {}
        elements = [1]

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
                elements.append(tensor.numel())
            return tensor

        try:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                logits = self._network(window.detach().clone().requires_grad_())
                logits = note(logits) if isinstance(logits, Tensor) else window
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None
        finally:
            release(window.device)
        return Footprint(sum(held.values()), max(held.values()), max(elements), logits.nbytes)


def available_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on a device; 0 where nobody tells.

    Example:
        >>> available_bytes(torch.device("cpu")) >= 0
        True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _host_bytes() if device.type == "cpu" else 0


def _host_bytes() -> int:
    """Free memory of the host or of the control group this process is confined to, whichever is less."""
    limits = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        limits.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    if not limits:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            limits.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if not limits:
        return 0
    for most, used in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            limits.append(int(most.read_text()) - int(used.read_text()))
    return max(0, min(limits))


def _control_groups() -> Iterator[tuple[Path, Path]]:
    """Files with the limit and the use of this process's memory, version 2 and version 1."""
    root = Path("/sys/fs/cgroup")
    own = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.split("::")[1] for line in lines if line.startswith("0::")), "")
    for folder in {root, root / own.lstrip("/")}:
        yield folder / "memory.max", folder / "memory.current"
    yield root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """What autocast computes in on a device at this moment; None where it is off."""
    kind = device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if on else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device had too little memory, and not that something is wrong."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    # cuDNN 9 says ..._INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, cuFFT has no STATUS in its names, and cuBLAS, which makes
    # its handle at the first product, says NOT_INITIALIZED where the card has no room for that.
    signs = (
        "can't allocate memory",
        "out of memory",
        "STATUS_ALLOC_FAILED",
        "ALLOCATION_FAILED",
        "CUFFT_ALLOC_FAILED",
        "CUBLAS_STATUS_NOT_INITIALIZED",
    )
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def release(device: torch.device) -> None:
    """Give cached blocks back, so that an allocation of another size may succeed.

    A recorded CUDA graph stands in a circle of references and holds its activations until circles are looked for.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
