"""The highest class of every voxel, against PyTorch's max."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from robustvox.attacks.counting import highest, predicted

VALUES = st.sampled_from([-2.0, -0.0, 0.0, 1.0, 2.5, float("inf"), float("-inf"), float("nan")])
"""Few, so that ties are common."""


@settings(max_examples=200, deadline=None)
@given(arrays.arrays("float32", st.tuples(*(st.integers(1, n) for n in (3, 6, 3, 2, 4))), elements=VALUES))
def test_values_and_classes_are_those_of_max(values):
    logits = torch.from_numpy(values)
    found, wanted = highest(logits), logits.max(1)
    torch.testing.assert_close(found[0], wanted.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found[1], wanted.indices)
    assert found[1].dtype == torch.int64


@pytest.mark.parametrize("classes", [2, 14, 255, 256, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_any_number_of_classes_type_and_layout(classes, dtype, layout):
    logits = torch.randn(2, classes, 3, 4, 5).to(dtype).contiguous(memory_format=layout)
    assert torch.equal(predicted(logits), logits.max(1).indices)


def test_there_is_no_graph():
    values, classes = highest(torch.randn(1, 3, 2, 2, 2, requires_grad=True) * 1)
    assert not values.requires_grad
    assert not classes.requires_grad
