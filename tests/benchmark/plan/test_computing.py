"""Precision is part of a model's name, a flag of its rows, and nothing that an attack's arithmetic notices."""

from __future__ import annotations

import pytest
import torch

from robustvox.benchmark.plan.computing import describe_compute, split_precision
from robustvox.benchmark.plan.models import load_model
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.specs.compute import Compute
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import open_dataset
from robustvox.models.cuda_graphs import CudaGraphs, Trial
from robustvox.models.precision import InPrecision

DATASET, PROTOCOL = open_dataset("phantom"), PROTOCOLS["robustvox-1"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unet", ("unet", "float32")),
        ("unet:precision=bf16", ("unet", "bf16")),
        ("mamba_unet:precision=tf32,scan=torch", ("mamba_unet:scan=torch", "tf32")),
        ("package.module:factory:precision=bf16,width=8", ("package.module:factory:width=8", "bf16")),
        ("package.module:factory", ("package.module:factory", "float32")),
    ],
)
def test_a_spec_says_its_precision(text: str, expected: tuple[str, str]) -> None:
    assert split_precision(text, "float32") == expected


def test_bf16_has_a_name_a_flag_and_other_logits_and_reads_back() -> None:
    plain = load_model("unet", DATASET, PROTOCOL)
    half = load_model("unet", DATASET, PROTOCOL, compute=Compute(precision="bf16", memory="recompute"))
    again = load_model(half.name, DATASET, PROTOCOL)
    assert (half.name, half.flags, half.sha256) == ("unet:precision=bf16", ("bf16",), plain.sha256)
    assert (again.name, again.flags, plain.flags) == (half.name, half.flags, ())
    images = torch.rand(1, 1, 40, 36, 32)
    with torch.no_grad():
        logits = [model.predictor(images) for model in (plain, half, again)]
    assert all(each.dtype == torch.float32 for each in logits)
    change = (logits[1] - logits[0]).norm() / logits[0].norm()
    assert 1e-4 < change < 0.05
    assert torch.equal(logits[1], logits[2])


def test_kept_and_recomputed_windows_agree_in_bf16_too() -> None:
    gradients = []
    for memory in ("keep", "recompute"):
        model = load_model("unet", DATASET, PROTOCOL, compute=Compute(precision="bf16", memory=memory))
        images = torch.full((1, 1, 60, 32, 32), 0.5, requires_grad=True)
        gradients.append(torch.autograd.grad(model.predictor(images).square().mean(), images)[0])
    assert torch.equal(*gradients)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(
        UsageError, match="expected precision among float32, tf32, bf16 in unet:precision=fp8"
    ):
        load_model("unet:precision=fp8", DATASET, PROTOCOL)
    with pytest.raises(ValueError, match="expected precision to be one of tf32, bf16, got 'float32'"):
        InPrecision(torch.nn.Identity(), "float32")


@pytest.mark.skipif(
    not hasattr(torch.backends.mkldnn, "matmul"), reason="this PyTorch does not say what a CPU rounds to"
)
def test_a_model_is_float32_on_a_cpu_too_whatever_its_file_asked_of_the_process() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        load_model("unet", DATASET, PROTOCOL)
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_provenance_says_what_was_asked_and_what_it_came_to() -> None:
    models = [load_model(name, DATASET, PROTOCOL) for name in ("unet", "mamba_unet")]
    plan = Plan(DATASET, ["val_000"], models, models, [], PROTOCOL)
    found = describe_compute(plan, Compute())["compute"]
    assert (found["precision"], found["cuda_graphs"]) == ("float32", "auto")
    assert found["models"] == {
        "unet": {"sw_batch_size": [4]},
        "mamba_unet": {"sw_batch_size": [4], "scan": ["torch"]},
    }


def test_a_graph_is_tried_where_the_networks_run(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def measure(graphs: CudaGraphs, windows: torch.Tensor) -> Trial:
        tried.append(type(graphs.network).__name__)
        return Trial(False, None, "emulated")

    monkeypatch.setattr(CudaGraphs, "measure", measure)
    models = [load_model("unet", DATASET, PROTOCOL)]
    plan = Plan(DATASET, ["val_000"], models, models, [], PROTOCOL)
    found = describe_compute(plan, Compute(), here=False)["compute"]["models"]["unet"]
    assert (found, tried) == ({"sw_batch_size": [4]}, [])
    found = describe_compute(plan, Compute())["compute"]["models"]["unet"]
    assert found["cuda_graphs"] == [{"used": False, "gain": None, "why": "emulated"}]
    assert len(tried) == 1
