"""The optional CUDA kernel: asked for by name only, called with the layouts that mamba_ssm documents."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustvox.benchmark.plan.models import load_model
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import open_dataset
from robustvox.models import build_model
from robustvox.models.mamba import Mamba, TriMamba, selective_scan
from robustvox.models.mamba import kernel as kernel_module
from robustvox.models.mamba.kernel import auto_scan, find_scan, kernel_scan, scans_used


def stub(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
    """What mamba_ssm's `selective_scan_fn` computes, token by token: u, delta (B,E,L), B, C (B,N,L), D (E,)."""
    batch, inner, length = u.shape
    state = A.shape[1]
    assert delta.shape == u.shape
    assert A.shape == (inner, state)
    assert B.shape == C.shape == (batch, state, length)
    assert D.shape == (inner,)
    assert all(x.dtype == torch.float32 and x.is_contiguous() for x in (u, delta, A, B, C, D))
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    h, outputs = u.new_zeros(batch, inner, state), []
    for t in range(length):
        h = torch.exp(delta[:, :, t, None] * A) * h
        h = h + (delta[:, :, t] * u[:, :, t])[:, :, None] * B[:, None, :, t]
        outputs.append((h * C[:, None, :, t]).sum(-1) + D * u[:, :, t])
    y = torch.stack(outputs, dim=-1)
    stub.calls += 1
    return y if z is None else y * F.silu(z)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mamba_ssm whose kernel runs on the CPU."""
    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    stub.calls = 0
    interface.selective_scan_fn = stub  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "_require_cuda", lambda *_: None)


def inputs() -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    u, delta = torch.randn(2, 2, 7, 5, generator=g)
    B, C = torch.randn(2, 2, 7, 3, generator=g)
    A, D = -torch.rand(5, 3, generator=g), torch.randn(5, generator=g)
    return [x.requires_grad_() for x in (u, F.softplus(delta).detach(), A, B, C, D)]


@pytest.mark.usefixtures("installed", "anywhere")
def test_layouts_values_and_gradients() -> None:
    ours, theirs = (scan(*inputs()) for scan in (selective_scan, kernel_scan))
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    for scan in (selective_scan, kernel_scan):
        values = inputs()
        weights = torch.linspace(-1, 1, 2 * 7 * 5).view(2, 7, 5)
        grads = torch.autograd.grad((scan(*values) * weights).sum(), values)
        if scan is selective_scan:
            expected = grads
    for found, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("installed", "anywhere")
@pytest.mark.parametrize("kind", [Mamba, TriMamba])
def test_a_block_is_the_same_function_with_either_scan(kind: type[Mamba]) -> None:
    plain, fast = kind(6, d_state=4), kind(6, d_state=4, scan="mamba_ssm")
    assert plain.state_dict().keys() == fast.state_dict().keys()
    fast.load_state_dict(plain.state_dict())
    tokens = torch.randn(2, 9, 6)
    torch.testing.assert_close(fast(tokens), plain(tokens), rtol=1e-4, atol=1e-6)
    assert stub.calls == (1 if kind is Mamba else 3)


@pytest.mark.usefixtures("installed", "anywhere")
def test_half_precision_is_widened_and_comes_back() -> None:
    values = [x.detach().bfloat16() for x in inputs()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = kernel_scan(*values)
    assert y.dtype == torch.bfloat16


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "name", ["mamba_unet", "umamba_bot", "umamba_enc", "segmamba", "nnmamba", "lma_unet", "em_unet"]
)
def test_every_mamba_network_takes_it(name: str) -> None:
    thin = {"dims": (4, 4, 4, 4), "hidden_size": 4} if name == "segmamba" else {}
    network = build_model(
        name, in_channels=1, num_classes=3, roi_size=(32, 32, 32), size="small", scan="mamba_ssm", **thin
    )
    scans = {layer.scan for layer in network.modules() if isinstance(layer, Mamba)}
    assert scans == {kernel_scan}


def test_a_cpu_is_refused(installed: None) -> None:
    with pytest.raises(ValueError, match=r"expected tensors on a CUDA device for scan=mamba_ssm, got cpu"):
        Mamba(4, scan="mamba_ssm")(torch.zeros(1, 3, 4))


def test_not_installed_and_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with pytest.raises(ValueError, match="expected the package mamba_ssm for scan=mamba_ssm"):
        Mamba(4, scan="mamba_ssm")
    with pytest.raises(
        ValueError, match="expected scan to be one of auto, torch, triton, mamba_ssm, got 'cuda'"
    ):
        find_scan("cuda")


@pytest.mark.usefixtures("installed")
def test_asked_for_by_name_the_name_says_which_scan_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, protocol = open_dataset("phantom"), PROTOCOLS["robustvox-1"]
    text = "mamba_unet:scan=mamba_ssm"
    with pytest.raises(UsageError, match="expected a CUDA device for mamba_unet:scan=mamba_ssm, got cpu"):
        load_model(text, dataset, protocol)
    # No GPU here: let the network go to the CPU under a device's name.
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, _: self)
    asked = load_model(text, dataset, protocol, device="cuda")
    usual = load_model("mamba_unet:scan=torch", dataset, protocol)
    plain = load_model("mamba_unet", dataset, protocol)
    assert [model.name for model in (asked, usual, plain)] == [text, "mamba_unet:scan=torch", "mamba_unet"]
    assert asked.sha256 == usual.sha256 == plain.sha256
    scans = [m.scan for model in (asked, plain) for m in model.predictor.modules() if isinstance(m, Mamba)]
    assert scans == [kernel_scan] * (len(scans) // 2) + [auto_scan] * (len(scans) // 2)
    assert scans_used(asked.predictor, "cuda") == ["mamba_ssm"]
    assert scans_used(plain.predictor, "cpu") == scans_used(usual.predictor, "cuda") == ["torch"]
    image = torch.from_numpy(np.linspace(0, 1, 32**3, dtype=np.float32).reshape(1, 1, 32, 32, 32))
    monkeypatch.setattr(kernel_module, "_require_cuda", lambda *_: None)
    with torch.no_grad():
        torch.testing.assert_close(asked.predictor(image), plain.predictor(image), rtol=1e-3, atol=1e-4)


def test_a_network_without_a_scan_says_so() -> None:
    dataset, protocol = open_dataset("phantom"), PROTOCOLS["robustvox-1"]
    with pytest.raises(UsageError, match="scan"):
        load_model("unet:scan=torch", dataset, protocol)
