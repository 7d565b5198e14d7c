"""Replays in buffers that the next one overwrites, emulated on a CPU: what a caller gets is never what was overwritten."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustvox.models import SlidingWindow, cuda_graphs, sliding_window, window_memory
from robustvox.models.bring.nnunet_predictor import NnUNetPredictor, Normalization
from robustvox.models.case import CaseSource
from robustvox.models.cpu import with_contiguous_gradients
from robustvox.models.cuda_graphs import CudaGraphs
from robustvox.models.window_memory import Execution

Network = Callable[[Tensor], Tensor]


class Recorded:
    """What `make_graphed_callables` gives: static buffers, activations of the last forward pass, used up by a backward."""

    def __init__(self, network: Network, windows: Tensor) -> None:
        self.network, self.runs, self.backwards = network, 0, 0
        self.windows, self.live = windows, False
        self.logits = network(windows).detach().clone()
        self.grad = torch.zeros_like(windows)

    def __call__(self, windows: Tensor) -> Tensor:
        class Graphed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, given: Tensor) -> Tensor:
                with torch.no_grad():
                    self.windows.copy_(given)
                with torch.enable_grad():
                    self.graph = self.network(self.windows)
                self.runs, self.live = self.runs + 1, True
                return self.logits.copy_(self.graph.detach()).detach()

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Tensor:
                if not self.live:  # what a card holds by then is anything
                    return torch.full_like(self.grad, torch.nan)
                self.live, self.backwards = False, self.backwards + 1
                (found,) = torch.autograd.grad(self.graph, self.windows, upstream[0])
                return self.grad.copy_(found).detach()

        return Graphed.apply(windows)  # type: ignore[return-value]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorded]]:
    """A CPU that takes graphs, on which a replay is twice as fast."""
    made: list[Recorded] = []

    def record(network: Network, windows: Tensor) -> Recorded:
        made.append(Recorded(network, windows))
        return made[-1]

    monkeypatch.setattr(cuda_graphs, "on_card", lambda _: True)
    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(
        cuda_graphs, "_seconds", lambda network, _: (1.0 if hasattr(network, "__self__") else 2.0, 2.0)
    )
    return made


def net(out: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.GELU(), nn.Conv3d(4, out, 3, padding=1)
    return nn.Sequential(*layers).eval()


def gradient(model: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    variable = images.clone().requires_grad_()
    logits = model(variable)
    return logits.detach(), torch.autograd.grad(logits.square().mean(), variable)[0]


def same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


def volumes(*shape: int, count: int = 6) -> list[Tensor]:
    return list(torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)))


def test_a_shape_is_recorded_once_it_has_come_three_times(recorded: list[Recorded]) -> None:
    graphs, network = CudaGraphs(net()), net()
    for at, windows in enumerate(volumes(2, 1, 6, 6, 6)):
        graphs.prepare(windows)
        same(gradient(graphs, windows), gradient(network, windows))
        assert (len(recorded), graphs.replayed) == ((1, True) if at >= 2 else (0, False))
    trial = graphs.trials[2]
    assert (trial.used, trial.gain, trial.why) == (True, 2.0, "a replay is 2.00 times as fast")


@pytest.mark.parametrize("memory", ["keep", "recompute"])
@pytest.mark.parametrize(
    ("size", "spatial"), [(8, (9, 9, 6)), (2, (9, 9, 6)), (8, (6, 6, 6)), (4, (5, 6, 4))]
)
def test_volumes_get_the_logits_and_gradients_they_get_without(
    recorded: list[Recorded], memory: str, size: int, spatial: tuple[int, ...]
) -> None:
    auto, off = (
        SlidingWindow(net(), (6, 6, 6), 0.5, size, memory=memory, cuda_graphs=c) for c in ("auto", "off")
    )
    for images in volumes(1, 1, *spatial):
        same(gradient(auto, images), gradient(off, images))
        with torch.no_grad():
            torch.testing.assert_close(auto(images), off(images))
    # Only where kept windows would be overwritten nothing is recorded.
    several = (size, spatial) == (2, (9, 9, 6))
    assert bool(recorded) == (memory == "recompute" or not several)
    assert isinstance(auto.execution, Execution)
    assert auto.execution.cuda_graphs == bool(recorded)
    assert off.execution == Execution(min(size, 1) if spatial[0] <= 6 else size, "none", False)


def test_gradients_taken_late_twice_or_in_another_order_are_those_of_their_own_windows(
    recorded: list[Recorded],
) -> None:
    graphs, network = CudaGraphs(net()), net()
    first, second = volumes(1, 1, 6, 6, 6)[:2]
    assert graphs.measure(first) is not None
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    of_a, of_b = graphs(a), graphs(b)
    assert graphs.replayed
    with torch.no_grad():
        graphs(first * 0)  # a closing forward in between
    torch.testing.assert_close(of_a, network(first))
    torch.testing.assert_close(of_b, network(second))
    for logits, variable, plain in ((of_a, a, first), (of_b, b, second), (of_a, a, first)):
        found = torch.autograd.grad(logits.square().mean(), variable, retain_graph=True)[0]
        torch.testing.assert_close(found, gradient(network, plain)[1])


def test_two_shapes_take_turns_and_a_third_replaces_the_oldest(recorded: list[Recorded]) -> None:
    graphs, network = CudaGraphs(net()), net()

    def replayed(count: int, times: int) -> bool:
        for windows in volumes(count, 1, 6, 6, 6, count=times):
            graphs.prepare(windows)
            same(gradient(graphs, windows), gradient(network, windows))
        return graphs.replayed

    assert replayed(1, 3)
    assert replayed(2, 3)
    assert all(replayed(count, 1) for count in (1, 2, 1, 2, 1))
    assert replayed(3, 3)
    assert replayed(1, 1)
    assert not replayed(2, 1)
    assert replayed(2, 2)
    assert replayed(1, 1)
    assert not replayed(3, 1)
    assert len(recorded) == 4
    assert len(graphs._graphs) == 2


def test_the_shape_that_was_measured_before_a_run_can_be_replaced_too(recorded: list[Recorded]) -> None:
    graphs = CudaGraphs(net())
    for count in (1, 2, 3, 1):
        assert graphs.measure(volumes(count, 1, 6, 6, 6, count=1)[0]) is not None
    assert len(recorded) == 4
    assert [key[0][0] for key in graphs._graphs] == [3, 1]


def test_what_does_not_pay_or_is_not_possible_runs_as_before(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    (windows,) = volumes(1, 1, 6, 6, 6, count=1)

    def trial(network: nn.Module) -> cuda_graphs.Trial | None:
        graphs = CudaGraphs(network)
        found = graphs.measure(windows)
        same(gradient(graphs, windows), gradient(network, windows))
        assert not graphs.replayed
        return found

    hooked, training = net(), net().train()
    hooked.register_forward_hook(lambda *_: None)
    assert (trial(hooked), trial(training)) == (None, None)
    drifting = net()
    drifting.register_buffer("calls", torch.zeros(()))
    plain = nn.Sequential.forward
    kind = type(
        "Drifting", (nn.Sequential,), {"forward": lambda self, x: plain(self, x) * (1 + self.calls.add_(1))}
    )
    drifting.__class__ = kind
    found = CudaGraphs(drifting).measure(windows)
    assert found is not None
    assert (found.used, found.why) == (False, "a replay gives other numbers")
    monkeypatch.setattr(
        cuda_graphs, "_seconds", lambda network, _: (1.9 if hasattr(network, "__self__") else 2.0, 2.0)
    )
    assert trial(net()) == cuda_graphs.Trial(False, 2.0 / 1.9, "a replay is 1.05 times as fast")
    monkeypatch.setattr(cuda_graphs, "_seconds", lambda network, _: (2.0, 0.4))
    assert trial(net()) == cuda_graphs.Trial(False, None, "the card is busy: Python takes 20% of a pass")


def test_our_own_hook_is_recorded_with_the_network_and_no_other(recorded: list[Recorded]) -> None:
    network, graphs = with_contiguous_gradients(net()), CudaGraphs(with_contiguous_gradients(net()))
    (windows,) = volumes(1, 1, 6, 6, 6, count=1)
    graphs.measure(windows)
    same(gradient(graphs, windows), gradient(network, windows))
    assert graphs.replayed
    graphs.network[1].register_forward_hook(lambda *_: None)  # type: ignore[index]
    same(gradient(graphs, windows), gradient(network, windows))
    assert not graphs.replayed
    assert graphs.measure(windows) is None


@pytest.mark.parametrize("spatial", [(6, 6, 6), (9, 6, 6)], ids=["one window", "several"])
def test_nnunets_windows_are_not_recorded_in_their_backward_pass(
    recorded: list[Recorded], spatial: tuple[int, ...]
) -> None:
    scheme = Normalization("NoNormalization", False, {}, (0.0, 1.0))
    network = with_contiguous_gradients(net())
    predictor = NnUNetPredictor([network], [scheme], (6, 6, 6), sw_batch_size=8, crop=False)
    image = np.ones((1, *spatial), np.float32)
    source = CaseSource(id="a", affine=np.eye(4), image=image, low=(0.0,), high=(1.0,))
    *several, last = volumes(1, 1, *spatial)
    for images in several:
        gradient(predictor.for_case(source), images)
    assert recorded == []
    wanted = gradient(predictor.for_case(source), last)
    for images in several:  # without a case nothing runs in a backward pass
        gradient(predictor, images)
    assert len(recorded) == 1
    # What was recorded elsewhere serves there.
    same(gradient(predictor.for_case(source), last), wanted)
    assert predictor.windows[0].graphs.replayed  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            "CUDA error: operation not permitted when stream is capturing\nmore",
            "cannot be recorded: CUDA error: operation",
        ),
        ("CUDA out of memory. Tried to allocate", "too little memory: CUDA out of memory"),
    ],
)
def test_a_network_that_cannot_be_recorded_is_tried_once(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    tries: list[Tensor] = []

    def fails(_: Network, windows: Tensor) -> Network:
        tries.append(windows)
        raise RuntimeError(text)

    monkeypatch.setattr(cuda_graphs, "record", fails)
    predictor = SlidingWindow(net(), (6, 6, 6), 0.5, 8)
    for images in volumes(1, 1, 9, 6, 6):
        same(gradient(predictor, images), gradient(SlidingWindow(net(), (6, 6, 6), 0.5, 8), images))
    trial = predictor.graphs.trials[2]
    assert not trial.used
    assert trial.why.startswith(why)
    assert "\n" not in trial.why
    assert len(tries) == 1


def test_other_weights_in_place_are_followed_and_elsewhere_recorded_anew(recorded: list[Recorded]) -> None:
    network = net()
    graphs, (windows,) = CudaGraphs(network), volumes(1, 1, 6, 6, 6, count=1)
    graphs.measure(windows)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    same(gradient(graphs, windows), gradient(network, windows))
    assert graphs.replayed
    network[0] = nn.Conv3d(1, 4, 3, padding=1).eval()
    same(gradient(graphs, windows), gradient(network, windows))
    assert not graphs.replayed


def test_memory_that_runs_out_takes_the_graphs_first(recorded: list[Recorded]) -> None:
    class Short(nn.Sequential):
        full = False

        def forward(self, x: Tensor) -> Tensor:
            if self.full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    network = Short(*net()).eval()
    predictor = SlidingWindow(network, (6, 6, 6), 0.5, 8, memory="keep")
    *before, last = volumes(1, 1, 9, 6, 6)
    for images in before:
        gradient(predictor, images)
    assert recorded
    assert recorded[0].runs
    assert predictor.graphs.replayed
    free = predictor.graphs.drop

    def drop() -> bool:
        network.full = False
        return free()

    predictor.graphs.drop = drop  # type: ignore[method-assign]
    network.full = True
    same(gradient(predictor, last), gradient(SlidingWindow(net(), (6, 6, 6), 0.5, 8), last))
    assert predictor.execution == Execution(8, "keep", False)
    assert predictor.graphs.choice == "off"


class Short(nn.Sequential):
    """A device that has no room for a pass beside a recording."""

    recordings: ClassVar[list[weakref.ref[Recorded]]] = []
    full = False

    def forward(self, x: Tensor) -> Tensor:
        if self.full and any(recording() for recording in self.recordings):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


@pytest.fixture
def short(recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch) -> Iterator[Short]:
    """Recordings that nothing holds but their users and, as on a card, a circle of references."""

    def record(network: Network, windows: Tensor) -> Recorded:
        made = Recorded(network, windows)
        made.circle = made  # type: ignore[attr-defined]
        Short.recordings.append(weakref.ref(made))
        return made

    monkeypatch.setattr(cuda_graphs, "record", record)
    for module in (window_memory, sliding_window, cuda_graphs):
        monkeypatch.setattr(module, "release", lambda _: gc.collect())
    yield Short(*net()).eval()
    Short.recordings.clear()


@pytest.mark.parametrize(
    ("memory", "size", "spatial"),
    [
        ("recompute", 1, (9, 6, 6)),
        ("recompute", 8, (9, 6, 6)),
        ("keep", 8, (9, 6, 6)),
        ("auto", 1, (6, 6, 6)),
    ],
)
def test_no_case_is_lost_while_its_own_graph_holds_the_memory(
    short: Short, memory: str, size: int, spatial: tuple[int, ...]
) -> None:
    """Also what the frames of the error hold goes, before the second attempt."""
    predictor = SlidingWindow(short, (6, 6, 6), 0.5, size, memory=memory)
    *before, last = volumes(1, 1, *spatial)
    for images in before:
        gradient(predictor, images)
    assert predictor.graphs.replayed
    short.full = True
    same(gradient(predictor, last), gradient(SlidingWindow(net(), (6, 6, 6), 0.5, size), last))
    assert (predictor.graphs.choice, predictor.graphs._graphs) == ("off", {})
    assert predictor.execution is not None
    assert predictor.execution.sw_batch_size == size


@pytest.mark.parametrize(("size", "spatial"), [(1, (9, 6, 6)), (1, (6, 6, 6))])
def test_no_case_is_lost_while_another_networks_graph_holds_the_memory(
    short: Short, size: int, spatial: tuple[int, ...]
) -> None:
    other = SlidingWindow(net(), (6, 6, 6), 0.5, size, memory="recompute")
    *before, last = volumes(1, 1, *spatial)
    for images in before:
        gradient(other, images)
    assert other.graphs.replayed
    short.full = True
    predictor = SlidingWindow(short, (6, 6, 6), 0.5, size)
    same(gradient(predictor, last), gradient(SlidingWindow(net(), (6, 6, 6), 0.5, size), last))
    assert other.graphs.choice == "off"
    assert not any(recording() for recording in Short.recordings)


def test_what_a_recording_keeps_for_itself_is_known_and_goes_with_it(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    (windows,) = volumes(1, 1, 6, 6, 6, count=1)
    cpu, card = torch.device("cpu"), torch.device("cuda", 1)
    monkeypatch.setattr(cuda_graphs, "_kept_back", lambda _: 1000 + 77 * len(recorded))
    graphs = CudaGraphs(net())
    graphs.measure(windows)
    assert (graphs.held_bytes(cpu), graphs.held_bytes(card)) == (77, 0)
    assert not graphs.drop(card)
    graphs.forget()
    assert (graphs.held_bytes(cpu), graphs.choice) == (0, "auto")
    graphs.measure(windows)
    assert graphs.held_bytes(cpu) == 77
    assert graphs.drop(cpu)
    assert (graphs.held_bytes(cpu), graphs.choice) == (0, "off")


@pytest.mark.parametrize("give", ["forget", "drop"])
def test_memory_is_there_again_when_graphs_are_given_back(short: Short, give: str) -> None:
    graphs = CudaGraphs(net())
    graphs.measure(volumes(1, 1, 6, 6, 6, count=1)[0])
    assert [recording() for recording in Short.recordings] != [None]
    getattr(graphs, give)()
    window_memory.release(torch.device("cpu"))
    assert [recording() for recording in Short.recordings] == [None]


def test_forgetting_collects_what_stands_in_circles(short: Short) -> None:
    graphs = CudaGraphs(net())
    graphs.measure(volumes(1, 1, 6, 6, 6, count=1)[0])
    gc.disable()
    try:
        graphs.forget()
        assert [recording() for recording in Short.recordings] == [None]
    finally:
        gc.enable()


def test_a_batch_that_is_too_large_takes_nobody_elses_graphs(short: Short) -> None:
    """Whoever put its cases together halves it."""
    other = CudaGraphs(net())
    other.measure(volumes(1, 1, 6, 6, 6, count=1)[0])
    short.full = True
    predictor = SlidingWindow(short, (6, 6, 6))
    with pytest.raises(torch.OutOfMemoryError):
        predictor(torch.rand(2, 1, 6, 6, 6))
    assert other.choice == "auto"
    predictor(torch.rand(1, 1, 6, 6, 6))
    assert other.choice == "off"


def test_a_trial_without_memory_takes_old_graphs_and_is_not_the_last(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs, fit, tries = CudaGraphs(net()), cuda_graphs.record, []

    def full(network: Network, windows: Tensor) -> Network:
        tries.append(len(graphs._graphs))
        if len(graphs._graphs) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fit(network, windows)

    monkeypatch.setattr(cuda_graphs, "record", full)
    room = 1
    for count in (1, 2, 3):
        assert graphs.measure(volumes(count, 1, 6, 6, 6, count=1)[0]).used  # type: ignore[union-attr]
    assert tries == [0, 1, 2, 1]
    assert [key[0][0] for key in graphs._graphs] == [2, 3]
    room = -1
    windows = volumes(4, 1, 6, 6, 6, count=1)[0]
    found = graphs.measure(windows)
    assert found is not None
    assert found.why.startswith("too little memory")
    tries.clear()
    room = 0
    for _ in range(cuda_graphs._AGAIN + 2):
        graphs.prepare(windows)
    assert tries == []
    graphs.prepare(windows)
    assert tries == [0]
    assert graphs.trials[4].used


def test_a_trial_that_fails_costs_no_graph_that_is_there(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = CudaGraphs(net())
    for count in (1, 2):
        graphs.measure(volumes(count, 1, 6, 6, 6, count=1)[0])
    monkeypatch.setattr(cuda_graphs, "_seconds", lambda network, _: (2.0, 0.4))
    found = graphs.measure(volumes(3, 1, 6, 6, 6, count=1)[0])
    assert found is not None
    assert not found.used
    for count in (1, 2):
        gradient(graphs, volumes(count, 1, 6, 6, 6, count=1)[0])
        assert graphs.replayed


def test_copies_and_other_processes_record_their_own(recorded: list[Recorded]) -> None:
    predictor = SlidingWindow(net(), (6, 6, 6))
    (windows,) = volumes(1, 1, 6, 6, 6, count=1)
    predictor.graphs.measure(windows)
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert other.graphs.network is other.network is not predictor.network
        assert not other.graphs._graphs
        same(gradient(other, windows), gradient(net(), windows))


def test_nothing_is_tried_without_a_card_or_when_it_is_off(
    recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    (windows,) = volumes(1, 1, 6, 6, 6, count=1)
    assert CudaGraphs(net(), "off").measure(windows) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert CudaGraphs(net()).measure(windows) is None
    with torch.inference_mode():
        assert CudaGraphs(net()).measure(windows) is None
    monkeypatch.undo()
    assert CudaGraphs(net()).measure(windows) is None
    assert recorded == []
    with pytest.raises(ValueError, match="expected cuda_graphs to be one of auto, off, got 'on'"):
        SlidingWindow(net(), (6, 6, 6), cuda_graphs="on")
