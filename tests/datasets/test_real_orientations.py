"""The axis order of a real file changes no score, whatever layout it lies in."""

from __future__ import annotations

import pytest

from robustvox.benchmark.records.unit import data_fingerprint

from ..performance.orientations import read, sources, spread
from .layouts import LAYOUTS


@pytest.mark.real_data
@pytest.mark.parametrize("layout", ["msd", "nnunet_v2"])
def test_48_axis_orders_of_a_real_file_are_one_volume(data_root, tmp_path, layout):
    source = next(iter(sources(data_root)))
    volumes = read(source, layout, tmp_path)
    (found,) = spread(source, tmp_path, volumes, predict=2, models=("unet",))
    assert found.orders == 2
    assert found.good, found


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_layout_gives_one_volume_of_48_files(data_root, tmp_path, number):
    source = list(sources(data_root))[number]
    assert len({data_fingerprint(read(source, layout, tmp_path / layout)[0]) for layout in LAYOUTS}) == 1


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("number", [0, 1, 2])
def test_48_axis_orders_give_every_zoo_model_the_same_scores(data_root, tmp_path, number):
    source = list(sources(data_root))[number]
    found = list(spread(source, tmp_path, read(source, "msd", tmp_path), predict=4))
    assert {one.model for one in found} == {file.stem for file in source.zoo.glob("*.safetensors")}
    for one in found:
        assert one.good, one
