"""The Mamba block: gated selective state space layer on a sequence of tokens."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernel import find_scan

# The range the initial steps are drawn from (log-uniformly), and the floor under them.
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba(nn.Module):
    """One Mamba layer, (B,L,d) to (B,L,d): token t of the output depends on tokens 0..t of the input.

    Source: A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        arXiv:2312.00752, section 3.4; official code: state-spaces/mamba, `mamba_ssm.Mamba`.

    Differs from the source: pure PyTorch, with no step-by-step inference cache. Parameter names, shapes and
    initialization are the source's, so its weights load by name.

    Args:
        d_model: width d of the tokens.
        d_state: size N of the state kept for every channel.
        d_conv: number of taps of the causal depthwise convolution.
        expand: ratio of the inner width E to d.
        dt_rank: rank R of the projection that gives the steps, or "auto" for ceil(d / 16).
        scan: "auto", "torch" for :func:`selective_scan`, "triton", or "mamba_ssm" for the CUDA kernel of that
            package; see :func:`find_scan`.
        project: end in the projection from E back to d; False leaves it to whoever joins several layers.

    Shape:
        Input and output: (B,L,d); output (B,L,E) without the projection.

    Raises:
        ValueError: if a size is not positive, the scan is unknown or not installed, or the input's last axis is
            not d.

    Example:
        >>> import torch
        >>> layer = Mamba(8)
        >>> layer(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    further_directions: ClassVar[tuple[str, ...]] = ()
    """Endings of the names of the parameters for other reading orders of a subclass, see :meth:`_read`."""

    conv1d: nn.Conv1d
    x_proj: nn.Linear
    dt_proj: nn.Linear
    A_log: nn.Parameter
    D: nn.Parameter

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        *,
        project: bool = True,
        scan: str = "auto",
    ) -> None:
        super().__init__()
        self.scan = find_scan(scan)
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        if min(d_model, d_state, d_conv, expand, rank) < 1:
            raise ValueError(
                f"expected positive sizes, got d_model={d_model}, d_state={d_state}, d_conv={d_conv}, "
                f"expand={expand}, dt_rank={dt_rank}; use at least 1 for each"
            )
        inner = expand * d_model
        self.d_model, self.d_state, self.d_conv, self.dt_rank = d_model, d_state, d_conv, rank
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self._add_direction("", inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False) if project else nn.Identity()
        with torch.no_grad():
            nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
            low, high = math.log(DT_MIN), math.log(DT_MAX)
            step = torch.exp(torch.rand(inner) * (high - low) + low).clamp_(min=DT_FLOOR)
            # The inverse of softplus, so that the initial steps are exactly those drawn.
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))
        for suffix in self.further_directions:
            self._add_direction(suffix, inner)

    def _add_direction(self, suffix: str, inner: int) -> None:
        """The parameters of one reading order, under their published names."""
        rates = torch.arange(1.0, self.d_state + 1).log().repeat(inner, 1)
        conv1d = nn.Conv1d(inner, inner, self.d_conv, groups=inner, padding=self.d_conv - 1)
        self.add_module(f"conv1d{suffix}", conv1d)
        self.add_module(f"x_proj{suffix}", nn.Linear(inner, self.dt_rank + 2 * self.d_state, bias=False))
        self.add_module(f"dt_proj{suffix}", nn.Linear(self.dt_rank, inner))
        self.register_parameter(f"A{suffix}_log", nn.Parameter(rates))
        self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B,L,d) to (B,L,d)."""
        return self.out_proj(self._read(*self._enter(tokens)))

    def _enter(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Sequence and gate, (B,L,E) each."""
        if tokens.ndim != 3 or tokens.shape[-1] != self.d_model:
            raise ValueError(
                f"expected tokens of shape (B,L,{self.d_model}), got {tuple(tokens.shape)}; "
                "flatten the spatial axes and put the channels last"
            )
        x, gate = self.in_proj(tokens).chunk(2, dim=-1)
        return x, gate

    def _read(self, x: Tensor, gate: Tensor, suffix: str = "") -> Tensor:
        """Causal convolution, selective scan and gate of one reading order, (B,L,E) to (B,L,E)."""
        conv1d, x_proj = getattr(self, f"conv1d{suffix}"), getattr(self, f"x_proj{suffix}")
        dt_proj: nn.Linear = getattr(self, f"dt_proj{suffix}")
        A_log, D = getattr(self, f"A{suffix}_log"), getattr(self, f"D{suffix}")
        # Depthwise, over the current token and the d_conv - 1 before it.
        u = F.silu(conv1d(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        rank, state = dt_proj.in_features, A_log.shape[1]
        low_rank, B, C = x_proj(u).split((rank, state, state), dim=-1)
        # The bias is added after the cast, so that half precision does not round the small initial steps.
        wide = torch.promote_types(dt_proj.bias.dtype, torch.float32)
        delta = F.softplus(F.linear(low_rank, dt_proj.weight).to(wide) + dt_proj.bias.to(wide))
        y = self.scan(u, delta, -torch.exp(A_log.to(wide)), B, C, D)
        return y * F.silu(gate)
