"""The ensemble is, per sample, exactly the worst of its members."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from robustvox.attacks import APGD, FGSM, PGD, Annealed, Ensemble, Ensemble2


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def small() -> tuple:
    """Members of a few steps that disagree about which sample they hurt most."""
    return (
        PGD(steps=2, loss="ce"),
        PGD(steps=4, loss="dice"),
        FGSM(eps=2 / 255),
        APGD(steps=10, loss="js", reduce_radius=False),
    )


@pytest.fixture
def quick_ensemble(small):
    class Quick(Ensemble):
        def members(self):
            return small

    return Quick()


@pytest.mark.parametrize("seed", range(6))
def test_result_is_one_member_and_the_worst(seed, make_case, small, quick_ensemble, naive_dice):
    model, images, labels = make_case(batch=3, seed=seed)
    alone = [member(model, images, labels, generator=generator()) for member in small]
    seen = []
    adversarial = quick_ensemble(model, images, labels, generator=generator(), on_step=seen.append)
    with torch.no_grad():
        dice = torch.stack([naive_dice(model(x).argmax(1), labels, 3) for x in alone])
        left = naive_dice(model(adversarial).argmax(1), labels, 3)
    assert torch.equal(left, dice.min(0).values)
    assert [(info.step, info.steps) for info in seen] == [(index, 4) for index in range(1, 5)]
    for sample in range(3):
        winner = int(seen[-1].best_step[sample]) - 1  # step 0 would be the clean volume
        assert dice[winner, sample] == left[sample]
        assert torch.equal(adversarial[sample], alone[winner][sample])


def test_different_samples_may_have_different_members(make_case, quick_ensemble):
    winners = set()
    for seed in range(8):
        model, images, labels = make_case(batch=3, seed=seed)
        seen = []
        quick_ensemble(model, images, labels, on_step=seen.append)
        winners |= {tuple(seen[-1].best_step.tolist())}
    assert any(len(set(winner)) > 1 for winner in winners)


def test_targets_reach_the_members(make_case, quick_ensemble):
    model, images, labels = make_case()
    targets = (labels + 1) % 3
    adversarial = quick_ensemble(model, images, labels, targets=targets)
    with torch.no_grad():
        before = (model(images).argmax(1) == targets[:, 0]).float().mean()
        after = (model(adversarial).argmax(1) == targets[:, 0]).float().mean()
    assert after > before


def test_the_standard_has_no_parameter_but_its_budget():
    assert [field.name for field in dataclasses.fields(Ensemble)] == ["eps"]
    members = Ensemble(eps=4 / 255).members()
    assert all(member.radius == 4 / 255 for member in members)
    assert len(set(members)) == len(members)
    assert Ensemble().min_classes == 2


def test_the_second_has_the_members_of_the_first_and_a_long_annealed_run():
    *first, last = Ensemble2(eps=4 / 255).members()
    assert tuple(first) == Ensemble(eps=4 / 255).members()
    assert last == Annealed(eps=4 / 255, steps=400, momentum=0.9, loss="dice")
    assert [field.name for field in dataclasses.fields(Ensemble2)] == ["eps"]


@pytest.mark.filterwarnings("ignore:APGD")
def test_the_second_is_never_weaker_than_the_first(make_case, naive_dice, monkeypatch):
    monkeypatch.setattr("robustvox.attacks.ensemble._STEPS", 4)
    left = []
    for seed in range(4):
        model, images, labels = make_case(batch=3, seed=seed)
        found = [kind()(model, images, labels, generator=generator()) for kind in (Ensemble, Ensemble2)]
        left.append(torch.stack([naive_dice(model(x).argmax(1), labels, 3) for x in found]))
    first, second = torch.cat(left, 1)
    assert (second <= first).all()
    assert (second < first).any(), "its last member wins nowhere"
