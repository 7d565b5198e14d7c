"""The selective scan as Triton kernels: parallel over chunks of tokens, with all gradients, bit for bit repeatable.

Three passes go forward: every chunk from a zero state, the states from chunk to chunk, every chunk again from the
state it is entered with. Going back, their mirror image. One long volume thus fills the card, where a kernel that
is parallel over batch and channels only leaves most of it idle. Nothing is added atomically: each program writes
its own partial sums, which are added in a fixed order.

Importing this module needs Triton, which comes with PyTorch for CUDA on Linux; see :func:`.kernel.find_scan`.
"""

# Triton's decorator gives kernels a call signature that no type checker knows.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernels import on, refuse_second_order
from .scan import LOOP, check_scan, wide_dtype

_BLOCK_CHANNELS = 16
_SCRATCH_ELEMENTS = 1 << 27  # of the states of the chunks in flight going back: 512 MiB in float32
_UNROLLED = 8  # chunks that one turn of the loop over the carries takes


@triton.jit
def _tile(A, pe, E, N, BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr):
    """Channels, states, their masks, and the decay rates of one block of channels."""
    e = pe * BE + tl.arange(0, BE)
    n = tl.arange(0, NP)
    em = e < E
    nm = n < N
    a = tl.load(A + e[:, None] * N + n[None, :], mask=em[:, None] & nm[None, :], other=0.0).to(F)
    return e, n, em, nm, a


@triton.jit
def _decay(x, F: tl.constexpr):
    """exp(x). Near 0 by its series: a card's fast exp is off by an ulp there, always to the same side, and a state that
    is multiplied a thousand times adds that up."""
    fast = tl.exp(x)
    if F == tl.float64:  # noqa: SIM300
        return fast
    series = 1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))
    return tl.where(tl.abs(x) < 1 / 16, series, fast)


@triton.jit
def _token(values, dt, weights, token, ok, e, n, em, nm, E, N):
    """Place, step, values of the channels and weights of the states of one token; zeros where it is not ok."""
    at = token * E + e
    d = tl.load(dt + at, mask=em & ok, other=0.0)
    value = tl.load(values + at, mask=em & ok, other=0.0)
    weight = tl.load(weights + token * N + n, mask=nm & ok, other=0.0)
    return at, d, value, weight


