"""More processes give the same tables as one."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from robustvox.benchmark.cli import main
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS

ATTACKS = ["--attack", "pgd:steps=2,alpha=4/255", "--attack", "gn", "--transfer"]
MODELS = ("unet", "segresnet")


@pytest.fixture
def one_thread():
    # Sums over threads may differ in the last bit, so both sides use one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(toy, one, other):
    for name in ("white_box", "transfer"):
        tables = [toy.table(out, name).drop(columns=list(MEASURED_COLUMNS)) for out in (one, other)]
        pd.testing.assert_frame_equal(*tables)


def test_a_local_pool(toy, one_thread):
    assert toy(*ATTACKS, models=MODELS, out=toy.root / "one") == 0
    assert toy(*ATTACKS, "--workers", "2", models=MODELS, out=toy.root / "many") == 0
    assert_same(toy, toy.root / "one", toy.root / "many")


def test_a_failing_case_in_a_pool(toy):
    (toy.folder / "imagesTr" / "case_001.nii.gz").write_bytes(b"")
    assert toy("--attack", "gn", "--workers", "2") == 1
    assert toy.table()[["n_cases", "failed"]].to_numpy().tolist() == [[2, 1]]


def test_a_dask_scheduler(toy, one_thread):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        assert toy(*ATTACKS, models=MODELS, out=toy.root / "one") == 0
        address = cluster.scheduler_address
        assert toy(*ATTACKS, "--scheduler", address, models=MODELS, out=toy.root / "many") == 0
    assert_same(toy, toy.root / "one", toy.root / "many")


def test_a_scheduler_that_is_not_there(toy, capsys):
    pytest.importorskip("distributed")
    assert main(toy.arguments("--attack", "gn", "--scheduler", "not-an-address")) == 2
    assert "expected a Dask scheduler" in capsys.readouterr().err
