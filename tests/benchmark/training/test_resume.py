"""The file of an unfinished training: what is none is refused, and a small machine is not the file's fault."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustvox.benchmark.training.recipe import Recipe
from robustvox.benchmark.training.resume import Resume, Run
from robustvox.benchmark.training.windows import Sample, WindowStream


@pytest.fixture
def run() -> Run:
    samples = [Sample(torch.zeros(1, 8, 8, 8), torch.zeros(1, 8, 8, 8, dtype=torch.int64))]
    return Run.start(nn.Conv3d(1, 2, 1), WindowStream(samples, (8, 8, 8), Recipe(), 0), Recipe())


@pytest.mark.parametrize("content", [b"", b"no state", b"PK"])
def test_what_is_no_state_is_refused_with_the_remedy(tmp_path, run, content):
    path = tmp_path / "net.training"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"state of an unfinished training in net\.training.*remove the file"
    ):
        Resume(path=path, identity="a").load(run)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_machine_short_of_memory_is_not_told_to_remove_the_file(tmp_path, run, monkeypatch, error):
    path = tmp_path / "net.training"
    path.write_bytes(b"x")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        Resume(path=path, identity="a").load(run)
    assert path.exists()
