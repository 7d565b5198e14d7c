"""Which switches PyTorch reads for float32 products, in every state that a user or a model's file may leave them in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustvox.models import cuda_graphs, precision
from robustvox.models.precision import InPrecision, exact_float32, float32_switches, settle

BACKENDS: Any = torch.backends
both = pytest.mark.skipif(
    not hasattr(BACKENDS.cudnn, "conv"), reason="this PyTorch has one generation of switches"
)
CARDS, CPUS = slice(1, 5), slice(5, 8)
"""Among the switches, those of cards and those of CPUs; the first is the parent of all."""


def switch(path: str, value: Any) -> Callable[[], None]:
    """Sets ``torch.backends.<path>``."""
    *holders, name = path.split(".")

    def act() -> None:
        holder = BACKENDS
        for each in holders:
            holder = getattr(holder, each)
        setattr(holder, name, value)

    return act


def after(*acts: Callable[[], None]) -> Callable[[], None]:
    return lambda: [act() for act in acts] and None


STATES: dict[str, Callable[[], None]] = {
    "nothing was set": lambda: None,
    "all tf32": switch("fp32_precision", "tf32"),
    "all ieee": switch("fp32_precision", "ieee"),
    "all bf16": switch("fp32_precision", "bf16"),
    "cards tf32": switch("cudnn.fp32_precision", "tf32"),
    "all ieee, cards tf32": after(switch("fp32_precision", "ieee"), switch("cudnn.fp32_precision", "tf32")),
    "all tf32, cards ieee": after(switch("fp32_precision", "tf32"), switch("cudnn.fp32_precision", "ieee")),
    "all tf32, cards tf32": after(switch("fp32_precision", "tf32"), switch("cudnn.fp32_precision", "tf32")),
    "convolutions ieee": switch("cudnn.conv.fp32_precision", "ieee"),
    "convolutions as their parent": switch("cudnn.conv.fp32_precision", "none"),
    "recurrent ieee": switch("cudnn.rnn.fp32_precision", "ieee"),
    "products tf32": switch("cuda.matmul.fp32_precision", "tf32"),
    "products ieee": switch("cuda.matmul.fp32_precision", "ieee"),
    "old: no tf32": after(switch("cudnn.allow_tf32", False), switch("cuda.matmul.allow_tf32", False)),
    "old: tf32": after(switch("cudnn.allow_tf32", True), switch("cuda.matmul.allow_tf32", True)),
    "old: high": lambda: torch.set_float32_matmul_precision("high"),
    "old: medium": lambda: torch.set_float32_matmul_precision("medium"),
    "all tf32, old: no tf32": after(switch("fp32_precision", "tf32"), switch("cudnn.allow_tf32", False)),
    "old: tf32, products ieee": after(
        switch("cuda.matmul.allow_tf32", True), switch("cuda.matmul.fp32_precision", "ieee")
    ),
    "cpu's products bf16": switch("mkldnn.matmul.fp32_precision", "bf16"),
    "cpus bf16": lambda: BACKENDS.mkldnn.set_flags(_fp32_precision="bf16"),
}


def clear() -> None:
    """As PyTorch starts, but for convolutions, which say TF32 themselves once they were set."""
    torch.set_float32_matmul_precision("highest")
    BACKENDS.mkldnn.set_flags(_fp32_precision="none")
    for path in ("", "cudnn.", "cuda.matmul.", "mkldnn.conv.", "mkldnn.rnn.", "mkldnn.matmul."):
        switch(f"{path}fp32_precision", "none")()
    BACKENDS.cudnn.allow_tf32 = True


@pytest.fixture
def cleared() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    clear()
    yield
    clear()
    cudnn.deterministic, cudnn.benchmark = before


def told(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except RuntimeError:
        return "both generations disagree"


def answers() -> list[Any]:
    """What all switches say now, and after each of their parents says something else."""
    found: list[Any] = [float32_switches()]
    found += [told(lambda: BACKENDS.cudnn.allow_tf32), told(lambda: BACKENDS.cuda.matmul.allow_tf32)]
    found.append(told(torch.get_float32_matmul_precision))
    for cards in (None, "ieee", "tf32", "none"):
        if cards is not None:
            BACKENDS.cudnn.fp32_precision = cards
        for everything in ("ieee", "tf32", "none"):
            BACKENDS.fp32_precision = everything
            found.append(float32_switches())
    return found


@contextmanager
def tf32() -> Iterator[None]:
    with InPrecision(torch.nn.Identity(), "tf32")._inside("cpu"):
        yield


@both
@pytest.mark.parametrize("block", [exact_float32, tf32])
@pytest.mark.parametrize("state", STATES)
def test_a_block_has_its_precision_and_leaves_every_state_as_it_was(
    cleared: None, state: str, block: Callable[[], AbstractContextManager[None]]
) -> None:
    STATES[state]()
    wanted = answers()
    clear()
    STATES[state]()
    with block():
        assert set(float32_switches()) == {"tf32" if block is tf32 else "ieee"}
    found = answers()
    if state == "cpus bf16":  # no switch of one's own tells this parent from its children
        found, wanted = found[:4], wanted[:4]
    assert found == wanted


@both
def test_convolutions_that_were_never_set_still_follow_their_parent_afterwards() -> None:
    # The state they begin in cannot be set again, so only a new process has it.
    code = """if True:
        import torch
        from robustvox.models.precision import InPrecision, exact_float32, float32_switches

        def found():
            seen = [float32_switches()]
            for value in ("ieee", "none"):
                torch.backends.fp32_precision = value
                seen.append(float32_switches())
            return seen + [torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()]

        before = found()
        with exact_float32():
            InPrecision(torch.nn.Identity(), "tf32")(torch.zeros(1))
        InPrecision(torch.nn.Identity(), "tf32")(torch.zeros(1))
        assert found() == before, (found(), before)
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


