"""What networks need on a CPU: the fast kernels for what is small or long, and norms whose gradients are right."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .exchange import exchange

# Up to this size (channels x first two spatial axes) PyTorch sends a float32 CPU convolution of batch 1 to an
# im2col kernel instead of oneDNN (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp).
ONEDNN_MINIMUM = 20480
# With a handful of input channels (a stem) the im2col kernel costs less than running twice.
CHANNEL_MINIMUM = 8


class FastConv3d(nn.Conv3d):
    """``nn.Conv3d`` that stays on the fast CPU kernel when the batch is 1.

    A batch of 2 always takes oneDNN, which is so much faster (forward and backward of 24 to 24 channels at
    24x32x24, torch 2.14, one thread: 39 ms for two against 141 ms for one) that running a small volume twice
    is still a gain. Weights, names and results are those of ``nn.Conv3d``; elsewhere it is the same layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        small = input.shape[0] == 1 and input[..., 0].numel() <= ONEDNN_MINIMUM
        if (
            small
            and self.in_channels >= CHANNEL_MINIMUM
            and input.device.type == "cpu"
            and max(self.kernel_size) > 1
        ):
            return super().forward(input.expand(2, -1, -1, -1, -1))[:1]
        return super().forward(input)


def with_fast_convolutions(network: nn.Module) -> nn.Module:
    """Let every plain ``nn.Conv3d`` of a network run as :class:`FastConv3d`, in place.

    Measured on one core, batch 1, 48x64x48, forward and input gradient of the small networks: unet 1.7 times
    faster, segresnet 1.7, unetr 1.5, swin_unetr 1.4, mamba_unet 1.2 (``tests/performance/cpu_convolutions.py``).
    """
    return exchange(network, {nn.Conv3d: FastConv3d})


def with_contiguous_gradients(network: nn.Module) -> nn.Module:
    """Make the input gradients of batch and instance norms right on a CPU, in place.

    PyTorch's backward pass of these two reads a gradient that comes in another memory layout than the norm's input
    (channels last, as behind ``flatten(2).permute(0, 2, 1)``) as if it came in the input's, and returns a wrong
    gradient without a word. Measured with torch 2.14.1: the largest error was as large as the gradient itself, and
    the gradient of VISTA3D's click head had the wrong sign. No architecture of the registry meets the case; networks
    of others may. A gradient that is contiguous already is passed on as it is.

    Example:
        >>> import torch
        >>> norm = with_contiguous_gradients(nn.InstanceNorm3d(8))
        >>> x = torch.rand(1, 8, 3, 3, 3, requires_grad=True)
        >>> seen = torch.rand(1, 27, 8).permute(0, 2, 1).view(1, 8, 3, 3, 3)
        >>> one, = torch.autograd.grad(norm(x), x, seen)
        >>> other, = torch.autograd.grad(norm(x), x, seen.contiguous())
        >>> torch.equal(one, other)
        True
    """
    for module in network.modules():
        if isinstance(module, _NormBase) and not getattr(module, _GUARDED, False):
            module.register_forward_hook(contiguous_gradient)
            setattr(module, _GUARDED, True)
    return network


_GUARDED = "robustvox_contiguous_gradients"


def contiguous_gradient(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    """The hook of :func:`with_contiguous_gradients`: nothing that a CUDA graph cannot record, a copy on the way back."""
    del module, inputs
    if output.requires_grad:
        output.register_hook(_contiguous)


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    # gradcheck asks what happens without a gradient.
    return None if gradient is None else gradient.contiguous()
