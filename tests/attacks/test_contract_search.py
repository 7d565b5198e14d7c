"""The contract: the best visited point is returned, more budget and more effort hurt more, targets are met."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from robustvox.attacks import ATTACKS, PGD, Attack, StepInfo
from robustvox.attacks.base import ball
from robustvox.attacks.losses import LOSSES
from robustvox.attacks.task import BestIterate, input_gradient

#: attacks with a step size whose other schedules know how many steps there will be
HORIZON = {"annealed", "segpgd"}

#: budget knob -> three values that must hurt more and more
LADDERS = {
    "eps": (2 / 255, 8 / 255, 32 / 255),
    "std": (2 / 255, 8 / 255, 32 / 255),
    "q_max": (5.0, 20.0, 80.0),
    "rho": (0.05, 0.2, 0.8),
}


@dataclass
class Trace:
    """What an attack evaluated: the points, as the model saw them, and what the observer was told."""

    points: list[Tensor] = field(default_factory=list)
    seen: list[StepInfo] = field(default_factory=list)
    result: Tensor | None = None


def trace(attack, case, **call) -> Trace:
    kept = Trace()
    hook = case.model.register_forward_pre_hook(
        lambda _, given: kept.points.append(given[0].detach().clone())
    )
    try:
        kept.result = attack(*case, on_step=kept.seen.append, **call)
    finally:
        hook.remove()
    return kept


def check_best(attack, case, naive_dice, targets=None):
    """Per sample the result is the visited point inside the ball with the lowest metric, and `on_step` says so.

    Ties go to the higher loss and then to the earlier point.
    """
    kept = trace(attack, case, targets=targets)
    classes = case.model.body[-1].out_channels
    aim = case.labels if targets is None else targets
    with torch.no_grad():
        metrics = torch.stack([naive_dice(case.model(x).argmax(1), aim, classes) for x in kept.points])
    metrics = metrics if targets is None else 1 - metrics
    assert [info.step for info in kept.seen] == list(range(len(kept.points)))
    assert {info.steps for info in kept.seen} == {len(kept.points) - 1}
    told = torch.stack([info.metric for info in kept.seen])
    torch.testing.assert_close(told, metrics)
    metrics = told  # the same up to rounding; which of two points is lower by rounding is not at stake
    losses = torch.stack([info.loss for info in kept.seen])
    low, high = ball(case.images, 1.0 if attack.radius is None else attack.radius)
    for sample in range(len(case.images)):
        inside = [
            step for step, point in enumerate(kept.points) if ((low <= point) & (point <= high))[sample].all()
        ]
        best = int(kept.seen[-1].best_step[sample])
        assert best in inside
        assert torch.equal(kept.result[sample], kept.points[best][sample])
        lowest = min(metrics[step, sample].item() for step in inside)
        assert metrics[best, sample].item() == lowest
        ties = [step for step in inside if metrics[step, sample] == lowest]
        assert best == max(ties, key=lambda step: (losses[step, sample].item(), -step))
    return kept


def check_prefix(attack, case, steps=3, more=4):
    """A longer run begins with the shorter one and ends at most as far from the goal, per sample."""
    short, long = (trace(replace(attack, steps=n), case) for n in (steps, steps + more))
    for a, b in zip(short.points, long.points, strict=False):
        assert torch.equal(a, b)
    ends = [
        torch.stack([info.metric for info in kept.seen]).gather(0, kept.seen[-1].best_step[None])[0]
        for kept in (short, long)
    ]
    assert (ends[1] <= ends[0]).all()


def remaining(make_case, naive_dice, attack, problems=4, batch=8, **call) -> float:
    """Mean Dice that the attack leaves over problems x batch random small problems."""
    total = 0.0
    for seed in range(problems):
        case = make_case((5, 6, 7), batch=batch, seed=seed)
        adversarial = attack(*case, **call)
        with torch.no_grad():
            total += naive_dice(case.model(adversarial).argmax(1), case.labels, 3).mean().item()
    return total / problems


def check_ladder(attacks, make_case, naive_dice):
    """Of attacks with growing budgets each leaves less Dice than the one before, on average of 32 problems."""
    left = [remaining(make_case, naive_dice, attack) for attack in attacks]
    assert left == sorted(left, reverse=True), left
    assert left[0] > left[-1] + 0.01, left


def check_led(attack, make_case, naive_dice):
    """Towards the targets: against the start, at the end of the steps too, and against the same untargeted.

    The targets are what the net says of a noisy volume: near the labels, so that fleeing those is no way there.
    """
    entropy, dice = torch.zeros(4), torch.zeros(4)
    for seed in range(6):
        case = make_case((5, 6, 7), batch=4, seed=seed)
        source = torch.Generator().manual_seed(seed)
        noise = 0.1 * torch.randn(case.images.shape, generator=source)
        with torch.no_grad():
            targets = case.model((case.images + noise).clamp(0, 1)).argmax(1, keepdim=True)
        fled = attack(*case, generator=torch.Generator().manual_seed(seed))
        led = trace(attack, case, generator=torch.Generator().manual_seed(seed), targets=targets)
        for i, images in enumerate((led.points[0], fled, led.result, led.points[-1])):
            with torch.no_grad():
                logits = case.model(images)
                entropy[i] += LOSSES["ce"](logits, targets, None).mean() / 6
                dice[i] += naive_dice(logits.argmax(1), targets, 3).mean() / 6
    assert entropy[2] < entropy[0] - 0.003, entropy
    assert entropy[2] < entropy[1] - 0.003, entropy
    assert dice[2] > dice[0] + 0.002, dice
    assert dice[2] > dice[1] + 0.002, dice
    if hasattr(attack, "steps"):  # others end with a proposal that may be refused
        assert entropy[3] < entropy[0] - 0.003, entropy


# --- best iterate -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_returns_the_best_visited_point_per_sample(tracking_key, seed, make_case, quick, effort, naive_dice):
    case = make_case(batch=3, seed=seed, classes=5)
    attack = quick(tracking_key, **effort(tracking_key, 9))
    kept = check_best(attack, case, naive_dice)
    if attack.radius is not None and not getattr(attack, "reduce_radius", False):
        low, high = ball(case.images, attack.radius)
        assert all(((low <= point) & (point <= high)).all() for point in kept.points)


def test_returns_the_best_point_for_targets(tracking_key, make_case, quick, effort, naive_dice):
    case = make_case(batch=3, classes=5)
    attack = quick(tracking_key, **effort(tracking_key, 9))
    check_best(attack, case, naive_dice, targets=(case.labels + 1) % 5)


def test_wide_stages_are_visited_but_not_returned(make_case, quick, naive_dice):
    """The points of APGD's first stages lie outside the ball of eps and hurt more."""
    attack = quick("apgd", steps=10, eps=4 / 255)
    outside = 0
    for seed in range(4):
        case = make_case(batch=3, seed=seed, classes=5)
        kept = check_best(attack, case, naive_dice)
        metrics = torch.stack([info.metric for info in kept.seen])
        chosen = metrics.gather(0, kept.seen[-1].best_step[None])[0]
        assert (kept.seen[-1].best_step >= 6).all()
        outside += int((metrics[:6].min(0).values < chosen).sum())
        low, high = ball(case.images, attack.eps)
        assert not ((low <= kept.points[0]) & (kept.points[0] <= high)).all()
    assert outside > 0, "the wide balls never hurt more: this test shows nothing"


