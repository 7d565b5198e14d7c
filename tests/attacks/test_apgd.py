"""APGD: schedule, step sizes and radius stages, against a loop over samples and against torchattacks."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from robustvox.attacks import APGD, PGD, StepInfo
from robustvox.attacks.apgd import StepSizes, checkpoints
from robustvox.attacks.base import ball
from robustvox.attacks.losses import LOSSES
from robustvox.attacks.task import Task


def visit(attack, model, images, labels, **more):
    visited: list[Tensor] = []
    seen: list[StepInfo] = []
    result = attack(
        lambda x: visited.append(x.detach().clone()) or model(x), images, labels, on_step=seen.append, **more
    )
    return result, torch.stack(visited), seen


# --- schedule -----------------------------------------------------------------------------------


def test_checkpoints_are_the_published_ones():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(checkpoints(20)) == [4, 7, 9, *range(10, 20)]
    assert list(checkpoints(5)) == [1, 2, 3, 4]
    assert list(checkpoints(1)) == list(checkpoints(0)) == []


@pytest.mark.parametrize("steps", [2, 9, 33, 50, 101, 300, 1000])
def test_windows_shrink_to_six_percent(steps):
    points = [0, *checkpoints(steps)]
    windows = [b - a for a, b in pairwise(points)]
    assert windows[0] == max(math.floor(0.22 * steps), 1)
    shrink, least = max(math.floor(0.03 * steps), 1), max(math.floor(0.06 * steps), 1)
    assert windows[1:] == [max(w - shrink, least) for w in windows[:-1]]
    assert points[-1] < steps <= points[-1] + max(windows[-1] - shrink, least)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, [(0.2, 30), (0.15, 30), (0.1, 40)]),
        (33, [(0.2, 9), (0.15, 9), (0.1, 15)]),
        (3, [(0.1, 3)]),
        (0, [(0.1, 0)]),
    ],
)
@pytest.mark.filterwarnings("ignore:APGD. steps")
def test_radius_stages(steps, expected):
    stages = list(APGD(eps=0.1, steps=steps).stages())
    assert [count for _, count in stages] == [count for _, count in expected]
    assert [radius for radius, _ in stages] == pytest.approx([radius for radius, _ in expected])
    assert list(APGD(eps=0.1, steps=steps, reduce_radius=False).stages()) == [(0.1, steps)]


def test_radii_stay_within_the_intensity_range():
    assert [radius for radius, _ in APGD(eps=0.6).stages()] == [1.0, pytest.approx(0.9), 0.6]
    assert [radius for radius, _ in APGD(eps=1.0).stages()] == [1.0, 1.0, 1.0]


# --- one stage against loops --------------------------------------------------------------------


def reference(model, clean: Tensor, labels: Tensor, start: Tensor, eps: float, steps: int, loss: str):
    """Auto-PGD of one sample with whole histories, as the paper writes it: visited points, halvings."""
    low, high = (clean - eps).clamp_min(0), (clean + eps).clamp_max(1)

    def evaluate(x):
        x = x.clone().requires_grad_()
        value = LOSSES[loss](model(x), labels, None).sum()
        return value.item(), torch.autograd.grad(value, x)[0]

    windows = [0.0, 0.22]
    while windows[-1] < 1:
        windows.append(windows[-1] + max(windows[-1] - windows[-2] - 0.03, 0.06))
    marks = [round(share * steps) for share in windows[1:]]  # exact where 100 divides: no rounding question
    eta, halvings, points = 2 * eps, [], [start]
    value, gradient = evaluate(start)
    history = [value]
    base, previous = start, start
    best = (value, start, gradient)
    halved, best_then, mark_then = True, value, 0
    for k in range(steps):
        z = torch.maximum(torch.minimum(base + eta * gradient.sign(), high), low)
        weight = 1.0 if k == 0 else 0.75
        new = base + weight * (z - base) + (1 - weight) * (base - previous)
        new = torch.maximum(torch.minimum(new, high), low)
        previous, base = base, new
        points.append(new)
        value, gradient = evaluate(new)
        history.append(value)
        if value > best[0]:
            best = (value, new, gradient)
        if k + 1 in marks:
            rises = sum(history[i + 1] > history[i] for i in range(mark_then, k + 1))
            oscillates = rises <= 0.75 * (k + 1 - mark_then)
            stuck = not halved and best[0] <= best_then
            halved, best_then, mark_then = oscillates or stuck, best[0], k + 1
            if halved:
                eta /= 2
                halvings.append(k + 1)
                _, base, gradient = best
    return torch.stack(points), halvings


def valley(images: Tensor) -> Tensor:
    """Logits that are best attacked at the floor of a narrow slanted valley, one voxel, ten channels."""
    turned = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)).double())[0]
    narrow = (turned * torch.logspace(0, -2, 10, dtype=torch.float64)) @ turned.T
    value = -torch.einsum("ij,bjhw->bihw", narrow, images - 0.5).square().sum(1, keepdim=True)
    return torch.cat([torch.zeros_like(value), 5 * value], 1)


@pytest.mark.parametrize(
    ("loss", "hard"), [("ce", False), ("dice", False), ("margin", False), ("ce", True), ("margin", True)]
)
def test_follows_the_loop_over_samples(loss, hard, make_case, monkeypatch):
    """Samples must be the same alone and in a batch: a pointwise float64 net, or a valley in single voxels."""
    model, images, labels = make_case((6, 5, 4), batch=3, classes=4, pointwise=True, dtype=torch.float64)
    if hard:
        generator = torch.Generator().manual_seed(1)
        model, images = valley, torch.rand(8, 10, 1, 1, generator=generator, dtype=torch.float64)
        labels = torch.zeros(8, 1, 1, 1, dtype=torch.int64)
    etas: list[Tensor] = []
    update = StepSizes.update

    def recorded(self, *args):
        result = update(self, *args)
        etas.append(self.eta.flatten().clone())
        return result

    monkeypatch.setattr(StepSizes, "update", recorded)
    attack = APGD(eps=0.3, steps=100, loss=loss, reduce_radius=False)
    _, visited, seen = visit(attack, model, images, labels)
    sequences = set()
    for i in range(len(images)):
        points, halvings = reference(model, images[[i]], labels[[i]], visited[0][[i]], 0.3, 100, loss)
        torch.testing.assert_close(visited[:, [i]], points, atol=1e-9, rtol=0)
        ours = [k for k in range(1, 100) if etas[k][i] < etas[k - 1][i]]
        assert ours == halvings
        assert all(etas[k][i] == etas[k - 1][i] / 2 for k in ours)
        sequences.add(tuple(ours))
    assert etas[0].tolist() == [0.6] * len(images)
    assert len(sequences) >= 3 or not hard, "every sample halves at times of its own"
    assert len(seen) == 101


def test_restart_goes_back_to_the_highest_loss():
    """Scripted losses: the sample that oscillates restarts from its best point, the climbing one goes on."""
    images = torch.rand(2, 1, 3, 3)
    task = Task(nn.Conv2d(1, 2, 1), images, torch.zeros(2, 1, 3, 3, dtype=torch.int64), None, [0, 1])
    state = StepSizes(task, 0.1, 10)  # checkpoints 2, 3, 4, ...
    assert list(checkpoints(10))[:3] == [2, 3, 4]
    points = [torch.full_like(images, float(k)) for k in range(5)]
    losses = [[1.0, 1.0], [5.0, 2.0], [3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]
    etas, bases = [], []
    for k, (point, loss) in enumerate(zip(points, losses, strict=True)):
        base, gradient = state.update(k, point, -point, torch.tensor(loss))
        assert torch.equal(gradient, -base), "the gradient belongs to the point"
        etas.append([round(value, 6) for value in state.eta.flatten().tolist()])
        bases.append(base[:, 0, 0, 0].tolist())
    # Sample 0: one rise in two at step 2, so it halves and restarts from step 1; then it rises at 3 (no halving),
    # but reaches step 4 without a new best since the last checkpoint, where it did not halve.
    assert bases == [[0, 0], [1, 1], [1, 2], [3, 3], [1, 4]]
    assert etas == [[0.2, 0.2], [0.2, 0.2], [0.1, 0.2], [0.1, 0.2], [0.05, 0.2]]


# --- radius stages ------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.05, 0.4, 0.7])
def test_stages_visit_their_balls_and_return_from_the_last(eps, make_case):
    model, images, labels = make_case((6, 5, 4), batch=4)
    result, visited, seen = visit(APGD(eps=eps, steps=30), model, images, labels)
    assert (len(visited), model.backwards) == (31, 30)
    distance = (visited - images).abs().flatten(2).amax(2)
    low, high = ball(images, eps)
    for first, last, radius in ((0, 9, min(2 * eps, 1)), (9, 18, min(1.5 * eps, 1)), (18, 31, eps)):
        assert distance[first:last].max() <= radius
        assert distance[first:last].max() > 0.8 * min(radius, 0.9)
    inside = ((visited >= low) & (visited <= high)).flatten(2).all(2)
    assert not inside[:18].all()
    assert inside[18:].all()
    metric = torch.stack([info.metric for info in seen])
    for sample in range(4):
        best = min(range(18, 31), key=lambda k: (metric[k, sample], -seen[k].loss[sample]))
        assert torch.equal(result[sample], visited[best, sample])
        assert seen[-1].best_step[sample] == best
    assert (metric[:18].amin(0) < metric[18:].amin(0)).any(), "a better point outside eps was there to refuse"


def test_a_stage_starts_from_the_best_point_of_the_last_one(make_case):
    model, images, labels = make_case(batch=3)
    _, visited, seen = visit(APGD(eps=0.1, steps=30), model, images, labels)
    for first, last, radius in ((0, 9, 0.15), (9, 18, 0.1)):
        low, high = ball(images, radius)
        for sample in range(3):
            best = min(range(first, last), key=lambda k: (seen[k].metric[sample], -seen[k].loss[sample]))
            start = visited[best].clamp(low, high)[sample]
            torch.testing.assert_close(visited[last, sample], start)


def test_restarts_start_anew_and_keep_the_worst(make_case):
    model, images, labels = make_case(batch=3)
    attack = APGD(eps=0.1, steps=10, restarts=3, reduce_radius=False)
    _, visited, seen = visit(attack, model, images, labels)
    assert len(visited) == len(seen) == 33
    assert seen[-1].steps == 32
    metric = torch.stack([info.metric for info in seen])
    best = seen[-1].best_step
    assert torch.equal(metric.gather(0, best[None])[0], metric.amin(0))
    starts = visited[[0, 11, 22]]
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


# --- losses, warnings, strength -----------------------------------------------------------------


@pytest.mark.parametrize("make", [APGD, PGD])
def test_dlr_needs_three_classes_and_says_so_at_the_first_forward(make, make_case):
    model, images, labels = make_case(classes=2)
    with pytest.raises(ValueError, match="K >= 3 classes, got 2"):
        make(loss="dlr", steps=10)(model, images, labels)
    assert (model.forwards, model.backwards) == (1, 0)
    model, images, labels = make_case(classes=3)
    make(loss="dlr", steps=10)(model, images, labels)


def test_short_runs_warn_at_the_callers_line():
    with pytest.warns(UserWarning, match="APGD: steps = 9") as caught:
        APGD(steps=9)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        APGD(steps=10)
        APGD(steps=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: expected an integer >= 0"),
        ({"restarts": 0}, "restarts: expected an integer >= 1"),
        ({"reduce_radius": 1}, "reduce_radius: expected True or False"),
        ({"loss": "CE"}, "loss: expected one of"),
    ],
)
def test_bad_hyper_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        APGD(**settings)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_loss_hurts(loss, make_case, naive_dice):
    model, images, labels = make_case(batch=4)
    adversarial = APGD(eps=0.1, steps=20, loss=loss)(model, images, labels)
    before, after = (naive_dice(model(x).argmax(1), labels, 3) for x in (images, adversarial))
    assert (after < before - 0.1).all()


class Classifier(nn.Module):
    """A problem that a classification library knows too: one voxel, ten channels."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(10, 16, 1), nn.Tanh(), nn.Conv2d(16, 16, 1)).double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body[2](self.body[1](self.body[0](x).sin()))