@triton.jit
def _chunk_states(
    u, dt, A, Bm, S, T, L, K, E, N,
    Q: tl.constexpr, BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """S[k]: last state of chunk k entered with zero; T[k]: sum of its steps."""
    chunk, pe = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, k = chunk // K, chunk % K
    e, n, em, nm, a = _tile(A, pe, E, N, BE, NP, F)
    h = tl.zeros([BE, NP], F)
    total = tl.zeros([BE], F)
    row = b * L + k * Q
    left = L - k * Q
    for q in range(Q):
        ok = q < left
        _, d, x, bt = _token(u, dt, Bm, row + q, ok, e, n, em, nm, E, N)
        h = _decay(d[:, None] * a, F) * h + (d * x)[:, None] * bt[None, :]
        total += d
    tl.store(S + (chunk * E + e[:, None]) * N + n[None, :], h, mask=em[:, None] & nm[None, :])
    tl.store(T + chunk * E + e, total, mask=em)


@triton.jit
def _carry(
    S, T, A, K, E, N,
    BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr, REV: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """S[k] becomes the state that enters chunk k; with REV the adjoint that arrives from chunk k + 1.

    U chunks are read at once: read one by one, each would wait for memory in its turn.
    """
    b, pe = tl.program_id(0).to(tl.int64), tl.program_id(1)
    e, n, em, nm, a = _tile(A, pe, E, N, BE, NP, F)
    j = tl.arange(0, U)
    c = tl.zeros([BE, NP], F)
    for i in range(0, K, U):
        k = i + j
        at = ((b * K + (K - 1 - k if REV else k))[:, None] * E) + e[None, :]
        ok = (k < K)[:, None] & em[None, :]
        here = S + at[:, :, None] * N + n[None, None, :]
        inside = ok[:, :, None] & nm[None, None, :]
        s = tl.load(here, mask=inside, other=0.0)
        decay = _decay(tl.load(T + at, mask=ok, other=0.0)[:, :, None] * a[None, :, :], F)
        entering = tl.zeros([U, BE, NP], F)
        for m in tl.static_range(U):  # pyright: ignore
            mine = (j == m)[:, None, None]
            entering = tl.where(mine, c[None, :, :], entering)
            c = tl.sum(tl.where(mine, decay, 0.0), 0) * c + tl.sum(tl.where(mine, s, 0.0), 0)
        tl.store(here, entering, mask=inside)


@triton.jit
def _chunk_outputs(
    u, dt, A, Bm, Cm, D, S, y, L, K, E, N,
    Q: tl.constexpr, BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    chunk, pe = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, k = chunk // K, chunk % K
    e, n, em, nm, a = _tile(A, pe, E, N, BE, NP, F)
    direct = tl.load(D + e, mask=em, other=0.0)
    h = tl.load(S + (chunk * E + e[:, None]) * N + n[None, :], mask=em[:, None] & nm[None, :], other=0.0)
    row = b * L + k * Q
    left = L - k * Q
    for q in range(Q):
        ok = q < left
        at, d, x, bt = _token(u, dt, Bm, row + q, ok, e, n, em, nm, E, N)
        ct = tl.load(Cm + (row + q) * N + n, mask=nm & ok, other=0.0)
        h = _decay(d[:, None] * a, F) * h + (d * x)[:, None] * bt[None, :]
        tl.store(y + at, tl.sum(h * ct[None, :], 1) + direct * x, mask=em & ok)


@triton.jit
def _chunk_adjoints(
    g, dt, A, Cm, R, L, K, E, N,
    Q: tl.constexpr, BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr,
):  # fmt: skip
    """R[k]: what chunk k hands to the one before it when nothing arrives from behind."""
    chunk, pe = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, k = chunk // K, chunk % K
    e, n, em, nm, a = _tile(A, pe, E, N, BE, NP, F)
    c = tl.zeros([BE, NP], F)
    row = b * L + k * Q
    left = L - k * Q
    for r in range(Q):
        q = Q - 1 - r
        ok = q < left
        _, d, gt, ct = _token(g, dt, Cm, row + q, ok, e, n, em, nm, E, N)
        c = _decay(d[:, None] * a, F) * (c + gt[:, None] * ct[None, :])
    tl.store(R + (chunk * E + e[:, None]) * N + n[None, :], c, mask=em[:, None] & nm[None, :])


@triton.jit
def _chunk_gradients(
    u, dt, A, Bm, Cm, D, g, S, R, H, gu, gd, gBC, gA, first, rows, L, K, E, N, PE,
    Q: tl.constexpr, BE: tl.constexpr, NP: tl.constexpr, F: tl.constexpr, RATES: tl.constexpr,
):  # fmt: skip
    """Gradients of one chunk. H is scratch for the states of the chunks in flight, gBC and gA are partial sums."""
    slot, pe = tl.program_id(0).to(tl.int64), tl.program_id(1)
    chunk = first + slot
    b, k = chunk // K, chunk % K
    e, n, em, nm, a = _tile(A, pe, E, N, BE, NP, F)
    inside = em[:, None] & nm[None, :]
    direct = tl.load(D + e, mask=em, other=0.0)
    h = tl.load(S + (chunk * E + e[:, None]) * N + n[None, :], mask=inside, other=0.0)
    states = H + (slot * PE + pe) * (Q * BE * NP) + tl.arange(0, BE)[:, None] * NP + n[None, :]
    row = b * L + k * Q
    left = L - k * Q
    for q in range(Q):
        ok = q < left
        tl.store(states + q * (BE * NP), h)  # the state before token q
        _, d, x, bt = _token(u, dt, Bm, row + q, ok, e, n, em, nm, E, N)
        h = _decay(d[:, None] * a, F) * h + (d * x)[:, None] * bt[None, :]
    c = tl.load(R + (chunk * E + e[:, None]) * N + n[None, :], mask=inside, other=0.0)
    rates = tl.zeros([BE, NP], F)
    for r in range(Q):
        q = Q - 1 - r
        ok = q < left
        at = (row + q) * E + e
        before = tl.load(states + q * (BE * NP))
        d = tl.load(dt + at, mask=em & ok, other=0.0)
        x = tl.load(u + at, mask=em & ok, other=0.0)
        gt = tl.load(g + at, mask=em & ok, other=0.0)
        bt = tl.load(Bm + (row + q) * N + n, mask=nm & ok, other=0.0)
        ct = tl.load(Cm + (row + q) * N + n, mask=nm & ok, other=0.0)
        decay = _decay(d[:, None] * a, F)
        adjoint = c + gt[:, None] * ct[None, :]
        decayed = decay * before
        state = decayed + (d * x)[:, None] * bt[None, :]
        along_b = tl.sum(adjoint * bt[None, :], 1)
        tl.store(gu + at, direct * gt + d * along_b, mask=em & ok)
        tl.store(gd + at, x * along_b + tl.sum(adjoint * decayed * a, 1), mask=em & ok)
        partial = gBC + (2 * pe.to(tl.int64) * rows + row + q) * N + n
        tl.store(partial, tl.sum(adjoint * (d * x)[:, None], 0), mask=nm & ok)
        tl.store(partial + rows * N, tl.sum(state * gt[:, None], 0), mask=nm & ok)
        if RATES:
            rates += adjoint * decayed * d[:, None]
        c = decay * adjoint
    if RATES:
        tl.store(gA + (chunk * E + e[:, None]) * N + n[None, :], rates, mask=inside)


@dataclass(frozen=True)
class _Grid:
    """How one scan is cut: ``chunks`` of ``tokens`` in each of ``batch`` sequences, ``blocks`` of channels.

    Worked out once per shape (:func:`_cut`): a short scan takes the card less time than Python takes for these.
    """

    batch: int
    length: int
    inner: int
    state: int

    @cached_property
    def tokens(self) -> int:
        """Longer chunks for longer sequences: the loop over the carries is serial."""
        longest = 64 if self.length <= 32_768 else 128 if self.length <= 262_144 else 256
        return min(longest, _power_of_2(self.length))

    @cached_property
    def chunks(self) -> int:
        return -(-self.length // self.tokens)

    @cached_property
    def block(self) -> int:
        return min(_power_of_2(self.inner), _BLOCK_CHANNELS)

    @cached_property
    def padded_state(self) -> int:
        return _power_of_2(self.state)

    @cached_property
    def blocks(self) -> int:
        return -(-self.inner // self.block)

    @cached_property
    def programs(self) -> tuple[int, int]:
        """One per chunk and block of channels."""
        return self.batch * self.chunks, self.blocks

    @cached_property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.length, self.chunks, self.inner, self.state

    @property
    def in_flight(self) -> int:
        """Chunks whose states fit the scratch of the backward pass."""
        each = self.blocks * self.tokens * self.block * self.padded_state
        return max(1, min(self.batch * self.chunks, _SCRATCH_ELEMENTS // each))

    @cached_property
    def carried(self) -> tuple[int, int]:
        """Channels in a program of the loop over the carries, of which few run, and the number of its blocks."""
        block = min(self.block, 4)
        return block, -(-self.inner // block)


def _power_of_2(number: int) -> int:
    """The least one that is not smaller."""
    return 1 << (number - 1).bit_length()


@functools.lru_cache(maxsize=256)
def _cut(batch: int, length: int, inner: int, state: int) -> _Grid:
    return _Grid(batch, length, inner, state)


@functools.lru_cache(maxsize=256)
def _constants(grid: _Grid, dtype: torch.dtype) -> dict[str, Any]:
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    return {"BE": grid.block, "NP": grid.padded_state, "F": wide, "num_warps": 1}


class _TritonScan(torch.autograd.Function):
    """The scan and its adjoint. Keeps the inputs and the state entering every chunk; recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        grid = _cut(*u.shape, A.shape[1])
        sizes, programs, constants = grid.sizes, grid.programs, _constants(grid, u.dtype)
        states = u.new_empty(programs[0], grid.inner, grid.state)
        steps = u.new_empty(programs[0], grid.inner)
        with on(u.device):
            _chunk_states[programs](u, delta, A, B, states, steps, *sizes, Q=grid.tokens, **constants)
            _pass_on(grid, states, steps, A, reverse=False)
            y = torch.empty_like(u)
            _chunk_outputs[programs](u, delta, A, B, C, D, states, y, *sizes, Q=grid.tokens, **constants)
        ctx.save_for_backward(u, delta, A, B, C, D, states, steps)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("the Triton scan", LOOP)
        u, delta, A, B, C, D, states, steps = ctx.saved_tensors
        g = grads[0].contiguous()
        grid, needed = _cut(*u.shape, A.shape[1]), ctx.needs_input_grad
        with on(u.device):
            # Every launch as early as it may: of a short scan the card is waiting for Python.
            adjoints = torch.empty_like(states)
            _chunk_adjoints[grid.programs](
                g, delta, A, C, adjoints, *grid.sizes, Q=grid.tokens, **_constants(grid, u.dtype)
            )
            _pass_on(grid, adjoints, steps, A, reverse=True)
            grad_u, grad_delta = torch.empty_like(u), torch.empty_like(u)
            partial = B.new_empty(grid.blocks, 2, *B.shape)  # of B and of C, summed at once
            rates = torch.empty_like(states) if needed[2] else states
            _gradients(
                grid, (u, delta, A, B, C, D, g, states, adjoints),
                (grad_u, grad_delta, partial, rates), needed[2],
            )  # fmt: skip
        grad_b, grad_c = partial.sum(0)
        return (
            grad_u if needed[0] else None,
            grad_delta if needed[1] else None,
            rates.sum(0) if needed[2] else None,
            grad_b if needed[3] else None,
            grad_c if needed[4] else None,
            (g * u).sum((0, 1)) if needed[5] else None,
        )


def _pass_on(grid: _Grid, states: Tensor, steps: Tensor, A: Tensor, *, reverse: bool) -> None:
    """From the end of every chunk entered with zero to what really enters it, in place."""
    block, blocks = grid.carried
    constants = {**_constants(grid, states.dtype), "BE": block}
    _carry[grid.batch, blocks](
        states, steps, A, grid.chunks, grid.inner, grid.state, REV=reverse, U=_UNROLLED, **constants
    )


def _gradients(
    grid: _Grid, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], need_rates: bool
) -> None:
    """As many chunks at a time as the scratch holds."""
    u = inputs[0]
    every, at_once = grid.batch * grid.chunks, grid.in_flight
    scratch = u.new_empty(at_once * grid.blocks * grid.tokens * grid.block * grid.padded_state)
    constants = _constants(grid, u.dtype)
    for first in range(0, every, at_once):
        _chunk_gradients[min(at_once, every - first), grid.blocks](
            *inputs, scratch, *outputs, first, grid.batch * grid.length, *grid.sizes, grid.blocks,
            Q=grid.tokens, RATES=need_rates, **constants,
        )  # fmt: skip


def triton_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """:func:`.scan.selective_scan` in Triton: the same arguments, layouts, precision and errors.

    Memory beyond the inputs: one state per chunk, partial sums of the size of B and C for every 16 channels, and
    going back at most 512 MiB for the states of the chunks in flight. Equal inputs give equal bits.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        arXiv:2312.00752, algorithm 2 and section 3.3; official code: state-spaces/mamba, `selective_scan_fn`.

    Differs from the source: parallel over chunks of tokens, not over batch and channels alone; deterministic
    gradients of B and C; any number of states and channels.

    Shape:
        u, delta, y: (B,L,E). A: (E,N). B, C: (B,L,N). D: (E,).

    Raises:
        ValueError: if the shapes do not go together.
        RuntimeError: in a backward pass with `create_graph=True`.
    """
    check_scan(u, delta, A, B, C, D)
    if u.is_meta or u.numel() == 0:
        return torch.empty_like(u)
    inputs = (u, delta, A, B, C, D)
    wide = wide_dtype(*inputs)
    if all(x.dtype == wide and x.is_contiguous() for x in inputs):
        return _TritonScan.apply(*inputs)  # type: ignore[return-value]
    with torch.autocast(u.device.type, enabled=False):
        return _TritonScan.apply(*(x.to(wide).contiguous() for x in inputs)).to(u.dtype)
