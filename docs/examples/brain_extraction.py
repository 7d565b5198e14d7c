import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F

from robustvox.models.bring.torchscript import check_archive

SIDE = 128


class AsDeepbet(torch.nn.Module):
    """deepbet's network of the whole head as that tool runs it: resized, standardized, resized back.

    Images are in [0, 1] between the 0.5 and 99.5 percentile, which is what the tool does first and what a list of
    MR files gets here. Probabilities become logits: their logarithm.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        small = F.interpolate(images, (SIDE,) * 3, mode="nearest-exact")
        axes = (1, 2, 3, 4)
        small = (small - small.mean(axes, keepdim=True)) / small.std(axes, keepdim=True)
        probabilities = self.network(0.226 * small + 0.449).clamp_min(1e-12)
        return F.interpolate(probabilities.log(), images.shape[2:], mode="nearest-exact")


def deepbet():
    """What `--model brain_extraction:deepbet` builds, from the TorchScript file of the installed package."""
    spec = importlib.util.find_spec("deepbet")
    if spec is None or spec.origin is None:
        raise ValueError('expected the package deepbet, found none; pip install "robustvox[brain]"')
    path = Path(spec.origin).parents[1] / "data" / "models" / "bbox_model.pt"
    check_archive(path)
    return AsDeepbet(torch.jit.load(path, map_location="cpu"))
