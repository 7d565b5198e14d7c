"""Annealed: its formula and its schedule, beside a plain loop that shares nothing with it but the random start."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from robustvox.attacks import Annealed


def soft_dice(logits, labels):
    """One minus the mean soft Dice of the foreground, by its definition, of one sample."""
    p, y = logits.softmax(1), torch.nn.functional.one_hot(labels[:, 0], logits.shape[1]).movedim(-1, 1)
    each = [2 * (p[:, c] * y[:, c]).sum() / (p[:, c].sum() + y[:, c].sum()) for c in (1, 2)]
    return 1 - torch.stack(each).mean()


@pytest.mark.parametrize("spatial", [(6, 7), (6, 7, 5)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_follows_its_formula_from_wherever_it_starts(spatial, momentum, make_case):
    model, images, labels = make_case(spatial, dtype=torch.float64, channels=2)
    visited = []
    attack = Annealed(eps=0.1, steps=12, momentum=momentum)
    attack(lambda x: visited.append(x.detach().clone()) or model(x), images, labels)
    assert len(visited) == 13
    for sample in range(2):
        clean, point = images[[sample]], visited[0][[sample]]
        assert (point - clean).abs().max() > 0.09, "the start is anywhere in the ball"
        v = torch.zeros_like(clean)
        for step in range(12):
            point = point.clone().requires_grad_()
            (g,) = torch.autograd.grad(soft_dice(model(point), labels[[sample]]), point)
            v = momentum * v + g / g.abs().sum()
            alpha = 0.1 * (1 + math.cos(math.pi * step / 12)) / 2
            point = (point.detach() + alpha * v.sign()).clamp(clean - 0.1, clean + 0.1).clamp(0, 1)
            torch.testing.assert_close(visited[step + 1][[sample]], point, atol=1e-12, rtol=0)


def test_every_restart_has_the_whole_schedule(make_case):
    """Of a linear model all gradients agree: a restart that went on with the old steps would stay near its start."""
    model, images, labels = make_case(batch=1, dtype=torch.float64)
    visited = []
    attack = Annealed(eps=0.1, steps=5, restarts=2)
    attack(lambda x: visited.append(x.detach().clone()) or model(x), images, labels)
    inside = (images > 0.2) & (images < 0.8)
    for first in (0, 6):
        moves = [
            (b - a).abs()[inside].max() for a, b in zip(visited[first:], visited[first + 1 :], strict=False)
        ]
        assert moves[0] > 0.099
        assert moves[4] < 0.1 * (1 + math.cos(math.pi * 4 / 5)) / 2 + 1e-12


def test_the_first_step_is_as_wide_as_the_ball_unless_told():
    assert Annealed(eps=4 / 255).step_size == 4 / 255
    assert Annealed(eps=4 / 255, alpha=1 / 255).step_size == 1 / 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Annealed(eps=0.0)
        Annealed(steps=1)
    with pytest.raises(ValueError, match="eps"):
        Annealed(eps=2.0)
    with pytest.raises(ValueError, match="momentum"):
        Annealed(momentum=-0.1)
