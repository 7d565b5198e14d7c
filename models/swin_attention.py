"""Attention in the windows of a Swin transformer that never writes its matrix of weights down, on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor

FUSED_MINIMUM = 128
"""Tokens of a window from which it pays; a window of 4^3 has 64 and gains nothing, one of 7^3 has 343."""


class FusedWindowAttention(WindowAttention):
    """MONAI's ``WindowAttention`` by PyTorch's fused attention where that is faster and repeats to the last bit.

    Softmax(Q K' / sqrt(d) + B + M) V as in Liu et al. (Swin Transformer, arXiv 2103.14030), with the position bias B and
    the mask M of shifted windows; results are those of MONAI's layer to rounding, weights and names are the same. The
    windows of a volume are folded into the heads, so that B + M is the same for every volume of a batch and is not
    copied for each.

    MONAI's own ``use_flash_attention`` serves only where no gradient is wanted; an attack wants one. Elsewhere this is
    MONAI's layer: while its weights are trained (the fused kernel gives no gradient of B), with dropout, in short
    windows, and on a GPU, where PyTorch's fused backward pass for float32 adds in the order in which threads end.
    """

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(windows, n, channels)`` to tokens; ``mask`` is ``(windows of one volume, n, n)``, 0 or -100."""
        windows, n, channels = x.shape
        table = self.relative_position_bias_table
        trained = torch.is_grad_enabled() and table.requires_grad
        dropped = self.training and self.attn_drop.p > 0
        if x.device.type != "cpu" or n < FUSED_MINIMUM or trained or dropped:
            return super().forward(x, mask)
        per_volume = 1 if mask is None else len(mask)
        qkv = self.qkv(x).reshape(windows, n, 3, self.num_heads, channels // self.num_heads)
        index = self.relative_position_index[:n, :n]  # type: ignore[index]
        bias = table[index.reshape(-1)].reshape(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).flatten(0, 1)
        heads = per_volume * self.num_heads
        query, key, value = (
            part.reshape(windows // per_volume, heads, n, -1) for part in qkv.permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias.to(query.dtype)[None], scale=self.scale
        )
        mixed = mixed.reshape(windows, self.num_heads, n, -1).transpose(1, 2).reshape(x.shape)
        return self.proj_drop(self.proj(mixed))
