"""SegPGD: schedule, weights and what it is at the ends of its schedule."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from robustvox.attacks import PGD, SegPGD
from robustvox.attacks.segpgd import agreement_weight


@pytest.mark.parametrize("steps", [1, 2, 5, 20])
def test_schedule_runs_from_zero_to_just_below_one_half(steps):
    attack = SegPGD(steps=steps)
    shares = [attack.wrong_share(t - 1) for t in range(1, steps + 1)]
    assert shares == pytest.approx([(t - 1) / (2 * steps) for t in range(1, steps + 1)], abs=1e-15)
    assert shares[0] == 0
    assert attack.wrong_share(steps) == shares[-1], "the closing evaluation belongs to the last step"


def test_no_steps_need_no_schedule(make_case):
    model, images, labels = make_case()
    assert SegPGD(steps=0).wrong_share(0) == 0
    seen = []
    SegPGD(steps=0)(model, images, labels, on_step=seen.append)
    assert len(seen) == 1


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_equal_the_loop_over_voxels(targeted, masked, make_case):
    """A weighted mean over all counted voxels: no Dice, no subset divided by its own size, nothing inverted."""
    model, images, labels = make_case((3, 4, 2), pointwise=True, dtype=torch.float64, classes=3)
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > (0.4 if masked else -1.0)
    targets = (labels + 1) % 3 if targeted else None
    seen, points, gradients = [], [], []

    def spy(x):
        points.append(x.detach().clone())
        logits = model(x)
        if logits.requires_grad:
            logits.register_hook(gradients.append)
        return logits

    SegPGD(steps=4)(spy, images, labels, mask if masked else None, on_step=seen.append, targets=targets)
    aim = targets if targeted else labels
    for step in range(5):
        share = min(step, 3) / 8
        logits = model(points[step]).detach().requires_grad_()
        for sample in range(2):
            total, count = 0.0, 0
            for voxel in mask[sample, 0].nonzero().tolist():
                z, y = logits[(sample, slice(None), *voxel)], aim[(sample, 0, *voxel)]
                right = z.argmax() == y
                weight = (share if right else 1 - share) if targeted else (1 - share if right else share)
                total, count = total - weight * torch.log_softmax(z, 0)[y], count + 1
            value = (-1 if targeted else 1) * total / count
            assert seen[step].loss[sample].item() == pytest.approx(value.item(), abs=1e-12)
            if step < 4:
                (expected,) = torch.autograd.grad(value, logits, retain_graph=True)
                torch.testing.assert_close(gradients[step][sample], expected[sample], atol=1e-14, rtol=0)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("share", "loss"), [(0.5, "ce"), (0.0, "mask_ce")])
def test_ends_of_the_schedule_are_other_attacks(share, loss, targeted, make_case, monkeypatch):
    model, images, labels = make_case()
    targets = model(images).argmax(1, keepdim=True).roll(1, 2) if targeted else None
    scheduled = SegPGD(steps=5)(model, images, labels, targets=targets)
    monkeypatch.setattr(SegPGD, "wrong_share", lambda self, step: share)
    fixed = SegPGD(steps=5)(model, images, labels, targets=targets)
    assert torch.equal(fixed, PGD(steps=5, loss=loss)(model, images, labels, targets=targets))
    assert not torch.equal(fixed, scheduled)


def test_moves_when_every_voxel_is_right(make_case):
    """The published port had zero gradient there and never moved."""
    model, images, _ = make_case()
    labels = model(images).argmax(1, keepdim=True)
    adversarial = SegPGD(steps=3, random_start=False)(model, images, labels)
    assert (adversarial != images).double().mean() > 0.8  # 0 and 1 can be stuck
    before, after = (F.cross_entropy(model(x), labels[:, 0]) for x in (images, adversarial))
    assert after > before + 0.03


def test_weight_has_no_graph_and_the_type_of_the_logits():
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = agreement_weight(logits, torch.zeros(2, 1, 4, 5, dtype=torch.int64), 0.7, 0.3)
    assert not weight.requires_grad
    assert weight.dtype == torch.float64
    assert weight.unique().tolist() == [0.3, 0.7]
    assert torch.equal(weight == 0.7, logits.argmax(1) == 0)
