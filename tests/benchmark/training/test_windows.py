"""What augmentation does to a window."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.windows import Sample, WindowStream

STILL: dict[str, Any] = {"rotate": 0.0, "scale": 0.0, "intensity": 0.0, "noise": 0.0, "batch_size": 1}
SIZE = (16, 16, 8)


def drawn(image: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    sample = Sample(image[None], torch.zeros(1, *SIZE, dtype=torch.int64), "case")
    return next(WindowStream([sample], SIZE, recipe, 0)).images[0, 0]


def test_a_turn_keeps_every_slice_in_its_place_and_moves_what_lies_in_it() -> None:
    slices = torch.linspace(0, 1, SIZE[2]).expand(SIZE).contiguous()
    turned = drawn(slices, Recipe(turn=90, **STILL))
    core = slice(6, 10), slice(6, 10)  # what no turn brings out of the volume
    torch.testing.assert_close(turned[core], slices[core], rtol=0, atol=1e-5)

    spot = torch.zeros(SIZE)
    spot[12, 7:9] = 1
    torch.testing.assert_close(drawn(spot, Recipe(**STILL)), spot, rtol=0, atol=1e-5)
    moved = drawn(spot, Recipe(turn=90, **STILL)).sum(2)
    assert (moved - spot.sum(2)).abs().max() > 1
    here = torch.stack(torch.meshgrid(*(torch.arange(16.0) - 7.5,) * 2, indexing="ij"))
    centre = (here * moved).sum((1, 2)) / moved.sum()
    torch.testing.assert_close(centre.norm(), torch.tensor(4.5), rtol=0, atol=0.3)  # at its distance


@pytest.mark.parametrize("gamma", [2, 0.5])  # the same range
def test_gamma_raises_intensities_to_exponents_even_on_a_logarithmic_scale(gamma: float) -> None:
    ramp = torch.linspace(0, 1, math.prod(SIZE)).reshape(SIZE)
    stream = WindowStream(
        [Sample(ramp[None], torch.zeros(1, *SIZE, dtype=torch.int64), "case")],
        SIZE,
        Recipe(gamma=gamma, **STILL),
        0,
    )
    logs = []
    for _ in range(200):
        window = next(stream).images[0, 0]
        exponents = window[8:].double().log() / ramp[8:].double().log()
        exponent = exponents[:-1].mean()  # without the plane that holds the one voxel of intensity 1
        torch.testing.assert_close(window.double(), ramp.double() ** exponent, rtol=0, atol=1e-4)
        logs.append(exponent.log2())
    found = torch.stack(logs)
    assert found.abs().max() <= 1 + 1e-3
    assert abs(found.mean()) < 0.2  # of a deviation of 0.04
    torch.testing.assert_close(found.std(), torch.tensor(3**-0.5, dtype=torch.float64), rtol=0.15, atol=0)
