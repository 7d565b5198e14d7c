"""The axis order of a real file changes no score, whatever layout it lies in."""

from __future__ import annotations

import pytest

from ..performance.orientations import DICE, HD95_MM, sources, spread


@pytest.mark.real_data
@pytest.mark.parametrize("layout", ["msd", "nnunet_v2"])
def test_48_axis_orders_of_a_real_file_are_one_volume(data_root, tmp_path, layout):
    source = next(iter(sources(data_root)))
    found = list(spread(source, layout, tmp_path, predict=2, models=("unet",)))
    assert [(dice <= DICE, hd95 <= HD95_MM) for _, dice, hd95 in found] == [(True, True)]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("layout", ["msd", "nnunet_v1", "nnunet_v2", "csv"])
@pytest.mark.parametrize("modality", [0, 1])
def test_48_axis_orders_give_every_zoo_model_the_same_scores(data_root, tmp_path, layout, modality):
    source = list(sources(data_root))[modality]
    found = list(spread(source, layout, tmp_path, predict=3))
    assert len(found) >= 5
    for model, dice, hd95 in found:
        assert dice <= DICE, model
        assert hd95 <= HD95_MM, model