def test_a_point_where_the_model_returns_nan_is_never_returned(tracking_key, make_case, quick):
    model, images, labels = make_case()
    visited = []

    def breaks_later(x):
        visited.append(x.detach().clone())
        return model(x) * (float("nan") if len(visited) > 1 else 1.0)

    adversarial = quick(tracking_key)(breaks_later, images, labels)
    assert torch.equal(adversarial, visited[0])


def test_a_longer_run_is_never_weaker(alpha_key, make_case, quick):
    """Where no schedule depends on the number of steps: with a given alpha, one run is the start of the other."""
    if alpha_key in HORIZON:
        pytest.skip("its schedule depends on the number of steps")
    for seed in range(3):
        check_prefix(quick(alpha_key, alpha=4 / 255), make_case(batch=3, seed=seed, classes=5))


# --- cost ---------------------------------------------------------------------------------------


def test_steps_plus_one_forwards_and_steps_backwards(steps_key, make_case, quick):
    case = make_case()
    seen = []
    quick(steps_key, steps=4)(*case, on_step=seen.append)
    assert (case.model.forwards, case.model.backwards) == (5, 4)
    assert [info.step for info in seen] == [0, 1, 2, 3, 4]
    assert {info.steps for info in seen} == {4}
    assert all(info.loss.shape == info.metric.shape == info.best_step.shape == (2,) for info in seen)


