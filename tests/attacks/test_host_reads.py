"""Nothing inside an attack's loop reads a number back: on a GPU the host would wait for the card at every step.

On the meta device there are no numbers at all: whatever asks for one raises, and so does every operation whose
result has a size that depends on values. Every attack runs there from start to end.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robustvox.attacks import ATTACKS, Sharing, counting, ensemble
from robustvox.attacks.base import _within
from robustvox.attacks.counting import class_counts, class_sums, predicted
from robustvox.attacks.losses import LOSSES
from robustvox.attacks.task import Task

SHORT = {"steps": 3, "queries": 12, "restarts": 2, "block_size": 4}
CLASSES, SHAPE = 4, (2, 1, 9, 8, 7)


def meta_task(masked: bool, targeted: bool) -> Task:
    """A task whose first model output was already checked, which is done once and may read."""
    model = nn.Conv3d(1, CLASSES, 3, padding=1).requires_grad_(False).to("meta")
    labels = torch.zeros(SHAPE, dtype=torch.int64, device="meta")
    mask = torch.ones(SHAPE, dtype=torch.bool, device="meta") if masked else None
    task = Task(
        model, torch.rand(SHAPE, device="meta"), labels, mask, [1, 2], lambda _: None, 2, labels if targeted else None
    )  # fmt: skip
    task._classes, task._connected = CLASSES, True
    return task


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.filterwarnings("ignore:APGD")
def test_an_attack_asks_for_no_number(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "_STEPS", 4)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta device
    kind = ATTACKS[name]
    attack = kind(**{k: v for k, v in SHORT.items() if k in kind.__dataclass_fields__})
    for targeted in {False, kind.takes_targets}:
        result = attack.perturb(meta_task(masked, targeted))
        assert (result.shape, result.device.type) == (SHAPE, "meta")


@pytest.mark.parametrize(
    "name", [key for key, kind in ATTACKS.items() if kind().shares is Sharing.ANY_SHAPES]
)
@pytest.mark.filterwarnings("ignore:APGD")
def test_an_attack_on_samples_of_any_shape_asks_for_no_number(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "_STEPS", 4)
    kind, task = ATTACKS[name], meta_task(masked=True, targeted=False)
    task.boxes = [(slice(0, 9), slice(1, 7), slice(0, 7)), (slice(2, 7), slice(0, 8), slice(1, 6))]
    task.model = _within(task.model, task.labels == 0, task.images)
    attack = kind(**{k: v for k, v in SHORT.items() if k in kind.__dataclass_fields__})
    assert attack.perturb(task).shape == SHAPE


class Kernels(TorchDispatchMode):
    """Counts the operations that a GPU would run a kernel for."""

    FREE = frozenset(
        [
            "detach",
            "view",
            "_unsafe_view",
            "expand",
            "unsqueeze",
            "select",
            "slice",
            "t",
            "transpose",
            "alias",
            "unbind",
            "_reshape_alias",
            "split",
            "as_strided",
            "empty",
            "empty_like",
            "lift_fresh",
            "scalar_tensor",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in self.FREE
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "most"), [("pgd", 65), ("cospgd", 49), ("segpgd", 45), ("vafa", 187), ("sa2", 167)]
)
def test_a_step_asks_a_gpu_for_few_kernels(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the network's; at batch 1 a small network's step takes as long as launching its kernels."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())

    def kernels(steps: int) -> int:
        task = meta_task(False, False)
        task.on_step = None
        with Kernels() as counted, torch.enable_grad():
            ATTACKS[name](steps=steps).perturb(task)
        return counted.count

    kernels(2)  # tables that are made once
    network = 2  # a convolution, and its gradient
    found = kernels(6) - kernels(5) - network
    assert found <= most


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_asks_for_no_number(loss: str) -> None:
    logits = torch.rand(2, CLASSES, 9, 8, 7, device="meta", requires_grad=True)
    labels, mask = torch.zeros(SHAPE, dtype=torch.int64, device="meta"), torch.ones(SHAPE, device="meta") > 0
    for counted in (None, mask):
        value = LOSSES[loss](logits, labels, counted)
        assert torch.autograd.grad(value.sum(), logits)[0].shape == logits.shape


def test_the_check_would_see_a_read() -> None:
    for reads in (Tensor.item, lambda x: torch.bincount(x.long(), minlength=3), lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads(torch.ones(1, device="meta"))


@pytest.mark.parametrize("at_once", [1 << 28, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_ways_to_count_and_sum_agree(
    at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 5, (3, 400), generator=g)
    mask = torch.rand(3, 400, generator=g) > 0.4
    values = torch.rand(3, 400, generator=g, dtype=dtype)
    onehot = torch.nn.functional.one_hot(classes, 5)
    wanted = onehot.sum(1), (onehot * mask[..., None]).sum(1), (onehot * values.double()[..., None]).sum(1)
    for host in (True, False):
        monkeypatch.setattr(counting, "_on_host", lambda _, host=host: host)
        monkeypatch.setattr(counting, "_AT_ONCE", at_once)
        assert torch.equal(class_counts(classes, None, 5), wanted[0])
        assert torch.equal(class_counts(classes, mask, 5), wanted[1])
        sums = class_sums(values, classes, 5)
        assert sums.dtype == dtype
        torch.testing.assert_close(sums.double(), wanted[2], rtol=1e-6, atol=0)


def test_a_prediction_is_that_of_the_logits_also_after_they_change() -> None:
    logits = torch.randn(2, 3, 4, 4)
    first = predicted(logits)
    assert torch.equal(first, logits.argmax(1))
    assert predicted(logits) is first
    logits.mul_(-1)
    assert torch.equal(predicted(logits), logits.argmax(1))
    with torch.inference_mode():
        fixed = torch.randn(2, 3, 4, 4)
        assert torch.equal(predicted(fixed), fixed.argmax(1))
        assert torch.equal(predicted(fixed.neg_()), fixed.argmax(1))


@pytest.mark.parametrize("loss", ["dice", "mask_ce"])
def test_the_loss_and_the_metric_share_one_prediction(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = torch.randn(1, 3, 4, 4, requires_grad=True), torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    LOSSES[loss](logits, labels, None)
    monkeypatch.setattr(Tensor, "max", lambda *_: pytest.fail("looked for the highest logit again"))
    assert torch.equal(predicted(logits), logits.argmax(1))
