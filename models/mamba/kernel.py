"""Which scan a Mamba layer runs: ours, or the CUDA kernel of ``mamba_ssm`` where it is installed and asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .scan import selective_scan

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
SCANS = ("torch", "mamba_ssm")


def find_scan(name: str) -> Scan:
    """The function behind a name, with the arguments and layouts of :func:`selective_scan`.

    The kernel is never a fallback nor the default: who wants it says so, and then the name of the model in every
    record and table says so too.

    Args:
        name: ``"torch"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for another name, or if the package is not installed.

    Example:
        >>> find_scan("torch") is selective_scan
        True
    """
    if name == "torch":
        return selective_scan
    if name != "mamba_ssm":
        raise ValueError(f"expected scan to be one of {', '.join(SCANS)}, got {name!r}")
    _import_kernel()
    return kernel_scan


def kernel_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """:func:`selective_scan` by the CUDA kernel of ``mamba_ssm``; float32, first-order derivatives.

    Source: A. Gu and T. Dao, arXiv:2312.00752; state-spaces/mamba, `selective_scan_fn`.

    Differs from the source: tokens come before channels here, (B,L,E) and (B,L,N), and are turned for the kernel;
    delta went through bias and softplus already, and the gate is left to the block.

    Raises:
        ValueError: if the tensors are not on a CUDA device, or the package is not installed.
    """
    kernel = _import_kernel()
    _require_cuda(u)
    with torch.autocast(u.device.type, enabled=False):
        x, step, b, c = (wide.float().transpose(1, 2).contiguous() for wide in (u, delta, B, C))
        a, d = A.float().contiguous(), D.float()
        y = kernel(x, step, a, b, c, d, z=None, delta_bias=None, delta_softplus=False)
    return y.transpose(1, 2).to(u.dtype)


def _require_cuda(u: Tensor) -> None:
    if u.device.type != "cuda":
        raise ValueError(
            f"expected tensors on a CUDA device for scan=mamba_ssm, got {u.device}; "
            "run with --device cuda or drop scan=mamba_ssm"
        )


def _import_kernel() -> Any:
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        return module.selective_scan_fn
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected the package mamba_ssm for scan=mamba_ssm, found: {error}; "
            "install it (it needs CUDA), or drop scan=mamba_ssm"
        ) from error
