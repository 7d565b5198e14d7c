"""The contract: an attack leaves everything else as it was, and the same seed gives the same bits."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from robustvox.attacks import PGD, Attack


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def watched(case):
    """The case in a state that a careless restore loses, with a mask.

    Training mode with one layer in eval mode, one frozen parameter, one with a gradient, a buffer, a hook.
    """
    model = case.model
    model.train()
    model.body[0].eval()
    model.body[0].bias.requires_grad_(False)
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    model.register_buffer("scale", torch.ones(3))
    model.body.register_forward_hook(lambda *_: None)
    return case, torch.rand(case.labels.shape, generator=generator()) > 0.3


def snapshot(model) -> dict:
    """Everything that a call could leave behind, as values that compare by ==."""
    hooks = [
        list(table)
        for module in model.modules()
        for table in vars(module).values()
        if isinstance(table, OrderedDict)
    ]
    return {
        "weights and buffers": copy.deepcopy(model.state_dict()),
        "versions": [tensor._version for tensor in model.state_dict(keep_vars=True).values()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [
            None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()
        ],
        "hooks of parameters": [parameter._backward_hooks for parameter in model.parameters()],
        "hooks": hooks,
        "training": [module.training for module in model.modules()],
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "grad mode": torch.is_grad_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
    }


def same(a, b) -> bool:
    """a == b through nested containers with tensors and arrays."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def assert_same(before: dict, after: dict) -> None:
    assert [name for name in before if not same(before[name], after[name])] == []


def check_leaves_all_as_it_was(attack, case):
    """Model, global state and inputs after the call equal those before; nobody even wrote to the inputs."""
    case, mask = watched(case)
    given = {"images": case.images, "labels": case.labels, "mask": mask}
    copies = {name: value.clone() for name, value in given.items()}
    versions = {name: value._version for name, value in given.items()}
    before = snapshot(case.model)
    attack(*case, mask=mask, generator=generator())
    assert_same(before, snapshot(case.model))
    assert same(copies, given)
    assert versions == {name: value._version for name, value in given.items()}
    assert case.images.grad is None


def check_deterministic(attack, case):
    """The same seed gives the same bits, whatever the global random state, also from a used object."""
    first = attack(*case, generator=generator(1))
    torch.manual_seed(77)
    again = attack(*case, generator=generator(1))
    fresh = copy.deepcopy(attack)(*case, generator=generator(1))
    assert torch.equal(first, again)
    assert torch.equal(first, fresh)


# --- non-interference ---------------------------------------------------------------------------


def test_nothing_else_changes(any_key, make_case, quick):
    check_leaves_all_as_it_was(quick(any_key), make_case())


def test_targets_are_not_written_to(targeted_key, make_case, quick):
    case = make_case()
    targets = (case.labels + 1) % 3
    copied = targets.clone()
    quick(targeted_key)(*case, targets=targets)
    assert torch.equal(targets, copied)
    assert targets._version == 0


@pytest.mark.parametrize("call", [1, 2, 4])
def test_nothing_else_changes_when_the_model_raises(model_key, call, make_case, quick):
    """The model breaks at its first, its second or its last forward."""
    case = make_case()
    quick(model_key)(*case)
    call = min(call, case.model.forwards)
    case, _ = watched(make_case())
    model, inner, calls = case.model, case.model.body.forward, []

    def explode(x):
        assert not any(module.training for module in model.modules()), "the model must run in eval mode"
        assert not any(p.requires_grad for p in model.parameters())
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        return inner(x)

    model.body.forward = explode
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        quick(model_key)(*case)
    assert_same(before, snapshot(model))


def test_nothing_else_changes_when_the_backward_raises(gradient_key, make_case, quick):
    case, _ = watched(make_case())

    def explode(_):
        raise RuntimeError("out of memory")

    case.model._count = explode
    before = snapshot(case.model)
    with pytest.raises(RuntimeError, match="out of memory"):
        quick(gradient_key)(*case)
    assert_same(before, snapshot(case.model))


def test_nothing_else_changes_when_the_observer_raises(model_key, make_case, quick):
    case, _ = watched(make_case())

    def explode(_):
        raise KeyboardInterrupt

    before = snapshot(case.model)
    with pytest.raises(KeyboardInterrupt):
        quick(model_key)(*case, on_step=explode)
    assert_same(before, snapshot(case.model))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_inside_gradient_free_code(any_key, context, make_case, quick):
    model, images, labels = make_case()
    expected = quick(any_key)(model, images, labels)
    with context():
        inner = quick(any_key)(model, images * 1, labels * 1)
    assert torch.equal(expected, inner)


