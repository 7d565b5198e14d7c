"""SegMamba's tri-directional Mamba: forward, backward and slice by slice."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .block import Mamba, scan_direction


def interleave(tokens: Tensor, slices: int) -> Tensor:
    """Read (B,L,E) across slices: of ``slices`` equal runs, first the first token of every run, then the second.

    Token ``j * slices + s`` of the result is token ``s * (L / slices) + j`` of the input. With one run per slice
    of a row-major volume, consecutive tokens are the same place in consecutive slices. The inverse is
    ``interleave(tokens, L // slices)``.

    Raises:
        ValueError: if the length is no multiple of the number of slices.

    Example:
        >>> import torch
        >>> interleave(torch.arange(6.0).view(1, 6, 1), 2).flatten().tolist()
        [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """
    if slices < 1 or tokens.shape[1] % slices:
        raise ValueError(
            f"expected a number of tokens that is a multiple of the slices, got {tokens.shape[1]} tokens and "
            f"{slices} slices; let num_slices follow the size of the volume (None)"
        )
    return tokens.unflatten(1, (slices, -1)).transpose(1, 2).flatten(1, 2)


class TriMamba(Mamba):
    """Mamba read in three orders, each with its own convolution and scan, (B,L,d) to (B,L,d).

        out = W_out (m(x, z) + flip(m_b(flip x, flip z)) + unslice(m_s(slice x, slice z)))

    with x, z the two halves of W_in tokens, m the convolution, scan and gate of one parameter set, flip the
    reversal of the sequence and slice :func:`interleave`.

    Source: Z. Xing et al., "SegMamba: Long-range Sequential Modeling Mamba For 3D Medical Image Segmentation",
        arXiv:2401.13560, section 2.2; official code: ge-xing/SegMamba, `Mamba(bimamba_type="v3")`.

    Differs from the source: pure PyTorch; the number of slices comes with the call, so that it can be that of
    the volume. Parameter names and initialization are the source's (the steps of the second and third
    direction start from the defaults of a linear layer there), so its weights load by name.

    Args:
        d_model, d_state, d_conv, expand, dt_rank, scan: as for :class:`Mamba`.

    Shape:
        Input and output: (B,L,d), L a multiple of the slices.

    Example:
        >>> import torch
        >>> TriMamba(8)(torch.zeros(2, 6, 8), slices=3).shape
        torch.Size([2, 6, 8])
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        scan: str = "auto",
    ) -> None:
        super().__init__(d_model, d_state, d_conv, expand, dt_rank, scan=scan)
        inner, rank = expand * d_model, self.dt_rank
        for suffix in ("b", "s"):
            self.register_parameter(
                f"A_{suffix}_log", nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
            )
            self.add_module(
                f"conv1d_{suffix}", nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
            )
            self.add_module(f"x_proj_{suffix}", nn.Linear(inner, rank + 2 * d_state, bias=False))
            self.add_module(f"dt_proj_{suffix}", nn.Linear(rank, inner))
            self.register_parameter(f"D_{suffix}", nn.Parameter(torch.ones(inner)))

    def forward(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """Tokens (B,L,d) of ``slices`` equal slices to (B,L,d)."""
        x, gate = self._enter(tokens)
        y = scan_direction(x, gate, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D, self.scan)
        y = y + self._direction("b", x.flip(1), gate.flip(1)).flip(1)
        across = self._direction("s", interleave(x, slices), interleave(gate, slices))
        return self.out_proj(y + interleave(across, tokens.shape[1] // slices))

    def _direction(self, suffix: str, x: Tensor, gate: Tensor) -> Tensor:
        parts = (
            f"conv1d_{suffix}",
            f"x_proj_{suffix}",
            f"dt_proj_{suffix}",
            f"A_{suffix}_log",
            f"D_{suffix}",
        )
        return scan_direction(x, gate, *(getattr(self, part) for part in parts), scan=self.scan)
