"""What every registered attack must satisfy; a new one gets all of it by registering."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import ATTACKS
from robustvox.attacks.base import ball

KEYS = sorted(ATTACKS)
FIELDS = {key: {field.name for field in dataclasses.fields(ATTACKS[key])} for key in KEYS}
BUDGETED = [key for key in KEYS if "eps" in FIELDS[key]]
CALLS_MODEL = [key for key in KEYS if key not in ("gn", "uniform")]
RANDOM = [key for key in KEYS if key in ("gn", "uniform") or "random_start" in FIELDS[key]]


def generator(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- validity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
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
def test_result_is_a_valid_volume(key, spatial, channels, classes, batch, make_case, quick):
    model, images, labels = make_case(spatial, channels=channels, classes=classes, batch=batch)
    adversarial = quick(key)(model, images, labels)
    assert type(adversarial) is torch.Tensor
    assert (adversarial.shape, adversarial.dtype, adversarial.device) == (
        images.shape,
        images.dtype,
        images.device,
    )
    assert not adversarial.requires_grad
    assert adversarial.grad_fn is None
    assert torch.isfinite(adversarial).all()
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    # The whole region moves, to the last plane of every axis.
    for axis in range(2, images.ndim):
        assert (adversarial - images).abs().amax([a for a in range(images.ndim) if a != axis]).min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("key", BUDGETED)
def test_budget_holds_exactly(key, eps, dtype, make_case, quick):
    model, images, labels = make_case(dtype=dtype)
    adversarial = quick(key, eps=eps)(model, images, labels)
    assert (adversarial - images).abs().max().item() <= eps
    assert (adversarial.double() - images.double()).abs().max().item() <= eps
    assert not torch.equal(adversarial, images)


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


@pytest.mark.parametrize("key", BUDGETED)
def test_zero_budget_returns_the_same_bits(key, make_case, quick):
    model, images, labels = make_case()
    images.view(-1)[0] = -0.0
    adversarial = quick(key, eps=0.0)(model, images, labels)
    assert torch.equal(adversarial.view(torch.int32), images.view(torch.int32))
    assert adversarial.data_ptr() != images.data_ptr()


def test_zero_noise_returns_the_same_values(make_case, quick):
    model, images, labels = make_case()
    assert torch.equal(quick("gn", std=0.0)(model, images, labels), images)


@pytest.mark.parametrize("key", BUDGETED)
@pytest.mark.parametrize("eps", [-0.01, 1.01, 8, float("nan"), float("inf"), "8/255", True])
def test_bad_budget_is_refused(key, eps):
    with pytest.raises(ValueError, match=r"eps: expected .* 8/255"):
        ATTACKS[key](eps=eps)


# --- non-interference ---------------------------------------------------------------------------


def snapshot(model: torch.nn.Module) -> tuple:
    return (
        copy.deepcopy(model.state_dict()),
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [module.training for module in model.modules()],
        torch.get_rng_state(),
        torch.is_grad_enabled(),
    )


def assert_same(before: tuple, after: tuple) -> None:
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1] == after[1]
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert before[4] == after[4]


def awkward(model):
    """Training mode with one frozen layer in eval mode: what a restore by model.train() would lose."""
    model.train()
    model.body[0].eval()
    model.body[0].bias.requires_grad_(False)
    return model


@pytest.mark.parametrize("key", KEYS)
def test_nothing_else_changes(key, make_case, quick):
    model, images, labels = make_case()
    awkward(model)
    mask = torch.rand(labels.shape) > 0.3
    copies = images.clone(), labels.clone(), mask.clone()
    before = snapshot(model)
    quick(key)(model, images, labels, mask=mask, generator=generator())
    assert_same(before, snapshot(model))
    assert all(torch.equal(a, b) for a, b in zip(copies, (images, labels, mask), strict=True))
    assert images.grad is None


@pytest.mark.parametrize("call", [1, 2, 4])
@pytest.mark.parametrize("key", CALLS_MODEL)
def test_nothing_else_changes_when_the_model_raises(key, call, make_case, quick):
    model, images, labels = make_case()
    if key == "fgsm" and call > 1:
        pytest.skip("FGSM has one forward")
    awkward(model)
    inner, calls = model.body.forward, []

    def explode(x):
        assert not model.training, "the model must run in eval mode"
        assert not any(p.requires_grad for p in model.parameters())
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("out of memory")
        return inner(x)

    model.body.forward = explode
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="out of memory"):
        quick(key)(model, images, labels)
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_inside_gradient_free_code(key, context, make_case, quick):
    model, images, labels = make_case()
    expected = quick(key)(model, images, labels)
    with context():
        inner = quick(key)(model, images * 1, labels * 1)
    assert torch.equal(expected, inner)


# --- determinism and independence of the batch --------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_same_seed_same_bits_also_on_a_used_object(key, make_case, quick):
    model, images, labels = make_case()
    attack = quick(key)
    first = attack(model, images, labels, generator=generator(1))
    again = attack(model, images, labels, generator=generator(1))
    fresh = quick(key)(model, images, labels, generator=generator(1))
    assert torch.equal(first, again)
    assert torch.equal(first, fresh)


@pytest.mark.parametrize("key", RANDOM)
def test_another_seed_another_volume(key, make_case, quick):
    model, images, labels = make_case()
    results = [quick(key)(model, images, labels, generator=generator(seed)) for seed in (1, 2)]
    assert not torch.equal(*results)
    default = quick(key)(model, images, labels)
    assert torch.equal(default, quick(key)(model, images, labels, generator=generator(0)))


@pytest.mark.parametrize("key", KEYS)
def test_batch_equals_its_items_one_after_another(key, make_case, quick):
    model, images, labels = make_case(batch=3, pointwise=True, dtype=torch.float64)
    mask = torch.rand(labels.shape, generator=generator()) > 0.2
    attack, shared = quick(key), generator()
    together = attack(model, images, labels, mask, generator())
    alone = [attack(model, images[[i]], labels[[i]], mask[[i]], shared) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("key", KEYS)
def test_permuting_the_batch_permutes_the_result(key, make_case, quick):
    model, images, labels = make_case(batch=3, pointwise=True, dtype=torch.float64)
    order = [2, 0, 1]
    attack = quick(key)
    straight = attack(model, images, labels, generator=[generator(i) for i in range(3)])
    permuted = attack(model, images[order], labels[order], generator=[generator(i) for i in order])
    assert torch.equal(straight[order], permuted)


@pytest.mark.parametrize("key", KEYS)
def test_one_generator_gives_one_number_per_sample(key, make_case, quick):
    model, images, labels = make_case(batch=2)
    used, reference = generator(), generator()
    quick(key)(model, images, labels, generator=used)
    for _ in range(2):
        torch.randint(2**63 - 1, (), generator=reference, dtype=torch.int64)
    assert torch.equal(used.get_state(), reference.get_state())


# --- geometry -----------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    key=st.sampled_from(KEYS),
    spatial=st.lists(st.integers(1, 13), min_size=2, max_size=3).filter(lambda s: max(s) >= 5),
    channels=st.integers(1, 2),
    classes=st.sampled_from([2, 3, 5]),
    seed=st.integers(0, 99),
)
def test_any_geometry(key, spatial, channels, classes, seed):
    conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(spatial)](channels, classes, 1)
    images = torch.rand(2, channels, *spatial, generator=generator(seed))
    labels = torch.randint(0, classes, (2, 1, *spatial), generator=generator(seed))
    small = {name: value for name, value in {"steps": 2, "block_size": 4}.items() if name in FIELDS[key]}
    attack = ATTACKS[key](**small)
    adversarial = attack(conv, images, labels)
    assert adversarial.shape == images.shape
    assert torch.isfinite(adversarial).all()
    if attack.radius is not None:
        assert (adversarial - images).abs().max().item() <= attack.radius


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["volume", "slice", "slab"])
@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_constant_regions_stay_finite(key, kind, value, make_case, quick):
    model, images, labels = make_case((8, 9, 8))
    region = {"volume": slice(None), "slice": slice(2, 3), "slab": slice(0, 4)}[kind]
    images[..., region] = value
    adversarial = quick(key)(model, images, labels)
    assert torch.isfinite(adversarial).all()


# --- labels, masks, inputs ----------------------------------------------------------------------


@pytest.mark.parametrize("key", CALLS_MODEL)
def test_masked_voxels_have_no_say(key, make_case, quick):
    model, images, labels = make_case()
    mask = torch.rand(labels.shape, generator=generator()) > 0.4
    other = torch.where(mask, labels, (labels + 1) % 3)
    attack = quick(key)
    masked = attack(model, images, labels, mask=mask)
    assert torch.equal(masked, attack(model, images, other, mask=mask))
    assert not torch.equal(masked, attack(model, images, labels))
    everywhere = torch.ones_like(mask)
    assert (
        attack(model, images, labels, mask=everywhere) - attack(model, images, labels)
    ).abs().mean() < 1e-4


@pytest.mark.parametrize("key", KEYS)
def test_metatensor_comes_back_plain(key, make_case, quick):
    meta = pytest.importorskip("monai.data").MetaTensor
    model, images, labels = make_case()
    adversarial = quick(key)(model, meta(images), meta(labels))
    assert type(adversarial) is torch.Tensor
    assert torch.equal(adversarial, quick(key)(model, images, labels))


@pytest.mark.parametrize("key", KEYS)
def test_bound_attack_is_the_attack(key, make_case, quick):
    model, images, labels = make_case()
    bound = quick(key).bind(model)
    assert torch.equal(bound(images, labels), quick(key)(model, images, labels))


@pytest.mark.parametrize("key", KEYS)
def test_hyper_parameters_survive_json_and_pickle(key, quick):
    attack = quick(key)
    again = ATTACKS[key](**json.loads(json.dumps(dataclasses.asdict(attack))))
    assert again == attack
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert len(pickle.dumps(attack)) < 1000
    assert hash(again) == hash(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.steps = 1
    with pytest.raises(TypeError):
        ATTACKS[key](0.1)


# --- cost, tracking, observer -------------------------------------------------------------------


@pytest.mark.parametrize("key", [key for key in CALLS_MODEL if "steps" in FIELDS[key]])
def test_steps_plus_one_forwards_and_steps_backwards(key, make_case, quick):
    model, images, labels = make_case()
    seen = []
    quick(key, steps=4)(model, images, labels, on_step=seen.append)
    assert (model.forwards, model.backwards) == (5, 4)
    assert [info.step for info in seen] == [0, 1, 2, 3, 4]
    assert {info.steps for info in seen} == {4}
    assert all(info.loss.shape == info.metric.shape == info.best_step.shape == (2,) for info in seen)


@pytest.mark.parametrize("key", [key for key in CALLS_MODEL if "steps" in FIELDS[key]])
@pytest.mark.parametrize("seed", range(4))
def test_returns_the_best_visited_point_per_sample(key, seed, make_case, quick, naive_dice):
    model, images, labels = make_case(batch=3, seed=seed, classes=5)
    visited, seen = [], []
    handle = model.register_forward_pre_hook(lambda _, inputs: visited.append(inputs[0].detach().clone()))
    adversarial = quick(key, steps=6)(model, images, labels, on_step=seen.append)
    handle.remove()
    with torch.no_grad():
        metrics = torch.stack([naive_dice(model(x).argmax(1), labels, 5) for x in visited])
    torch.testing.assert_close(metrics, torch.stack([info.metric for info in seen]))
    losses = torch.stack([info.loss for info in seen])
    for sample in range(3):
        order = sorted(range(len(visited)), key=lambda t: (seen[t].metric[sample], -losses[t, sample]))
        assert torch.equal(adversarial[sample], visited[order[0]][sample])
        assert seen[-1].best_step[sample] == order[0]


@pytest.mark.parametrize("key", [key for key in CALLS_MODEL if "steps" in FIELDS[key]])
def test_a_point_where_the_model_returns_nan_is_never_returned(key, make_case, quick):
    model, images, labels = make_case()
    visited = []

    def breaks_later(x):
        visited.append(x.detach().clone())
        return model(x) * (float("nan") if len(visited) > 1 else 1.0)

    adversarial = quick(key)(breaks_later, images, labels)
    assert torch.equal(adversarial, visited[0])


@pytest.mark.parametrize("key", [key for key in CALLS_MODEL if "steps" in FIELDS[key]])
def test_zero_steps_return_the_start(key, make_case, quick):
    model, images, labels = make_case()
    seen = []
    quick(key, steps=0)(model, images, labels, on_step=seen.append)
    assert (model.forwards, model.backwards, len(seen)) == (1, 0, 1)


@pytest.mark.parametrize("key", [key for key in CALLS_MODEL if ATTACKS[key]().radius is not None])
def test_attack_hurts_more_than_noise(key, make_case, quick, naive_dice):
    drop = {key: 0.0, "uniform": 0.0}
    for seed in range(4):
        model, images, labels = make_case((8, 8, 8), seed=seed)
        for name in drop:
            adversarial = quick(name)(model, images, labels)
            drop[name] -= naive_dice(model(adversarial).argmax(1), labels, 3).mean().item()
    assert drop[key] > drop["uniform"] + 0.1
