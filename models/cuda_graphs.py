"""CUDA graphs: one launch for a whole forward or backward pass, where Python is slower than the card.

A graph replays recorded kernels in buffers of its own, so it holds the activations of one pass: the last. Every pass
has a number, and a backward pass whose activations were overwritten since replays its forward pass first. Nothing a
caller holds lies in those buffers.

Whether it pays is measured: the network runs a few times with and without, and a graph stays where it is at least
1.1 times as fast. What cannot be recorded, or gives other numbers when replayed, runs as before.
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .cpu import contiguous_gradient
from .precision import float32_switches
from .window_memory import autocast_dtype, is_out_of_memory, register, release, same_device

CUDA_GRAPHS = ("auto", "off")

LEAST_GAIN = 1.1
"""How many times as fast a replay must be."""

_PATIENCE = 2  # gradients of one shape before a graph is tried: a shape seen once does not pay for it
_HELD = 2  # graphs at once, and one that is tried; each holds the activations of a pass
_AGAIN = 100  # gradients until a shape is tried again for which there was too little memory
_REPEATS = 3
_BUSY = (
    0.5  # share of a pass that Python takes at least where the card waits for it, large last kernels included
)
_SHORT = "too little memory"
_TOLERANCE = 1e-3  # relative; a replay runs the same kernels, which add in another order where they are not deterministic

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Trial:
    """What was found for one shape of windows.

    Attributes:
        used: whether replays take the place of the network.
        gain: time of the network over that of a replay, forward and gradient; None where there is no replay.
        why: reason in words.
    """

    used: bool
    gain: float | None
    why: str

    @property
    def short(self) -> bool:
        """Whether memory ended it, and nothing about the network."""
        return self.why.startswith(_SHORT)


class CudaGraphs:
    """Runs a network on windows, through graphs where they pay; gradients are those of the windows alone.

    Args:
        network: maps windows to logits.
        choice: one of :data:`CUDA_GRAPHS`.

    Raises:
        ValueError: for another choice.

    Example:
        >>> graphs = CudaGraphs(torch.nn.Conv3d(1, 2, 1))
        >>> graphs(torch.rand(1, 1, 4, 4, 4)).shape, graphs.trials
        (torch.Size([1, 2, 4, 4, 4]), {})
    """

    def __init__(self, network: nn.Module, choice: str = "auto") -> None:
        if choice not in CUDA_GRAPHS:
            raise ValueError(f"expected cuda_graphs to be one of {', '.join(CUDA_GRAPHS)}, got {choice!r}")
        self.network, self.choice = network, choice
        #: windows per forward -> what was found
        self.trials: dict[int, Trial] = {}
        #: whether the last call was a replay
        self.replayed = False
        self._trials: dict[tuple[Any, ...], Trial] = {}
        self._short: dict[tuple[Any, ...], Trial] = {}  # trials that memory ended, for the moment
        self._seen: dict[tuple[Any, ...], int] = {}
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._state: tuple[Any, ...] | None = None
        register(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or another process, records its own: a graph belongs to the tensors it was recorded with.
        return CudaGraphs, (self.network, self.choice)

    def __call__(self, windows: Tensor, *, replay: bool = True) -> Tensor:
        """Logits ``(n, K, *roi)`` of windows ``(n, C, *roi)``; with ``replay=False`` from the network itself."""
        graph = self._recorded(windows) if replay else None
        self.replayed = graph is not None
        return self.network(windows) if graph is None else graph.as_network(windows)

    def measure(self, windows: Tensor) -> Trial | None:
        """Try a graph for windows like these now; None where the choice or the device rules one out."""
        self.prepare(windows, patience=0)
        key = _key(windows)
        return self._trials.get(key, self._short.get(key))

    def prepare(self, windows: Tensor, patience: int = _PATIENCE) -> None:
        """Say that gradients of windows like these are wanted; after `patience` times a graph is tried.

        Outside of a backward pass, in which nothing can be recorded.
        """
        key = _key(windows)
        if not self._may(windows) or key in self._graphs or key in self._trials:
            return
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= patience or not self._unchanged():
            return
        graph, trial = self._try(windows)
        while trial.short and self._graphs:
            self._forget_oldest()
            graph, trial = self._try(windows)
        self.trials[windows.shape[0]] = trial
        self._short.pop(key, None)
        if trial.short:
            self._short[key], self._seen[key] = trial, -_AGAIN
            return
        self._trials[key] = trial
        if graph is not None:
            while len(self._graphs) >= _HELD:
                self._forget_oldest()
            self._graphs[key] = graph

    def _try(self, windows: Tensor) -> tuple[_Graph | None, Trial]:
        release(windows.device)
        before = _kept_back(windows.device)
        with torch.enable_grad():
            graph, trial = _measure(self.network, windows.detach())
        release(windows.device)
        if graph is not None:
            graph.nbytes = max(0, _kept_back(windows.device) - before)
        return graph, trial

    def _forget_oldest(self) -> None:
        """The graph unused for longest goes, and is recorded again if its shape comes again."""
        oldest = next(iter(self._graphs))
        device = self._graphs.pop(oldest).device
        self._trials.pop(oldest, None)
        self._seen.pop(oldest, None)
        release(device)

    def held_bytes(self, device: torch.device) -> int:
        """Bytes of a device that the graphs keep for themselves."""
        return sum(graph.nbytes for graph in self._graphs.values() if same_device(graph.device, device))

    def forget(self) -> None:
        """Give the graphs' memory back; what comes again is tried again."""
        devices = {graph.device for graph in self._graphs.values()}
        for known in (self._graphs, self._trials, self._short, self._seen):
            known.clear()
        for device in devices:
            release(device)

    def drop(self, device: torch.device | None = None) -> bool:
        """Give the memory of graphs, on a device or anywhere, back and record no more; whether there was any."""
        found = [
            key for key, graph in self._graphs.items() if device is None or same_device(graph.device, device)
        ]
        for key in found:
            del self._graphs[key]
        if found:
            self.choice = "off"
        return bool(found)

    def _may(self, windows: Tensor) -> bool:
        """Whether a graph could serve this call at all."""
        return (
            self.choice == "auto"
            and on_card(windows.device)
            and autocast_dtype(windows.device) is None
            and not windows.is_inference()
            and not torch.is_inference_mode_enabled()
        )

    def _recorded(self, windows: Tensor) -> _Graph | None:
        if not self._graphs or not self._may(windows):
            return None
        key = _key(windows)
        graph = self._graphs.get(key) if self._unchanged() else None
        if graph is not None:
            self._graphs[key] = self._graphs.pop(key)  # the latest last
        return graph

    def _unchanged(self) -> bool:
        """Whether a replay does what the network does; recorded ones are forgotten once they do not."""
        state = _state(self.network)
        if state != self._state:
            self.forget()
            self._state = state
        return state is not None


