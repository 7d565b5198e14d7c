"""What every registered attack must satisfy: valid volumes, exact budgets. A new one gets it by registering.

The contract continues in `test_contract_*.py`. Each part has its checks as functions of an attack and a case,
runs them over the registry (see `SELECTIONS` in conftest) and shows with broken attacks that they catch.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import ATTACKS, Attack
from robustvox.attacks.base import ball

#: budget knob other than `eps` -> (overrides that leave no freedom, how far the volume may still move)
NO_BUDGET = {
    "std": ({"std": 0.0}, 0.0),
    "rho": ({"rho": 0.0}, 1e-5),  # the round trip of the DCT
    "q_max": ({"q_max": 1e-3, "q_min": 1e-3}, 1e-4),  # quantization has no zero
}


def check_valid(attack, case, **call):
    """The attack on the case: a plain finite volume in [0, 1] like the images, without a graph."""
    adversarial = attack(*case, **call)
    images = case.images
    assert type(adversarial) is torch.Tensor
    assert (adversarial.shape, adversarial.dtype) == (images.shape, images.dtype)
    assert adversarial.device == images.device
    assert not adversarial.requires_grad
    assert adversarial.grad_fn is None
    assert torch.isfinite(adversarial).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert adversarial.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()
    return adversarial


def check_budget(attack, case, eps):
    """Valid, and within eps without tolerance, also in arithmetic finer than the images'."""
    assert attack.radius == eps
    adversarial = check_valid(attack, case)
    assert distance(adversarial, case.images) <= eps
    return adversarial


def check_identity(attack, case):
    """The same bits, in other memory."""
    adversarial = check_valid(attack, case)
    whole = {torch.float32: torch.int32, torch.float64: torch.int64}[case.images.dtype]
    assert torch.equal(adversarial.view(whole), case.images.view(whole))


def distance(a, b):
    """L-inf distance of two volumes in float64, where float32 differences are exact."""
    return (a.double() - b.double()).abs().max().item()


# --- validity -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spatial", "channels", "classes", "batch"),
    [
        ((7, 5, 11), 1, 2, 1),
        ((1, 13, 3), 2, 5, 2),
        ((8, 4, 12), 1, 3, 3),
        ((11, 6), 2, 3, 2),
        ((5, 5), 1, 2, 1),
    ],
)
def test_result_is_a_valid_volume(any_key, spatial, channels, classes, batch, make_case, quick):
    case = make_case(spatial, channels=channels, classes=classes, batch=batch)
    moved = (check_valid(quick(any_key), case) - case.images).abs()
    # The whole region moves, to the last plane of every axis.
    for axis in range(2, moved.ndim):
        assert moved.amax([a for a in range(moved.ndim) if a != axis]).min() > 0


def test_result_is_plain_for_images_that_require_grad(any_key, make_case, quick):
    case = make_case()
    expected = quick(any_key)(*case)
    case.images.requires_grad_()
    assert torch.equal(check_valid(quick(any_key), case), expected)
    assert case.images.grad is None


# --- budget -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.1, 1 / 3, 1.0])
def test_budget_holds_exactly(budgeted_key, eps, dtype, make_case, quick, effort):
    case = make_case(dtype=dtype)
    assert case.images.min() == 0
    assert case.images.max() == 1
    attack = quick(budgeted_key, eps=eps, **effort(budgeted_key, 7))  # enough for every stage of APGD
    assert not torch.equal(check_budget(attack, case, eps), case.images)


@settings(max_examples=60, deadline=None)
@given(
    eps=st.floats(1e-6, 1.0),
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
)
def test_ball_is_exact_and_not_wasteful(eps, values):
    images = torch.tensor(values, dtype=torch.float32)
    low, high = ball(images, eps)
    for bound in (low, high):
        assert (bound.double() - images.double()).abs().max().item() <= eps
        assert bound.min() >= 0
        assert bound.max() <= 1
    wanted = (images.double() - eps).clamp_min(0), (images.double() + eps).clamp_max(1)
    assert (low.double() - wanted[0]).max() <= 3e-7
    assert (wanted[1] - high.double()).max() <= 3e-7
    assert (low <= images).all()
    assert (high >= images).all()


def test_zero_budget_returns_the_same_bits(budgeted_key, make_case, quick):
    for dtype in (torch.float32, torch.float64):
        case = make_case(dtype=dtype)
        case.images.view(-1)[0] = -0.0
        check_identity(quick(budgeted_key, eps=0.0), case)


def test_no_freedom_means_no_change(any_key, make_case, quick):
    fields = {field.name for field in dataclasses.fields(ATTACKS[any_key])}
    knobs = [NO_BUDGET[name] for name in NO_BUDGET if name in fields]
    assert knobs or "eps" in fields, "name the budget of the attack in NO_BUDGET"
    case = make_case()
    case.images.view(-1)[0] = -0.0
    for overrides, tolerance in knobs:
        attack = quick(any_key, **overrides)
        if tolerance == 0:
            check_identity(attack, case)
        else:
            assert distance(check_valid(attack, case), case.images) <= tolerance


