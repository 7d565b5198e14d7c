"""A theft takes what it pays for, no more, and twice the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from robustvox.benchmark.studies.stealing.agreement import foreground_dice
from robustvox.benchmark.studies.stealing.fitting import AnswerLoss
from robustvox.benchmark.studies.stealing.port import QueryPort
from robustvox.benchmark.studies.stealing.scans import Scan
from robustvox.benchmark.studies.stealing.thief import Steal
from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.windows import Sample, WindowStream
from robustvox.datasets.scanner import ScannerShift

ROI = (16, 16, 16)
SMALL = "unet:channels=(8,16,16),num_res_units=0,size=small"


def steal(**more):
    settings = {"budget": 8, "steps": 6, "architecture": SMALL, "roi_size": ROI, "hold_out": 0.25, **more}
    return Steal(**settings)


def agreement(stolen, victim, scans):
    scores = []
    for scan in scans:
        image = torch.from_numpy(scan.image)[None]
        with torch.no_grad():
            ours, theirs = (m(image).argmax(1)[0].numpy() for m in (stolen.predictor(), victim))
        scores.append(foreground_dice(ours, theirs, 3))
    return float(np.mean(scores))


def test_a_copy_learns_the_victim_from_its_answers_alone(victim, scans, reference, blobs):
    others = [Scan.of(blobs.load(case)) for case in blobs.splits["validation"][:5]]
    port = QueryPort(victim, budget=12)
    stolen = steal(budget=12, steps=80, rounds=1, hold_out=0.0, lr=1e-2)(port, scans, reference)
    assert stolen.queries == port.answered == 12
    assert agreement(stolen, victim, others) > 0.4
    constant = nn.Conv3d(1, 3, 1)
    with torch.no_grad():
        constant.weight.zero_()
        constant.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    taught = steal(budget=12, steps=20, rounds=1, hold_out=0.0)(
        QueryPort(constant.eval(), budget=12), scans, reference
    )
    assert agreement(taught, victim, others) < 0.1


@pytest.mark.parametrize(
    "more",
    [{"rounds": 1}, {"rounds": 2}, {"rounds": 3, "stop": 0.0}, {"domain": "b"}, {"calibration": "none"},
     {"select": "disagreement"}, {"search": 0.5, "keep": 0.0}, {"hold_out": 0.0}],
)  # fmt: skip
@pytest.mark.parametrize("output", ["labels", "probabilities"])
def test_never_more_queries_than_budget_and_port_allow(victim, scans, reference, more, output):
    for budget, allowed in ((8, 20), (20, 7)):
        port = QueryPort(victim, budget=allowed, output=output)
        stolen = steal(budget=budget, steps=2, **more)(port, scans, reference)
        assert stolen.queries == port.answered <= min(budget, allowed)
        told = sum(entry.asked + entry.searched for entry in stolen.history)
        assert told == stolen.queries
        if "search" not in more and len(stolen.history) == (more.get("rounds", 2)):
            assert stolen.queries == min(budget, allowed, len(scans))


def test_the_same_seed_gives_the_same_copy_bit_for_bit(victim, scans, reference):
    before = {name: value.clone() for name, value in victim.state_dict().items()}

    def weights(seed):
        torch.manual_seed(np.random.randint(1 << 30))  # the global state must not matter
        return steal(seed=seed)(QueryPort(victim, budget=8), scans, reference).network.state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())


def test_no_volume_is_asked_twice_and_only_calibrated_ones_are_sent(victim, scans, reference):
    sent = []

    class Watched(type(victim)):
        def forward(self, x):
            sent.append(x.clone())
            return super().forward(x)

    port = QueryPort(Watched().eval(), budget=8)
    shift = ScannerShift(edge=4.0)
    b = [Scan(s.id, shift(s.image, s.spacing_mm, s.id), s.spacing_mm) for s in scans]
    steal(rounds=2)(port, b, reference)
    assert len(sent) == 8
    assert len({x.numpy().tobytes() for x in sent}) == 8
    raw = {s.image.tobytes() for s in b}
    assert not any(x.numpy().tobytes() in raw for x in sent)
    sent.clear()
    steal(rounds=2, calibration="none")(QueryPort(Watched().eval(), budget=8), b, reference)
    assert all(x.numpy().tobytes() in raw for x in sent)


def test_a_scan_carries_no_label(blobs):
    scan = Scan.of(blobs.load("case_01"))
    assert set(vars(scan)) == {"id", "image", "spacing_mm"}


def test_soft_answers_weigh_classes_alike():
    """A foreground of 1% counts as much as the background in the cross entropy."""
    target = torch.zeros(1, 2, 100, 1, 1)
    target[:, 0] = 1
    target[:, :, 0] = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    loss = AnswerLoss()
    on_background, on_foreground = torch.zeros(2, 1, 2, 100, 1, 1)
    on_background[:, 0, 1:] = 2.0  # right about the background, unsure of the one voxel
    on_foreground[:, 1, :1] = 2.0
    overlap = loss._overlap
    entropies = [float(loss(x, target) - overlap(x, target)) for x in (on_background, on_foreground)]
    assert abs(entropies[0] - entropies[1]) < 1e-4


def test_hard_labels_are_learned_by_dice_and_cross_entropy():
    from monai.losses.dice import DiceCELoss

    logits, target = torch.randn(2, 3, 5, 6, 7), torch.randint(0, 3, (2, 1, 5, 6, 7))
    expected = DiceCELoss(to_onehot_y=True, softmax=True, squared_pred=True, smooth_nr=0.0, smooth_dr=1e-6)
    torch.testing.assert_close(AnswerLoss()(logits, target), expected(logits, target))


@pytest.mark.parametrize("soft", [False, True])
def test_windows_move_image_and_answer_together(soft):
    label = torch.zeros(1, 12, 12, 12, dtype=torch.int64)
    label[:, 3:9, 4:8, 5:9] = 1
    target = torch.cat([1.0 - label, label.float()]) if soft else label
    still = Recipe(steps=5, intensity=0.0, noise=0.0)
    stream = WindowStream([Sample(label.float(), target)], (14, 10, 12), still, seed=0)
    for _ in range(still.steps):
        window = next(stream)
        images, targets = window.images, window.targets
        assert targets.shape[1] == (2 if soft else 1)
        if soft:
            torch.testing.assert_close(images, targets[:, 1:], atol=1e-5, rtol=0)
            torch.testing.assert_close(targets.sum(1), torch.ones_like(targets[:, 0]))
        else:
            # The nearest voxel holds at least an eighth of a trilinear value.
            assert (targets[images > 0.876] == 1).all()
            assert (targets[images < 0.124] == 0).all()
            assert targets.any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"domain": "a"}, "domain"), ({"calibration": "guess"}, "calibration"), ({"select": "best"}, "select"),
     ({"budget": 0}, "budget"), ({"rounds": 5}, "at least two volumes per round"), ({"keep": 1.5}, "keep")],
)  # fmt: skip
def test_bad_parameters_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        steal(**bad)


def test_missing_material_is_refused(victim, scans):
    port = QueryPort(victim, budget=8)
    with pytest.raises(ValueError, match="expected reference scans"):
        steal()(port, scans, ())
    with pytest.raises(ValueError, match="expected phantoms"):
        steal(calibration="phantom")(port, scans, ())
    with pytest.raises(ValueError, match="different ids"):
        steal()(port, [scans[0], scans[0]], scans)
    assert port.answered == 0