class _Graph:
    """The recorded passes of a network for windows of one shape."""

    def __init__(self, network: Network, windows: Tensor) -> None:
        self._call = record(network, windows.detach().clone().requires_grad_())
        self.device = windows.device
        #: bytes that the recording keeps for itself
        self.nbytes = 0
        self._turn = 0
        self._leaf = self._logits = windows

    def as_network(self, windows: Tensor) -> Tensor:
        """Logits that stay, with a gradient of the windows."""
        return _Replay.apply(windows, self)  # type: ignore[return-value]

    def run(self, windows: Tensor) -> tuple[int, Tensor]:
        """The forward pass: its number, and logits that the next one overwrites."""
        self._turn += 1
        with torch.enable_grad():
            self._leaf = windows.detach().requires_grad_()
            self._logits = self._call(self._leaf)
        return self._turn, self._logits.detach()

    def gradient(self, windows: Tensor, upstream: Tensor, turn: int) -> Tensor:
        """The backward pass of a forward pass, which is run again where its activations are gone."""
        if turn != self._turn:
            self.run(windows)
        (gradient,) = torch.autograd.grad(self._logits, self._leaf, upstream)
        self._turn += 1  # the buffers of the activations were used for the backward pass
        return gradient.clone()


class _Replay(torch.autograd.Function):
    """A replay as a node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, windows: Tensor, graph: _Graph) -> Tensor:
        ctx.turn, logits = graph.run(windows)
        ctx.graph = graph
        ctx.save_for_backward(windows)
        return logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (windows,) = ctx.saved_tensors
        return ctx.graph.gradient(windows, upstream, ctx.turn), None


def on_card(device: torch.device) -> bool:
    """Whether a device can replay graphs and is not recording one now."""
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and not torch.cuda.is_current_stream_capturing()
    )


def record(network: Network, windows: Tensor) -> Network:
    """The network for windows of this shape as replays of its forward and backward pass.

    A function and not the module is recorded: PyTorch would put the replay in the place of the module's forward, and
    take gradients of its parameters.
    """
    # A recording that fails leaves its own stream behind as the current one.
    with torch.cuda.device(windows.device), torch.cuda.stream(torch.cuda.current_stream(windows.device)):
        return torch.cuda.make_graphed_callables(lambda x: network(x), (windows,))  # type: ignore[return-value]


def _measure(network: Network, windows: Tensor) -> tuple[_Graph | None, Trial]:
    try:
        _pass(
            network, windows
        )  # what is made at the first call, such as tables, may be copied to the card then
        with _no_waiting(windows.device):
            wanted = _pass(network, windows)
        plain, python = _seconds(network, windows)
    except RuntimeError as error:
        return None, _failed("does not run without reading from the card", error)
    if python < _BUSY * plain:
        return None, Trial(False, None, f"the card is busy: Python takes {python / plain:.0%} of a pass")
    try:
        # Recorded with other numbers than it is compared with: nothing of the first may have been baked in.
        graph = _Graph(network, windows.flip(-1))
        found = _pass(graph.as_network, windows)
        replay, _ = _seconds(graph.as_network, windows)
    except RuntimeError as error:
        return None, _failed("cannot be recorded", error)
    gain = plain / replay
    if not all(_same(*pair) for pair in zip(found, wanted, strict=True)):
        return None, Trial(False, gain, "a replay gives other numbers")
    if gain < LEAST_GAIN:
        return None, Trial(False, gain, f"a replay is {gain:.2f} times as fast")
    return graph, Trial(True, gain, f"a replay is {gain:.2f} times as fast")


def _failed(what: str, error: RuntimeError) -> Trial:
    line = str(error).strip().partition("\n")[0][:200]
    return Trial(False, None, f"{_SHORT if is_out_of_memory(error) else what}: {line}")


def _pass(network: Network, windows: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and a gradient of the windows."""
    with torch.enable_grad():
        leaf = windows.detach().requires_grad_()
        logits = network(leaf)
    return logits.detach(), torch.autograd.grad(logits, leaf, torch.ones_like(logits))[0]


