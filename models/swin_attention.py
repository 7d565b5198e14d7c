"""Attention in the windows of a Swin transformer that never writes its matrix of weights down."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor

FUSED_MINIMUM = 128
"""Tokens of a window from which it pays on a CPU; a window of 4^3 has 64 and gains nothing, one of 7^3 has 343. On a
GPU it was not measured."""

Attend = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
"""Of ``qkv`` ``(windows, n, 3 * channels)``, bias ``(heads, n, n)``, mask ``(windows of one volume, n, n)`` and scale."""


class FusedWindowAttention(WindowAttention):
    """MONAI's ``WindowAttention`` by a fused kernel where one is faster and repeats to the last bit.

    Softmax(Q K' / sqrt(d) + B + M) V as in Liu et al. (Swin Transformer, arXiv 2103.14030), with the position bias B and
    the mask M of shifted windows; results are those of MONAI's layer to rounding, weights and names are the same. On a
    CPU the kernel is PyTorch's, on a GPU Triton's (:mod:`.swin_attention_triton`), because PyTorch's own backward pass
    for float32 adds there in the order in which threads end.

    MONAI's own ``use_flash_attention`` serves only where no gradient is wanted; an attack wants one. Elsewhere this is
    MONAI's layer: while its weights are trained (no fused kernel gives the gradient of B), with dropout, in short
    windows, and on a GPU in float64, for heads of more than 16 channels and where Triton is missing or
    :mod:`.swin_attention_trial` finds it wrong. No fused kernel has second or forward-mode derivatives.
    """

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(windows, n, channels)`` to tokens; ``mask`` is ``(windows of one volume, n, n)``, 0 or -100."""
        attend = self._kernel(x, mask)
        if attend is None:
            return super().forward(x, mask)
        n, table = x.shape[1], self.relative_position_bias_table
        index = self.relative_position_index[:n, :n]  # type: ignore[index]
        bias = table[index.reshape(-1)].reshape(n, n, -1).permute(2, 0, 1)
        return self.proj_drop(self.proj(attend(self.qkv(x), bias, mask, self.scale)))

    def _kernel(self, x: Tensor, mask: Tensor | None) -> Attend | None:
        """The fused kernel for these tokens, None where MONAI's layer has to run."""
        n, channels = x.shape[1:]
        trained = torch.is_grad_enabled() and self.relative_position_bias_table.requires_grad
        dropped = self.training and self.attn_drop.p > 0
        if n < FUSED_MINIMUM or trained or dropped:
            return None
        if x.device.type == "cpu":
            return pytorch_window_attention
        trial = _trial_or_none() if x.device.type == "cuda" and x.dtype != torch.float64 else None
        if trial is None:
            return None
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        width = channels // self.num_heads
        right = trial.is_right(x.device, dtype, n, width, self.num_heads, mask is not None)
        return trial.kernels.triton_window_attention if right else None


def pytorch_window_attention(qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """:func:`.swin_attention_triton.triton_window_attention` by PyTorch's fused attention.

    The windows of a volume are folded into the heads, so that bias and mask are the same for every volume of a batch and
    are not copied for each.
    """
    windows, n, heads = *qkv.shape[:2], len(bias)
    places = 1 if mask is None else len(mask)
    if mask is not None:
        bias = (bias + mask.unsqueeze(1)).flatten(0, 1)
    query, key, value = (
        part.reshape(windows // places, places * heads, n, -1)
        for part in qkv.reshape(windows, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    )
    mixed = F.scaled_dot_product_attention(
        query, key, value, attn_mask=bias.to(query.dtype)[None], scale=scale
    )
    return mixed.reshape(windows, heads, n, -1).transpose(1, 2).reshape(windows, n, -1)


@functools.lru_cache(maxsize=1)
def _trial_or_none() -> Any:
    """The module that tries the Triton kernels, or None where Triton is not installed or does not load."""
    try:
        return importlib.import_module(".swin_attention_trial", __package__)
    except (ImportError, OSError, RuntimeError):  # a broken installation may fail at its shared libraries
        return None
