"""C23: a gradient of rounding is told from one of the network, and what float64 would have won is measured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvox.attacks import PGD
from robustvox.models import SlidingWindow
from robustvox.models.precision import InPrecision


def test_a_smooth_network_passes(outcome) -> None:
    result = outcome("C23")
    assert (result.status, result.flag) == ("pass", "")
    assert result.number < 1e-4


def test_zero_gradients_are_another_check_s_business(outcome, controls) -> None:
    assert outcome("C23", controls.Masked()).status == "pass"


def test_chaos_is_a_warning_as_float64_follows_it_no_better(outcome, controls) -> None:
    class Chaotic(controls.Nearest):
        def forward(self, images):
            for _ in range(40):  # doubles a difference every time
                images = 4 * images * (1 - images)
            return super().forward(images)

    result = outcome("C23", Chaotic(width=1), attack=PGD(steps=2))
    assert result.status in ("warn", "fail")
    assert result.number > 0.5
    assert "in float64" in result.detail


def test_rounding_that_costs_the_attack_its_strength_fails(outcome, controls) -> None:
    class Rounding(controls.Nearest):
        """In float32 the last bit of a voxel decides the sign of its gradient."""

        def forward(self, images):
            if images.dtype == torch.float32:
                odd = (images.detach().view(torch.int32) & 1).bool()
                images = torch.where(odd, 2 * images.detach() - images, images)
            return super().forward(images)

    result = outcome("C23", Rounding())
    assert (result.status, result.flag) == ("fail", "C23:fail")
    gain = float(result.detail.rpartition("by ")[2])
    assert gain > 0.02


def test_what_a_lower_precision_changes_is_measured(outcome) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.GELU(), nn.Conv3d(4, 3, 1))
    result = outcome("C23", SlidingWindow(InPrecision(network, "bf16"), (8, 8, 8)))
    words = result.detail.partition("; bf16 moves it by up to ")[2].split()
    assert 1e-4 < float(words[0]) < 0.2  # bfloat16 keeps 7 bits
    assert 0 <= float(words[6]) < 0.05
    assert "moves it" not in outcome("C23", SlidingWindow(network, (8, 8, 8))).detail


@pytest.mark.parametrize("check", ["C23", "gradient-stability"])
def test_it_is_chosen_by_id_and_by_name(check: str) -> None:
    from robustvox.benchmark.studies.sanity.registry import select

    assert [chosen.id for chosen in select(check)] == ["C23"]
