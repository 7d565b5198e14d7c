"""Checks of the model: each with a control that has the defect and one that has not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import grad as imported_grad

from robustvox.attacks import GN, PGD, VAFA
from robustvox.benchmark.studies.sanity import CHECKS, run_checks


@pytest.mark.parametrize("id", ["C7", "C9", "C10", "C11", "C12", "C16"])
def test_a_sound_model_passes(outcome, id):
    result = outcome(id)
    assert (result.status, result.flag) == ("pass", "")
    assert result.number is not None


def test_quantized_inputs_have_no_gradient(outcome, controls):
    result = outcome("C7", controls.Masked())
    assert (result.status, result.number, result.flag) == ("fail", 1.0, "C7:fail")


def test_some_dead_voxels_are_a_warning(outcome, controls):
    class Cropped(controls.Nearest):
        def forward(self, images):
            # The last two of nine slices never reach the logits.
            return super().forward(torch.cat([images[..., :7], images[..., 7:].detach()], -1))

    result = outcome("C7", Cropped(width=1))
    assert result.status == "warn"
    assert result.number == pytest.approx(2 / 9)


def test_one_gradient_that_is_not_finite_fails(outcome, controls):
    class Rooted(controls.Nearest):
        def forward(self, images):
            # The square root of zero: finite value, infinite slope.
            return super().forward(images) + (images - images.detach()).sqrt()

    result = outcome("C7", Rooted())
    assert result.status == "fail"
    assert "100.0% not finite" in result.detail


def test_noise_needs_no_gradient(outcome, controls):
    result = outcome("C7", controls.Masked(), GN())
    assert (result.status, result.detail) == ("skip", "a noise control, no attack")


def test_dropout_in_eval_is_found(outcome, controls):
    assert outcome("C9", controls.Restless()).status == "fail"
    assert outcome("C1", controls.Restless()).status == "fail"
    assert outcome("C18", controls.Restless()).status == "fail"


def test_probabilities_are_found_although_attacks_refuse_them(volumes, strong, controls):
    results = {
        r.id: r for r in run_checks(controls.Probabilities(), strong, volumes(), num_classes=3, queries=5)
    }
    assert list(results) == list(CHECKS)
    assert results["C10"].status == "fail"
    assert "remove the softmax" in results["C10"].detail
    assert results["C1"].status == "fail"
    assert "expected logits, got probabilities" in results["C1"].detail
    assert (results["C2"].status, results["C2"].detail) == ("skip", "same error as C1")
    assert [r.id for r in results.values() if r.status == "fail"] == ["C1", "C10"]


def test_positive_logits_are_no_probabilities(outcome, controls):
    class Positive(controls.Nearest):
        def forward(self, images):
            return torch.sigmoid(super().forward(images))

    assert outcome("C10", Positive()).status == "pass"


def test_class_counts_must_agree(outcome, volumes, controls):
    assert outcome("C11", num_classes=4).status == "fail"

    class Two(controls.Nearest):
        def forward(self, images):
            return super().forward(images)[:, :2]

    cases = [replace(volume, label=volume.label % 2) for volume in volumes(1)]
    assert outcome("C11", Two(), num_classes=2, cases=cases).status == "pass"
    assert outcome("C11", Two(), PGD(loss="dlr"), num_classes=2, cases=cases).status == "fail"


@pytest.mark.parametrize("way", ["attribute", "imported", "backward"])
def test_inner_optimization_is_found_and_autograd_restored(outcome, controls, way):
    class Purifier(controls.Nearest):
        """Moves its input towards certainty before it predicts."""

        def forward(self, images):
            with torch.enable_grad():
                inner = images.detach().clone().requires_grad_()
                energy = super().forward(inner).logsumexp(1).sum()
                if way == "backward":
                    energy.backward()
                    gradient = inner.grad
                else:
                    take = torch.autograd.grad if way == "attribute" else imported_grad
                    (gradient,) = take(energy, inner)
            return super().forward(images + 1e-3 * gradient.sign())

    before = torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward
    result = outcome("C12", Purifier())
    assert (result.status, result.number) == ("fail", 1.0)
    assert (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward) == before


def test_autograd_is_restored_when_the_model_raises(outcome, controls):
    class Broken(controls.Nearest):
        def forward(self, images):
            raise KeyError("weights")

    before = torch.autograd.grad, torch.Tensor.backward
    result = outcome("C12", Broken())
    assert (result.status, result.detail) == ("fail", "KeyError: 'weights'")
    assert (torch.autograd.grad, torch.Tensor.backward) == before


def test_a_model_with_two_faces_is_found(outcome, controls):
    class TwoFaced(controls.Nearest):
        def forward(self, images):
            logits = super().forward(images)
            return logits.roll(1, 1) if torch.is_grad_enabled() else logits

    assert outcome("C16", TwoFaced()).status == "fail"
    assert outcome("C16", protocol="tiles").status == "warn"


def test_a_model_that_breaks_midway_loses_no_check(volumes, strong, controls):
    class Tired(controls.Nearest):
        forwards = 0

        def forward(self, images):
            Tired.forwards += 1
            if Tired.forwards > 40:
                raise RuntimeError("no memory for /somewhere/secret/cache.bin")
            return super().forward(images)

    results = run_checks(Tired(), strong, volumes(), num_classes=3)
    assert [r.id for r in results] == list(CHECKS)
    assert results[0].status == "pass"
    failed = [r for r in results if r.status == "fail"]
    assert [r.detail for r in failed] == ["RuntimeError: no memory for cache.bin"]
    assert sum(r.detail == f"same error as {failed[0].id}" for r in results) > 5


def test_nan_never_passes(volumes, strong, controls):
    class Nan(controls.Nearest):
        def forward(self, images):
            return super().forward(images) * float("nan")

    results = run_checks(Nan(), strong, volumes(), num_classes=3)
    assert "pass" not in {r.status for r in results}


def test_the_model_is_evaluated_in_eval_mode_and_left_as_it_was(outcome, volumes, controls):
    model = nn.Sequential(nn.Dropout(0.5), controls.Nearest())
    model.train()
    assert outcome("C1", model).status == outcome("C9", model).status == "pass"
    run_checks(model, VAFA(block_size=8, steps=1), volumes(1), num_classes=3, only="C7,C9,C16,C22")
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
