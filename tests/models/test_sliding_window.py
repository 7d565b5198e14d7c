"""The predictor against MONAI's, in values, in gradients, and in memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import nn

from robustvox.models import SlidingWindow
from robustvox.models.window_padding import _beyond, pad_to


def network(channels: int = 2, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(channels, 6, 3, padding=1),
        nn.InstanceNorm3d(6),
        nn.ReLU(),
        nn.Conv3d(6, classes, 3, padding=1),
    ).eval()


SHAPES = [(16, 12, 8), (29, 12, 8), (29, 23, 17), (7, 5, 3), (40, 6, 8), (16, 23, 5)]


@pytest.mark.parametrize("memory", ["keep", "recompute"])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.0])
def test_equals_monai_in_values_and_gradients(mode, shape, overlap, memory):
    net, roi = network(), (16, 12, 8)
    images = torch.rand(2, 2, *shape)
    weights = torch.randn(2, 3, *shape)
    ours_in, theirs_in = images.clone().requires_grad_(), images.clone().requires_grad_()
    ours = SlidingWindow(net, roi, overlap, sw_batch_size=3, mode=mode, memory=memory)(ours_in)
    theirs = sliding_window_inference(theirs_in, roi, 3, net, overlap=overlap, mode=mode)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    (ours_grad,) = torch.autograd.grad((ours * weights).sum(), ours_in)
    (theirs_grad,) = torch.autograd.grad((theirs * weights).sum(), theirs_in)
    torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sw_batch_size", [1, 2, 5, 100])
def test_window_batches_change_nothing(sw_batch_size):
    net, images = network().double(), torch.rand(2, 2, 29, 23, 17, dtype=torch.float64, requires_grad=True)
    reference = SlidingWindow(net, (16, 12, 8), sw_batch_size=1)(images)
    other = SlidingWindow(net, (16, 12, 8), sw_batch_size=sw_batch_size)(images)
    torch.testing.assert_close(other, reference, atol=1e-12, rtol=0)
    (a,) = torch.autograd.grad(reference.square().sum(), images)
    (b,) = torch.autograd.grad(other.square().sum(), images)
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_a_batch_equals_its_items_bit_for_bit():
    net = nn.Conv3d(1, 2, 1)
    predictor = SlidingWindow(net, (8, 8, 8), sw_batch_size=1)
    images = torch.rand(3, 1, 13, 9, 8)
    assert torch.equal(predictor(images), torch.cat([predictor(i[None]) for i in images]))


def test_gradcheck_through_the_seams():
    net = nn.Conv2d(1, 2, 3, padding=1).double()
    predictor = SlidingWindow(net, (4, 4), overlap=0.5)
    images = torch.rand(1, 1, 7, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(predictor, images)


def test_second_order_is_refused_not_wrong():
    predictor = SlidingWindow(nn.Conv2d(1, 2, 3, padding=1), (4, 4))
    images = torch.rand(1, 1, 7, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(predictor(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()


def test_parameters_get_no_gradient_and_flags_stay():
    net = network()
    images = torch.rand(1, 2, 29, 12, 8, requires_grad=True)
    SlidingWindow(net, (16, 12, 8))(images).sum().backward()
    assert images.grad is not None
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_float64_stays_float64():
    assert (
        SlidingWindow(network().double(), (16, 12, 8))(torch.rand(1, 2, 29, 12, 8).double()).dtype
        == torch.float64
    )


PEAK = """
import sys, torch
from torch import nn
from robustvox.models import SlidingWindow
torch.set_num_threads(1)
windows = int(sys.argv[1])
layers = [nn.Conv3d(1, 48, 1)]
for _ in range(4):
    layers += [nn.ReLU(), nn.Conv3d(48, 48, 1)]
net = nn.Sequential(*layers, nn.Conv3d(48, 2, 1)).eval().requires_grad_(False)
predictor = SlidingWindow(net, (48, 48, 48), overlap=0.5, sw_batch_size=1, memory="recompute")
def step(n):
    images = torch.rand(1, 1, 48 + 24 * (n - 1), 48, 48, requires_grad=True)
    torch.autograd.grad(predictor(images).square().sum(), images)
