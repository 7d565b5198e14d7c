"""How many windows a device holds at once, and whether their graphs may be kept: measured, never configured.

One window is run once with a graph and what its graph holds is counted. From that and from what the device has
free follow the number of windows per forward and whether the backward pass recomputes them. Neither changes a
result beyond the network's own arithmetic. Running out of memory halves the batch instead of failing the case.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from .host_memory import host_bytes

MEMORY = ("auto", "keep", "recompute")

CPU_BATCH = 4
"""Windows per forward on a CPU; beyond it nothing is gained (``tests/performance/window_memory.py``)."""

LARGEST_BATCH = 32
"""Windows per forward on an accelerator: the cost of a window no longer falls well before this."""

_SHARE = {"cpu": 0.25, "cuda": 0.8}
# Of what is free. On a CPU other processes, such as a run's own workers, count on the same memory, and asking for
# too much kills the process instead of raising an error.
_TEMPORARY = 4  # copies of the largest activation that a network's backward pass may need beside its graph
_LEAST_KEPT = 0.5
# Of the windows per forward. Computing them twice costs 1.4 times as much; a quarter of the batch costs 1.1 to 1.6 times
# (docs/performance.md, H200), half of it less.
_MORE = 1.25  # times what was free when one window was too much; then it is measured again
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
        self._footprints: dict[tuple[Any, ...], Footprint] = {}
        self._short: dict[tuple[Any, ...], int] = {}  # what was free when one window was too much
        self._kept: dict[tuple[Any, ...], int] = {}
        self._batch: dict[tuple[Any, ...], int] = {}
        self._keeping: dict[torch.device, bool] = {}

    def batch_size(self, window: Tensor) -> int:
        """Windows per forward for windows like ``window`` ``(1, C, *roi)``; found once, less after a shortage."""
        key = self._key(window)
        if key not in self._batch:
            batch = self._asked if isinstance(self._asked, int) else self._largest(window)
            if batch is None:
                return 1  # for now: what could not be measured is tried again
            self._batch[key] = batch
        return self._batch[key]

    def spread(self, window: Tensor, count: int) -> int:
        """Windows per forward for ``count`` of them: on an accelerator 9 and 9 rather than 17 and 1."""
        batch = self.batch_size(window)
        return _evenly(count, batch) if self._asked == "auto" and window.device.type != "cpu" else batch

    def kept_batch(self, window: Tensor, count: int, volumes: float) -> int:
        """Windows per forward with which the graphs of ``count`` of them fit, 0 where they do not.

        Beside them there are logits as large as those of ``volumes`` windows. An accelerator takes smaller batches, down
        to half, before it gives up keeping.
        """
        if self._memory == "recompute" or not self._keeping.get(window.device, True):
            return 0
        batch = self.spread(window, count)
        if self._memory == "keep":
            return batch
        need = self.footprint(window)
        if need is None:
            return 0
        # The blended logits, their gradient, and what a loss makes of them.
        whole = int(3 * volumes * need.logits)
        room = _SHARE.get(window.device.type, 0) * available_bytes(window.device)
        most = int((room - count * need.held - whole) // (_TEMPORARY * need.largest))
        if window.device.type == "cpu" or self._asked != "auto":
            return batch if most >= batch else 0
        # Found once and only ever less: another batch is another last digit.
        batch = min(batch, self._kept.get((self._key(window), count), batch))
        if most < batch:
            batch = _evenly(count, most) if most >= max(1, _LEAST_KEPT * batch) else 0
        if batch:
            self._kept[self._key(window), count] = batch
        return batch

    def shrink(self, window: Tensor, batch: int, error: RuntimeError) -> int:
        """The next smaller batch after ``batch`` ran out of memory; raises ``error`` if there is none.

        Before one window is given up, what others hold on the device goes.
        """
        if batch == 1:
            if not give_back(window.device):
                raise error
            release(window.device)
            return 1
        key = self._key(window)
        self._batch[key] = min(self._batch.get(key, batch), batch // 2)
        release(window.device)
        return self._batch[key]

    def stop_keeping(self, device: torch.device) -> None:
        """Recompute from now on: memory ran out although it should have been enough."""
        self._keeping[device] = False
        release(device)

    def footprint(self, window: Tensor) -> Footprint | None:
        """What one window needs, measured once; None where it cannot be measured, for now.

        In training mode that would have side effects, and at the moment there may be too little memory for one window.
        """
        key = self._key(window)
        if key in self._footprints:
            return self._footprints[key]
        if any(module.training for module in self._network.modules()):
            return None  # a forward for measuring would move running statistics and random states
        free = available_bytes(window.device)
        if free <= _MORE * self._short.get(key, -1):
            return None
        found = self._measure(window)
        if found is None:
            self._short[key] = free
        else:
            self._footprints[key] = found
        return found

    def _largest(self, window: Tensor) -> int | None:
        if window.device.type == "cpu":
            return CPU_BATCH
        need = self.footprint(window)
        if need is None:
            return None
        room = _SHARE.get(window.device.type, 0) * available_bytes(window.device)
        fits = int(room / (need.held + _TEMPORARY * need.largest))
        return max(1, min(fits, _INDEX_LIMIT // need.elements, LARGEST_BATCH))

    def _key(self, window: Tensor) -> tuple[Any, ...]:
        trainable = any(p.requires_grad for p in self._parameters)
        return tuple(window.shape[1:]), window.dtype, window.device, trainable, autocast_dtype(window.device)

    def _measure(self, window: Tensor) -> Footprint | None:
        """None where memory runs out."""
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

        def once() -> int:
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                logits = self._network(window.detach().clone().requires_grad_())
                return note(logits if isinstance(logits, Tensor) else window).nbytes

        nbytes = attempt(once)
        release(window.device)
        if isinstance(nbytes, RuntimeError):
            return None
        return Footprint(sum(held.values()), max(held.values()), max(elements), nbytes)


class Holder(Protocol):
    """Who holds memory of a device that it can do without."""

    def held_bytes(self, device: torch.device) -> int:
        """Bytes that nobody else can allocate meanwhile."""
        ...

    def drop(self, device: torch.device | None = None) -> bool:
        """Give what is held on a device, or anywhere, back for good; whether there was any."""
        ...


_HOLDERS: weakref.WeakSet[Any] = weakref.WeakSet()
_HOLDERS_LOCK = threading.Lock()


def register(holder: Holder) -> None:
    """Enter who holds memory, for as long as it lives."""
    with _HOLDERS_LOCK:
        _HOLDERS.add(holder)


def _holders() -> list[Any]:
    with _HOLDERS_LOCK:
        return list(_HOLDERS)


def give_back(device: torch.device) -> bool:
    """Let every holder give back what it has on a device; whether there was any. The blocks stay cached."""
    return any([holder.drop(device) for holder in _holders()])


def same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two names are one device: without a number it is the current one, which is taken for any."""
    return one.type == other.type and (one.index == other.index or None in (one.index, other.index))


_T = TypeVar("_T")


def attempt(call: Callable[[], _T]) -> _T | RuntimeError:
    """What a call gives, or the RuntimeError that says that memory ran out; any other error is raised.

    The error comes without its traceback, whose frames hold what was being computed with: as long as they do, that
    memory cannot be given back.
    """
    try:
        return call()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        short = error
    short.__context__ = None
    return short.with_traceback(None)


def _evenly(count: int, most: int) -> int:
    """Windows per group for ``count`` of them in as few groups of at most ``most`` as there can be.

    Example:
        >>> _evenly(18, 17), _evenly(18, 5), _evenly(3, 32)
        (9, 5, 3)
    """
    return -(-count // -(-count // most))


def available_bytes(device: torch.device) -> int:
    """Memory that can still be allocated on a device; 0 where nobody tells.

    Example:
        >>> available_bytes(torch.device("cpu")) >= 0
        True
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        # The pool of a recorded graph is cached too, and serves nobody else.
        return max(0, free + cached - sum(holder.held_bytes(device) for holder in _holders()))
    return host_bytes() if device.type == "cpu" else 0


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
