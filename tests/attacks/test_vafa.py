"""VAFA: soft rounding, its L2 bound, identity in the limit, flat slices, SSIM; targets of its family."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import SA2, VAFA, VAFA2D
from robustvox.attacks.dct import dct, split_blocks
from robustvox.attacks.ssim import SSIM, WINDOW
from robustvox.attacks.vafa import soft_round

SOFTNESS = [0.1, 0.05, 0.005, 1e-6]


# --- soft rounding ------------------------------------------------------------------------------


@pytest.mark.parametrize("a", SOFTNESS)
def test_soft_rounding_shape(a):
    u = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    phi = soft_round(u, a)
    whole = torch.arange(-4.0, 5.0, dtype=torch.float64)
    torch.testing.assert_close(soft_round(whole, a), whole, atol=1e-12, rtol=0)
    assert (phi.diff() >= -1e-12).all()
    assert (phi - u).abs().max() <= 0.5
    torch.testing.assert_close(soft_round(-u, a), -phi, atol=1e-12, rtol=0)


def test_soft_rounding_known_values_and_limit():
    u = torch.tensor([0.3, 0.45], dtype=torch.float64)
    torch.testing.assert_close(
        soft_round(u, 0.005), torch.tensor([0.081, 0.354], dtype=torch.float64), atol=5e-4, rtol=0
    )
    fine = torch.linspace(-1, 1, 20001, dtype=torch.float64)
    largest = {a: (soft_round(fine, a) - fine).abs().max().item() for a in (0.1, 0.005)}
    assert largest[0.1] == pytest.approx(0.098, abs=5e-4)
    assert largest[0.005] == pytest.approx(0.219, abs=5e-4)
    away = torch.tensor([-1.7, -0.2, 0.4, 0.6, 2.3], dtype=torch.float64)
    torch.testing.assert_close(soft_round(away, 1e-30), away.round(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("a", SOFTNESS)
def test_soft_rounding_gradient(a):
    u = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 1.3], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_round(u, a).sum(), u)
    assert torch.isfinite(gradient).all()
    assert (gradient >= 0).all()
    inside = torch.tensor([-1.3, 0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: soft_round(v, a), inside)


@pytest.mark.parametrize("a", [0.0, 1.0, -0.1, math.nan])
def test_soft_rounding_refuses_degenerate_softness(a):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        soft_round(torch.zeros(1), a)


@settings(max_examples=30, deadline=None)
@given(steps=st.integers(0, 300))
def test_softness_never_leaves_the_unit_interval(steps):
    values = [VAFA(steps=steps).softness(step) for step in range(steps + 1)]
    assert all(0 < a < 1 for a in values)
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(0.1)
    assert values[-1] == pytest.approx(0.1 / max(steps, 1))


# --- the attack ---------------------------------------------------------------------------------


@pytest.mark.parametrize("q_max", [5.0, 40.0])
@pytest.mark.parametrize(("hard", "r"), [(False, 0.22), (True, 0.5)])
def test_l2_bound_per_block(q_max, hard, r, make_case):
    model, images, labels = make_case((8, 16, 8), dtype=torch.float64)
    attack = VAFA(block_size=8, q_max=q_max, hard_rounding=hard)
    delta = split_blocks(attack(model, images, labels) - images, 8).flatten(3).norm(dim=3)
    bound = r * q_max * math.sqrt(8**3) / 255
    assert delta.max() <= bound
    assert delta.max() > 0.05 * bound


def test_hard_rounding_returns_quantized_coefficients(make_case):
    model, images, labels = make_case((8, 8, 8), dtype=torch.float64, batch=1)
    images = images * 0.2 + 0.4  # nothing reaches the clamp
    adversarial = VAFA(block_size=8, q_max=7.0, q_min=7.0, hard_rounding=True)(model, images, labels)
    units = dct(adversarial * 255 - 128, 8) / 7
    torch.testing.assert_close(units, units.round(), atol=1e-9, rtol=0)
    assert not torch.equal(adversarial, images)
    soft = VAFA(block_size=8, q_max=7.0, q_min=7.0)(model, images, labels)
    off = dct(soft * 255 - 128, 8) / 7
    assert (off - off.round()).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spatial", [(9, 33, 5), (40, 7)])
def test_tiny_quantization_is_the_identity(spatial, dtype, make_case):
    model, images, labels = make_case(spatial, dtype=dtype)
    attack = VAFA(q_max=1e-3, q_min=1e-4, block_size=32, steps=3)
    assert (attack(model, images, labels) - images).abs().max() < 1e-4


def test_larger_range_costs_more_dice_on_average(make_case, naive_dice):
    means = []
    for q_max in (1.0, 20.0, 80.0):
        scores = []
        for seed in range(6):
            model, images, labels = make_case((8, 8, 8), seed=seed)
            adversarial = VAFA(q_max=q_max, block_size=8, steps=8)(model, images, labels)
            scores.append(naive_dice(model(adversarial).argmax(1), labels, 3).mean().item())
        means.append(sum(scores) / len(scores))
    assert means[0] > means[1] > means[2]


def test_learned_table_beats_the_fixed_one(make_case):
    """The loss of the last point exceeds the one of the same softness without any learning."""
    gains = []
    for seed in range(6):
        model, images, labels = make_case((8, 8, 8), seed=seed)
        losses = {}
        for q_min in (1.0, 40.0):
            seen = []
            VAFA(q_max=40.0, q_min=q_min, block_size=8, ssim_weight=0.0)(
                model, images, labels, on_step=seen.append
            )
            losses[q_min] = seen[-1].loss
        gains.append((losses[1.0] - losses[40.0]).mean().item())
    assert sum(gains) / len(gains) > 0.01
    assert min(gains) > 0


def test_start_of_the_table(make_case):
    model, images, labels = make_case((8, 8, 8))
    start = {q: VAFA(q_init=q, steps=0, block_size=8)(model, images, labels) for q in ("max", "one")}
    distance = {q: (x - images).norm().item() for q, x in start.items()}
    assert distance["max"] > 5 * distance["one"] > 0
    above_one = VAFA(q_init="one", q_min=5.0, steps=0, block_size=8)(model, images, labels)
    assert torch.equal(above_one, VAFA(q_max=5.0, q_min=5.0, steps=0, block_size=8)(model, images, labels))


def test_ssim_weight_keeps_the_volume_similar(make_case):
    model, images, labels = make_case((8, 8, 8), batch=3)
    similar = []
    for weight in (0.0, 100.0):
        seen, visited = [], []
        handle = model.register_forward_pre_hook(lambda _, x, into=visited: into.append(x[0].detach()))
        VAFA(q_max=60.0, block_size=8, ssim_weight=weight)(model, images, labels, on_step=seen.append)
        handle.remove()
        similar.append(SSIM(images)(visited[-1]))
    assert (1 - similar[1] < 0.5 * (1 - similar[0])).all()


@pytest.mark.parametrize("renorm", ["none", "slice"])
@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("plane", [(4, 4), (8, 8)])
def test_constant_slabs_stay_finite(renorm, value, plane, make_case):
    model, images, labels = make_case((*plane, 12))
    images[..., 4:8] = value
    inputs = []
    model.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    seen = []
    adversarial = VAFA(renorm=renorm, block_size=4, steps=4)(model, images, labels, on_step=seen.append)
    assert torch.isfinite(adversarial).all()
    assert all(torch.isfinite(x).all() for x in inputs)
    assert all(torch.isfinite(info.loss).all() for info in seen)
    if renorm == "none" or plane == (4, 4):
        # A flat block has a DC only, rounded by at most half a step of 20 over sqrt(64) voxels. Blocks side
        # by side may round it differently, and "slice" stretches that difference as the published code does.
        assert (adversarial[..., 4:8] - value).abs().max() <= 0.5 * 20 / 8 / 255 + 1e-5


def test_slice_renormalization_stretches_what_varies(make_case):
    model, images, labels = make_case((8, 8, 8))
    images = images * 0.5 + 0.25
    none, stretched = (
        VAFA(renorm=r, block_size=8, steps=2)(model, images, labels) for r in ("none", "slice")
    )
    assert torch.equal(stretched.amin((2, 3)), torch.zeros(2, 1, 8))
    assert torch.equal(stretched.amax((2, 3)), torch.ones(2, 1, 8))
    assert none.min() > 0.1
    assert (stretched - images).norm() > 5 * (none - images).norm()


def test_optional_ball_binds_and_is_seen_by_the_model(make_case):
    model, images, labels = make_case((8, 8, 8))
    free = VAFA(q_max=60.0, block_size=8, steps=4)(model, images, labels)
    inputs = []
    model.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach()))
    attack = VAFA(q_max=60.0, block_size=8, steps=4, eps=4 / 255)
    assert (free - images).abs().max() > 8 / 255
    adversarial = attack(model, images, labels)
    assert all((x - images).abs().max().item() <= 4 / 255 for x in [*inputs, adversarial])
    assert VAFA().radius is None
    assert attack.radius == 4 / 255


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"q_min": 0.0}, "q_min: expected a step > 0, got 0"),
        ({"q_min": -1.0}, "q_min: expected a finite number >= 0"),
        ({"q_max": 0.5}, "q_max: expected a finite number >= 1, got 0.5"),
        ({"q_max": math.nan}, "q_max: expected a finite number"),
        ({"q_init": "zero"}, "q_init: expected one of 'max', 'one'"),
        ({"block_size": 0}, "block_size: expected an integer >= 1"),
        ({"block_size": (8, 8, 8)}, "block_size: expected an integer >= 1"),
        ({"steps": -1}, "steps: expected an integer >= 0"),
        ({"ssim_weight": -1.0}, "ssim_weight: expected a finite number >= 0"),
        ({"renorm": "volume"}, "renorm: expected one of 'none', 'slice'"),
        ({"hard_rounding": None}, "hard_rounding: expected True or False"),
        ({"loss": "mse"}, "loss: expected one of"),
    ],
)
def test_bad_hyper_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        VAFA(**settings)


# --- targets of the frequency family ------------------------------------------------------------

FAMILY = {
    "vafa": lambda steps, **more: VAFA(q_max=40.0, q_min=1.0, block_size=4, steps=steps, **more),
    "vafa2d": lambda steps, **more: VAFA2D(q_max=40.0, q_min=1.0, block_size=4, steps=steps, **more),
    "sa2": lambda steps, **more: SA2(rho=0.5, block_size=4, steps=steps, **more),
}


def shifted(labels):
    """A target that disagrees with the labels everywhere."""
    return (labels + 1) % 3


@pytest.mark.parametrize("steps", [7, 8])
@pytest.mark.parametrize("key", FAMILY)
def test_target_is_approached_on_average(key, steps, make_case, naive_dice):
    closer, gained = [], []
    for seed in range(6):
        model, images, labels = make_case((8, 8, 8), seed=seed)
        seen, targets = [], shifted(labels)
        adversarial = FAMILY[key](steps, ssim_weight=0.0)(
            model, images, labels, targets=targets, on_step=seen.append
        )
        start, end = (naive_dice(model(x).argmax(1), targets, 3) for x in (images, adversarial))
        closer.append((end - start).mean().item())
        # What is increased is minus the loss against the target.
        gained.append((torch.stack([info.loss for info in seen]) - seen[0].loss).mean(1))
    assert sum(closer) / len(closer) > 0.01
    assert min(closer) >= 0
    path = torch.stack(gained).mean(0)
    assert (path[2:] > path[:-2]).all()  # a step that oscillates comes back after two
    assert path[-1] > 0.01


@pytest.mark.parametrize("key", FAMILY)
def test_similarity_counts_alike_with_and_without_targets(key, make_case):
    model, images, labels = make_case((8, 8, 8), batch=3, dtype=torch.float64)
    for targets in (None, shifted(labels)):
        values = {}
        for weight in (0.0, 1.0, 3.0):
            seen, visited = [], []

            def watched(x, into=visited):
                into.append(x.detach().clone())
                return model(x)

            FAMILY[key](0, ssim_weight=weight)(watched, images, labels, targets=targets, on_step=seen.append)
            values[weight] = seen[0].loss
        penalty = 1 - SSIM(images)(visited[0])
        assert (penalty > 1e-4).all()
        torch.testing.assert_close(values[0.0] - values[1.0], penalty)
        torch.testing.assert_close(values[0.0] - values[3.0], 3 * penalty)


@pytest.mark.parametrize("key", FAMILY)
def test_similarity_weight_works_towards_a_target(key, make_case):
    model, images, labels = make_case((8, 8, 8), batch=3)
    similar = []
    for weight in (0.0, 100.0):
        visited = []

        def watched(x, into=visited):
            into.append(x.detach().clone())
            return model(x)

        FAMILY[key](12, ssim_weight=weight)(watched, images, labels, targets=shifted(labels))
        similar.append(SSIM(images)(visited[-1]))
    assert (1 - similar[1] < 0.7 * (1 - similar[0])).all()


# --- similarity ---------------------------------------------------------------------------------


def ssim_by_loops(x, y):
    """Mean over valid 3x3x3 windows of one channel."""
    w = torch.tensor([WINDOW[0], WINDOW[1], WINDOW[0]], dtype=x.dtype)
    window = w[:, None, None] * w[None, :, None] * w[None, None, :]
    values = []
    for i, j, k in torch.cartesian_prod(*(torch.arange(side - 2) for side in x.shape)).tolist():
        a, b = x[i : i + 3, j : j + 3, k : k + 3], y[i : i + 3, j : j + 3, k : k + 3]
        ma, mb = (window * a).sum(), (window * b).sum()
        va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
        cov = (window * (a - ma) * (b - mb)).sum()
        values.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return torch.stack(values).mean()


def test_ssim_equals_the_loop_over_windows():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 2, 5, 4, 6, generator=generator, dtype=torch.float64)
    y = (x + 0.2 * torch.rand(x.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
    expected = [torch.stack([ssim_by_loops(x[b, c], y[b, c]) for c in range(2)]).mean() for b in range(2)]
    torch.testing.assert_close(SSIM(x)(y), torch.stack(expected))
    assert (SSIM(x)(y) < 0.97).all()
    torch.testing.assert_close(SSIM(x)(x), torch.ones(2, dtype=torch.float64))
    assert sum((2 * WINDOW[0], WINDOW[1])) == pytest.approx(1)


@pytest.mark.parametrize("spatial", [(4, 3, 5), (4, 1, 3), (2, 2), (5, 4)])
def test_ssim_gradient_is_the_numerical_one(spatial):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 1, *spatial, generator=generator, dtype=torch.float64)
    y = torch.rand(x.shape, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SSIM(x), y)
