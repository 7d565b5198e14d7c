"""The Triton window attention against its formula in float64: on a GPU compiled, elsewhere in Triton's interpreter."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention

from robustvox.models import swin_attention
from robustvox.models.fast import with_fast_layers

triton_attention = pytest.importorskip(
    "robustvox.models.swin_attention_triton", reason="Triton is not installed"
)
trial = pytest.importorskip("robustvox.models.swin_attention_trial")
attend = triton_attention.triton_window_attention
plain, both = trial.plain_window_attention, trial.values_and_gradient
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [
    # tokens, heads, channels of a head, windows of a volume with a mask
    (70, 2, 4, 0),  # a ragged last block, narrow heads
    (70, 2, 16, 2),
    (33, 1, 5, 3),  # a width that is no power of two
    (32, 3, 16, 0),  # whole blocks
    (7, 2, 20, 1),  # less than a block
]


def case(tokens, heads, width, places, dtype, volumes=2):
    g = torch.Generator().manual_seed(tokens)
    windows = max(places, 1) * volumes
    qkv = torch.randn(windows, tokens, 3 * heads * width, generator=g).to(DEVICE, dtype)
    bias = torch.randn(heads, tokens, tokens, generator=g).to(DEVICE, dtype)
    hidden = torch.rand(places, tokens, tokens, generator=g) < 0.5
    mask = hidden.to(DEVICE, dtype) * -100 if places else None
    arriving = torch.randn(windows, tokens, heads * width, generator=g).to(DEVICE, dtype)
    return qkv, bias, mask, width**-0.5, arriving


def doubled(qkv, bias, mask, scale, arriving):
    return qkv.double(), bias.double(), None if mask is None else mask.double(), scale, arriving.double()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_values_and_gradients_are_those_of_the_formula(shape, dtype, bound):
    if DEVICE == "cuda" and dtype == torch.float64:
        pytest.skip("on a card float64 is MONAI's layer")
    given = case(*shape, dtype)
    for found, exact in zip(both(attend, *given), both(plain, *doubled(*given)), strict=True):
        assert found.dtype == dtype
        assert (found.double() - exact).norm() <= bound * exact.norm()


def test_the_formula_is_monais_layer():
    torch.manual_seed(0)
    layer = WindowAttention(8, 2, (5, 5, 2), qkv_bias=True).double().eval().requires_grad_(False)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    x = torch.randn(6, 50, 8, dtype=torch.float64)
    mask = (torch.rand(3, 50, 50) < 0.5).double() * -100
    bias = layer.relative_position_bias_table[layer.relative_position_index.reshape(-1)]
    bias = bias.reshape(50, 50, -1).permute(2, 0, 1)
    mixed = layer.proj(plain(layer.qkv(x), bias, mask, layer.scale))
    torch.testing.assert_close(mixed, layer(x, mask), rtol=1e-12, atol=1e-14)


def test_large_scores_neither_overflow_nor_lose_the_sum():
    qkv, bias, mask, scale, arriving = case(40, 1, 4, 0, torch.float32)
    given = qkv * 60, bias - 300, mask, scale, arriving
    for found, exact in zip(both(attend, *given), both(plain, *doubled(*given)), strict=True):
        assert torch.isfinite(found).all()
        # Scores of ten thousand in float32; as in every flash attention what cancels in the gradient cancels to rounding.
        assert (found - exact).norm() <= 1e-3 * exact.norm()


def test_equal_inputs_give_equal_bits_and_a_batch_its_items():
    qkv, bias, mask, scale, arriving = case(40, 2, 4, 2, torch.float32, volumes=3)
    once = both(attend, qkv, bias, mask, scale, arriving)
    again = both(attend, qkv, bias, mask, scale, arriving)
    for first, second in zip(once, again, strict=True):
        assert torch.equal(first, second)
    for volume in range(3):
        mine = slice(2 * volume, 2 * volume + 2)
        alone = both(attend, qkv[mine], bias, mask, scale, arriving[mine])
        for whole, part in zip(once, alone, strict=True):
            assert torch.equal(whole[mine], part)


def test_a_layout_of_its_own_is_no_matter():
    qkv, bias, mask, scale, arriving = case(33, 2, 4, 2, torch.float32)
    turned = (
        qkv.transpose(0, 1).contiguous().transpose(0, 1),
        bias.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        mask.mT.contiguous().mT,
        scale,
        arriving.transpose(0, 1).contiguous().transpose(0, 1),
    )
    for ours, theirs in zip(
        both(attend, *turned), both(attend, qkv, bias, mask, scale, arriving), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_what_does_not_go_together_is_refused():
    qkv, bias, mask, scale, _ = case(33, 2, 4, 2, torch.float32)
    for wrong in (
        (qkv[:, :30], bias, mask, scale),
        (qkv[:3], bias, mask, scale),
        (qkv[..., :-3], bias, mask, scale),
        (qkv, bias, mask[:, :30], scale),
    ):
        with pytest.raises(ValueError, match="to go with qkv"):
            attend(*wrong)
    given = qkv.clone().requires_grad_(True)
    with pytest.raises(RuntimeError, match="first-order"):
        torch.autograd.grad(attend(given, bias, mask, scale).sum(), given, create_graph=True)


class _Elsewhere(torch.Tensor):
    """A tensor that says it lies on a card."""

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "trust", "ours"),
    [(torch.float32, True, True), (torch.float32, False, False), (torch.float64, True, False)],
)
def test_the_layer_takes_it_on_a_card_where_it_is_right(monkeypatch, dtype, trust, ours):
    asked = []
    monkeypatch.setattr(trial, "is_right", lambda *kind: asked.append(kind) or trust)
    layer = WindowAttention(32, 2, (6, 5, 5)).to(dtype).eval().requires_grad_(False)
    new = with_fast_layers(copy.deepcopy(layer))
    assert type(new) is swin_attention.FusedWindowAttention
    x = torch.randn(4, 150, 32, dtype=dtype).as_subclass(_Elsewhere)
    kernel = new._kernel(x, None)
    assert kernel is (attend if ours else None)
    assert new._kernel(x[:, :100], None) is None
    if dtype == torch.float32:
        assert asked == [(torch.device("cuda", 0), torch.float32, 150, 16, 2, False)]


def test_a_layer_by_the_kernels_is_monais(monkeypatch):
    layer = WindowAttention(16, 2, (6, 5, 5), qkv_bias=True).eval().requires_grad_(False).to(DEVICE)
    torch.nn.init.normal_(layer.relative_position_bias_table)
    new = with_fast_layers(copy.deepcopy(layer))
    monkeypatch.setattr(type(new), "_kernel", lambda self, x, mask: attend)
    x = torch.randn(2, 150, 16, device=DEVICE)
    mask = (torch.rand(2, 150, 150, device=DEVICE) < 0.5).float() * -100
    torch.testing.assert_close(new(x, mask), layer(x, mask), rtol=1e-5, atol=1e-6)
