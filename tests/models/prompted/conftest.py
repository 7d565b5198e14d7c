"""Small networks of the very classes that run at full width, and files in the published layouts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robustvox.models.prompted import Case
from robustvox.models.prompted.suprem import build as build_suprem
from robustvox.models.prompted.vista3d import build as build_vista

SPATIAL = (20, 26, 14)


def settle(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random weights of a seed, large enough that all classes get a logit of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point() and tensor.ndim > 1:
                torch.nn.init.normal_(tensor.data, std=0.1)
    return network.eval()


@pytest.fixture(scope="session")
def vista():
    """VISTA3D at width 8."""
    return settle(build_vista(8))


@pytest.fixture(scope="session")
def suprem():
    """SuPreM's Swin UNETR at feature size 12 with one block per stage."""
    return settle(build_suprem("suprem_swin_unetr", feature_size=12, depths=(1, 1, 1, 1)))


@pytest.fixture
def case():
    """Factory of a small CT case: noise around a bright box, with a label of two organs."""

    def make(spatial=SPATIAL, spacing_mm=(1.5, 1.5, 1.5), axes="RAS", unit="HU", seed=0) -> Case:
        rng = np.random.default_rng(seed)
        image = rng.uniform(0.05, 0.95, spatial).astype(np.float32)
        label = np.zeros(spatial, np.int16)
        label[3:10, 4:12, 2:9] = 1
        label[12:17, 14:22, 4:12] = 2
        return Case(
            id=f"case_{seed}",
            image=torch.from_numpy(image)[None, None],
            spacing_mm=spacing_mm,
            axes=axes,
            window=(-175.0, 250.0),
            unit=unit,
            label=label,
        )

    return make


def gradient_is_the_finite_difference(
    target, image: torch.Tensor, voxels: int = 5, step: float = 1e-6
) -> None:
    """The input gradient of a random projection of the logits, at voxels where it is large, in double precision.

    The largest alone, then all of them at once, each by an amount of its own: a wrong one shows in the sum. The step
    is small because the networks have kinks: a larger one crosses some of them.
    """
    target = target.double()
    image = image.double().requires_grad_()
    generator = torch.Generator().manual_seed(1)
    logits = target(image)
    weight = torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((logits * weight).sum(), image)
    places = gradient.abs().flatten().topk(200).indices[:: 200 // voxels][:voxels]
    amounts = gradient.flatten()[places].sign() * (0.5 + torch.rand(voxels, generator=generator).double())
    for many in (1, voxels):
        direction = torch.zeros(image.numel(), dtype=torch.float64)
        direction[places[:many]] = amounts[:many]
        direction = direction.view_as(image)
        with torch.no_grad():
            ahead, behind = (float((target(image + s * direction) * weight).sum()) for s in (step, -step))
        slope = float((gradient * direction).sum())
        assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=2e-3, abs=1e-7)
