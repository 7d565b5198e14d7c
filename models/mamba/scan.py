"""The selective scan of Mamba, in pure PyTorch, with memory that does not grow as length x width x state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import refuse_second_order

LOOP = "differentiate a plain loop over the tokens instead"
"""What serves where second derivatives of a scan are wanted."""

# A chunk is scanned position by position, all the chunks of a segment at once. Longer chunks mean fewer
# stored states (one per chunk) and a shorter loop over the chunks; shorter ones fewer Python steps for a
# short sequence.
CHUNK = {"cpu": 32, "cuda": 128}
# State elements (tokens x batch x width x state) of one segment. On a CPU a buffer should stay near the
# second-level cache (measured: 2 MiB; 8 MiB is a third slower); on an accelerator the cost is kernel launches
# instead (not measured).
SEGMENT_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 24}


@dataclass(frozen=True)
class _Plan:
    """How one sequence is cut: chunks of `chunk` tokens, at most `width` chunks in a segment."""

    length: int
    batch: int
    chunk: int
    width: int

    @property
    def chunks(self) -> int:
        return -(-self.length // self.chunk)

    def segments(self) -> list[tuple[int, int]]:
        """(first chunk, number of chunks) of every segment, in order."""
        return [(k, min(self.width, self.chunks - k)) for k in range(0, self.chunks, self.width)]

    def tile(self, x: Tensor, first: int, count: int) -> Tensor:
        """Chunks `first` to `first + count` of x (B,L,F) as (chunk, count, B, F), contiguous.

        The position comes first so that one step of the scan reads and writes contiguous slabs. A ragged last
        chunk is padded with zeros: delta = 0 makes the state pass through unchanged.
        """
        span = count * self.chunk
        piece = x[:, first * self.chunk : first * self.chunk + span]
        if piece.shape[1] < span:
            piece = F.pad(piece, (0, 0, 0, span - piece.shape[1]))
        return piece.reshape(self.batch, count, self.chunk, -1).permute(2, 1, 0, 3).contiguous()

    def untile(self, tile: Tensor, out: Tensor, first: int) -> None:
        """Inverse of `tile`: write the tile (chunk, count, B, F) into out (B,L,F), dropping the padding."""
        start = first * self.chunk
        stop = min(start + tile.shape[0] * tile.shape[1], self.length)
        flat = tile.permute(2, 1, 0, 3).reshape(self.batch, tile.shape[0] * tile.shape[1], -1)
        out[:, start:stop] = flat[:, : stop - start]


def _plan(u: Tensor, state: int) -> _Plan:
    batch, length, inner = u.shape
    kind = u.device.type if u.device.type in CHUNK else "cuda"
    chunk = max(1, min(CHUNK[kind], length))
    width = max(1, SEGMENT_ELEMENTS[kind] // max(1, batch * inner * state * chunk))
    return _Plan(length, batch, chunk, min(width, max(1, -(-length // chunk))))


class _Pool:
    """Scratch tensors allocated once and reused by every segment (fresh large allocations fault pages in)."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._flat: dict[str, Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        size = 1
        for extent in shape:
            size *= extent
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            flat = self._flat[name] = self._like.new_empty(size)
        return flat[:size].view(shape)


def _decay(delta: Tensor, at: Tensor, out: Tensor) -> Tensor:
    """exp(delta A) of a tile: delta (Q,K,B,E), at (N,E) -> (Q,K,B,N,E). Never above 1 for A < 0."""
    return torch.mul(delta.unsqueeze(-2), at, out=out).exp_()


def _outer(per_channel: Tensor, per_state: Tensor, out: Tensor) -> Tensor:
    """Outer product of (Q,K,B,E) and (Q,K,B,N) -> (Q,K,B,N,E)."""
    return torch.mul(per_channel.unsqueeze(-2), per_state.unsqueeze(-1), out=out)


def _over_state(states: Tensor, weight: Tensor) -> Tensor:
    """Sum over n of states (...,N,E) times weight (...,N) -> (...,E)."""
    n, e = states.shape[-2:]
    return torch.bmm(weight.reshape(-1, 1, n), states.reshape(-1, n, e)).view(*states.shape[:-2], e)


def _over_channels(states: Tensor, weight: Tensor) -> Tensor:
    """Sum over e of states (...,N,E) times weight (...,E) -> (...,N)."""
    n, e = states.shape[-2:]
    return torch.bmm(states.reshape(-1, n, e), weight.reshape(-1, e, 1)).view(*states.shape[:-1])


def _run(a: Tensor, h: Tensor) -> None:
    """h[q+1] += a[q] * h[q] in place for every position q: h (Q+1,...) holds b in 1..Q and the entry in 0."""
    steps = h.unbind(0)
    for q, decay in enumerate(a.unbind(0)):
        steps[q + 1].addcmul_(decay, steps[q])


