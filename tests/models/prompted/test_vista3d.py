"""VISTA3D as a target, at toy width with MONAI's own classes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from robustvox.models import CheckpointError
from robustvox.models.prompted import open_target
from robustvox.models.prompted.classes import match_classes
from robustvox.models.prompted.prompts import PromptRecipe
from robustvox.models.prompted.target import PromptedModel
from robustvox.models.prompted.vista3d import CLASS_NAMES, SPEC, Vista3DSegmenter

from .conftest import gradient_is_the_finite_difference

CLASSES = ("background", "spleen", "liver")
CLOSE = {"atol": 2e-3, "rtol": 1e-3}
"""Of float32 logits of order 1 behind a dozen instance norms, in another order of summation."""


def model(vista, kind="class", **recipe):
    segmenter = Vista3DSegmenter(vista)
    return PromptedModel(
        name="vista3d",
        segmenter=segmenter,
        spec=SPEC,
        classes=match_classes(CLASS_NAMES, CLASSES, overlapping=True, name="vista3d"),
        recipe=PromptRecipe(kind=kind, **recipe),
    )


def test_there_are_132_classes_with_their_published_ids():
    ids = {name: i for i, name in enumerate(CLASS_NAMES, start=1)}
    assert len(CLASS_NAMES) == len(ids) == 132
    known = {"liver": 1, "spleen": 3, "left kidney": 14, "vertebrae L5": 33, "vertebrae T12": 38, "vertebrae C1": 56,
             "trachea": 57, "left rib 1": 63, "right rib 12": 86, "right clavicula": 92, "left gluteus medius": 100,
             "right iliopsoas": 107, "heart": 115, "skull": 120, "bone lesion": 128, "airway": 132}  # fmt: skip
    assert {name: ids[name] for name in known} == known


def test_class_prompts_give_the_networks_own_logits_in_our_order(vista):
    images = torch.rand(2, 1, 32, 48, 32)
    got = Vista3DSegmenter(vista).windows(images, (2, 0, 13))
    for b, item in enumerate(images):
        with torch.no_grad():
            whole = vista(item[None], class_vector=torch.tensor([[3], [1], [14]]))
        assert whole.shape == (3, 1, 32, 48, 32)  # classes come first in the network's own answer
        torch.testing.assert_close(got[b], whole[:, 0], **CLOSE)


def test_one_class_is_asked_like_several(vista):
    images = torch.rand(1, 1, 32, 32, 32)
    segmenter = Vista3DSegmenter(vista)
    torch.testing.assert_close(
        segmenter.windows(images, (5,)), segmenter.windows(images, (5, 7))[:, :1], **CLOSE
    )


def test_logits_are_on_the_grid_of_the_data_and_every_item_for_itself(vista, case):
    here = case(axes="LAI", spacing_mm=(2.0, 1.0, 3.0))
    target = model(vista).for_case(here)
    assert target.grid.size == (27, 17, 28)
    assert target.roi_size == (32, 32, 32)
    both = torch.cat([here.image, here.image.flip(2)])
    logits = target(both)
    assert logits.shape == (2, 3, *here.image.shape[2:])
    assert (logits[:, 0] == 0).all()
    torch.testing.assert_close(logits[1:], target(both[1:]), **CLOSE)
    torch.testing.assert_close(logits[:1], target(both[:1]), **CLOSE)


def test_a_larger_volume_goes_through_overlapping_windows(vista, case):
    from dataclasses import replace

    from robustvox.models import SlidingWindow

    here = case(spatial=(40, 20, 20))
    small = replace(model(vista), spec=replace(SPEC, roi_size=(32, 32, 32))).for_case(here)
    inputs = small.scale(here.image)
    asked = SlidingWindow(small.predictor.network, (32, 32, 32))  # type: ignore[arg-type]
    torch.testing.assert_close(small(here.image), asked(inputs), **CLOSE)


def test_clicks_give_the_networks_own_logits_where_it_looks(vista, case):
    # Organs overlap in nothing: either is asked alone.
    here = case(spatial=(32, 32, 32))
    target = model(vista, "click").for_case(here)
    assert set(target.prompts.points) == {1, 2}
    logits = target(here.image)
    for class_id, vista_id in ((1, 3), (2, 1)):
        (point,) = target.prompts.points[class_id]
        with torch.no_grad():
            own = vista(
                target.scale(here.image),
                point_coords=torch.tensor([point], dtype=torch.float32)[None],
                point_labels=torch.tensor([[1]]),
                prompt_class=torch.tensor([[vista_id]]),
            )
        torch.testing.assert_close(logits[:, class_id], own[:, 0], **CLOSE)


def test_special_classes_are_clicked_with_their_own_mark(vista):
    segmenter = Vista3DSegmenter(vista)
    image, point = torch.rand(1, 1, 32, 32, 32), torch.tensor([[9.0, 8.0, 7.0]])
    for class_id, mark in ((23, 3), (22, 1), (57, 3)):
        with torch.no_grad():
            own = vista(
                image,
                point_coords=point[None],
                point_labels=torch.tensor([[mark]]),
                prompt_class=torch.tensor([[class_id]]),
            )
        torch.testing.assert_close(segmenter.clicked(image, point, class_id - 1), own, **CLOSE)


def test_prompts_shift_with_the_padding(vista, case):
    # 14 slices are padded to 32: what the network sees of a click moves by what came before the axis.
    here = case()
    target = model(vista, "click").for_case(here)
    seen = []
    target.segmenter.clicked = lambda image, points, channel: seen.append(points) or image  # type: ignore[method-assign]
    target(here.image)
    before = np.array([(32 - side) // 2 for side in here.image.shape[2:]])
    for points, (clicks) in zip(seen, target.prompts.points.values(), strict=True):
        np.testing.assert_allclose(points.numpy(), np.array(clicks) + before)


def test_the_same_prompts_meet_clean_and_adversarial_volumes(vista, case):
    here = case()
    for kind in ("click", "click_pred"):
        target = model(vista, kind).for_case(here)
        prompts = target.prompts.text()
        target(1 - here.image)
        assert target.prompts.text() == prompts


def test_own_clicks_do_not_look_at_the_reference(vista, case):
    from dataclasses import replace

    here = case()
    blind = replace(here, label=None)
    assert (
        model(vista, "click_pred").for_case(here).prompts
        == model(vista, "click_pred").for_case(blind).prompts
    )
    with pytest.raises(ValueError, match="expected a reference of case_0 to click on"):
        model(vista, "click").for_case(blind)


@pytest.mark.parametrize("kind", ["click", pytest.param("class", marks=pytest.mark.slow)])
def test_gradient_equals_the_finite_difference(vista, case, kind):
    here = case(spacing_mm=(2.0, 1.5, 1.5))
    network = copy.deepcopy(vista)
    encoding = network.point_head.pe_layer
    single = encoding._pe_encoding
    # MONAI casts clicks to single precision, whatever the network's is.
    encoding._pe_encoding = lambda coords: single(
        coords.to(encoding.positional_encoding_gaussian_matrix.dtype)
    )
    target = model(network, kind).for_case(here)
    gradient_is_the_finite_difference(target, here.image)


@pytest.mark.slow
def test_full_width_runs_forward_and_input_gradient_within_20_gb():
    """217,964,982 parameters on a window of 64^3; the memory is that of a process of its own."""
    import re
    import subprocess
    import sys
    from pathlib import Path

    script = Path(__file__).resolve().parents[2] / "performance" / "targets.py"
    done = subprocess.run(
        [sys.executable, str(script), "vista3d", "64"], capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "217,964,982 parameters" in done.stdout
    peak = re.search(r"([\d.]+) GB with gradient", done.stdout)
    assert peak is not None
    assert float(peak[1]) < 20


def test_weights_load_by_name_or_not_at_all(vista, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(vista.state_dict(), path)
    opened = open_target("vista3d", path, CLASSES, options={"width": 8})
    assert "sources disagree" in opened.licence
    assert any("NVIDIA OneWay Noncommercial" in note for note in opened.notes)
    state = dict(vista.state_dict())
    state["class_head.class_embedding.weight"] = state.pop("class_head.class_embeddings.weight")
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(class_head.class_embeddings.weight\); 1 extra"):
        open_target("vista3d", path, CLASSES, options={"width": 8})


def test_a_missing_file_says_where_it_comes_from_and_under_which_licence(tmp_path):
    with pytest.raises(CheckpointError, match=r"VISTA3D bundle.*Noncommercial.*no file at .*nowhere.pt"):
        open_target("vista3d", tmp_path / "nowhere.pt", CLASSES)


def test_classes_it_does_not_know_are_named(vista, tmp_path):
    path = tmp_path / "model.pt"
    torch.save(vista.state_dict(), path)
    with pytest.raises(CheckpointError, match="found no left thumb among its 132"):
        open_target("vista3d", path, ("background", "liver", "left thumb"), options={"width": 8})
