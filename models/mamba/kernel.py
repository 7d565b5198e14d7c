"""Which scan a Mamba layer runs: PyTorch, Triton, or the CUDA kernel of ``mamba_ssm``."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .scan import selective_scan, wide_dtype

Scan = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
SCANS = ("auto", "torch", "triton", "mamba_ssm")


def find_scan(name: str) -> Scan:
    """The function behind a name, with the arguments and layouts of :func:`selective_scan`.

    ``"auto"`` is Triton on a CUDA device where Triton is there, and pure PyTorch everywhere else and in float64.
    The kernel of mamba_ssm is never a fallback nor the default: who wants it says so, and then the name of the
    model in every record and table says so too.

    Args:
        name: ``"auto"``, ``"torch"``, ``"triton"`` or ``"mamba_ssm"``.

    Raises:
        ValueError: for another name, or if the package is not installed.

    Example:
        >>> find_scan("torch") is selective_scan
        True
    """
    if name == "auto":
        return auto_scan
    if name == "torch":
        return selective_scan
    if name == "triton":
        _import_triton()
        return named_triton_scan
    if name != "mamba_ssm":
        raise ValueError(f"expected scan to be one of {', '.join(SCANS)}, got {name!r}")
    _import_kernel()
    return kernel_scan


def auto_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The fastest scan that is exact here: Triton for float32 on CUDA if it is installed, else PyTorch."""
    wide = wide_dtype(u, delta, A, B, C, D)
    return _scan_on(u.device.type, wide)(u, delta, A, B, C, D)


def named_triton_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """:func:`.scan_triton.triton_scan`, refused where Triton does not run.

    Raises:
        ValueError: if the tensors are not on a CUDA device, or the package is not installed.
    """
    _require_cuda(u, "triton")
    return _import_triton()(u, delta, A, B, C, D)


def scans_used(
    network: nn.Module, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> list[str]:
    """Names of the scans that the Mamba layers of a network run on a device, sorted; empty without such layers.

    Example:
        >>> from robustvox.models.mamba import Mamba
        >>> scans_used(Mamba(4), "cpu")
        ['torch']
    """
    names = {selective_scan: "torch", named_triton_scan: "triton", kernel_scan: "mamba_ssm"}
    found = {scan for module in network.modules() if (scan := getattr(module, "scan", None)) is not None}
    kind = torch.device(device).type
    resolved = {_scan_on(kind, dtype) if scan is auto_scan else scan for scan in found if callable(scan)}
    known = {**names, _triton_or_none(): "triton"}
    return sorted(known[scan] for scan in resolved if scan in known)


def _scan_on(device: str, dtype: torch.dtype) -> Scan:
    """What ``auto`` means for one kind of device."""
    if device == "cuda" and dtype != torch.float64:
        return _triton_or_none() or selective_scan
    return selective_scan


def kernel_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """:func:`selective_scan` by the CUDA kernel of ``mamba_ssm``; float32, first-order derivatives.

    Source: A. Gu and T. Dao, arXiv:2312.00752; state-spaces/mamba, `selective_scan_fn`.

    Differs from the source: tokens come before channels here, (B,L,E) and (B,L,N), and are turned for the kernel;
    delta went through bias and softplus already, and the gate is left to the block.

    Raises:
        ValueError: if the tensors are not on a CUDA device, or the package is not installed.
    """
    kernel = _import_kernel()
    _require_cuda(u, "mamba_ssm")
    with torch.autocast(u.device.type, enabled=False):
        x, step, b, c = (wide.float().transpose(1, 2).contiguous() for wide in (u, delta, B, C))
        a, d = A.float().contiguous(), D.float()
        y = kernel(x, step, a, b, c, d, z=None, delta_bias=None, delta_softplus=False)
    return y.transpose(1, 2).to(u.dtype)


def _require_cuda(u: Tensor, name: str) -> None:
    if u.device.type != "cuda":
        raise ValueError(
            f"expected tensors on a CUDA device for scan={name}, got {u.device}; "
            f"run with --device cuda or drop scan={name}"
        )


@functools.lru_cache(maxsize=1)
def _triton_or_none() -> Scan | None:
    """The Triton scan, or None where Triton is not installed or does not load."""
    try:
        return importlib.import_module(".scan_triton", __package__).triton_scan
    except (ImportError, OSError, RuntimeError):  # a broken installation may fail at its shared libraries
        return None


def _import_triton() -> Scan:
    scan = _triton_or_none()
    if scan is None:
        raise ValueError(
            "expected the package triton for scan=triton, found none; "
            "it comes with PyTorch for CUDA on Linux, otherwise drop scan=triton"
        )
    return scan


def _import_kernel() -> Any:
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        return module.selective_scan_fn
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected the package mamba_ssm for scan=mamba_ssm, found: {error}; "
            "install it (it needs CUDA), or drop scan=mamba_ssm"
        ) from error