# --- determinism --------------------------------------------------------------------------------


def test_same_seed_same_bits_also_on_a_used_object(any_key, make_case, quick):
    check_deterministic(quick(any_key), make_case())
    check_deterministic(quick(any_key), make_case((5, 8), channels=2))
    assert torch.equal(quick(any_key)(*make_case()), quick(any_key)(*make_case()))


def test_another_seed_another_volume(random_key, make_case, quick):
    case = make_case()
    results = [quick(random_key)(*case, generator=generator(seed)) for seed in (1, 2)]
    assert not torch.equal(*results)
    default = quick(random_key)(*case)
    assert torch.equal(default, quick(random_key)(*case, generator=generator(0)))


def test_one_generator_gives_one_number_per_sample(any_key, make_case, quick):
    used, reference = generator(), generator()
    quick(any_key)(*make_case(batch=2), generator=used)
    for _ in range(2):
        torch.randint(2**63 - 1, (), generator=reference, dtype=torch.int64)
    assert torch.equal(used.get_state(), reference.get_state())


# --- the contract catches -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Meddling(Attack):
    """Does one thing that no attack may do."""

    act: str

    def perturb(self, task):
        model = task.model
        {
            "weights": lambda: model.body[0].weight.mul_(2),
            "weights and back": lambda: model.body[0].weight.mul_(2).div_(2),
            "buffers": lambda: model.scale.add_(1),
            "grad": lambda: model.requires_grad_() and model(task.images).sum().backward(),
            "requires_grad": lambda: model.body[0].bias.requires_grad_(),
            "hooks": lambda: model.register_forward_hook(lambda *_: None),
            "torch": lambda: torch.rand(1),
            "numpy": lambda: np.random.rand(),
            "python": random.random,
            "deterministic": lambda: torch.use_deterministic_algorithms(True),
        }[self.act]()
        return task.images


@dataclass(frozen=True, kw_only=True)
class Writing(Attack):
    """Overrides the call that is final and writes to the caller's images."""

    def __call__(self, model, images, labels, mask=None, generator=None):
        return images.mul_(0.5)

    def perturb(self, task):
        return task.images


@dataclass(frozen=True, kw_only=True)
class Scribbling(Attack):
    """Writes to everything that the task hands out, which is all its own."""

    def perturb(self, task):
        task.images.mul_(0.5)
        task.labels.zero_()
        task.mask.fill_(True)
        return task.images


@dataclass(frozen=True, kw_only=True)
class GloballyRandom(Attack):
    """Draws from the global random state and puts it back, as if nobody could tell."""

    def perturb(self, task):
        with torch.random.fork_rng():
            return torch.rand_like(task.images)


@dataclass(frozen=True, kw_only=True)
class Remembering(Attack):
    """Goes on from where its last call ended."""

    calls: list

    def perturb(self, task):
        self.calls.append(1)
        return task.images / len(self.calls)


@pytest.fixture
def _any_algorithm():
    yield
    torch.use_deterministic_algorithms(False)


ACTS = ["weights", "weights and back", "buffers", "grad", "requires_grad", "hooks"]
ACTS += ["torch", "numpy", "python", "deterministic"]


@pytest.mark.usefixtures("_any_algorithm")
@pytest.mark.parametrize("act", ACTS)
def test_the_contract_catches_an_attack_that_meddles(act, make_case):
    with pytest.raises(AssertionError):
        check_leaves_all_as_it_was(Meddling(act=act), make_case())


def test_the_contract_catches_an_attack_that_writes_to_its_inputs(make_case):
    with pytest.raises(AssertionError):
        check_leaves_all_as_it_was(Writing(), make_case())


def test_what_a_task_hands_out_is_a_copy(make_case):
    check_leaves_all_as_it_was(Scribbling(), make_case())


def test_the_contract_catches_global_randomness_and_memory(make_case):
    with pytest.raises(AssertionError):
        check_deterministic(GloballyRandom(), make_case())
    with pytest.raises(AssertionError):
        check_deterministic(Remembering(calls=[]), make_case())
    check_deterministic(PGD(steps=1), make_case())