def test_queries_are_forwards_without_backwards(queries_key, make_case, quick):
    """Up to one closing or opening forward; nothing that a black box would not give."""
    case = make_case()
    quick(queries_key, queries=20)(*case)
    assert case.model.forwards in (20, 21)
    assert case.model.backwards == 0
    blind = make_case()
    with torch.no_grad():
        expected = quick(queries_key)(lambda x: blind.model(x).detach(), blind.images, blind.labels)
    assert torch.equal(expected, quick(queries_key)(*blind))


def test_zero_steps_return_the_start(steps_key, make_case, quick):
    kept = trace(quick(steps_key, steps=0), case := make_case())
    assert (case.model.forwards, case.model.backwards, len(kept.seen)) == (1, 0, 1)
    assert torch.equal(kept.result, kept.points[0])


# --- budget and order ---------------------------------------------------------------------------


def test_more_budget_hurts_more_on_average(any_key, make_case, quick, effort, naive_dice):
    names = set(ATTACKS[any_key].__dataclass_fields__)
    knobs = sorted(names & set(LADDERS))
    assert knobs, "name the budget of the attack in LADDERS"
    if len(knobs) > 1 and not quick(any_key).radius:
        knobs.remove("eps")  # an optional extra bound
    work = effort(any_key, 5)
    for knob in knobs:
        attacks = [quick(any_key, **work, **{knob: value}) for value in LADDERS[knob]]
        check_ladder(attacks, make_case, naive_dice)


def test_strength_has_its_order_on_average(make_case, naive_dice):
    eps = 8 / 255
    order = [ATTACKS["uniform"](eps=eps), ATTACKS["fgsm"](eps=eps), PGD(eps=eps, steps=10)]
    order.append(PGD(eps=eps, steps=10, restarts=4))
    check_ladder(order, make_case, naive_dice)


@pytest.mark.parametrize("key", [key for key in ATTACKS if key == "ensemble"])
def test_the_ensemble_is_the_end_of_the_order(key, make_case, naive_dice):
    """As released, on eight problems: it is a fixed standard without knobs and takes long."""
    eps = 8 / 255
    left = [
        remaining(make_case, naive_dice, attack, problems=1)
        for attack in (PGD(eps=eps, steps=10, restarts=4), ATTACKS[key](eps=eps))
    ]
    assert left[1] <= left[0]


def test_gradients_hurt_more_than_noise(bounded_gradient_key, make_case, quick, effort, naive_dice):
    attack = quick(bounded_gradient_key, **effort(bounded_gradient_key, 10))
    noise = quick("uniform", eps=attack.radius)
    left = [remaining(make_case, naive_dice, one) for one in (noise, attack)]
    assert left[1] < left[0] - 0.05, left  # measured: 0.09


def test_queries_hurt_more_than_noise(queries_key, make_case, quick, effort, naive_dice):
    attack = quick(queries_key, **effort(queries_key, 10))
    noise = quick("uniform", eps=attack.radius)
    left = [remaining(make_case, naive_dice, one) for one in (noise, attack)]
    assert left[1] < left[0] - 0.01, left