def _forward_states(a: Tensor, h: Tensor, total: Tensor, carry: Tensor) -> Tensor:
    """Turn h (Q+1,K,B,N,E) from inputs into states and return the last; `carry` is the state before h.

    First every chunk runs from zero keeping only its last state, then the carries go from chunk to chunk,
    then every chunk runs again from the state it is entered with. Running twice costs one multiply-add an
    element, less than keeping prefix products would.
    """
    entry = h[0]
    if h.shape[1] > 1:
        last = h[1].clone()
        for decay, b in zip(a.unbind(0)[1:], h.unbind(0)[2:], strict=True):
            torch.addcmul(b, decay, last, out=last)
        for k in range(h.shape[1]):
            entry[k] = carry
            carry = torch.addcmul(last[k], total[k], carry)
    else:
        entry[0] = carry
    _run(a, h)
    return h[-1, -1].clone()


def _adjoint_states(a: Tensor, lam: Tensor, total: Tensor, carry: Tensor) -> Tensor:
    """Turn lam (Q,K,B,N,E) from g C into the adjoint of the state, in place, and return its carry.

    `carry` is a[t+1] * lam[t+1] for the first token after the segment; the value returned is the same thing
    for the first token of this segment. The two runs mirror `_forward_states`.
    """
    decays, steps = a.unbind(0), lam.unbind(0)
    top = len(steps) - 1
    if lam.shape[1] > 1:
        first = steps[top].clone()
        for q in range(top - 1, -1, -1):
            torch.addcmul(steps[q], decays[q + 1], first, out=first)
        first.mul_(decays[0])
        for k in range(lam.shape[1] - 1, -1, -1):
            steps[top][k].add_(carry)
            carry = torch.addcmul(first[k], total[k], carry)
    else:
        steps[top][0].add_(carry)
    for q in range(top - 1, -1, -1):
        steps[q].addcmul_(decays[q + 1], steps[q + 1])
    return steps[0][0] * decays[0][0]


class _SelectiveScan(torch.autograd.Function):
    """The scan and its adjoint. Keeps the inputs and the state entering every chunk; recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        with torch.autocast(u.device.type, enabled=False):
            at = A.t().contiguous()
            n, e = at.shape
            plan, pool = _plan(u, n), _Pool(u)
            y = torch.empty_like(u)
            entries = u.new_empty(plan.chunks, plan.batch, n, e)
            carry = u.new_zeros(plan.batch, n, e)
            for first, count in plan.segments():
                shape = (plan.chunk, count, plan.batch, n, e)
                du, dt = plan.tile(u, first, count), plan.tile(delta, first, count)
                a = _decay(dt, at, pool.get("a", shape))
                h = pool.get("h", (plan.chunk + 1, *shape[1:]))
                _outer(du * dt, plan.tile(B, first, count), h[1:])
                carry = _forward_states(a, h, _total(dt, at), carry)
                entries[first : first + count] = h[0]
                out = _over_state(h[1:], plan.tile(C, first, count))
                plan.untile(out.addcmul_(du, D), y, first)
        ctx.plan = plan
        ctx.save_for_backward(u, delta, A, B, C, D, entries)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order("selective_scan", LOOP)
        g = grads[0].contiguous()
        with torch.autocast(g.device.type, enabled=False):
            return _backward(ctx, g)


def _total(delta: Tensor, at: Tensor) -> Tensor:
    """Decay across each whole chunk, (K,B,N,E): the product of its decays is the exponential of their sum."""
    return (delta.sum(0).unsqueeze(-2) * at).exp_()


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the six inputs, None where not needed; segments from the last to the first."""
    u, delta, A, B, C, D, entries = ctx.saved_tensors
    need_u, need_delta, need_a, need_b, need_c, need_d = ctx.needs_input_grad
    plan: _Plan = ctx.plan
    at = A.t().contiguous()
    n, e = at.shape
    pool = _Pool(u)
    grad_u = torch.empty_like(u) if need_u else None
    grad_delta = torch.empty_like(u) if need_delta else None
    grad_b = torch.empty_like(B) if need_b else None
    grad_c = torch.empty_like(C) if need_c else None
    grad_at = torch.zeros_like(at) if need_a else None
    grad_d = (g * u).sum((0, 1)) if need_d else None
    need_decay = need_delta or need_a
    need_adjoint = need_u or need_decay or need_b
    need_states = need_decay or need_c
    carry = u.new_zeros(plan.batch, n, e)
    for first, count in reversed(plan.segments()) if need_adjoint or need_states else ():
        shape = (plan.chunk, count, plan.batch, n, e)
        gt, ut, dt = plan.tile(g, first, count), plan.tile(u, first, count), plan.tile(delta, first, count)
        bt = plan.tile(B, first, count)
        x = ut * dt
        a = _decay(dt, at, pool.get("a", shape))
        h = pool.get("h", (plan.chunk + 1, *shape[1:])) if need_states else a
        if need_states:
            h[0] = entries[first : first + count]
            _outer(x, bt, h[1:])
            _run(a, h)
            if grad_c is not None:
                plan.untile(_over_channels(h[1:], gt), grad_c, first)
        if not need_adjoint:
            continue
        lam = _outer(gt, plan.tile(C, first, count), pool.get("lam", shape))
        carry = _adjoint_states(a, lam, _total(dt, at), carry)
        k = _over_state(lam, bt) if need_u or need_delta else x
        if grad_u is not None:
            plan.untile(torch.addcmul(gt * D, dt, k), grad_u, first)
        if grad_b is not None:
            plan.untile(_over_channels(lam, x), grad_b, first)
        if need_decay:
            w = a.mul_(h[:-1]).mul_(lam)
            if grad_at is not None:
                grad_at += torch.mul(w, dt.unsqueeze(-2), out=lam).sum((0, 1, 2))
            if grad_delta is not None:
                plan.untile(w.mul_(at).sum(-2).addcmul_(ut, k), grad_delta, first)
    return grad_u, grad_delta, None if grad_at is None else grad_at.t(), grad_b, grad_c, grad_d


