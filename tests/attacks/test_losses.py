"""Losses against MONAI, by value and gradient, and per sample."""

from __future__ import annotations

import math

import pytest
import torch

from robustvox.attacks.losses import (
    LOSSES,
    TARGETED,
    ce,
    dice,
    dice_ce,
    dlr,
    js,
    margin,
    mask_ce,
    mask_ce_balanced,
    missing_ce,
    missing_ce_balanced,
)

EVERY = LOSSES | {f"targeted {name}": loss for name, loss in TARGETED.items()}


def problem(classes=4, spatial=(5, 4, 6), batch=2, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, classes, *spatial, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (batch, 1, *spatial), generator=generator)
    mask = torch.rand(labels.shape, generator=generator) > 0.3
    return logits, labels, mask


@pytest.mark.parametrize("spatial", [(5, 4, 6), (7, 5)])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("absent", [False, True])
def test_dice_ce_is_monai_on_one_sample(classes, spatial, absent):
    losses = pytest.importorskip("monai.losses")
    reference = losses.DiceCELoss(
        to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0, smooth_dr=1e-6
    )
    logits, labels, _ = problem(classes, spatial)
    if absent:
        labels = labels.clamp_max(classes - 2)
    logits.requires_grad_()
    ours = dice_ce(logits, labels)
    theirs = torch.stack([reference(logits[[i]], labels[[i]]) for i in range(2)])
    # MONAI squares the norm of float32 one-hot labels: 1e-8 is its rounding, not ours.
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)
    grads = [torch.autograd.grad(value.sum(), logits, retain_graph=True)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-9, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_dice_ce_is_its_formula(masked):
    logits, labels, mask = problem(batch=3)
    labels[0].clamp_(max=2)
    kept = mask if masked else torch.ones_like(mask)
    logits.requires_grad_()
    p = logits.softmax(1)
    onehot = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1) * kept
    overlap = (p * onehot).flatten(2).sum(2)
    total = (p.square() * kept).flatten(2).sum(2) + onehot.flatten(2).sum(2) + 1e-6
    expected = (1 - 2 * overlap / total).mean(1) + ce(logits, labels, mask if masked else None)
    actual = dice_ce(logits, labels, mask if masked else None)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    weights = torch.tensor([1.0, -2.0, 0.5])
    grads = [torch.autograd.grad((value * weights).sum(), logits)[0] for value in (actual, expected)]
    torch.testing.assert_close(*grads, atol=1e-13, rtol=0)


def test_ce_is_the_mean_over_voxels():
    logits, labels, mask = problem()
    expected = -logits.log_softmax(1).gather(1, labels)
    torch.testing.assert_close(ce(logits, labels), expected.flatten(1).mean(1))
    masked = torch.stack([expected[i][mask[i]].mean() for i in range(2)])
    torch.testing.assert_close(ce(logits, labels, mask), masked)


def soft_dice_by_loops(logits, labels, classes, counted=slice(None)):
    p = logits.softmax(0)
    scores = []
    for c in range(1, classes):
        truth, claimed = (labels[0] == c)[counted], (logits.argmax(0) == c)[counted]
        if truth.any() or claimed.any():
            mass = p[c][counted]
            scores.append(2 * mass[truth].sum() / (mass.sum() + truth.sum()))
    return 1 - sum(scores) / len(scores)


def test_dice_follows_the_reported_metric():
    logits, labels, mask = problem()
    labels[0].clamp_(max=2)  # class 3 is hallucinated in sample 0 ...
    labels[1].clamp_(max=2)
    logits[1, 3] = -50  # ... and absent from both in sample 1
    for m in (None, mask):
        expected = [
            soft_dice_by_loops(logits[i], labels[i], 4, slice(None) if m is None else m[i, 0])
            for i in range(2)
        ]
        torch.testing.assert_close(dice(logits, labels, m), torch.stack(expected))


def test_dice_without_any_foreground_is_zero_with_zero_gradient():
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0] = 9
    logits.requires_grad_()
    loss = dice(logits, torch.zeros(1, 1, 4, 4, dtype=torch.int64))
    assert loss.item() == 0
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() == 0


def voxels(logits, labels, mask=None):
    """(sample, logits of one counted voxel, its label), one after another."""
    for sample in range(len(logits)):
        kept = torch.ones_like(labels[sample, 0]) if mask is None else mask[sample, 0]
        for voxel in kept.nonzero().tolist():
            yield sample, logits[(sample, slice(None), *voxel)], int(labels[(sample, 0, *voxel)])


def mean_of(value, logits, labels, mask=None):
    values = [[] for _ in logits]
    for sample, z, y in voxels(logits, labels, mask):
        values[sample].append(float(value(z, y)))
    return torch.tensor([sum(one) / len(one) for one in values], dtype=torch.float64)


def entropy(z, y):
    return -torch.log_softmax(z, 0)[y]


