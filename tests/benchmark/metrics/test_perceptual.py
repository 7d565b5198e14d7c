"""LPIPS over slices: counted by hand with a simple distance; the package with random weights, if installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robustvox.benchmark.metrics.perceptual import load_lpips, lpips


def first_pixel(a: Tensor, b: Tensor) -> Tensor:
    assert a.shape[1] == 3
    assert torch.equal(a[:, 0], a[:, 2])
    assert a.min() >= -1
    assert a.max() <= 1
    return (a - b)[:, 0, 0, 0].abs().view(-1, 1, 1, 1)


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_every_slice_of_every_axis_counts_once(batch: int) -> None:
    a, b = torch.rand(2, 3, 4, 5)
    difference = 2 * (a - b).abs()
    lines = [difference[:, 0, 0], difference[0, :, 0], difference[0, 0, :]]
    expected = sum(float(line.mean()) for line in lines) / 3
    assert lpips(a, b, first_pixel, batch=batch) == pytest.approx(expected, rel=1e-5)
    assert lpips(a, b, first_pixel, axes=(-1,)) == pytest.approx(float(lines[2].mean()), rel=1e-5)
    assert lpips(a, a, first_pixel) == 0.0


def test_volumes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected two volumes of one shape \(X,Y,Z\)"):
        lpips(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4), first_pixel)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r'pip install "robustvox\[lpips\]"'):
        load_lpips("nowhere.pt")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_package_with_weights_from_a_file(tmp_path: Path) -> None:
    package = pytest.importorskip("lpips")
    torch.manual_seed(1)
    source = package.LPIPS(net="squeeze", pretrained=False, pnet_rand=True, verbose=False).eval()
    torch.save(source.state_dict(), tmp_path / "w.pt")
    loaded = load_lpips(tmp_path / "w.pt", network="squeeze")
    a, b = torch.rand(2, 40, 40, 40)
    with torch.no_grad():
        images = [(2 * x[:1] - 1).unsqueeze(1).expand(-1, 3, -1, -1) for x in (a, b)]
        expected = source(*images).item()
    assert lpips(a[:1], b[:1], loaded, axes=(0,)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"expected the weights of lpips.LPIPS\(net='alex'\) in w.pt"):
        load_lpips(tmp_path / "w.pt", network="alex")
    with pytest.raises(ValueError, match="in none.pt"):
        load_lpips(tmp_path / "none.pt")
