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


DISAGREE = "both generations disagree"


def told(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except RuntimeError:
        return DISAGREE


def answers() -> list[Any]:
    """What all switches say, new and old."""
    old = told(lambda: BACKENDS.cudnn.allow_tf32), told(lambda: BACKENDS.cuda.matmul.allow_tf32)
    return [*float32_switches(), *old, told(torch.get_float32_matmul_precision)]


@contextmanager
def tf32() -> Iterator[None]:
    with InPrecision(torch.nn.Identity(), "tf32")._inside("cpu"):
        yield


@both
@pytest.mark.parametrize("block", [exact_float32, tf32])
@pytest.mark.parametrize("state", STATES)
def test_a_block_has_its_precision_and_every_switch_says_the_same_after_it(
    cleared: None, state: str, block: Callable[[], AbstractContextManager[None]]
) -> None:
    STATES[state]()
    wanted = answers()
    with block():
        kind, old = ("tf32", [True, True, "high"]) if block is tf32 else ("ieee", [False, False, "highest"])
        assert answers() == [*[kind] * len(float32_switches()), *old]
        with torch.backends.cudnn.flags(enabled=False):  # reads the old ones
            pass
    # Old switches that could not be read may say anything.
    assert [one for one, before in zip(answers(), wanted, strict=True) if before != DISAGREE] == [
        before for before in wanted if before != DISAGREE
    ]


@both
def test_a_process_that_never_set_a_switch_finds_them_as_they_were() -> None:
    # The state convolutions begin in cannot be set again, so only a new process has it.
    code = """if True:
        import torch
        from robustvox.models.precision import InPrecision, exact_float32, float32_switches

        def found():
            return float32_switches(), torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()

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
    products = ["medium"]
    stand_in = SimpleNamespace(
        backends=SimpleNamespace(cudnn=cudnn),
        get_float32_matmul_precision=lambda: products[0],
        set_float32_matmul_precision=lambda value: products.__setitem__(0, value),
    )
    monkeypatch.setattr(precision, "torch", stand_in)

    def state() -> tuple[Any, ...]:
        return cudnn.allow_tf32, products[0], cudnn.deterministic, cudnn.benchmark

    with exact_float32():
        assert state() == (False, "highest", True, False)
        assert float32_switches() == (False, "highest")
        with precision._tf32():
            assert state() == (True, "high", True, False)
        assert state() == (False, "highest", True, False)
    assert state() == (True, "medium", False, True)
