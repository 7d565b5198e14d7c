"""SegMamba's tri-directional Mamba: forward, backward and slice by slice."""

from __future__ import annotations

from torch import Tensor

from .block import Mamba


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
        as for :class:`Mamba`.

    Shape:
        Input and output: (B,L,d), L a multiple of the slices.

    Example:
        >>> import torch
        >>> TriMamba(8)(torch.zeros(2, 6, 8), slices=3).shape
        torch.Size([2, 6, 8])
    """

    further_directions = ("_b", "_s")

    def forward(self, tokens: Tensor, slices: int = 1) -> Tensor:
        """Tokens (B,L,d) of ``slices`` equal slices to (B,L,d)."""
        x, gate = self._enter(tokens)
        y = self._read(x, gate) + self._read(x.flip(1), gate.flip(1), "_b").flip(1)
        across = self._read(interleave(x, slices), interleave(gate, slices), "_s")
        return self.out_proj(y + interleave(across, tokens.shape[1] // slices))