def _seconds(network: Network, windows: Tensor) -> tuple[float, float]:
    """Median time of a pass, and of the part of it in which Python hands out work."""
    whole, handed = [], []
    for _ in range(_REPEATS):
        _wait(windows.device)
        start = time.perf_counter()
        _pass(network, windows)
        handed.append(time.perf_counter() - start)
        _wait(windows.device)
        whole.append(time.perf_counter() - start)
    return statistics.median(whole), statistics.median(handed)


def _kept_back(device: torch.device) -> int:
    """Bytes of a device that this process holds and nothing uses."""
    if device.type != "cuda":
        return 0
    return torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _no_waiting(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the card raises: recording would stop there, and less cleanly."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it does not see everything
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode(before)


def _key(windows: Tensor) -> tuple[Any, ...]:
    return tuple(windows.shape), windows.dtype, windows.device, _switches()


def _state(network: nn.Module) -> tuple[Any, ...] | None:
    """Where a network's tensors lie; None where a replay would not do what it does: in training, or with hooks.

    Our own hook is recorded with the network: every brought one with norms has it.
    """
    for module in network.modules():
        hooks = (
            [hook for hook in module._forward_hooks.values() if hook is not contiguous_gradient],
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        )
        if module.training or any(hooks):
            return None
    return tuple(tensor.data_ptr() for tensor in itertools.chain(network.parameters(), network.buffers()))


def _switches() -> tuple[Any, ...]:
    """What chooses kernels, for the whole process."""
    cudnn = torch.backends.cudnn
    return (
        cudnn.enabled,
        cudnn.benchmark,
        cudnn.deterministic,
        float32_switches(),
        torch.are_deterministic_algorithms_enabled(),
    )


def _same(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).norm() <= _TOLERANCE * wanted.norm())
