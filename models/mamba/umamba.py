"""U-Mamba: nnU-Net's residual network with Mamba at its bottleneck, or after every stage of its encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .block import Mamba
from .residual_unet import PUBLISHED, Encoder, Plan, ResidualUNet
from .volume import MambaLayer, in_two_sizes, mix_tokens, to_tokens, to_volume


class _MambaEncoder(Encoder):
    """The encoder with a Mamba layer after every stage."""

    def __init__(self, in_channels: int, plan: Plan, **mamba: Any) -> None:
        super().__init__(in_channels, plan)
        self.mamba_layers = nn.ModuleList(MambaLayer(width, **mamba) for width in plan.features)

    def mix(self, stage: int, x: Tensor) -> Tensor:
        return self.mamba_layers[stage](x)


class UMambaBot(ResidualUNet):
    """U-Mamba-Bot: residual network with one Mamba layer over the coarsest voxels.

        x <- Mamba(LayerNorm(x))    at the bottleneck, no residual

    Source: J. Ma, F. Li and B. Wang, "U-Mamba: Enhancing Long-range Dependency for Biomedical Image
        Segmentation", arXiv:2401.04722; official code: bowang-lab/U-Mamba. Configuration and layout of the
        weights: the benchmark of arXiv:2406.08486, which took U-Mamba's first version.

    Differs from the source: pure PyTorch; no autocast inside the Mamba layer; the alias keys of its state dict
    (`decoder.encoder.*`, `*.all_modules.*`) do not exist here, every tensor has one name. U-Mamba's present
    version (channel tokens, other skips and decoder) is another network.

    Args:
        in_channels, num_classes, plan, axes: as for :class:`ResidualUNet`.
        **mamba: `d_state`, `d_conv`, `expand`, `scan` of the Mamba layer.

    Shape and errors: as :class:`ResidualUNet`.

    Example:
        >>> import torch
        >>> plan = Plan(features=(4, 8), kernel_sizes=[(3, 3, 3)] * 2, strides=[(1, 1, 1), (1, 2, 2)], blocks=1)
        >>> UMambaBot(1, 3, plan)(torch.zeros(1, 1, 3, 4, 4)).shape
        torch.Size([1, 3, 3, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        plan: Plan = PUBLISHED,
        axes: Sequence[int] = (0, 1, 2),
        **mamba: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, plan, axes)
        self.ln = nn.LayerNorm(plan.features[-1])
        self.mamba = Mamba(plan.features[-1], **mamba)

    def bottleneck(self, x: Tensor) -> Tensor:
        def mix(x: Tensor) -> Tensor:
            return to_volume(self.mamba(self.ln(to_tokens(x))), x.shape[2:])

        return mix_tokens(mix, x, self.mamba.D.numel(), self.ln.weight.dtype)


class UMambaEnc(ResidualUNet):
    """U-Mamba-Enc: residual network with a Mamba layer after every stage of the encoder.

        x <- Mamba(LayerNorm(x))    after every stage, no residual; skip and next input

    At 96^3 the first layer scans 884,736 tokens.

    Source: as :class:`UMambaBot`.

    Differs from the source: as :class:`UMambaBot`; float32 inside the Mamba layers also under bfloat16 autocast.

    Args:
        as for :class:`UMambaBot`, and so are shapes and errors.

    Example:
        >>> import torch
        >>> plan = Plan(features=(4, 8), kernel_sizes=[(3, 3, 3)] * 2, strides=[(1, 1, 1), (1, 2, 2)], blocks=1)
        >>> UMambaEnc(1, 3, plan, axes=(2, 1, 0))(torch.zeros(1, 1, 4, 4, 3)).shape
        torch.Size([1, 3, 4, 4, 3])
    """

    encoder_class = _MambaEncoder
    zero_residual = True


ISOTROPIC = {
    "kernel_sizes": ((3, 3, 3),) * 4,
    "strides": ((1, 1, 1), *((2, 2, 2),) * 3),
    "blocks": 1,
    "decoder_blocks": 1,
}
"""Four isotropic stages of one block each, what the small sizes share."""

umamba_bot = in_two_sizes(
    "umamba_bot", UMambaBot.planned, small={"features": (8, 16, 40, 80), **ISOTROPIC, "d_state": 8}
)
umamba_enc = in_two_sizes(
    "umamba_enc",
    UMambaEnc.planned,
    # The full-resolution scan decides the time: eight channels, not expanded, four states.
    small={"features": (8, 16, 32, 64), **ISOTROPIC, "d_state": 4, "expand": 1},
)
