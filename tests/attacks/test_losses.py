"""Losses against MONAI, by value and gradient, and per sample."""

from __future__ import annotations

import pytest
import torch

from robustvox.attacks.losses import LOSSES, ce, dice, dice_ce


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


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_mask_is_the_same_as_cutting_the_voxels_out(name):
    logits, labels, _ = problem(spatial=(6, 4, 5))
    mask = torch.zeros(labels.shape, dtype=torch.bool)
    mask[:, :, :4] = True
    logits.requires_grad_()
    masked = LOSSES[name](logits, labels, mask)
    torch.testing.assert_close(masked, LOSSES[name](logits[:, :, :4], labels[:, :, :4], None))
    (gradient,) = torch.autograd.grad(masked.sum(), logits)
    assert gradient[:, :, 4:].abs().max() == 0
    assert gradient[:, :, :4].abs().max() > 0


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("masked", [False, True])
def test_samples_do_not_see_each_other(name, masked):
    logits, labels, mask = problem(batch=3)
    chosen = mask if masked else None
    together = LOSSES[name](logits, labels, chosen)
    assert together.shape == (3,)
    alone = [LOSSES[name](logits[[i]], labels[[i]], mask[[i]] if masked else None) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_is_the_numerical_one(name, masked):
    logits, labels, mask = problem(classes=3, spatial=(2, 3, 2))
    chosen = mask if masked else None
    assert torch.autograd.gradcheck(lambda z: LOSSES[name](z, labels, chosen), logits.requires_grad_())


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_finite_for_huge_logits(name):
    logits, labels, mask = problem(dtype=torch.float32)
    logits = (logits.sign() * 1e4).requires_grad_()
    loss = LOSSES[name](logits, labels, mask)
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
