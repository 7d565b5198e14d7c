"""MI-FGSM: its momentum, and what it is without."""

from __future__ import annotations

import pytest
import torch

from robustvox.attacks import BIM, MIFGSM
from robustvox.attacks.losses import LOSSES


@pytest.mark.parametrize("loss", ["ce", "dice", "margin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_momentum_it_is_bim_bit_for_bit(loss, dtype, make_case):
    model, images, labels = make_case(dtype=dtype, channels=2)
    ours = MIFGSM(momentum=0.0, loss=loss, steps=6)(model, images, labels)
    assert torch.equal(ours, BIM(loss=loss, steps=6)(model, images, labels))
    assert not torch.equal(ours, MIFGSM(loss=loss, steps=6)(model, images, labels))


@pytest.mark.parametrize("spatial", [(6, 7), (6, 7, 5)])
@pytest.mark.parametrize("momentum", [0.5, 1.0, 3.0])
def test_follows_its_formula(momentum, spatial, make_case):
    model, images, labels = make_case(spatial, dtype=torch.float64, channels=2)
    visited = []
    attack = MIFGSM(eps=0.1, alpha=0.03, steps=5, momentum=momentum, loss="ce")
    attack(lambda x: visited.append(x.detach().clone()) or model(x), images, labels)
    for sample in range(2):
        clean, point = images[[sample]], images[[sample]]
        g = torch.zeros_like(clean)
        for step in range(6):
            torch.testing.assert_close(visited[step][[sample]], point, atol=1e-12, rtol=0)
            point = point.clone().requires_grad_()
            loss = torch.nn.functional.cross_entropy(model(point), labels[[sample], 0])
            (gradient,) = torch.autograd.grad(loss, point)
            g = momentum * g + gradient / sum(abs(value) for value in gradient.flatten().tolist())
            point = (point.detach() + 0.03 * g.sign()).clamp(clean - 0.1, clean + 0.1).clamp(0, 1)


def test_the_size_of_a_gradient_does_not_matter(make_case):
    """Without the norm, a loss that falls by orders of magnitude would leave the first step in charge."""
    model, images, labels = make_case(dtype=torch.float64)
    runs = []
    for falling in (1.0, 2.0**-10):
        seen = []

        def fading(x, seen=seen, factor=falling):
            seen.append(x.detach().clone())
            logits = model(x)
            scale = factor ** (len(seen) - 1)
            if logits.requires_grad:
                logits.register_hook(lambda gradient: gradient * scale)
            return logits

        MIFGSM(loss="ce", steps=5)(fading, images, labels)
        runs.append(torch.stack(seen))
    torch.testing.assert_close(*runs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_without_gradient_coasts_and_disturbs_nobody(dtype, make_case):
    model, images, labels = make_case(batch=2, pointwise=True, dtype=dtype)
    attack = MIFGSM(eps=0.08, alpha=0.02, steps=4, loss="ce")

    def path(dead):
        """Visited points; sample 0 has no gradient at the steps in `dead`."""
        seen = []

        def patched(x):
            seen.append(x.detach().clone())
            logits = model(x)
            alive = torch.ones(2, 1, 1, 1, 1, dtype=dtype)
            alive[0] = float(len(seen) - 1 not in dead)
            if logits.requires_grad:
                logits.register_hook(lambda gradient: gradient * alive)
            return logits

        attack(patched, images, labels)
        return torch.stack(seen)

    plain, never, later = path(()), path((0, 1, 2, 3)), path((2, 3))
    for points in (never, later):
        assert torch.isfinite(points).all()
        assert torch.equal(points[:, 1], plain[:, 1])
    assert torch.equal(never[-1, 0], images[0])
    moves = later[1:, 0] - later[:-1, 0]
    inside = (later[:, 0] > 0).all(0) & (later[:, 0] < 1).all(0) & (moves[0].sign() == moves[1].sign())
    assert inside.sum() > 50
    torch.testing.assert_close(moves[2][inside], moves[1][inside])


def test_more_steps_never_hurt_with_the_same_step_size(make_case, naive_dice):
    model, images, labels = make_case(batch=4)
    scores = []
    for steps in (2, 4, 8):
        adversarial = MIFGSM(alpha=0.02, steps=steps)(model, images, labels)
        scores.append(naive_dice(model(adversarial).argmax(1), labels, 3))
    assert (scores[1] <= scores[0]).all()
    assert (scores[2] <= scores[1]).all()
    assert (scores[2] < scores[0]).any()


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), "1", True])
def test_bad_momentum_is_refused(value):
    with pytest.raises(ValueError, match="momentum: expected a"):
        MIFGSM(momentum=value)


def test_every_loss_works(make_case):
    model, images, labels = make_case()
    for loss in LOSSES:
        adversarial = MIFGSM(steps=3, loss=loss)(model, images, labels)
        assert not torch.equal(adversarial, images)
