"""What may be asked about how a run is computed."""

from __future__ import annotations

import pytest

from robustvox.benchmark.specs.compute import CUDA_GRAPHS, MEMORY, PRECISIONS, Compute, count_or_auto
from robustvox.benchmark.specs.spec import UsageError
from robustvox.models import cuda_graphs, precision, window_memory


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "fp16"}, "expected --precision among float32, tf32, bf16, got 'fp16'"),
        ({"memory": "all"}, "expected --memory among auto, keep, recompute, got 'all'"),
        ({"cuda_graphs": "on"}, "expected --cuda-graphs among auto, off, got 'on'"),
        ({"sw_batch_size": 0}, "expected --sw-batch-size of at least 1 or auto, got 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, message) -> None:
    with pytest.raises(UsageError) as found:
        Compute(**wrong)
    assert str(found.value) == message


def test_numbers_and_the_word_are_read() -> None:
    assert [count_or_auto(text) for text in ("7", " AUTO ", "-1", "x")] == [7, "auto", "-1", "x"]


def test_the_choices_are_those_of_the_models() -> None:
    assert (PRECISIONS, MEMORY) == (precision.PRECISIONS, window_memory.MEMORY)
    assert CUDA_GRAPHS == cuda_graphs.CUDA_GRAPHS
