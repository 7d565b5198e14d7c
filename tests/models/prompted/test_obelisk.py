"""The OBELISK networks: layers against the published weights, and the sample CT."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from robustvox.models import CheckpointError
from robustvox.models.obelisk import CLASS_NAMES, ObeliskHybrid, ObeliskUNet
from robustvox.models.prompted import TARGETS, Case, open_target
from robustvox.models.prompted.classes import match_classes
from robustvox.models.prompted.obelisk import SPECS, ObeliskSegmenter
from robustvox.models.prompted.prompts import PromptRecipe
from robustvox.models.prompted.target import PromptedModel

from .conftest import gradient_is_the_finite_difference, settle

FILES = {"obelisk_hybrid": "obeliskhybrid_tcia_fold1.pth", "obelisk_unet": "allconvunet_tcia_fold1.pth"}
VALUES = {"obelisk_hybrid": 232_420, "obelisk_unet": 884_888}
TABLE = Path(__file__).resolve().parents[3] / "docs" / "obelisk.csv"


@pytest.fixture(scope="module")
def weights(data_root):
    folder = data_root / "obelisk"
    if not folder.is_dir():
        pytest.skip(f"no published weights of OBELISK: expected {folder.name}/ in ROBUSTVOX_DATA")
    return folder


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_published_weights_load_strictly(weights, name):
    opened = open_target(name, weights / FILES[name], CLASS_NAMES)
    state = torch.load(weights / FILES[name], weights_only=True, map_location="cpu")
    assert sum(tensor.numel() for tensor in state.values()) == VALUES[name]
    own = opened.model.segmenter.network.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(own[key], tensor) for key, tensor in state.items())
    assert {key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked")} == set()
    assert any("MIT" in note for note in opened.notes)
    assert any(f"{VALUES[name]:,} values" in note for note in opened.notes)


@pytest.mark.real_data
@pytest.mark.parametrize("name", FILES)
def test_one_renamed_key_fails_the_load(weights, name, tmp_path):
    state = torch.load(weights / FILES[name], weights_only=True, map_location="cpu")
    state["conv12.weight"] = state.pop("conv11.weight")
    torch.save(state, tmp_path / "renamed.pth")
    with pytest.raises(CheckpointError, match=r"1 missing \(conv11.weight\); 1 extra \(conv12.weight\)"):
        open_target(name, tmp_path / "renamed.pth", CLASS_NAMES)


@pytest.mark.real_data
def test_the_other_networks_file_is_refused(weights):
    with pytest.raises(CheckpointError, match="missing"):
        open_target("obelisk_unet", weights / FILES["obelisk_hybrid"], CLASS_NAMES)


@pytest.mark.parametrize(("name", "kind"), [("obelisk_hybrid", ObeliskHybrid), ("obelisk_unet", ObeliskUNet)])
def test_list_shows_the_number_of_weights(name, kind):
    network = kind()
    assert TARGETS[name].parameters == sum(p.numel() for p in network.parameters())
    counters = sum(key.endswith("num_batches_tracked") for key in network.state_dict())
    values = sum(tensor.numel() for tensor in network.state_dict().values())
    # The older file has no counters.
    assert values - (counters if name == "obelisk_unet" else 0) == VALUES[name]


def test_a_sparse_layer_reads_the_image_at_its_offsets():
    # An independent reading of the definition: trilinear interpolation by hand at grid point plus offset.
    network = settle(ObeliskHybrid(sparse=(4, 8)))
    with torch.no_grad():
        network.offset1.uniform_(-0.4, 0.4)
        network.linear1a.weight.zero_()
        network.linear1a.weight[0, 1] = 1.0
        network.linear1a.weight[64, 0] = 1.0  # second group: its first input is the third point
    image, grid = torch.rand(1, 1, 8, 16, 8), (2, 4, 2)
    read = {}
    network.linear1a.register_forward_hook(lambda module, inputs, output: read.update(x=output))
    with torch.no_grad():
        network._sparse(1, image, grid)
    for channel, point in ((0, 1), (64, 2)):
        for place in np.ndindex(*grid):
            where = [-1 + 2 * i / (n - 1) for i, n in zip(place, grid, strict=True)]
            offset = network.offset1[0, point, 0, 0].tolist()[::-1]  # stored last axis first
            voxel = [
                (w + o + 1) / 2 * (n - 1) for w, o, n in zip(where, offset, image.shape[2:], strict=True)
            ]
            assert float(read["x"][(0, channel, *place)]) == pytest.approx(
                trilinear(image[0, 0], voxel), abs=1e-5
            )


def trilinear(volume: torch.Tensor, voxel: list[float]) -> float:
    total = 0.0
    low = [int(np.floor(v)) for v in voxel]
    for corner in np.ndindex(2, 2, 2):
        at = [i + c for i, c in zip(low, corner, strict=True)]
        if all(0 <= i < n for i, n in zip(at, volume.shape, strict=True)):
            weight = np.prod([1 - abs(v - i) for v, i in zip(voxel, at, strict=True)])
            total += float(weight) * float(volume[tuple(at)])
    return total


def test_the_coarse_layer_has_twice_as_many_points_along_its_second_axis():
    network = settle(ObeliskHybrid())
    seen = []
    network.linear2a.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape)))
    network(torch.rand(1, 1, 16, 24, 32))
    assert seen == [(1, 512, 2, 6, 4)]


def test_without_dropout_the_unet_answers_the_same_twice():
    network = settle(ObeliskUNet())
    images = torch.rand(1, 1, 32, 40, 36)
    assert torch.equal(network(images), network(images))
    assert not torch.equal(network.train()(images), network(images))


def test_the_unets_skips_are_those_of_its_widths():
    network = settle(ObeliskUNet())
    x = torch.rand(1, 1, 32, 32, 32)
    features = F.leaky_relu(network.batch0(network.conv0(x)), 0.1)
    joined = []
    network.conv7U.register_forward_hook(lambda module, inputs, output: joined.append(inputs[0]))
    network(x)
    torch.testing.assert_close(joined[0][:, 14:], features)


@pytest.mark.parametrize("network", [ObeliskHybrid, ObeliskUNet])
def test_sides_that_do_not_fit_are_refused(network):
    with pytest.raises(ValueError, match="expected three sides of at least"):
        network()(torch.rand(1, 1, 20, 30, 7))


@pytest.mark.parametrize(("name", "kind"), [("obelisk_hybrid", ObeliskHybrid), ("obelisk_unet", ObeliskUNet)])
def test_gradient_equals_the_finite_difference(case, name, kind):
    from dataclasses import replace

    here = case()
    here = replace(here, image=here.image * (torch.arange(26) > 3)[None, None, None, :, None])
    model = PromptedModel(
        name=name,
        segmenter=ObeliskSegmenter(settle(kind())),
        spec=replace(SPECS[name], size=(32, 32, 32), roi_size=(32, 32, 32)),
        classes=match_classes(CLASS_NAMES, ("background", "liver", "spleen"), overlapping=False, name=name),
        recipe=PromptRecipe(kind="none"),
    )
    target = model.for_case(here)
    assert target.grid.box == ((0, 20), (4, 26), (0, 14))  # turned to the left and down, cropped to the body
    assert target.blind_share(here.image) == pytest.approx(4 / 26)
    logits = target(here.image)
    assert (logits[0, 1:, :, :4] == -30).all()
    assert (logits[0, 0, :, :4] == 0).all()
    gradient_is_the_finite_difference(target, here.image)


@pytest.mark.real_data
def test_a_liver_is_found_in_the_sample_ct(weights, data_root, script):
    """Clean only; what attacks do is measured by docs/build_obelisk.py, whose table is checked below."""
    scan = script.read_scan(data_root)
    assert scan.image.shape == (1, 1, 122, 101, 30)
    opened = open_target("obelisk_unet", weights / FILES["obelisk_unet"], CLASS_NAMES)
    target = opened.model.for_case(scan.case)
    assert target.grid.box == ((6, 121), (6, 96), (0, 30))
    with torch.no_grad():
        prediction = target(scan.image).argmax(1)[0].numpy()
    liver = CLASS_NAMES.index("liver")
    assert script.dice(prediction == liver, scan.label == liver) >= 0.90


@pytest.fixture
def script(monkeypatch):
    """docs/build_obelisk.py as a module, with the scripts beside it."""
    monkeypatch.syspath_prepend(str(TABLE.parent))
    yield importlib.import_module("build_obelisk")
    sys.modules.pop("build_obelisk")


def test_the_page_shows_the_table_that_was_measured(script):
    assert script.table() in (TABLE.parent / "foundation_models.md").read_text()


@pytest.mark.parametrize("name", FILES)
def test_the_numbers_of_the_docs_hold_what_is_asked(name):
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == name]
    clean = [row for row in rows if row["change"] == "clean"]
    noise = [row for row in rows if row["change"] == "sign noise"]
    pgd = {(float(row["budget_hu"]), int(row["steps"])): row for row in rows if row["change"] == "pgd"}
    assert len(clean) == 1
    assert float(clean[0]["dice liver"]) >= 0.90
    assert {"0", "1", "2"} <= {row["seed"] for row in noise}
    assert all(float(row["agreement_organs"]) >= 0.90 for row in noise)
    assert {1.0, 2.0, 4.0, 8.0, 13.3} == {budget for budget, _ in pgd}
    assert float(pgd[13.3, 20]["dice liver"]) < 0.30
    assert float(pgd[13.3, 20]["agreement_organs"]) < 0.30
    assert all(float(row["linf_hu"]) <= budget + 0.04 for (budget, _), row in pgd.items())


def test_a_case_of_another_modality_is_refused_unless_asked_for(case):
    from dataclasses import replace

    model = PromptedModel(
        name="obelisk_unet",
        segmenter=ObeliskSegmenter(settle(ObeliskUNet())),
        spec=SPECS["obelisk_unet"],
        classes=match_classes(CLASS_NAMES, ("background", "liver"), overlapping=False, name="obelisk_unet"),
        recipe=PromptRecipe(kind="none"),
    )
    mri = case(unit="a.u.")
    assert isinstance(mri, Case)
    with pytest.raises(ValueError, match=r"expected CT \(HU\) for obelisk_unet, found intensities in a.u."):
        model.for_case(mri)
    allowed = replace(model, allow_modality_mismatch=True).for_case(mri)
    assert torch.equal(allowed.scale(mri.image), mri.image)
