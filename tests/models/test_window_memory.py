"""Kept or recomputed, in one batch or many: the same numbers, and no case lost to a device that is too small."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustvox.models import SlidingWindow, window_memory
from robustvox.models.window_memory import (
    Execution,
    Footprint,
    WindowMemory,
    available_bytes,
    is_out_of_memory,
    same_device,
)

ROI, SHAPE = (8, 8, 8), (13, 17, 9)
WINDOWS = 3 * 4 * 2


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.GELU(), nn.Conv3d(4, 3, 3, padding=1)
    return nn.Sequential(*layers).eval()


class Small(nn.Module):
    """A device that holds ``most`` windows: forward, or only where a graph is built, or only going back."""

    def __init__(self, most: int, where: str = "forward") -> None:
        super().__init__()
        self.network, self.most, self.where = network(), most, where
        self.seen: list[int] = []

    def _full(self, *_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    def forward(self, windows: Tensor) -> Tensor:
        self.seen.append(len(windows))
        logits = self.network(windows)
        if len(windows) > self.most:
            if self.where == "forward" or (self.where == "graph" and logits.requires_grad):
                self._full()
            if self.where == "backward" and logits.requires_grad:
                logits.register_hook(self._full)
        return logits


def both(predictor: SlidingWindow, images: Tensor) -> tuple[Tensor, Tensor]:
    variable = images.clone().requires_grad_()
    logits = predictor(variable)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), variable)[0]


@pytest.mark.parametrize("sw_batch_size", [1, 3, 100])
def test_kept_and_recomputed_graphs_give_the_same_bits(sw_batch_size: int) -> None:
    images, results = torch.rand(2, 1, *SHAPE), []
    for memory in ("keep", "recompute"):
        predictor = SlidingWindow(network(), ROI, sw_batch_size=sw_batch_size, memory=memory)
        results.append(both(predictor, images))
        assert predictor.execution == Execution(sw_batch_size, memory)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("memory", ["keep", "recompute"])
@pytest.mark.parametrize("where", ["forward", "graph", "backward"])
@pytest.mark.parametrize("most", [1, 3])
def test_too_large_a_batch_is_halved_and_costs_no_number(memory: str, where: str, most: int) -> None:
    images = torch.rand(1, 1, *SHAPE, dtype=torch.float64)
    wanted = both(SlidingWindow(network().double(), ROI, sw_batch_size=1, memory="recompute"), images)
    small = Small(most, where)
    predictor = SlidingWindow(small.double(), ROI, sw_batch_size=12, memory=memory)
    for _ in range(2):
        found = both(predictor, images)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    small.seen.clear()
    both(predictor, images)
    assert max(small.seen) <= most  # what was learned the first time holds
    with torch.no_grad():
        predictor(images)
    assert predictor.execution == Execution(max(small.seen), "none")


def test_one_window_too_many_is_an_error_and_so_is_every_other_fault() -> None:
    images = torch.rand(1, 1, *SHAPE)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        SlidingWindow(Small(0), ROI, sw_batch_size=4)(images)

    class Broken(nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            raise RuntimeError("size of tensor a must match")

    with pytest.raises(RuntimeError, match="must match"):
        SlidingWindow(Broken(), ROI, memory="recompute")(images)


def test_auto_keeps_what_fits_and_recomputes_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(1, 1, *SHAPE)
    need = WindowMemory(network(), 4, "auto").footprint(torch.rand(1, 1, *ROI))
    assert need is not None
    for share, memory in ((0.9, "recompute"), (1.6, "keep")):
        room = share * (WINDOWS * need.held + 16 * need.largest) / 0.25
        monkeypatch.setattr(window_memory, "available_bytes", lambda _, room=room: int(room))
        predictor = SlidingWindow(network(), ROI)
        both(predictor, images)
        assert predictor.execution == Execution(4, memory)


def test_the_batch_on_an_accelerator_follows_from_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    window = torch.empty(1, 1, *ROI, device="meta")  # any device that is no CPU
    need = window_memory.Footprint(held=1000, largest=100, elements=25, logits=10)
    monkeypatch.setattr(WindowMemory, "_measure", lambda *_: need)
    monkeypatch.setitem(window_memory._SHARE, "meta", 0.8)
    for free, batch in ((10**3, 1), (1750 * 7 + 1, 7), (10**9, window_memory.LARGEST_BATCH)):
        monkeypatch.setattr(window_memory, "available_bytes", lambda _, free=free: free)
        assert WindowMemory(network(), "auto", "auto").batch_size(window) == batch
    huge = window_memory.Footprint(held=1000, largest=100, elements=2**29, logits=10)
    monkeypatch.setattr(WindowMemory, "_measure", lambda *_: huge)
    assert WindowMemory(network(), "auto", "auto").batch_size(window) == 3  # indices stay below 2**31


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Callable[[Footprint | None, float], WindowMemory]:
    """A device that is no CPU, with a network of a known footprint."""

    def made(need: Footprint | None, free: float) -> WindowMemory:
        monkeypatch.setattr(WindowMemory, "_measure", lambda *_: need)
        monkeypatch.setattr(window_memory, "available_bytes", lambda _: free)
        return WindowMemory(network(), "auto", "auto")

    monkeypatch.setitem(window_memory._SHARE, "meta", 1.0)
    return made


META = torch.empty(1, 1, *ROI, device="meta")
NEED = Footprint(held=1000, largest=100, elements=130_000_000, logits=10)
"""The largest batch is 16."""


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (16, 16), (17, 9), (18, 9), (33, 11), (160, 16)])
def test_windows_are_spread_evenly_over_few_batches(
    accelerator: Callable[..., WindowMemory], count: int, batch: int
) -> None:
    assert accelerator(NEED, 1e9).spread(META, count) == batch


def test_smaller_batches_are_tried_before_graphs_are_given_up(
    accelerator: Callable[..., WindowMemory],
) -> None:
    """32 windows in batches of 16: graphs of all, three logits of two volumes, four copies of what a batch has largest."""
    all_of_it = 32 * 1000 + 3 * 2 * 10
    for free, batch in ((16, 16), (15, 11), (11, 11), (10, 8), (8, 8), (7, 0), (-1, 0)):
        assert accelerator(NEED, all_of_it + free * 400).kept_batch(META, 32, 2) == batch


def test_a_shortage_of_the_moment_is_not_remembered(accelerator: Callable[..., WindowMemory]) -> None:
    """And is not measured again before more is free: every try is a pass that fails."""

    def found() -> tuple[object, ...]:
        return memory.footprint(META), memory.batch_size(META), memory.kept_batch(META, 8, 1)

    memory = accelerator(None, 1e9)
    assert found() == (None, 1, 0)
    accelerator(NEED, 1.2e9)
    assert found() == (None, 1, 0)
    accelerator(NEED, 1.3e9)
    assert found() == (NEED, 16, 8)


def test_the_batch_that_graphs_are_kept_in_only_falls(accelerator: Callable[..., WindowMemory]) -> None:
    """A neighbour's memory comes and goes; another batch is another last digit."""
    memory, found = accelerator(NEED, 1e9), []
    for free in (16, 10, 16, 7, 16):
        accelerator(NEED, 32 * 1000 + 3 * 2 * 10 + free * 400)
        found.append(memory.kept_batch(META, 32, 2))
    assert found == [16, 8, 8, 7, 7]