def status(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
step(windows)
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak resident memory from /proc")
def test_memory_does_not_grow_with_the_windows():
    # Freed blocks go straight back to the system, so that the peak is what is in use, not what glibc keeps.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}

    def peak(windows: int) -> int:
        command = [sys.executable, "-c", PEAK, str(windows)]
        result = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=300, env=environment
        )
        return int(result.stdout)

    # Measured: 1.16, the tensors of the volume itself; keeping every window's graph, as autograd would, gives about 8.
    assert peak(11) < 1.3 * peak(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roi_size": (8, 0, 8)}, "roi_size"),
        ({"roi_size": ()}, "roi_size"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"sw_batch_size": 0}, "sw_batch_size"),
        ({"sw_batch_size": "all"}, "sw_batch_size"),
        ({"memory": "none"}, "memory"),
        ({"mode": "linear"}, "mode"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindow(network(), **{"roi_size": (8, 8, 8), **arguments})


def test_wrong_rank_and_wrong_outputs_are_named():
    with pytest.raises(ValueError, match="spatial axes"):
        SlidingWindow(network(), (8, 8, 8))(torch.rand(1, 2, 9, 9))

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(TypeError, match="tuple"):
        SlidingWindow(Pair(), (8, 8, 8))(torch.rand(1, 2, 9, 9, 9))
    with pytest.raises(ValueError, match="window's size"):
        SlidingWindow(nn.MaxPool3d(2), (8, 8, 8))(torch.rand(1, 2, 9, 9, 9))


@pytest.mark.parametrize(
    ("padding", "numpys"), [("edge", "edge"), ("reflect", "reflect"), ("zeros", "constant")]
)
@pytest.mark.parametrize("shape", [(5, 6, 8), (1, 3, 20)], ids=["smaller", "one voxel, much smaller, larger"])
def test_the_window_fits_the_volume_padding_is_numpys(padding, numpys, shape):
    import numpy as np

    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    predictor = SlidingWindow(network, (8, 8, 8), padding=padding)
    images = torch.rand(1, 1, *shape)
    missing = [max(8 - side, 0) for side in shape]
    widths = [(0, 0), (0, 0), *((m // 2, m - m // 2) for m in missing)]
    how = "edge" if numpys == "reflect" and 1 in shape else numpys
    padded = np.pad(images.numpy(), widths, mode=numpys) if how == numpys else None
    if padded is None:
        # numpy cannot mirror a single voxel; it stays the only one there is.
        padded = np.pad(np.pad(images.numpy(), [widths[i] if i == 2 else (0, 0) for i in range(5)], mode="edge"),
                        [widths[i] if i != 2 else (0, 0) for i in range(5)], mode=numpys)  # fmt: skip
    box = tuple(slice(w[0], w[0] + side) for w, side in zip(widths[2:], shape, strict=True))
    with torch.no_grad():
        whole = SlidingWindow(network, (8, 8, 8))(torch.from_numpy(padded))
        torch.testing.assert_close(predictor(images), whole[(slice(None), slice(None), *box)])


def test_padding_by_the_volume_passes_gradients_and_refuses_other_names():
    predictor = SlidingWindow(torch.nn.Conv3d(1, 1, 3, padding=1).double(), (5, 5, 5), padding="reflect")
    assert torch.autograd.gradcheck(
        predictor, torch.rand(1, 1, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    )
    with pytest.raises(ValueError, match="padding among zeros, edge, reflect"):
        SlidingWindow(torch.nn.Identity(), (4,), padding="mirror")


@pytest.mark.parametrize("padding", ["edge", "reflect"])
def test_what_stands_around_is_looked_up_once_and_serves_a_gradient_afterwards(padding, monkeypatch):
    _beyond.cache_clear()
    images = torch.rand(1, 1, 3, 4, 2)
    with torch.inference_mode():  # what is made here could not be saved for a backward pass
        wanted = pad_to(images, (5, 7, 6), padding)[0]
    monkeypatch.setattr(torch, "arange", None)
    variable = images.clone().requires_grad_()
    found = pad_to(variable, (5, 7, 6), padding)[0]
    assert torch.equal(found, wanted)
    assert torch.autograd.grad(found.sum(), variable)[0].sum() == wanted.numel()
