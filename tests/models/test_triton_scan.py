"""The Triton kernels against the recurrence in float64: on a GPU compiled, elsewhere in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustvox.models.mamba import Mamba, selective_scan
from robustvox.models.mamba import kernel as kernel_module
from robustvox.models.mamba.kernel import auto_scan, find_scan, scans_used

scan_triton = pytest.importorskip("robustvox.models.mamba.scan_triton", reason="Triton is not installed")
triton_scan = scan_triton.triton_scan
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four tokens: several of them, and a ragged last one, in sequences an interpreter can run."""
    monkeypatch.setattr(scan_triton._Grid, "tokens", property(lambda self: 4))
    monkeypatch.setattr(scan_triton, "_cut", scan_triton._Grid)  # none that was cut otherwise
    monkeypatch.setattr(scan_triton, "_constants", scan_triton._constants.__wrapped__)


def inputs(batch: int, length: int, inner: int, state: int, low: float = -2.0) -> list[Tensor]:
    g = torch.Generator().manual_seed(length + state)
    u, delta = torch.randn(2, batch, length, inner, generator=g)
    B, C = torch.randn(2, batch, length, state, generator=g)
    A = -torch.rand(inner, state, generator=g) * state
    return [u, F.softplus(delta + low), A, B, C, torch.randn(inner, generator=g)]


def recurrence(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Token by token, as the paper writes it."""
    h = u.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, 1)


def both(scan, values: list[Tensor], dtype: torch.dtype, device: str = DEVICE) -> list[Tensor]:
    """y and the gradients of all six inputs."""
    values = [v.to(device, dtype).requires_grad_() for v in values]
    y = scan(*values)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype, device=device).view_as(y)
    return [t.cpu() for t in (y.detach(), *torch.autograd.grad((y * weights).sum(), values))]


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative, and absolute where nothing is wanted."""
    return float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))


SHAPES = [(1, 1, 4, 16), (1, 4, 3, 8), (2, 9, 5, 4), (1, 7, 17, 8), (1, 5, 3, 32), (1, 6, 2, 3)]


@pytest.mark.parametrize(("batch", "length", "inner", "state"), SHAPES)
def test_values_and_all_gradients_equal_the_recurrence(
    batch: int, length: int, inner: int, state: int
) -> None:
    values = inputs(batch, length, inner, state)
    wanted = both(recurrence, values, torch.float64, "cpu")
    for dtype, bound in ((torch.float32, 1e-6), (torch.float64, 1e-14)):
        for found, exact in zip(both(triton_scan, values, dtype), wanted, strict=True):
            assert found.dtype == dtype
            assert error(found, exact) < bound or (exact.abs().max() == 0 and found.abs().max() == 0)


@pytest.mark.parametrize("low", [-30.0, 8.0, 300.0])
def test_extreme_steps(low: float) -> None:
    values = inputs(1, 6, 2, 4, low)
    wanted = both(recurrence, values, torch.float64, "cpu")
    for found, exact in zip(both(triton_scan, values, torch.float64), wanted, strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-25)


def test_a_step_of_zero_passes_the_state_on() -> None:
    values = inputs(1, 6, 2, 4)
    values[1][:, 2:] = 0
    torch.testing.assert_close(
        both(triton_scan, values, torch.float64), both(recurrence, values, torch.float64, "cpu")
    )


def test_chunks_in_flight_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = inputs(2, 9, 3, 4)
    once = both(triton_scan, values, torch.float32)
    monkeypatch.setattr(scan_triton, "_SCRATCH_ELEMENTS", 1)  # one chunk at a time
    for found, wanted in zip(both(triton_scan, values, torch.float32), once, strict=True):
        assert torch.equal(found, wanted)


def test_only_what_is_needed_gets_a_gradient() -> None:
    values = [v.to(DEVICE) for v in inputs(1, 5, 3, 4)]
    values[0].requires_grad_()
    (grad,) = torch.autograd.grad(triton_scan(*values).square().sum(), values[0])
    wanted = torch.autograd.grad(selective_scan(*values).square().sum(), values[0])[0]
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


def test_second_order_and_wrong_shapes_are_refused() -> None:
    values = [v.to(DEVICE).requires_grad_() for v in inputs(1, 3, 2, 4)]
    (grad,) = torch.autograd.grad(triton_scan(*values).square().sum(), values[0], create_graph=False)
    assert not grad.requires_grad
    with pytest.raises(RuntimeError, match="second"):
        torch.autograd.grad(triton_scan(*values).square().sum(), values[0], create_graph=True)
    with pytest.raises(ValueError, match="expected C of shape"):
        triton_scan(*values[:4], values[4][:, :2], values[5])


def test_half_precision_is_widened_and_comes_back() -> None:
    values = inputs(1, 5, 3, 4)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = triton_scan(*(v.to(DEVICE).bfloat16() for v in values))
    assert y.dtype == torch.bfloat16


def test_the_cut_covers_every_token_and_bounds_the_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for length in (1, 63, 64, 65, 32_768, 32_769, 262_145, 884_736):
        grid = scan_triton._Grid(1, length, 96, 16)
        assert (grid.chunks - 1) * grid.tokens < length <= grid.chunks * grid.tokens
        scratch = grid.in_flight * grid.blocks * grid.tokens * grid.block * grid.padded_state
        assert scratch <= scan_triton._SCRATCH_ELEMENTS


def test_auto_takes_triton_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Mamba(4)
    assert layer.scan is auto_scan
    assert scans_used(layer, "cpu") == ["torch"]
    assert scans_used(layer, "cuda") == ["triton"]
    assert scans_used(layer, "cuda", torch.float64) == ["torch"]
    assert scans_used(torch.nn.Conv3d(1, 1, 1), "cuda") == []
    monkeypatch.setattr(kernel_module, "_triton_or_none", lambda: None)
    assert scans_used(layer, "cuda") == ["torch"]
    with pytest.raises(ValueError, match="expected the package triton for scan=triton, found none"):
        find_scan("triton")


def test_by_name_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected tensors on a CUDA device for scan=triton, got cpu"):
        Mamba(4, scan="triton")(torch.zeros(1, 3, 4))


@pytest.mark.gpu
@pytest.mark.parametrize(("length", "inner"), [(13_824, 64), (110_592, 96), (884_736, 32)])
def test_long_sequences_on_a_card_repeat_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, length: int, inner: int
) -> None:
    monkeypatch.undo()
    values = inputs(1, length, inner, 16)
    first, again = (both(triton_scan, values, torch.float32) for _ in range(2))
    wanted = both(selective_scan, values, torch.float64)
    for found, repeated, exact in zip(first, again, wanted, strict=True):
        assert torch.equal(found, repeated)
        assert error(found, exact) < 1e-6