@pytest.mark.parametrize("seed", range(3))
def test_walks_like_torchattacks(seed, monkeypatch):
    torchattacks = pytest.importorskip("torchattacks")
    model = Classifier(seed).eval()
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(24, 10, 1, 1, generator=source, dtype=torch.float64)
    labels = model(images).argmax(1, keepdim=True)
    theirs: list[Tensor] = []
    flat = nn.Module()
    flat.forward = lambda x: theirs.append(x.detach().clone()) or model(x).flatten(1)
    other = torchattacks.APGD(flat, eps=0.2, steps=50, loss="ce")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, _, highest, _ = other.attack_single_run(images, labels.flatten())
    unit = (theirs[0] - images) / 0.2
    # Both start from the same point: ours draws from U(0, 1) and stretches.
    monkeypatch.setattr(Task, "noise", lambda self, draw: (unit + 1) / 2)
    attack = APGD(eps=0.2, steps=50, loss="ce", reduce_radius=False)
    _, ours, seen = visit(attack, model, images, labels)
    # torchattacks compares the first loss with 0 where there is nothing before it: leave those samples out.
    losses = torch.stack([info.loss for info in seen])
    same = losses[1] > losses[0]
    assert same.sum() >= 12
    torch.testing.assert_close(ours[:, same], torch.stack(theirs)[:, same], atol=1e-6, rtol=0)
    torch.testing.assert_close(losses.amax(0)[same], highest[same], atol=1e-5, rtol=0)
    assert losses.amax(0).mean() > highest.mean() - 0.02


def test_is_at_least_as_strong_as_pgd_on_average(make_case, naive_dice):
    means = {}
    for attack in (PGD(eps=0.05, steps=50), APGD(eps=0.05, steps=50)):
        scores = []
        for seed in range(3):
            model, images, labels = make_case((8, 8, 8), batch=2, seed=seed, classes=4)
            scores.append(naive_dice(model(attack(model, images, labels)).argmax(1), labels, 4))
        means[type(attack).__name__] = torch.cat(scores).mean().item()
    assert means["APGD"] <= means["PGD"] + 0.005
