"""Attention in the windows of a Swin transformer as Triton kernels that never write its matrix of weights down.

One program holds some queries of one window and head and passes over the keys, with the running maximum and sum of
FlashAttention. Going back, one kernel passes over the keys for the gradient of the queries and another over the queries
for the gradients of keys and values: each writes what is its own and nothing is added atomically, so that equal inputs
give equal bits. Queries, keys and values are read where the linear layer left them, which saves their copies.

Importing this module needs Triton, which comes with PyTorch for CUDA on Linux.
"""

# Triton's decorator gives kernels a call signature that no type checker knows.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .kernels import on, refuse_second_order

OWN, STEP = 64, 16
"""Queries (or keys) that a program holds, and keys (or queries) of one step. Compiled for sm_90 and heads of 16 channels the
three kernels take 86, 88 and 137 registers; squares of 32 take 194, 183 and 208, and squares of 64 spill."""

WIDEST = 16
"""Channels of a head up to which nothing spills; the heads of Swin-UNETR have 16."""

_kernel = functools.partial(triton.jit, do_not_specialize=["volumes", "places", "n", "H"])


@triton.jit
def _window(volumes, places, H):
    """Window, its place in the volume, and head of this program.

    Programs of one place follow each other in all volumes and heads: they read the same mask.
    """
    number = tl.program_id(0).to(tl.int64)
    head = number % H
    volume = (number // H) % volumes
    place = number // (H * volumes)
    return volume * places + place, place, head


@triton.jit
def _rows(X, window, part, head, i, d, n, C, D, PARTS: tl.constexpr, F: tl.constexpr):
    """Rows ``i`` of one window and head, zeros beyond its tokens; PARTS tensors of C channels lie side by side."""
    at = ((window * n + i[:, None]) * PARTS + part) * C + head * D + d[None, :]
    return tl.load(X + at, mask=(i < n)[:, None] & (d < D)[None, :], other=0.0).to(F)


@triton.jit
def _keep(X, value, window, part, head, i, d, n, C, D, PARTS: tl.constexpr):
    """The reverse of :func:`_rows`."""
    at = ((window * n + i[:, None]) * PARTS + part) * C + head * D + d[None, :]
    tl.store(X + at, value.to(X.dtype.element_ty), mask=(i < n)[:, None] & (d < D)[None, :])


@triton.jit
def _scores(q, k, bias, mask, place, head, i, j, n, F: tl.constexpr, MASKED: tl.constexpr, P: tl.constexpr):
    """Scaled queries times keys, with position bias and mask; nothing is left of keys beyond the window."""
    inside = (i < n)[:, None] & (j < n)[None, :]
    at = i[:, None] * n + j[None, :]
    scores = tl.dot(q, tl.trans(k), input_precision=P)
    scores += tl.load(bias + head * n * n + at, mask=inside, other=0.0).to(F)
    if MASKED:
        scores += tl.load(mask + place * n * n + at, mask=inside, other=0.0).to(F)
    return tl.where((j < n)[None, :], scores, float("-inf"))


@_kernel()
def _mix(
    qkv, bias, mask, out, logs, volumes, places, n, H, C, D,
    SCALE: tl.constexpr, B: tl.constexpr, S: tl.constexpr, DP: tl.constexpr, F: tl.constexpr, MASKED: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """out: values mixed by the weights. logs: per query the logarithm of the sum that its weights were divided by."""
    window, place, head = _window(volumes, places, H)
    i, d = tl.program_id(1) * B + tl.arange(0, B), tl.arange(0, DP)
    q = _rows(qkv, window, 0, head, i, d, n, C, D, 3, F) * SCALE
    largest = tl.full([B], float("-inf"), F)
    total = tl.zeros([B], F)
    mixed = tl.zeros([B, DP], F)
    for start in range(0, n, S):
        j = start + tl.arange(0, S)
        k = _rows(qkv, window, 1, head, j, d, n, C, D, 3, F)
        v = _rows(qkv, window, 2, head, j, d, n, C, D, 3, F)
        scores = _scores(q, k, bias, mask, place, head, i, j, n, F, MASKED, P)
        above = tl.maximum(largest, tl.max(scores, 1))
        shrink = tl.exp(largest - above)
        weights = tl.exp(scores - above[:, None])
        total = total * shrink + tl.sum(weights, 1)
        mixed = mixed * shrink[:, None] + tl.dot(weights, v, input_precision=P)
        largest = above
    _keep(out, mixed / total[:, None], window, 0, head, i, d, n, C, D, 1)
    tl.store(logs + (window * H + head) * n + i, largest + tl.log(total), mask=i < n)


@_kernel()
def _query_gradients(
    qkv, bias, mask, out, logs, g, gqkv, along, volumes, places, n, H, C, D,
    SCALE: tl.constexpr, B: tl.constexpr, S: tl.constexpr, DP: tl.constexpr, F: tl.constexpr, MASKED: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The first part of gqkv. along: per query, the gradient of its output along that output."""
    window, place, head = _window(volumes, places, H)
    i, d = tl.program_id(1) * B + tl.arange(0, B), tl.arange(0, DP)
    q = _rows(qkv, window, 0, head, i, d, n, C, D, 3, F) * SCALE
    arriving = _rows(g, window, 0, head, i, d, n, C, D, 1, F)
    projected = tl.sum(arriving * _rows(out, window, 0, head, i, d, n, C, D, 1, F), 1)
    row = (window * H + head) * n + i
    tl.store(along + row, projected, mask=i < n)
    log = tl.load(logs + row, mask=i < n, other=0.0)
    gradient = tl.zeros([B, DP], F)
    for start in range(0, n, S):
        j = start + tl.arange(0, S)
        k = _rows(qkv, window, 1, head, j, d, n, C, D, 3, F)
        v = _rows(qkv, window, 2, head, j, d, n, C, D, 3, F)
        scores = _scores(q, k, bias, mask, place, head, i, j, n, F, MASKED, P)
        weights = tl.exp(scores - log[:, None])
        change = weights * (tl.dot(arriving, tl.trans(v), input_precision=P) - projected[:, None])
        gradient += tl.dot(change, k, input_precision=P)
    _keep(gqkv, gradient * SCALE, window, 0, head, i, d, n, C, D, 3)


@_kernel()
def _key_gradients(
    qkv, bias, mask, logs, g, gqkv, along, volumes, places, n, H, C, D,
    SCALE: tl.constexpr, B: tl.constexpr, S: tl.constexpr, DP: tl.constexpr, F: tl.constexpr, MASKED: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The second and third part of gqkv, of keys and values."""
    window, place, head = _window(volumes, places, H)
    j, d = tl.program_id(1) * B + tl.arange(0, B), tl.arange(0, DP)
    k = _rows(qkv, window, 1, head, j, d, n, C, D, 3, F)
    v = _rows(qkv, window, 2, head, j, d, n, C, D, 3, F)
    of_keys = tl.zeros([B, DP], F)
    of_values = tl.zeros([B, DP], F)
    for start in range(0, n, S):
        i = start + tl.arange(0, S)
        q = _rows(qkv, window, 0, head, i, d, n, C, D, 3, F) * SCALE
        arriving = _rows(g, window, 0, head, i, d, n, C, D, 1, F)
        row = (window * H + head) * n + i
        log = tl.load(logs + row, mask=i < n, other=0.0)
        projected = tl.load(along + row, mask=i < n, other=0.0)
        scores = _scores(q, k, bias, mask, place, head, i, j, n, F, MASKED, P)
        # Rows beyond the window would weigh exp(0); what arrives there is zero, and so is what they add.
        weights = tl.exp(scores - log[:, None])
        of_values += tl.dot(tl.trans(weights), arriving, input_precision=P)
        change = weights * (tl.dot(arriving, tl.trans(v), input_precision=P) - projected[:, None])
        of_keys += tl.dot(tl.trans(change), q, input_precision=P)
    _keep(gqkv, of_keys, window, 1, head, j, d, n, C, D, 3)
    _keep(gqkv, of_values, window, 2, head, j, d, n, C, D, 3)


class _Attention(torch.autograd.Function):
    """Keeps what came in, what went out and one number per query and head; recomputes the weights."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        windows, n, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        out = qkv.new_empty(windows, n, channels)
        logs = torch.empty(windows, len(bias), n, dtype=_wide(qkv.dtype), device=qkv.device)
        grid, sizes, constants = _launch(qkv, bias, mask, scale)
        with on(qkv.device):
            _mix[grid](qkv, bias, bias if mask is None else mask, out, logs, *sizes, **constants)
        ctx.save_for_backward(qkv, bias, mask, out, logs)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("the Triton window attention", "give the network MONAI's WindowAttention")
        qkv, bias, mask, out, logs = ctx.saved_tensors
        g = grads[0].contiguous()
        gradient, along = torch.empty_like(qkv), torch.empty_like(logs)
        grid, sizes, constants = _launch(qkv, bias, mask, ctx.scale)
        masked = bias if mask is None else mask
        with on(qkv.device):
            _query_gradients[grid](qkv, bias, masked, out, logs, g, gradient, along, *sizes, **constants)
            _key_gradients[grid](qkv, bias, masked, logs, g, gradient, along, *sizes, **constants)
        return gradient, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _launch(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float
) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """The programs, the sizes and the constants that all kernels share."""
    windows, n, channels, heads = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3, len(bias)
    places, width = 1 if mask is None else len(mask), channels // heads
    constants = {
        "SCALE": scale,
        "B": OWN,
        "S": STEP,
        "DP": max(16, triton.next_power_of_2(width)),  # the least that a product of tiles takes
        "F": tl.float64 if qkv.dtype == torch.float64 else tl.float32,
        "MASKED": mask is not None,
        "P": _products(qkv.device),
        "num_warps": 4,
        "num_stages": 2,
    }
    sizes = (windows // places, places, n, heads, channels, width)
    return (windows * heads, triton.cdiv(n, OWN)), sizes, constants


@functools.lru_cache(maxsize=16)
def _products(device: torch.device) -> str:
    """Float32 products of tensor cores in three parts, which are as exact as float32, where a card has them."""
    cores = device.type == "cuda" and torch.version.hip is None
    return "tf32x3" if cores and torch.cuda.get_device_capability(device) >= (8, 0) else "ieee"


def triton_window_attention(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax(scale Q K' + bias + mask) V in every window and head. Equal inputs give equal bits.

    float32 inside whatever comes in, float64 for float64. Made for heads of up to :data:`WIDEST` channels. Memory beyond
    what comes in and goes out: one number per query and head. There is no gradient of bias and mask.

    Source: Liu et al., "Swin Transformer", arXiv 2103.14030; T. Dao et al., "FlashAttention", arXiv 2205.14135.

    Differs from the source: nothing is added atomically going back, and queries, keys and values are read where the linear
    layer left them.

    Shape:
        qkv: ``(windows, n, 3 * channels)``, of which the heads follow each other in each of Q, K and V. bias:
        ``(heads, n, n)``. mask: ``(windows of one volume, n, n)``. The result: ``(windows, n, channels)``.

    Raises:
        ValueError: if the shapes do not go together.
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    windows, n, width = qkv.shape
    places = 1 if mask is None else len(mask)
    fits = bias.shape[1:] == (n, n) and (mask is None or mask.shape[1:] == (n, n))
    if not fits or width % (3 * len(bias)) or windows % places:
        shape = None if mask is None else tuple(mask.shape)
        raise ValueError(
            f"expected bias and mask of {n} x {n} to go with qkv {tuple(qkv.shape)}, heads that divide its channels "
            f"and whole volumes of windows, got bias {tuple(bias.shape)} and mask {shape}"
        )
    wide = _wide(qkv.dtype)
    bias, mask = bias.to(wide).contiguous(), None if mask is None else mask.to(wide).contiguous()
    return _Attention.apply(qkv.contiguous(), bias, mask, scale)  # type: ignore[return-value]