@both
@pytest.mark.parametrize("state", STATES)
def test_a_settled_process_computes_no_tf32_whatever_was_set(cleared: None, state: str) -> None:
    STATES[state]()
    settle()
    assert set(float32_switches()) == {"ieee"}
    with tf32():
        assert set(float32_switches()) == {"tf32"}
    assert set(float32_switches()) == {"ieee"}


@both
@pytest.mark.parametrize("state", STATES)
def test_without_a_card_only_what_a_cpu_reads_is_settled(cleared: None, state: str) -> None:
    STATES[state]()
    before = float32_switches()
    settle("cpu")
    assert float32_switches()[CARDS] == before[CARDS]
    assert set(float32_switches()[CPUS]) == {"ieee"}


@both
@pytest.mark.parametrize("state", STATES)
def test_the_switches_that_graphs_are_kept_by_can_be_read_in_every_state(cleared: None, state: str) -> None:
    STATES[state]()
    assert float32_switches() in cuda_graphs._switches()


def test_tf32_is_inside_the_network_only() -> None:
    seen: list[tuple[str, ...]] = []

    class Looks(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float32_switches())
            return x

    before = float32_switches()
    with exact_float32():
        InPrecision(Looks(), "tf32")(torch.zeros(1))
        assert (set(seen[0]), set(float32_switches())) == ({"tf32"}, {"ieee"})
    assert float32_switches() == before


@pytest.mark.parametrize(("deterministic", "benchmark"), [(False, True), (True, False)])
def test_cudnn_adds_in_a_fixed_order_by_algorithms_that_are_not_raced_while_numbers_count(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool, benchmark: bool
) -> None:
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "deterministic", deterministic)
    monkeypatch.setattr(cudnn, "benchmark", benchmark)
    with exact_float32():
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, benchmark)


def test_a_pytorch_with_old_switches_alone_is_set_by_those(monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn = SimpleNamespace(allow_tf32=True, deterministic=False, benchmark=True)
    matmul = SimpleNamespace(allow_tf32=False)
    backends = SimpleNamespace(
        cudnn=cudnn, cuda=SimpleNamespace(matmul=matmul), mkldnn=SimpleNamespace(enabled=True)
    )
    monkeypatch.setattr(precision, "torch", SimpleNamespace(backends=backends))

    def state() -> tuple[bool, ...]:
        return cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark

    settle("cpu")
    assert state() == (True, False, True, False)
    cudnn.deterministic, cudnn.benchmark = False, True
    with exact_float32():
        assert state() == (False, False, True, False)
        with precision._tf32():
            assert state() == (True, True, True, False)
        assert state() == (False, False, True, False)
    assert state() == (True, False, False, True)