def js_by_definition(z, y):
    p = z.softmax(0)
    onehot = torch.zeros_like(p)
    onehot[y] = 1
    middle = (p + onehot) / 2
    return (torch.special.xlogy(p, p / middle).sum() + torch.special.xlogy(onehot, onehot / middle).sum()) / 2


def margin_by_definition(z, y):
    return max(z[k] for k in range(len(z)) if k != y) - z[y]


BY_VOXEL = {
    js: js_by_definition,
    margin: margin_by_definition,
    dlr: lambda z, y: margin_by_definition(z, y) / (z.sort().values[-1] - z.sort().values[-3] + 1e-12),
    mask_ce: lambda z, y: entropy(z, y) if z.argmax() == y else 0,
    missing_ce: lambda z, y: 0 if z.argmax() == y else entropy(z, y),
}


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", BY_VOXEL, ids=lambda loss: loss.__name__)
def test_voxel_losses_equal_their_definitions(loss, masked, classes):
    logits, labels, mask = problem(classes)
    chosen = mask if masked else None
    expected = mean_of(BY_VOXEL[loss], logits, labels, chosen)
    torch.testing.assert_close(loss(logits, labels, chosen), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_balanced_losses_are_the_mean_over_the_classes_of_the_reference(masked):
    logits, labels, mask = problem(5)
    labels.clamp_max_(3)  # class 4 has no voxels and no say
    labels[0][labels[0] == 2] = 1
    chosen = mask if masked else None
    for loss, counts_right in ((mask_ce_balanced, True), (missing_ce_balanced, False)):
        for sample in range(2):
            sums, sizes = [0.0] * 5, [0] * 5
            for _, z, y in voxels(
                logits[[sample]], labels[[sample]], None if chosen is None else mask[[sample]]
            ):
                sizes[y] += 1
                sums[y] += float(entropy(z, y)) if (int(z.argmax()) == y) is counts_right else 0.0
            means = [total / size for total, size in zip(sums, sizes, strict=True) if size]
            assert len(means) == (3 if sample == 0 else 4)
            value = loss(logits, labels, chosen)[sample].item()
            assert value == pytest.approx(sum(means) / len(means), abs=1e-12)


@pytest.mark.parametrize("loss", [mask_ce_balanced, missing_ce_balanced])
def test_balanced_losses_do_not_feel_how_large_a_class_is(loss):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(1, 3, 6, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(6).div(2, rounding_mode="floor").view(1, 1, 6, 1).expand(1, 1, 6, 8).contiguous()
    lines = [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]  # class 1, three times as large
    larger = loss(logits[:, :, lines], labels[:, :, lines])
    torch.testing.assert_close(larger, loss(logits, labels), atol=1e-14, rtol=0)
    plain = {mask_ce_balanced: mask_ce, missing_ce_balanced: missing_ce}[loss]
    assert abs(plain(logits[:, :, lines], labels[:, :, lines]) - plain(logits, labels)) > 1e-3


def test_js_is_its_definition_over_thirty_decades_of_probability():
    gaps = torch.linspace(-700, 700, 2801, dtype=torch.float64)
    logits = torch.stack([gaps, torch.zeros_like(gaps)])[None, :, :, None]
    values = torch.cat(
        [js(logits[:, :, [i]], torch.zeros(1, 1, 1, 1, dtype=torch.int64)) for i in range(2801)]
    )
    expected = torch.stack([js_by_definition(logits[0, :, i, 0], 0) for i in range(2801)])
    assert (values - expected).abs().max() < 1e-12
    assert values.min() >= -1e-15
    assert values.max() <= math.log(2) + 1e-15
    assert values[0].item() == pytest.approx(math.log(2), abs=1e-12)
    assert values[-1].item() == pytest.approx(0, abs=1e-12)
    assert (values.diff() <= 1e-15).all(), "the more certain of the label, the smaller"


@pytest.mark.parametrize("top", [200.0, 1e4])
def test_js_of_a_saturated_softmax_is_finite(top):
    """The textbook form multiplies 0 by log 0 here."""
    logits = torch.tensor([top, 0.0, 0.0]).view(1, 3, 1, 1).requires_grad_()
    for label, expected in ((0, 0.0), (1, math.log(2)), (2, math.log(2))):
        value = js(logits, torch.full((1, 1, 1, 1), label))
        assert value.item() == pytest.approx(expected, abs=1e-6)
        assert torch.isfinite(torch.autograd.grad(value.sum(), logits)[0]).all()


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_for_one_voxel_of_extreme_logits(name, dtype):
    for row in ([1e4, -1e4, 0, 1], [-1e4, 1e4, 1e4, 1e4], [1e4] * 4, [0] * 4, [-1e4, -1e4, -1e4, 1e4]):
        for label in range(4):
            logits = torch.tensor(row, dtype=dtype).view(1, 4, 1, 1).requires_grad_()
            value = EVERY[name](logits, torch.full((1, 1, 1, 1), label), None)
            assert torch.isfinite(value).all()
            assert torch.isfinite(torch.autograd.grad(value.sum(), logits)[0]).all()


def test_dlr_is_scale_and_shift_invariant_and_bounded():
    logits, labels, mask = problem(4)
    value = dlr(logits, labels, mask)
    for scale, shift in ((1e-3, 0.0), (50.0, 0.0), (1.0, 40.0), (7.0, -3.0)):
        torch.testing.assert_close(dlr(scale * logits + shift, labels, mask), value, atol=1e-7, rtol=0)
    right = logits.argmax(1, keepdim=True)
    one = torch.tensor([[3.0, 1.0, 0.5]]).view(1, 3, 1, 1)
    assert dlr(logits, right).min() >= -1
    assert dlr(one, torch.zeros(1, 1, 1, 1, dtype=torch.int64)).item() == pytest.approx(-2 / 2.5)
    assert dlr(one, torch.full((1, 1, 1, 1), 2)).item() == pytest.approx(1)
    three, labels, _ = problem(3)
    assert dlr(three, labels).abs().max() <= 1


def test_dlr_refuses_two_classes():
    logits, labels, _ = problem(2)
    with pytest.raises(ValueError, match=r"loss 'dlr': expected K >= 3 classes, got 2\. Use loss='margin'"):
        dlr(logits, labels)


@pytest.mark.parametrize(
    ("loss", "everywhere"),
    [(mask_ce, "wrong"), (mask_ce_balanced, "wrong"), (missing_ce, "right"), (missing_ce_balanced, "right")],
)
def test_masked_losses_vanish_where_nothing_is_left_to_do(loss, everywhere):
    logits, _, mask = problem()
    prediction = logits.argmax(1, keepdim=True)
    labels = prediction if everywhere == "right" else (prediction + 1) % 4
    logits.requires_grad_()
    for chosen in (None, mask):
        value = loss(logits, labels, chosen)
        assert torch.equal(value, torch.zeros(2, dtype=torch.float64))
        assert torch.autograd.grad(value.sum(), logits)[0].abs().max() == 0


def test_masked_losses_and_their_targeted_forms_add_up():
    logits, labels, mask = problem()
    torch.testing.assert_close(
        mask_ce(logits, labels, mask) + missing_ce(logits, labels, mask), ce(logits, labels, mask)
    )
    assert set(TARGETED) == {"mask_ce", "mask_ce_balanced"}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_infinite_logits_of_voxels_that_do_not_count_change_no_value(name):
    logits, labels, mask = problem()
    broken = torch.where(mask, logits, torch.inf)
    torch.testing.assert_close(EVERY[name](broken, labels, mask), EVERY[name](logits, labels, mask))


@pytest.mark.parametrize("name", sorted(EVERY))
def test_a_mask_is_the_same_as_cutting_the_voxels_out(name):
    logits, labels, _ = problem(spatial=(6, 4, 5))
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    mask[:, :, :4] = True
    logits.requires_grad_()
    masked = EVERY[name](logits, labels, mask)
    torch.testing.assert_close(masked, EVERY[name](logits[:, :, :4], labels[:, :, :4], None))
    (gradient,) = torch.autograd.grad(masked.sum(), logits)
    assert gradient[:, :, 4:].abs().max() == 0
    assert gradient[:, :, :4].abs().max() > 0


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("masked", [False, True])
def test_samples_do_not_see_each_other(name, masked):
    logits, labels, mask = problem(batch=3)
    chosen = mask if masked else None
    together = EVERY[name](logits, labels, chosen)
    assert together.shape == (3,)
    alone = [EVERY[name](logits[[i]], labels[[i]], mask[[i]] if masked else None) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(EVERY))
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_the_numerical_one(name, masked):
    logits, labels, mask = problem(classes=3, spatial=(2, 3, 2))
    chosen = mask if masked else None
    assert torch.autograd.gradcheck(lambda z: EVERY[name](z, labels, chosen), logits.requires_grad_())


@pytest.mark.parametrize("name", sorted(EVERY))
def test_finite_for_huge_logits(name):
    logits, labels, mask = problem(dtype=torch.float32)
    logits = (logits.sign() * 1e4).requires_grad_()
    loss = EVERY[name](logits, labels, mask)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(torch.autograd.grad(loss.sum(), logits)[0]).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_wrong_predictions_cost_more(name):
    _, labels, _ = problem()
    right = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1) * 6.0
    wrong = LOSSES[name](right.roll(1, 1), labels, None)
    if name.startswith("mask_ce"):  # a lost voxel leaves these losses
        assert (LOSSES[name](right, labels, None) > 0).all()
        assert (wrong == 0).all()
    else:
        assert (wrong > LOSSES[name](right, labels, None) + 0.5).all()