# --- invariance ---------------------------------------------------------------------------------


def test_names_of_classes_and_shifts_of_logits_do_not_matter(model_key, make_case, quick, effort):
    """Two organs trade names in logits and labels; a number per voxel is added to all logits."""
    model, images, labels = make_case(pointwise=True, dtype=torch.float64)
    attack = quick(model_key, **effort(model_key, 4))
    expected = attack(model, images, labels)
    order = torch.tensor([0, 2, 1])
    renamed = attack(lambda x: model(x)[:, order], images, order[labels])
    shifted = attack(lambda x: model(x) + 3 * images.flip(2), images, labels)
    torch.testing.assert_close(renamed, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(shifted, expected, atol=1e-9, rtol=0)


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 5])
def test_targeted_moves_towards_the_targets(targeted_key, steps, make_case, quick, effort, naive_dice):
    check_led(quick(targeted_key, **effort(targeted_key, steps)), make_case, naive_dice)


# --- the contract catches -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Climb(Attack):
    """Gradient ascent that the subclasses break in one place each."""

    eps: float = 8 / 255
    steps: int = 5

    @property
    def radius(self):
        return self.eps

    def perturb(self, task):
        best, images = BestIterate(task, self.steps), task.images
        for step in range(self.steps + 1):
            images = images.detach().requires_grad_()
            logits = task.logits(images)
            loss = self.aimed(task, logits, step)
            best.offer(images, logits, loss)
            images = images + self.size(step) * input_gradient(loss, images).sign()
            images = images.clamp(*ball(task.images, self.eps))
        return self.chosen(best, images)

    def aimed(self, task, logits, step):
        return task.objective("dice_ce")(logits, step)

    def size(self, step):
        return 2 / 255

    def chosen(self, best, images):
        return best.images


class Last(Climb):
    """Returns the last iterate."""

    def chosen(self, best, images):
        return images.detach()


class Shrinking(Climb):
    """Its steps depend on how many there are."""

    def size(self, step):
        return self.eps / (self.steps - step + 1)


class Halfhearted(Climb):
    """The more budget, the smaller its steps."""

    def size(self, step):
        return 1e-3 / (1 + 1e4 * self.eps**2)


class Wavering(Climb):
    """Turns the direction at every step when targeted, as published code does."""

    def aimed(self, task, logits, step):
        turn = 1 if task.targets is None else (-1) ** step
        return turn * task.objective("dice_ce")(logits, step)


class Fleeing(Climb):
    """Forgets the sign: targeted, it moves away from the targets."""

    def aimed(self, task, logits, step):
        return task.direction * task.objective("dice_ce")(logits, step)


def test_a_climb_without_defect_passes(make_case, naive_dice):
    check_best(Climb(), make_case(batch=3), naive_dice)
    check_prefix(Climb(), make_case(batch=3))
    check_ladder([Climb(eps=eps) for eps in LADDERS["eps"]], make_case, naive_dice)
    check_led(Climb(), make_case, naive_dice)


def test_the_contract_catches_weak_searches(make_case, naive_dice):
    with pytest.raises(AssertionError):
        check_best(Last(), make_case(batch=3), naive_dice)
    with pytest.raises(AssertionError):
        check_prefix(Shrinking(), make_case(batch=3))
    with pytest.raises(AssertionError):
        check_ladder([Halfhearted(eps=eps) for eps in LADDERS["eps"]], make_case, naive_dice)
    with pytest.raises(AssertionError):
        check_ladder([PGD(steps=5), ATTACKS["uniform"]()], make_case, naive_dice)


@pytest.mark.parametrize("broken", [Fleeing(steps=5), Fleeing(steps=4), Wavering(steps=4)])
def test_the_contract_catches_a_wrong_sign(broken, make_case, naive_dice):
    with pytest.raises(AssertionError):
        check_led(broken, make_case, naive_dice)
