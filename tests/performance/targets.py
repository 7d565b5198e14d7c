"""Memory and seconds of one window of a published target at full width, forward and with the input gradient.

OMP_NUM_THREADS=1 python tests/performance/targets.py vista3d 32    # target, side of a cubic window

Weights are random: neither memory nor time depends on their values.
"""

from __future__ import annotations

import resource
import sys
import time

import torch

from robustvox.models.cpu import with_contiguous_gradients
from robustvox.models.obelisk import ObeliskHybrid, ObeliskUNet
from robustvox.models.prompted.obelisk import ObeliskSegmenter
from robustvox.models.prompted.suprem import CLASS_NAMES, SupremSegmenter
from robustvox.models.prompted.suprem import build as suprem
from robustvox.models.prompted.target import Segmenter
from robustvox.models.prompted.vista3d import Vista3DSegmenter
from robustvox.models.prompted.vista3d import build as vista3d


def build(name: str) -> tuple[Segmenter, tuple[int, ...]]:
    """The target and the channels of BTCV's thirteen organs (eight for OBELISK)."""
    if name == "vista3d":
        return Vista3DSegmenter(vista3d()), (2, 4, 13, 9, 10, 0, 11, 5, 6, 16, 3, 7, 8)
    if name.startswith("suprem"):
        return SupremSegmenter(suprem(name)), tuple(range(13))
    network = ObeliskHybrid() if name == "obelisk_hybrid" else ObeliskUNet()
    return ObeliskSegmenter(network), tuple(range(9))


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    name, side = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    segmenter, channels = build(name)
    segmenter = with_contiguous_gradients(segmenter).eval().requires_grad_(False)
    assert name != "suprem_swin_unetr" or len(CLASS_NAMES) == 32
    parameters = sum(p.numel() for p in segmenter.parameters())
    images = torch.rand(1, 1, side, side, side)
    loaded = peak_gb()
    start = time.process_time()
    with torch.no_grad():
        segmenter.windows(images, channels)
    forward, seconds = peak_gb(), time.process_time() - start
    start = time.process_time()
    probe = images.requires_grad_()
    (gradient,) = torch.autograd.grad(segmenter.windows(probe, channels).square().mean(), probe)
    assert gradient.abs().sum() > 0
    print(
        f"{name} {side}^3: {parameters:,} parameters; peak {loaded:.1f} GB loaded, {forward:.1f} GB forward, "
        f"{peak_gb():.1f} GB with gradient; {seconds:.0f} and {time.process_time() - start:.0f} CPU seconds"
    )


if __name__ == "__main__":
    main()