def check_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> None:
    """Refuse tensors whose shapes do not go together, whichever scan they are for."""
    if u.ndim != 3 or A.ndim != 2:
        raise ValueError(
            f"expected u of shape (B,L,E) and A of shape (E,N), got {tuple(u.shape)} and {tuple(A.shape)}; "
            "put the tokens on the second axis and the channels on the last one"
        )
    batch, length, inner = u.shape
    state = A.shape[1]
    wanted = {
        "delta": (delta, (batch, length, inner)),
        "A": (A, (inner, state)),
        "B": (B, (batch, length, state)),
        "C": (C, (batch, length, state)),
        "D": (D, (inner,)),
    }
    for name, (value, shape) in wanted.items():
        if tuple(value.shape) != shape:
            raise ValueError(
                f"expected {name} of shape {shape} to go with u {tuple(u.shape)} and A {tuple(A.shape)}, "
                f"got {tuple(value.shape)}; the axes are (batch, tokens, channels or state)"
            )


def wide_dtype(*inputs: Tensor) -> torch.dtype:
    """What a scan computes in: float64 when any input is, float32 otherwise."""
    return torch.float64 if any(x.dtype == torch.float64 for x in inputs) else torch.float32


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Run Mamba's recurrence over the tokens of u, with gradients, without ever holding every state at once.

    With state h of shape (E,N) and h = 0 before the first token, for every token t:

        h[t] = exp(delta[t] A) * h[t-1] + (delta[t] u[t]) B[t]^T,        y[t] = h[t] C[t] + D u[t]

    The arithmetic is float32 (float64 when any input is), whatever autocast says: the recurrence compounds
    rounding over the whole sequence. The sequence is cut into chunks; the state entering each is kept and
    the rest is recomputed in the backward pass, so memory beyond the inputs is one state per chunk and a
    fixed scratch. Nothing is ever divided: prefix products of decays underflow within a few dozen tokens.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        arXiv:2312.00752, algorithm 2 and section 3.3; official code: state-spaces/mamba, `selective_scan_fn`.

    Differs from the source: pure PyTorch instead of a CUDA kernel. Tokens come before channels. delta already
    went through its bias and softplus and u is not gated: both belong to the block. Real A only, and B and C
    always vary with the token. First-order derivatives only.

    Args:
        u: input sequence.
        delta: step of every token and channel, not negative.
        A: decay rates, not positive.
        B: input weights of every token.
        C: output weights of every token.
        D: weight of the direct path.

    Returns:
        y, of the shape and dtype of u.

    Shape:
        u, delta, y: (B,L,E). A: (E,N). B, C: (B,L,N). D: (E,).

    Raises:
        ValueError: if the shapes do not go together.
        RuntimeError: in a backward pass with `create_graph=True`.

    Example:
        A constant input of 1 with delta = 1 and decay 1/2: 1, 1 + 1/2, 1 + 1/2 + 1/4.

        >>> import math, torch
        >>> one = torch.ones(1, 3, 1)
        >>> y = selective_scan(one, one, torch.tensor([[-math.log(2)]]), one, one, torch.zeros(1))
        >>> [round(value, 4) for value in y.flatten().tolist()]
        [1.0, 1.5, 1.75]
    """
    check_scan(u, delta, A, B, C, D)
    if u.is_meta:
        return torch.empty_like(u)
    inputs = (u, delta, A, B, C, D)
    wide = wide_dtype(*inputs)
    return _SelectiveScan.apply(*(x.to(wide).contiguous() for x in inputs)).to(u.dtype)
