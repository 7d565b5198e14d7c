"""Square: schedule, boxes, budget and acceptance of the gradient-free search."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import PGD, Square, Uniform
from robustvox.attacks.base import ball
from robustvox.attacks.square import box_sides


def visit(attack, model, images, labels, **more):
    visited, seen = [], []
    result = attack(
        lambda x: visited.append(x.detach().clone()) or model(x), images, labels, on_step=seen.append, **more
    )
    return result, torch.stack(visited), seen


# --- schedule and boxes -------------------------------------------------------------------------


def test_share_halves_after_the_published_numbers_of_queries():
    attack = Square(queries=10_000)
    halvings = [q for q in range(2, 10_001) if attack.share(q) < attack.share(q - 1)]
    assert halvings == [11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001]
    assert attack.share(1) == 0.8
    assert attack.share(10_000) == 0.8 / 2**9


@pytest.mark.parametrize("queries", [1, 7, 100, 1000, 5000, 25_000])
def test_share_scales_with_the_budget(queries):
    attack, full = Square(queries=queries, p_init=0.5), Square(queries=10_000, p_init=0.5)
    for query in {1, (queries + 1) // 2, queries}:
        at = query * 10_000 // queries
        assert attack.share(query) == (full.share(at) if at else 0.5)
    assert attack.share(queries) == 0.5 / 2**9


@settings(max_examples=200, deadline=None)
@given(spatial=st.lists(st.integers(1, 40), min_size=2, max_size=4), share=st.floats(1e-4, 1))
def test_sides_fit_and_are_a_cube_where_they_can(spatial, share):
    sides = box_sides(spatial, share)
    assert all(1 <= side <= length for side, length in zip(sides, spatial, strict=True))
    free = [side for side, length in zip(sides, spatial, strict=True) if side < length]
    assert max(free, default=1) - min(free, default=1) <= 0
    assert all(side <= min(free, default=side) for side in sides)
    cube = (share * math.prod(spatial)) ** (1 / len(spatial))
    if cube <= min(spatial):
        assert sides == [max(1, round(cube))] * len(spatial)


def test_thin_volumes_keep_the_share():
    assert box_sides((96, 96, 16), 0.8) == [86, 86, 16]
    assert math.prod(box_sides((96, 96, 16), 0.8)) == pytest.approx(0.8 * 96 * 96 * 16, rel=0.01)
    assert box_sides((96, 96, 96), 0.8) == [89, 89, 89]
    assert box_sides((5, 1, 7), 1.0) == [5, 1, 7]
    assert box_sides((64, 48), 0.1) == [18, 18]


@pytest.mark.parametrize("spatial", [(9, 8), (7, 8, 6), (12, 12, 2)])
def test_start_is_stripes_and_every_query_one_box(spatial, make_case):
    model, images, labels = make_case(spatial, channels=2, dtype=torch.float64)
    attack = Square(eps=0.1, queries=150)
    _, visited, seen = visit(attack, model, images, labels)
    low, high = ball(images, 0.1)
    assert ((visited == low) | (visited == high)).all(), "every point is a corner of the ball"
    up = visited == high
    assert (up[0] == up[0][:, :, :1]).all(), "stripes along the first spatial axis"
    assert 0.3 < up[0].double().mean() < 0.7
    assert not torch.equal(up[0, 0], up[0, 1])
    touched = [[set(), set()] for _ in spatial]
    for sample in range(2):
        held = 0
        for query in range(1, 151):
            changed = visited[query, sample] != visited[held, sample]
            assert changed.any(), "a query on a known point is wasted"
            sides = box_sides(spatial, attack.share(query))
            where = changed.any(0).nonzero()
            first, last = where.amin(0), where.amax(0)
            assert ((last - first) < torch.tensor(sides)).all()
            box = tuple(slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
            for channel in range(2):
                if changed[channel].any():
                    assert up[query, sample, channel][changed[channel]].unique().numel() == 1
                    assert up[query, sample, channel][box].unique().numel() == 1
            for axis in range(len(spatial)):
                touched[axis][0].add(int(first[axis]))
                touched[axis][1].add(int(last[axis]))
            if seen[query].loss[sample] > seen[held].loss[sample]:
                held = query
        assert held > 0
    assert all(0 in firsts for firsts, _ in touched)
    assert all(length - 1 in lasts for length, (_, lasts) in zip(spatial, touched, strict=True)), "inclusive"


# --- budget, gradients, acceptance --------------------------------------------------------------


@pytest.mark.parametrize("queries", [0, 1, 17])
def test_one_forward_per_query_and_one_for_the_start(queries, make_case):
    model, images, labels = make_case(batch=3)
    result, visited, seen = visit(Square(eps=0.1, queries=queries), model, images, labels)
    assert (len(visited), model.backwards) == (queries + 1, 0)
    assert [info.step for info in seen] == list(range(queries + 1))
    assert {info.steps for info in seen} == {queries}
    if queries == 0:
        assert torch.equal(result, visited[0])
    _, others, _ = visit(
        Square(eps=0.1, queries=queries), model, images, labels, generator=torch.Generator().manual_seed(1)
    )
    assert not torch.equal(visited[0], others[0]), "another seed, another start"


def test_needs_no_gradient(make_case):
    pytest.importorskip("numpy")
    model, images, labels = make_case()

    def outside(x):
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        with torch.no_grad():
            return torch.from_numpy(model(x).numpy().copy())

    assert torch.equal(Square(queries=20)(outside, images, labels), Square(queries=20)(model, images, labels))


def test_returns_the_best_evaluated_point_per_sample(make_case, naive_dice):
    model, images, labels = make_case(batch=3, classes=4)
    result, visited, seen = visit(Square(eps=0.1, queries=60), model, images, labels)
    metrics = torch.stack([naive_dice(model(x).argmax(1), labels, 4) for x in visited])
    torch.testing.assert_close(metrics, torch.stack([info.metric for info in seen]))
    for sample in range(3):
        best = min(range(61), key=lambda q: (seen[q].metric[sample], -seen[q].loss[sample]))
        assert torch.equal(result[sample], visited[best, sample])
        assert seen[-1].best_step[sample] == best
    assert seen[-1].best_step.min() > 0


def test_a_finished_sample_does_not_freeze_the_others(make_case):
    model, images, labels = make_case(batch=3, pointwise=True, dtype=torch.float64)
    prediction = model(images).argmax(1, keepdim=True)
    labels[1] = (prediction[1] > 0).logical_not().long()  # nothing of it is right
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    attack = Square(eps=0.1, queries=40)
    together, _, seen = visit(attack, model, images, labels, generator=seeds)
    assert seen[0].metric[1] == 0
    for i in range(3):
        alone = attack(model, images[[i]], labels[[i]], generator=torch.Generator().manual_seed(i))
        assert torch.equal(together[[i]], alone)
    assert seen[-1].best_step[0] > 5


def test_a_broken_evaluation_is_not_accepted(make_case):
    model, images, labels = make_case(batch=2, pointwise=True, dtype=torch.float64)
    calls = []

    def sometimes(x):
        calls.append(1)
        logits = model(x)
        return torch.where(torch.tensor(len(calls) % 3 == 2), torch.nan, logits)

    result, visited, seen = visit(Square(eps=0.1, queries=40), sometimes, images, labels)
    broken = [q for q in range(41) if q % 3 == 1]
    assert all(not torch.isfinite(seen[q].loss).any() for q in broken)
    assert all(not torch.equal(result[i], visited[q, i]) for q in broken for i in range(2))
    assert seen[-1].best_step.min() > 5


def test_more_queries_hurt_more_and_noise_less(make_case, naive_dice):
    means = []
    for attack in (Uniform(eps=0.1, corners=True), Square(eps=0.1, queries=50), Square(eps=0.1, queries=400)):
        scores = []
        for seed in range(3):
            model, images, labels = make_case((8, 8, 8), seed=seed)
            scores.append(naive_dice(model(attack(model, images, labels)).argmax(1), labels, 3))
        means.append(torch.cat(scores).mean().item())
    assert means[1] < means[0] - 0.02
    assert means[2] < means[1] - 0.02


def test_sees_through_a_masked_gradient(make_case, naive_dice):
    """The probe that Square is for: rounding hides the gradient from PGD and not from queries."""
    model, images, labels = make_case((8, 8, 8))

    def rounded(x):
        return model((x * 255).round() / 255 + 0 * x)

    scores = []
    for attack in (PGD(eps=0.1, random_start=False), Square(eps=0.1, queries=100)):
        scores.append(naive_dice(model(attack(rounded, images, labels)).argmax(1), labels, 3).mean())
    assert scores[1] < scores[0] - 0.05


def test_targets_are_approached(make_case):
    model, images, labels = make_case(batch=4)
    targets = model(images).argmax(1, keepdim=True).roll(2, 2)
    result = Square(eps=0.1, queries=200, loss="ce")(model, images, labels, targets=targets)
    entropy = [
        torch.nn.functional.cross_entropy(model(x), targets[:, 0], reduction="none").flatten(1).mean(1)
        for x in (images, result)
    ]
    assert (entropy[1] < entropy[0]).all()


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"queries": -1}, "queries: expected an integer >= 0, got -1"),
        ({"queries": 2.5}, "queries: expected an integer"),
        ({"p_init": 0}, r"p_init: expected a number in \(0, 1\], got 0"),
        ({"p_init": 1.5}, "p_init: expected a finite number in"),
        ({"loss": "l2"}, "loss: expected one of"),
    ],
)
def test_bad_hyper_parameters(settings_, message):
    with pytest.raises(ValueError, match=message):
        Square(**settings_)
