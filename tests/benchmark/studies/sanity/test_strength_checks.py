"""Checks of strength: an attack that works, and attacks with one defect each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from robustvox.attacks import BIM, FGSM, GN, PGD, VAFA, Attack, Square, Uniform
from robustvox.benchmark.studies.sanity import run_checks


def test_an_attack_that_works_passes_everything(volumes, strong, controls):
    results = run_checks(controls.Nearest(), strong, volumes(), num_classes=3, queries=60)
    assert {r.id: r.status for r in results if r.status not in ("pass", "skip")} == {"C17": "warn"}
    assert {r.id for r in results if r.status == "skip"} == {"C21", "C22"}
    assert not any(r.flag for r in results)


@pytest.mark.parametrize("id", ["C3", "C4", "C5", "C6", "C8"])
def test_a_wrong_sign_is_found(outcome, controls, id):
    assert outcome(id, attack=controls.Downhill(eps=24 / 255, steps=5)).status == "fail"


@pytest.mark.parametrize("id", ["C3", "C4", "C5", "C6", "C8"])
def test_masked_gradients_are_found(outcome, controls, id):
    assert outcome(id, controls.Masked()).status == "fail"


@dataclass(frozen=True, kw_only=True)
class Backwards(Attack):
    """Does more with less: darkens by 1/8, unless its budget is large."""

    eps: float = 8 / 255

    def perturb(self, task):
        return (task.images - (0.125 if 0 < self.eps < 0.1 else 0)).clamp(0, 1)


def test_a_curve_that_rises_is_found(outcome):
    result = outcome("C2", attack=Backwards())
    assert result.status == "fail"
    assert result.number > 0.3
    assert "Dice at eps * 255 0: 0.609" in result.detail
    assert "24: " in outcome("C2", attack=FGSM(eps=24 / 255)).detail


@pytest.mark.parametrize("attack", [GN(), VAFA(block_size=8, steps=2, q_max=10.0), Uniform(eps=0.0)])
def test_curves_of_every_kind_of_budget(outcome, attack):
    assert "Dice at" in outcome("C2", attack=attack).detail


def test_step_size_keeps_its_share_of_the_radius(volumes, controls):
    from robustvox.benchmark.craft.named import NamedAttack, NamedModel
    from robustvox.benchmark.studies.sanity.context import Context

    attack = PGD(eps=8 / 255, alpha=1 / 255)
    context = Context(
        NamedModel("n", "", controls.Nearest()), NamedAttack("pgd", attack), volumes(), num_classes=3
    )
    assert context.at(1.0).attack == PGD(eps=1.0, alpha=1 / 8)
    assert context.at(8 / 255).attack == attack


def test_what_does_not_apply_is_skipped_with_its_reason(outcome):
    assert outcome("C3", attack=VAFA(block_size=8, steps=1)).detail == "has no eps"
    assert outcome("C4", attack=FGSM()).detail == "is the single step"
    assert outcome("C5", attack=GN()).detail == "a noise control, no attack"
    assert outcome("C8", attack=Square(eps=0.1)).detail == "follows no gradient"
    assert outcome("C14", attack=FGSM()).detail == "has no alpha"


def test_noise_of_the_same_distance_for_attacks_without_a_radius(outcome, controls):
    broken = outcome("C5", controls.Nearest(width=1), Shift())
    assert broken.status == "fail"
    assert "gaussian of the same L2" in broken.detail


@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    """Moves the whole volume where no class border lies: large, and harmless."""

    def perturb(self, task):
        return torch.where(task.labels == 2, task.images + 0.2, task.images)


def test_too_few_steps_have_not_converged(outcome):
    with pytest.warns(UserWarning, match="cannot reach"):
        attack = PGD(eps=24 / 255, alpha=4 / 255, steps=2)
    result = outcome("C6", attack=attack)
    assert result.status == "fail"
    assert result.number > 0.05


def test_a_step_size_that_matters_is_reported_with_the_best(outcome):
    result = outcome("C14", attack=BIM(eps=12 / 255, alpha=12 / 255, steps=2))
    assert result.status in ("warn", "fail")
    assert "best eps/2" in result.detail


@dataclass(frozen=True, kw_only=True)
class Picky(PGD):
    """Works with one loss only."""

    def perturb(self, task):
        return super().perturb(task) if self.loss == "js" else task.images


def test_a_case_that_one_loss_alone_breaks_is_found(outcome):
    result = outcome("C15", attack=Picky(eps=24 / 255, steps=5, loss="dice"))
    assert (result.status, result.number) == ("warn", 2.0)
    assert "dice 0.609" in result.detail


def test_reference_strength_informs_and_never_flags(outcome, volumes, controls):
    attack = PGD(steps=2, alpha=8 / 255)
    weak = outcome("C17", attack=attack)
    assert (weak.status, weak.flag) == ("warn", "")
    # A third of the contrast: half of what separates two classes is 4/255.
    faint = [replace(volume, image=0.5 + (volume.image - 0.5) * 0.3) for volume in volumes()]
    strong = outcome("C17", controls.Nearest(width=1, levels=(0.5, 0.47, 0.53)), attack, cases=faint)
    assert strong.status == "pass"
    assert strong.number is not None
    assert strong.number < 0.05