@pytest.mark.parametrize("stored", ["npy", "nifti", "float16", "uint8"])
def test_a_saved_volume_stays_in_the_ball(bounded_key, stored, make_case, quick, tmp_path):
    """Exact formats give back the same bits; after rounding, `ball` and clamp restore the budget."""
    case = make_case(batch=1)
    attack = quick(bounded_key, eps=0.1)
    adversarial = attack(*case)
    array = adversarial[0, 0].numpy()
    if stored == "npy":
        np.save(tmp_path / "x.npy", array)
        loaded = np.load(tmp_path / "x.npy")
    elif stored == "nifti":
        nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "x.nii.gz")
        loaded = np.asarray(nib.load(tmp_path / "x.nii.gz").dataobj)
        assert loaded.dtype == np.float32
    elif stored == "float16":
        loaded = array.astype(np.float16).astype(np.float32)
    else:
        loaded = (np.rint(array * 255).astype(np.uint8) / 255).astype(np.float32)
    again = torch.from_numpy(np.array(loaded))[None, None]
    if stored in ("npy", "nifti"):
        assert torch.equal(again, adversarial)
    else:
        rounding = {"float16": 2**-12, "uint8": 0.5 / 255}[stored]
        assert 0 < distance(again, adversarial) <= rounding * 1.001
        again = again.clamp(*ball(case.images, 0.1))
        assert distance(again, adversarial) <= rounding * 1.001
    assert distance(again, case.images) <= 0.1
    assert again.min() >= 0
    assert again.max() <= 1


# --- precision ----------------------------------------------------------------------------------


@dataclass
class Half:
    """A case whose model computes in bfloat16, or that is attacked inside autocast."""

    case: object
    inside: bool

    @property
    def images(self):
        return self.case.images

    def __iter__(self):
        return iter((self._run if self.inside else self.case.model, self.case.images, self.case.labels))

    def _run(self, images):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.case.model(images)
        assert logits.dtype == torch.bfloat16
        return logits


def test_an_autocast_model_keeps_validity_and_budget(any_key, make_case, quick):
    attack = quick(any_key)
    adversarial = check_valid(attack, Half(make_case(), inside=True))
    if attack.radius is not None:
        assert distance(adversarial, make_case().images) <= attack.radius


def test_the_callers_autocast_reaches_the_model_and_nothing_else(any_key, make_case, quick):
    expected = quick(any_key)(*Half(make_case(), inside=True))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = check_valid(quick(any_key), Half(make_case(), inside=False))
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(result, expected)


# --- hyper-parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [-0.01, 1.01, 8, float("nan"), float("inf"), "8/255", True])
def test_bad_budget_is_refused(budgeted_key, eps):
    with pytest.raises(ValueError, match=r"eps: expected .*, got .* 8/255"):
        ATTACKS[budgeted_key](eps=eps)


#: type of a default -> values that no field of that type takes; floats are magnitudes, integers counts
BAD_VALUES = {
    bool: ["yes", 1, None],
    int: [-1, 2.5, True, "3", None],
    float: [-1.0, float("nan"), float("inf"), True, "0.1"],
    str: ["no such name", 3, None],
}


def test_bad_hyper_parameters_are_refused(any_key):
    default = ATTACKS[any_key]()
    for field in dataclasses.fields(default):
        for bad in BAD_VALUES.get(type(getattr(default, field.name)), []):
            with pytest.raises(ValueError, match=rf"(?s)^{field.name}: expected .+, got ") as caught:
                ATTACKS[any_key](**{field.name: bad})
            assert repr(bad) in str(caught.value)


def test_hyper_parameters_survive_json_and_pickle(any_key):
    changed = {"eps": 1 / 16, "std": 0.05, "steps": 11, "queries": 11, "loss": "ce", "block_size": 5}
    names = {field.name for field in dataclasses.fields(ATTACKS[any_key])}
    attack = ATTACKS[any_key](**{name: value for name, value in changed.items() if name in names})
    assert attack != ATTACKS[any_key]()
    again = ATTACKS[any_key](**json.loads(json.dumps(dataclasses.asdict(attack))))
    assert again == attack
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert len(pickle.dumps(attack)) < 1000
    assert hash(again) == hash(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 1
    with pytest.raises(TypeError):
        ATTACKS[any_key](0.1)


# --- the contract catches -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Leaving(Attack):
    """Has a budget that it neither keeps nor claims to keep, so that the base class cannot know."""

    eps: float = 0.1

    def perturb(self, task):
        return (task.images + 2 * self.eps).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Boastful(Leaving):
    """Claims the budget as well: the base class refuses its volume."""

    @property
    def radius(self):
        return self.eps


@dataclass(frozen=True, kw_only=True)
class Aliasing(Attack):
    """Hands the caller's own memory back."""

    def __call__(self, model, images, labels):
        return images

    def perturb(self, task):
        return task.images


@dataclass(frozen=True, kw_only=True)
class Restless(Attack):
    """Moves without a budget."""

    eps: float = 0.0

    def perturb(self, task):
        return (task.images + 1e-7).clamp(0, 1)


def test_the_contract_catches_an_attack_that_leaves_its_ball(make_case):
    with pytest.raises(AssertionError):
        check_budget(Leaving(), make_case(), 0.1)
    with pytest.raises(RuntimeError, match="this volume must not be scored"):
        check_budget(Boastful(), make_case(), 0.1)


def test_the_contract_catches_a_volume_that_is_not_new(make_case):
    with pytest.raises(AssertionError):
        check_valid(Aliasing(), make_case())


def test_the_contract_catches_a_change_without_budget(make_case):
    with pytest.raises(AssertionError):
        check_identity(Restless(), make_case())
