"""Checks of what is scored: files, batches, metrics, and attacks without an L-inf radius."""

from __future__ import annotations

from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import pytest
import torch

from robustvox.attacks import FGSM, VAFA, Attack, Uniform
from robustvox.benchmark.studies.sanity import budget


@pytest.mark.parametrize("id", ["C1", "C13", "C18", "C20"])
def test_a_sound_attack_passes(outcome, id):
    assert outcome(id).status == "pass"


@dataclass(frozen=True, kw_only=True)
class Outside(Attack):
    """Leaves its ball."""

    eps: float = 8 / 255
    factor: float = 2.0

    @property
    def radius(self):
        return self.eps

    def perturb(self, task):
        return task.images + self.factor * self.eps


@pytest.mark.parametrize(("factor", "status"), [(2.0, "fail"), (float("nan"), "fail"), (1.0, "pass")])
def test_the_audit_measures_by_itself(outcome, monkeypatch, factor, status):
    # The base class refuses such results; the check must not rely on that.
    monkeypatch.setattr(Attack, "_audited", lambda self, result, images: result)
    result = outcome("C13", attack=Outside(factor=factor))
    assert result.status == status
    if factor == 2:
        assert result.number == pytest.approx(16 / 255, abs=1e-6)


def test_a_lossy_file_is_found(outcome, monkeypatch):
    def rounded(folder, volume, image, _note):
        path = folder / "x.nii.gz"
        nib.save(nib.Nifti1Image(np.round(image[0] * 255) / 255, volume.affine), path)
        return path

    monkeypatch.setattr(budget, "save_adversarial", rounded)
    result = outcome("C13")
    assert result.status == "fail"
    assert "case_0: expected the scored volume from its file" in result.detail


def test_several_channels_survive_the_file(outcome, volumes, controls):
    class First(controls.Nearest):
        def forward(self, images):
            return super().forward(images[:, :1])

    cases = [replace(v, image=np.concatenate([v.image, 1 - v.image])) for v in volumes(1)]
    assert outcome("C13", First(), cases=cases).status == "pass"


@dataclass(frozen=True, kw_only=True)
class Timid(Outside):
    """Moves one voxel."""

    def perturb(self, task):
        moved = task.images.clone()
        moved[..., 0, 0, 0] += self.eps
        return moved


def test_few_voxels_at_the_edge_are_a_warning_for_attacks_only(outcome):
    assert outcome("C13", attack=Timid()).status == "warn"
    assert outcome("C13", attack=Uniform()).status == "pass"


@dataclass(frozen=True, kw_only=True)
class Coupled(Attack):
    """Looks at its neighbors in the batch."""

    def perturb(self, task):
        return task.images * task.images.mean().clamp(0, 1)


_CALLS: list[int] = []


@dataclass(frozen=True, kw_only=True)
class Learning(Attack):
    """Keeps state between calls."""

    def perturb(self, task):
        _CALLS.append(1)
        return task.images / (1 + len(_CALLS))


def test_company_and_state_are_found(outcome, volumes):
    together = outcome("C18", attack=Coupled())
    assert (together.status, together.detail) == ("fail", "two cases as one batch")
    assert outcome("C18", attack=Coupled(), cases=volumes(2, growing=True)).status == "pass"
    for cases in (volumes(2), volumes(2, growing=True), volumes(1)):
        assert outcome("C18", attack=Learning(), cases=cases).status == "fail"


@pytest.mark.parametrize(("count", "growing"), [(2, True), (1, False)])
def test_order_stands_in_for_the_batch(outcome, volumes, count, growing):
    result = outcome("C18", cases=volumes(count, growing))
    assert result.status == "pass"
    assert "reverse order" in result.detail


@dataclass(frozen=True, kw_only=True)
class Tidy(Attack):
    """Halves each organ and removes the false voxels far away, as no adversary would."""

    def perturb(self, task):
        inside = (task.labels > 0) & (torch.arange(task.labels.shape[-2]) < 6).view(-1, 1)
        return torch.where(inside, task.images, 0.5)


def test_a_better_distance_with_a_worse_overlap_is_found(outcome, volumes, controls):
    cases = volumes(1)
    cases[0].image[:, 0, 0] = cases[0].image[:, 0, 10] = 0.4
    cases[0].image[:, 9, 0] = cases[0].image[:, 9, 10] = 0.6
    result = outcome("C20", controls.Nearest(width=1), Tidy(), cases=cases)
    assert (result.status, result.number) == ("warn", 1.0)


@dataclass(frozen=True, kw_only=True)
class Blackout(Attack):
    """Removes the image."""

    def perturb(self, task):
        return torch.zeros_like(task.images)


def test_attacks_without_a_radius_are_compared_by_distance(outcome):
    small, large = outcome("C21", attack=VAFA(block_size=8, steps=1)), outcome("C21", attack=Blackout())
    assert (small.status, large.status, large.flag) == ("pass", "warn", "")
    assert large.number == pytest.approx(0.5 / (8 / 255), rel=0.05)
    assert outcome("C21", attack=FGSM()).status == "skip"


def test_renormalization_without_quantization_is_found(outcome):
    assert outcome("C22", attack=VAFA(block_size=8, steps=2)).status == "pass"
    stretched = outcome("C22", attack=VAFA(block_size=8, steps=2, renorm="slice"))
    assert (stretched.status, stretched.flag) == ("fail", "C22:fail")
    assert outcome("C22", attack=FGSM()).status == "skip"
