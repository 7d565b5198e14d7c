"""SuPreM's networks: the head against one written organ by organ, names, and the published file layout."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from robustvox.models import CheckpointError
from robustvox.models.bring.legacy import LegacyPatchMerging
from robustvox.models.prompted import TARGETS, open_target
from robustvox.models.prompted.suprem import CLASS_NAMES, _dynamic, build

from .conftest import settle

TOY = {"feature_size": 12, "depths": (1, 1, 1, 1)}
CLASSES = ("background", "inferior vena cava", "gallbladder", "liver")


def test_the_head_is_three_convolutions_per_organ():
    features, parameters = torch.randn(2, 8, 3, 4, 5), torch.randn(2, 6, 153)
    got = _dynamic(features, parameters)
    for b in range(2):
        for organ in range(6):
            p = parameters[b, organ]
            x = F.conv3d(features[b : b + 1], p[:64].view(8, 8, 1, 1, 1), p[136:144])
            x = F.conv3d(F.relu(x), p[64:128].view(8, 8, 1, 1, 1), p[144:152])
            x = F.conv3d(F.relu(x), p[128:136].view(1, 8, 1, 1, 1), p[152:153])
            torch.testing.assert_close(got[b, organ], x[0, 0], atol=1e-4, rtol=1e-4)


def test_organs_can_be_asked_for_one_by_one(suprem):
    images = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        everything = suprem(images)
        assert everything.shape == (1, 32, 64, 32, 32)
        torch.testing.assert_close(suprem(images, (5, 0)), everything[:, [5, 0]], atol=1e-4, rtol=1e-3)


def test_the_heads_gradient_equals_the_finite_difference():
    # The trunk's is the slow test below.
    features = torch.randn(1, 8, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    parameters = torch.randn(1, 3, 153, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: _dynamic(x, parameters), (features,))


def test_merging_is_that_of_the_weights_time(suprem):
    merging = [m for m in suprem.modules() if type(m).__name__.endswith("PatchMerging")]
    assert len(merging) == 4
    assert all(isinstance(m, LegacyPatchMerging) for m in merging)


@pytest.mark.slow
def test_full_width_has_the_published_number_of_weights():
    network = build("suprem_swin_unetr")
    trunk = sum(p.numel() for p in network.backbone.parameters())
    # 62,187,296 with an output of 14 classes, which is 14 * 49 of them.
    assert trunk == 62_187_296 - 14 * 49
    assert sum(p.numel() for p in network.parameters()) == TARGETS["suprem_swin_unetr"].parameters


def published(network, path, extra=()):
    """As the training writes it: under `net`, with the prefix of a parallel training."""
    state = {f"module.{key}": tensor for key, tensor in {**network.state_dict(), **dict(extra)}.items()}
    torch.save({"net": state, "optimizer": {}, "epoch": 2100}, path)


def test_files_in_the_published_layout_load_by_name(suprem, tmp_path):
    unused = {"backbone.out.conv.conv.weight": torch.zeros(32, 12, 1, 1, 1)}
    published(suprem, tmp_path / "suprem.pth", unused)
    opened = open_target("suprem_swin_unetr", tmp_path / "suprem.pth", CLASSES, options=TOY)
    classes = opened.model.classes
    assert [CLASS_NAMES[c] for (c,) in classes.channels] == ["postcava", "gall bladder", "liver"]
    assert classes.background == ()
    state = dict(suprem.state_dict())
    state["controller.bias2"] = state.pop("controller.bias")
    torch.save({"net": state}, tmp_path / "renamed.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(controller.bias\); 1 extra"):
        open_target("suprem_swin_unetr", tmp_path / "renamed.pth", CLASSES, options=TOY)


def test_segresnet_in_the_published_layout(tmp_path, case):
    sizes = {"init_filters": 8, "blocks_down": (1, 1, 1, 1)}
    network = settle(build("suprem_segresnet", **sizes))
    published(network, tmp_path / "segresnet.pth")
    opened = open_target("suprem_segresnet", tmp_path / "segresnet.pth", CLASSES, options=sizes)
    here = case()
    target = opened.model.for_case(here)
    assert target.roi_size == (24, 32, 16)
    logits = target(here.image)
    assert logits.shape == (1, 4, *here.image.shape[2:])
    assert (logits[:, 0] == 0).all()
    assert target.blind_share(here.image) == 0.0


def test_another_number_of_outputs_has_no_published_names(tmp_path):
    from monai.networks.nets.segresnet import SegResNet

    network = SegResNet(init_filters=8, in_channels=1, out_channels=25)
    published(network, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="expected 32 outputs, whose names are published, found 25"):
        open_target("suprem_segresnet", tmp_path / "other.pth", CLASSES)


@pytest.mark.slow
def test_gradient_equals_the_finite_difference(suprem):
    # 64^3 is the smallest window: five voxels of the window itself, in double precision.
    network = copy.deepcopy(suprem).double()
    images = torch.rand(1, 1, 64, 64, 64, dtype=torch.float64)
    probe = images.clone().requires_grad_()
    weight = torch.randn(1, 1, 64, 64, 64, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((network(probe, (5,)) * weight).sum(), probe)
    with torch.no_grad():
        for place in (
            (0, 0, 7, 8, 9),
            (0, 0, 32, 31, 30),
            (0, 0, 63, 0, 5),
            (0, 0, 12, 50, 40),
            (0, 0, 40, 20, 1),
        ):
            moved = []
            for sign in (1, -1):
                x = images.clone()
                x[place] += sign * 1e-5
                moved.append(float((network(x, (5,)) * weight).sum()))
            assert (moved[0] - moved[1]) / 2e-5 == pytest.approx(float(gradient[place]), rel=1e-3, abs=1e-6)