class Hoard:
    """Somebody who holds a graph's memory."""

    def __init__(self, device: str, size: int) -> None:
        self.device, self.size = torch.device(device), size

    def held_bytes(self, device: torch.device) -> int:
        return self.size if same_device(self.device, device) else 0

    def drop(self, device: torch.device | None = None) -> bool:
        had, self.size = bool(self.size) and (device is None or bool(self.held_bytes(device))), 0
        return had


def test_one_window_is_not_given_up_while_somebody_holds_memory() -> None:
    memory, hoard = WindowMemory(network(), 1, "auto"), Hoard("meta", 5)
    window_memory.register(hoard)
    assert memory.shrink(META, 1, RuntimeError("out of memory")) == 1
    assert hoard.size == 0
    with pytest.raises(RuntimeError, match="out of memory"):
        memory.shrink(META, 1, RuntimeError("out of memory"))


def test_what_graphs_hold_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 9000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 200)
    hoards = Hoard("cuda:0", 300), Hoard("cuda:1", 77)
    for hoard in hoards:
        window_memory.register(hoard)
    assert available_bytes(torch.device("cuda:0")) == 1000 + 700 - 200 - 300
    assert available_bytes(torch.device("cuda")) == 1000 + 700 - 200 - 377
    del hoard, hoards
    assert available_bytes(torch.device("cuda:0")) == 1500


def test_the_footprint_is_what_autograd_saves() -> None:
    layers = nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 2, 1)).eval().requires_grad_(False)
    need = WindowMemory(layers, 1, "auto").footprint(torch.rand(1, 1, *ROI))
    voxels = 4 * 8**3
    # The input gradient of a convolution needs its weights only, that of the rectifier its result; both
    # convolutions keep their input all the same.
    assert need is not None
    assert need.held in ((1 + 4 + 2) * voxels, (4 + 2) * voxels)
    assert (need.largest, need.elements, need.logits) == (4 * voxels, 4 * 8**3, 2 * voxels)


def test_measuring_leaves_a_training_network_and_its_random_state_alone() -> None:
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Dropout(0.5)).train()
    before, state = net[1].running_mean.clone(), torch.random.get_rng_state()
    assert WindowMemory(net, "auto", "auto").footprint(torch.rand(1, 1, *ROI)) is None
    assert torch.equal(net[1].running_mean, before)
    torch.random.set_rng_state(state)
    predictor = SlidingWindow(net, ROI)
    both(predictor, torch.rand(1, 1, *SHAPE))
    assert predictor.execution == Execution(4, "recompute")


@pytest.mark.parametrize("memory", ["keep", "recompute"])
def test_a_graph_can_be_used_twice(memory: str) -> None:
    images = torch.rand(1, 1, *SHAPE, requires_grad=True)
    logits = SlidingWindow(network(), ROI, memory=memory)(images)
    first = torch.autograd.grad(logits.sum(), images, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(logits.sum(), images)[0])


def test_autocast_of_the_forward_pass_holds_going_back() -> None:
    images, gradients = torch.rand(1, 1, *SHAPE), []
    for memory in ("keep", "recompute"):
        variable = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = SlidingWindow(network(), ROI, memory=memory)(variable)
        gradients.append(torch.autograd.grad(logits.float().square().sum(), variable)[0])
    assert torch.equal(*gradients)


def test_free_memory_is_a_number_of_bytes(tmp_path: object) -> None:
    assert 2**20 < available_bytes(torch.device("cpu")) < 2**50
    assert available_bytes(torch.device("meta")) == 0
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(ValueError("out of memory"))
