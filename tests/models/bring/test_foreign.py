"""Networks of somebody else's code: which windows they take, and what their failures say."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unetr import UNETR
from torch import nn

from robustvox.models.bring.foreign import Foreign, check_window


class Halving(nn.Module):
    """Takes multiples of 4 only, with normalization over what is left."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(1, 2, 4, stride=4), nn.InstanceNorm3d(2), nn.Dropout(0.5))
        self.up = nn.ConvTranspose3d(2, classes, 4, stride=4)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, images):
        return self.up(self.down(images)) * self.scale


def check(network, roi, classes=3):
    check_window(network.eval(), "mine:net", in_channels=1, num_classes=classes, roi_size=roi)


@pytest.mark.parametrize(
    ("network", "roi", "nearest"),
    [
        (Halving(), (8, 9, 8), r"\(8, 8, 8\) and \(8, 12, 8\)"),
        (Halving(), (3, 8, 8), r"\(4, 8, 8\)"),
        (Halving(), (4, 4, 4), r"\(8, 8, 8\)"),
        (nn.Sequential(nn.Conv3d(1, 2, 2, 2), nn.ConvTranspose3d(2, 3, 2, 2)), (7, 7, 6), r"\(6, 6, 6\) and \(8, 8, 6\)"),
        (AttentionUnet(3, 1, 3, (4, 8, 8), (2, 2)), (10, 12, 13), r"\(8, 12, 12\) and \(12, 12, 16\)"),
        (
            SwinUNETR(1, 3, depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 2), feature_size=12),
            (40, 64, 64),
            r"\(32, 64, 64\) and \(64, 64, 64\)",
        ),
        (
            UNETR(1, 3, (48, 48, 48), feature_size=4, hidden_size=12, mlp_dim=16, num_heads=2),
            (64, 64, 32),
            r"\(48, 48, 48\)",
        ),
    ],
    ids=["both", "below", "one voxel", "silently smaller", "attention", "swin", "tied"],
)  # fmt: skip
def test_a_window_that_fails_is_refused_with_those_that_work(network, roi, nearest):
    with pytest.raises(
        ValueError, match=rf"mine:net expected another roi_size .* that work are {nearest}$"
    ) as error:
        check(network, roi)
    assert "\n" not in str(error.value)
    size = eval(nearest.replace("\\", "").split(" and ")[0])
    check(network, size)
    if max(size) < 64:
        with torch.no_grad():
            assert network(torch.rand(1, 1, *size)).shape == (1, 3, *size)


def test_another_number_of_classes_is_refused():
    check(Halving(), (8, 8, 8))
    with pytest.raises(ValueError, match=r"logits of 5 classes .* from mine:net, got 3"):
        check(Halving(), (8, 8, 8), classes=5)


def test_another_number_of_image_channels_is_refused():
    with pytest.raises(ValueError, match=r"mine:net to take images of 1 channel\(s\), found that it takes 2"):
        check(nn.Conv3d(2, 3, 1), (8, 8, 8))


def test_asking_changes_nothing():
    network = Halving()
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check(network, (8, 8, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert network(torch.rand(1, 1, 8, 8, 8)).device.type == "cpu"


class DataDependent(nn.Module):
    """Cannot be asked without values."""

    def forward(self, images):
        return torch.cat([images * (images.mean().item() > 0)] * 3, 1)


class Uncopyable(Halving):
    def __deepcopy__(self, memo):
        raise RuntimeError("not me")


@pytest.mark.parametrize("network", [DataDependent(), Uncopyable()])
def test_a_network_that_cannot_be_asked_is_let_through(network):
    check(network, (8, 8, 7))


class Failing(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (AssertionError(), "AssertionError"),
        (ValueError("x" * 1000), f"ValueError: {'x' * 300}..."),
        (ValueError("first\nsecond"), "ValueError: first second"),
    ],
)
def test_a_failure_is_one_line_with_the_window(error, said):
    with pytest.raises(RuntimeError, match="failed on a window") as raised:
        Foreign(Failing(error), "mine:net")(torch.rand(2, 1, 4, 4, 4))
    assert (
        str(raised.value)
        == f"mine:net failed on a window of shape (2, 1, 4, 4, 4): {said}; correct the model"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.cuda.OutOfMemoryError("CUDA out of memory")])
def test_interrupts_and_lack_of_memory_pass(error):
    with pytest.raises(type(error)):
        Foreign(Failing(error), "mine:net")(torch.rand(1, 1, 4, 4, 4))
