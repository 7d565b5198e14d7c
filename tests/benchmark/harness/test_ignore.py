"""Voxels nobody labelled: not in the attack's loss, not in a score, not in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss
from torch import nn

from robustvox.attacks import FGSM
from robustvox.benchmark import evaluate
from robustvox.benchmark.craft.crafting import craft
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness.scoring import prepare_scorer
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.training.losses import masked_loss
from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.windows import UNLABELLED, Sample, WindowStream
from robustvox.datasets import IntensityWindow, Volume, open_dataset
from robustvox.models import SlidingWindow


class Pointwise(nn.Module):
    """Bright voxels are organ; no voxel sees another."""

    def forward(self, images):
        return torch.cat([0.5 - images, images - 0.5], 1) * 100


@pytest.fixture
def volume() -> Volume:
    label = np.zeros((8, 8, 8), np.int16)
    label[2:5, 2:5, 2:5] = 1
    image = np.where(label, 0.6, 0.4).astype(np.float32)[None]
    ignore = np.zeros(label.shape, bool)
    ignore[5:] = True
    image[:, 5:] = 0.9  # the network calls all of it organ
    return Volume("a", image, label, (1.0,) * 3, np.eye(4), IntensityWindow(0, 1), ignore=ignore)


def test_a_score_leaves_them_out(volume):
    wrong = np.where(volume.image[0] > 0.5, 1, 0)
    data = open_dataset("phantom")
    table = prepare_scorer(data, volume)(wrong)
    assert table["dice"][0] == 1.0
    assert table["hd95_mm"][0] == 0.0
    assert prepare_scorer(data, replace(volume, ignore=None))(wrong)["dice"][0] < 0.3


def test_an_attack_and_its_success_rate_leave_them_out(volume):
    model = NamedModel("pointwise", "", SlidingWindow(Pointwise(), (8, 8, 8)))
    attack = NamedAttack("fgsm", FGSM(eps=0.2, loss="ce"))
    how = {"dataset": "d", "protocol": PROTOCOLS["robustvox-1"], "seed": 0, "device": "cpu"}
    moved = craft(attack, model, volume, **how).images[0].numpy() != volume.image
    assert moved[0][~volume.ignore].all()
    assert not moved[0][volume.ignore].any()
    table = evaluate(
        {"m": Pointwise()}, {"fgsm": attack.attack}, [volume], num_classes=2, roi_size=(8, 8, 8)
    ).table
    assert table.loc[0, "dice_clean"] == 1.0
    assert table.loc[0, "dice_adv"] == 0.0


def test_the_loss_of_training_is_that_of_the_labelled_part():
    criterion = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    logits, labels = torch.randn(2, 3, 6, 6, 6), torch.randint(0, 3, (2, 1, 6, 6, 6))
    counted = torch.ones_like(labels, dtype=torch.bool)
    assert torch.equal(masked_loss(criterion, logits, labels, counted), criterion(logits, labels))
    counted[:, :, 4:] = False
    masked = labels.masked_fill(~counted, UNLABELLED)
    found = masked_loss(criterion, logits, masked, counted)
    torch.testing.assert_close(found, criterion(logits[:, :, :4], labels[:, :, :4]))


def test_windows_carry_them(volume):
    recipe = Recipe(steps=3, batch_size=2)

    def targets(volume):
        stream = WindowStream([Sample.of(volume)], (8, 8, 8), recipe, 0)
        return torch.cat([next(stream).targets for _ in range(recipe.steps)])

    seen = targets(volume)
    assert (seen == UNLABELLED).any()
    assert torch.equal(targets(replace(volume, ignore=None)), seen.clamp_min(0))


def test_a_volume_without_them_keeps_its_fingerprint(volume):
    nothing = replace(volume, ignore=np.zeros(volume.label.shape, bool))
    assert data_fingerprint(replace(volume, ignore=None)) != data_fingerprint(volume)
    assert data_fingerprint(nothing) != data_fingerprint(volume)
