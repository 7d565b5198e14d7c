"""LPIPS, the perceptual distance of two volumes, slice by slice; optional, and nothing is ever downloaded.

No table has it: its features come from photographs, so it says little about organs. It is here because the
published benchmark reports it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def lpips(
    first: Tensor,
    second: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor],
    *,
    axes: Sequence[int] = (0, 1, 2),
    batch: int = 32,
) -> float:
    """Mean distance of corresponding slices along every axis, then over the axes; 0 for equal volumes.

    Source: R. Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric",
        arXiv:1801.03924. Slices of a volume as gray images: the benchmark of arXiv:2406.08486.

    Differs from the source: that benchmark takes the last axis only (``axes=(-1,)``) and reports 1 - LPIPS.

    Args:
        first, second: volumes in [0, 1].
        distance: of two batches of images (N,3,H,W) in [-1, 1], one number each; see :func:`load_lpips`.
        axes: along which slices are taken.
        batch: slices per call.

    Shape:
        first, second: (X,Y,Z).

    Raises:
        ValueError: on other or different shapes.

    Example:
        >>> def mean_difference(a, b):
        ...     return (a - b).abs().mean((1, 2, 3))
        >>> lpips(torch.zeros(4, 5, 6), torch.full((4, 5, 6), 0.25), mean_difference)
        0.5
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(
            f"expected two volumes of one shape (X,Y,Z), got {tuple(first.shape)} and {tuple(second.shape)}; "
            "drop the batch and channel axes"
        )
    means = []
    with torch.no_grad():
        for axis in axes:
            pairs = (_images(volume, axis).split(batch) for volume in (first, second))
            parts = [distance(a, b).reshape(-1) for a, b in zip(*pairs, strict=True)]
            means.append(torch.cat(parts).double().mean())
    return float(torch.stack(means).mean())


def _images(volume: Tensor, axis: int) -> Tensor:
    """Slices (N,3,H,W) in [-1, 1]."""
    return (2.0 * volume.float() - 1.0).movedim(axis, 0).unsqueeze(1).expand(-1, 3, -1, -1)


def load_lpips(weights: str | Path, network: str = "alex") -> nn.Module:
    """The distance of the package ``lpips`` with weights from a file, backbone included.

    On a machine with a network write the file once:
    ``torch.save(lpips.LPIPS(net="alex").state_dict(), "lpips_alex.pt")``.

    Args:
        weights: such a file; opened with ``weights_only=True``.
        network: backbone, ``"alex"``, ``"vgg"`` or ``"squeeze"``.

    Raises:
        ImportError: without the package (``pip install "robustvox[lpips]"``).
        ValueError: if the file is missing or does not hold exactly the weights of that network.
    """
    try:
        import lpips as package  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError('expected the package lpips, found none; pip install "robustvox[lpips]"') from error
    # A random backbone and no linear weights: both would be fetched or read from elsewhere.
    model = package.LPIPS(net=network, pretrained=False, pnet_rand=True, verbose=False)
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected the weights of lpips.LPIPS(net={network!r}) in {Path(weights).name}, found: {reason}; "
            "write the file as the docstring says"
        ) from error
    return model.eval()
