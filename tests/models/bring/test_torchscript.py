"""TorchScript archives: loaded without Python, refused where they hold or name more than a network."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustvox.models import CheckpointError
from robustvox.models.bring import open_model
from robustvox.models.bring.torchscript import check_archive

ROI = (8, 6, 4)
DATA = {"in_channels": 1, "num_classes": 3, "roi_size": ROI}


class Net(nn.Module):
    def __init__(self, softmax: bool = False) -> None:
        super().__init__()
        self.conv, self.softmax = nn.Conv3d(1, 3, 3, padding=1), softmax

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv(x)
        if self.softmax:
            return logits.softmax(1)
        return logits


@pytest.fixture
def saved(tmp_path):
    def make(network: nn.Module, name: str = "net.torchscript.pt") -> Path:
        torch.jit.script(network).save(str(tmp_path / name))
        return tmp_path / name

    return make


def test_a_network_is_itself(saved):
    network = Net().eval()
    brought = open_model(saved(network), **DATA)
    images = torch.rand(2, 1, *ROI)
    assert brought.name == "net.torchscript"
    assert brought.network is not None
    probe = images.clone().requires_grad_()
    torch.testing.assert_close(brought.network(probe), network(images))
    (gradient,) = torch.autograd.grad(brought.network(probe).square().sum(), probe)
    own = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(network(own).square().sum(), own)
    torch.testing.assert_close(gradient, expected)


def test_probabilities_must_be_said_to_be_such(saved):
    path = saved(Net(softmax=True))
    with pytest.raises(
        CheckpointError, match=r"expected logits from .*, found probabilities; say output=probab"
    ):
        open_model(path, **DATA)
    brought = open_model(path, **DATA, arguments={"output": "probabilities"})
    images = torch.rand(1, 1, *ROI)
    assert brought.network is not None
    torch.testing.assert_close(brought.network(images).softmax(1), torch.jit.load(path)(images))
    with pytest.raises(CheckpointError, match="expected probabilities from .*, found logits"):
        open_model(saved(Net()), **DATA, arguments={"output": "probabilities"})


def test_other_classes_channels_and_parameters_are_refused(saved):
    path = saved(Net())
    with pytest.raises(CheckpointError, match=r"expected logits of shape \(1, 2, 8, 6, 4\)"):
        open_model(path, **{**DATA, "num_classes": 2})
    with pytest.raises(CheckpointError, match="expected net.torchscript.pt to take a window"):
        open_model(path, **{**DATA, "in_channels": 2})
    with pytest.raises(
        CheckpointError, match="expected parameters of net.torchscript.pt among output, roi_size"
    ):
        open_model(path, **DATA, arguments={"fold": 0})


@pytest.mark.parametrize(
    "member", ["net/extra/hook.py", "net/evil.pkl", "other/data.pkl", "net/../../escape.py"]
)
def test_unexpected_members_are_refused(saved, member):
    path = saved(Net())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "import os")
    with pytest.raises(
        CheckpointError, match="expected only the members of a TorchScript network.*nothing was run"
    ):
        check_archive(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("how", ["twice", "before", "comment"])
def test_an_archive_that_two_readers_may_read_differently_is_refused(saved, how):
    path = saved(Net())
    check_archive(path)
    if how == "before":
        path.write_bytes(b"PK-like bytes in front" + path.read_bytes())
    else:
        with zipfile.ZipFile(path, "a") as archive:
            if how == "comment":
                archive.comment = b"another end"
            else:
                archive.writestr(archive.namelist()[0], b"another one")
    with pytest.raises(CheckpointError, match="once and alone in .*nothing was run"):
        check_archive(path)


class Reads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("/etc/hostname", False, 1)


class Restores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    @torch.jit.export
    def __getstate__(self) -> float:
        return self.scale

    @torch.jit.export
    def __setstate__(self, state: float) -> None:
        self.scale = state
        self.training = False


def test_operators_that_reach_files_and_code_at_loading_are_refused(tmp_path):
    torch.jit.script(Reads()).save(str(tmp_path / "reads.pt"))
    with pytest.raises(CheckpointError, match=r"found from_file in .*nothing was run"):
        check_archive(tmp_path / "reads.pt")
    torch.jit.script(Restores()).save(str(tmp_path / "restores.pt"))
    with pytest.raises(CheckpointError, match=r"found __[gs]etstate__ in"):
        check_archive(tmp_path / "restores.pt")


def test_a_damaged_archive_is_one_line(saved, tmp_path):
    whole = saved(Net()).read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        open_model(tmp_path / "half.pt", **DATA)


@pytest.mark.slow
def test_deepbets_networks_run_where_the_package_is_installed():
    """Brain extraction networks that the package ships in its wheel (MIT)."""
    spec = importlib.util.find_spec("deepbet")
    if spec is None or spec.origin is None:
        pytest.skip('no deepbet: pip install "robustvox[brain]"')
    path = Path(spec.origin).parents[1] / "data" / "models" / "bbox_model.pt"
    brought = open_model(
        path, in_channels=1, num_classes=2, roi_size=(32, 32, 32), arguments={"output": "probabilities"}
    )
    assert brought.network is not None
    images = torch.rand(1, 1, 32, 32, 32, requires_grad=True)
    logits = brought.network(images)
    torch.testing.assert_close(logits.softmax(1), torch.jit.load(path)(images))
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert gradient.abs().sum() > 0
