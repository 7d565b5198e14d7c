"""More processes give the same tables as one."""

from __future__ import annotations

import pickle
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from robustvox.benchmark import load_records, run_benchmark
from robustvox.benchmark.cli import main
from robustvox.benchmark.harness.workers import assign, environments
from robustvox.benchmark.plan.cases import load_dataset
from robustvox.benchmark.show.tables.results import MEASURED_COLUMNS
from robustvox.benchmark.specs.crossing import Computing, Crossing, Writing
from robustvox.benchmark.specs.requests import RunRequest
from robustvox.benchmark.specs.spec import UnfinishedError

ATTACKS = ["--attack", "pgd:steps=2,alpha=4/255", "--attack", "gn", "--transfer", "--cases", "first:2"]
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


@pytest.mark.slow
def test_a_local_pool(toy, one_thread):
    assert toy(*ATTACKS, models=MODELS, out=toy.root / "one") == 0
    assert toy(*ATTACKS, "--workers", "2", models=MODELS, out=toy.root / "many") == 0
    assert_same(toy, toy.root / "one", toy.root / "many")


@pytest.mark.slow
def test_a_failing_case_in_a_pool(toy):
    (toy.folder / "imagesTr" / "case_001.nii.gz").write_bytes(b"")
    assert toy("--attack", "gn", "--workers", "2") == 1
    assert toy.table()[["n_cases", "failed"]].to_numpy().tolist() == [[2, 1]]


def request_of(toy, out, **computing) -> RunRequest:
    crossing = Crossing(
        models=MODELS,
        checkpoints=tuple(toy.checkpoints[name] for name in MODELS),
        attacks=("pgd:steps=2,alpha=4/255", "gn"),
        transfer=True,
        dataset=str(toy.folder),
        split="all",
        cases="first:2",
    )
    writing = Writing(out=toy.root / out, report=False)
    return RunRequest(crossing=crossing, computing=Computing(**computing), writing=writing)


def test_any_executor_and_a_dask_client(toy, one_thread):
    """Threads share one process, so their jobs take turns; a client is asked for its workers by name."""
    distributed = pytest.importorskip("distributed")
    assert toy(*ATTACKS, models=MODELS, out=toy.root / "one") == 0
    with ThreadPoolExecutor(2) as executor:
        assert run_benchmark(request_of(toy, "threads"), executor) == 0
        assert executor.submit(abs, -1).result() == 1  # it stays open
    assert_same(toy, toy.root / "one", toy.root / "threads")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert run_benchmark(request_of(toy, "client"), client) == 0
        assert client.submit(abs, -1).result() == 1
    assert_same(toy, toy.root / "one", toy.root / "client")


def test_an_executor_that_breaks_ends_the_run_and_keeps_what_is_finished(toy):
    class Breaking(ThreadPoolExecutor):
        jobs = 0

        def submit(self, function, /, *arguments, **named):
            Breaking.jobs += 1
            if Breaking.jobs > 4:
                raise BrokenExecutor("a child process terminated abruptly")
            return super().submit(function, *arguments, **named)

    with (
        Breaking(1) as executor,
        pytest.raises(UnfinishedError, match="the Breaking lost a process and takes no more"),
    ):
        run_benchmark(request_of(toy, "broken"), executor)
    kept = len(load_records(toy.root / "broken" / "toy" / "records").costs)
    assert kept >= 2
    assert run_benchmark(request_of(toy, "broken")) == 0
    assert toy(*ATTACKS, models=MODELS, out=toy.root / "one") == 0
    assert_same(toy, toy.root / "one", toy.root / "broken")


def test_what_travels_means_the_same_in_another_folder(toy, monkeypatch):
    monkeypatch.chdir(toy.root)
    request = request_of(toy, "results")
    crossing = replace(
        request.crossing,
        models=("unet:size=small", "nets/a.pt:fold=1", "mine:net"),
        checkpoints=(Path("a.safetensors"),),
        dataset="toy",
        data_root=Path("data"),
    )
    writing = replace(request.writing, out=Path("here"), save_adversarial=True)
    request = replace(request, crossing=crossing, writing=writing)
    assignment = assign(request, load_dataset("toy", None, Path("here")))
    assert assignment.crossing.dataset == str(toy.root / "toy")
    assert assignment.crossing.dataset_name == "toy"
    assert assignment.crossing.models == ("unet:size=small", f"{toy.root}/nets/a.pt:fold=1", "mine:net")
    assert assignment.crossing.checkpoints == (toy.root / "a.safetensors",)
    assert assignment.crossing.data_root == toy.root / "data"
    assert assignment.keep is not None
    assert assignment.keep.out == toy.root / "here"
    assert len(pickle.dumps(assignment)) < 4096


def test_every_card_gets_processes_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments("auto")] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in environments("cuda")] == ["GPU-a", "GPU-b", "GPU-c"]
    assert environments("cuda:1") == environments("cpu") == ({},)


def test_a_scheduler_that_is_not_there(toy, capsys):
    pytest.importorskip("distributed")
    assert main(toy.arguments("--attack", "gn", "--scheduler", "not-an-address")) == 2
    assert "expected a Dask scheduler" in capsys.readouterr().err
