"""Whether the Triton window attention is right on a card: tried there, before a network uses it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from . import swin_attention_triton as kernels
from .window_memory import is_out_of_memory

_RIGHT: dict[tuple[object, ...], bool] = {}

_TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
"""Of the norm, three and more times what the kernels are off. TF32 would be 1e-3, a key left out 5e-2."""


def is_right(device: torch.device, dtype: torch.dtype, n: int, width: int, heads: int, masked: bool) -> bool:
    """Whether the kernels, compiled for this card, give what the formula gives in float64, twice to the bit.

    Found out once per process and kind of window, on random numbers: a compiler of another version or another card must
    not change a table. Where it is not so, a warning says why, once.

    Args:
        device: of the tokens.
        dtype: of queries, keys and values.
        n: tokens of a window.
        width: channels of a head.
        heads: how many.
        masked: whether windows are shifted.
    """
    if width > kernels.WIDEST:
        return False
    # Two heads stand for many, unless their channels together are aligned otherwise: that is another kernel.
    heads = heads if width % 16 else min(heads, 2)
    kind = (device, dtype, n, width, heads, masked)
    if kind not in _RIGHT:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return False  # a comparison cannot be recorded
        fault = _fault(*kind)
        _RIGHT[kind] = not fault
        if fault:
            warnings.warn(
                f"the Triton window attention is not used on {device} for windows of {n} tokens in {dtype}: {fault}; "
                "MONAI's layer runs instead, which takes more memory",
                stacklevel=2,
            )
    return _RIGHT[kind]


def _fault(device: torch.device, dtype: torch.dtype, n: int, width: int, heads: int, masked: bool) -> str:
    """What is wrong with the kernels, nothing where they are right."""
    try:
        with _by_itself(device):
            return _difference(device, dtype, n, width, heads, masked)
    except Exception as error:
        if is_out_of_memory(error):
            raise  # no verdict
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def _by_itself(device: torch.device) -> Iterator[None]:
    """Nothing of what surrounds the first forward: no inference mode, autocast or hooks of whoever counts or recomputes
    what a graph keeps."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        yield


def _difference(
    device: torch.device, dtype: torch.dtype, n: int, width: int, heads: int, masked: bool
) -> str:
    g = torch.Generator("cpu").manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device="cpu", dtype=torch.float32).to(device)

    qkv, arriving = (normal(4, n, parts * heads * width).to(dtype) for parts in (3, 1))
    bias, scale = normal(heads, n, n), width**-0.5
    mask = normal(2, n, n).sign().clamp(max=0).mul(100) if masked else None
    once, again = (
        values_and_gradient(kernels.triton_window_attention, qkv, bias, mask, scale, arriving)
        for _ in range(2)
    )
    exact = values_and_gradient(
        plain_window_attention, qkv.double(), bias.double(), mask, scale, arriving.double()
    )
    if not all(bool(torch.isfinite(found).all()) for found in once):
        return "some of its numbers are not finite"
    if not all(torch.equal(first, second) for first, second in zip(once, again, strict=True)):
        return "it does not repeat to the last bit"
    off = [
        float((found.double() - wanted).norm() / wanted.norm())
        for found, wanted in zip(once, exact, strict=True)
    ]
    if max(off) <= _TOLERANCES[dtype]:
        return ""
    return f"values and gradients are {off[0]:.1g} and {off[1]:.1g} of the norm from float64"


def values_and_gradient(
    attend: Callable[..., Tensor],
    qkv: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    scale: float,
    arriving: Tensor,
) -> tuple[Tensor, Tensor]:
    """What goes out of an attention, and the gradient of ``qkv`` where ``arriving`` is that of what goes out."""
    qkv = qkv.clone().requires_grad_(True)
    out = attend(qkv, bias, mask, scale)
    return out.detach(), torch.autograd.grad(out, qkv, arriving)[0]


def plain_window_attention(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """:func:`.swin_attention_triton.triton_window_attention` as its formula reads, with the matrix of weights."""
    windows, n, heads = *qkv.shape[:2], len(bias)
    query, key, value = qkv.reshape(windows, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) * scale + bias
    if mask is not None:
        scores = (scores.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)).flatten(0, 1)
    return (scores.softmax(-1) @ value).transpose(1, 2).reshape(windows, n, -1)
