"""What a forward needs is counted without allocating it, and refused before anything is."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from robustvox.models import ModelCard, build_model, load_checkpoint, save_checkpoint
from robustvox.models.activations import forward_bytes, require_forward
from robustvox.models.header import CheckpointError


def test_tensors_are_counted_while_they_live():
    voxels = 4 * 6 * 7 * 8
    chain = nn.Sequential(nn.Conv3d(2, 3, 1), nn.ReLU(), nn.Conv3d(3, 8, 1), nn.Conv3d(8, 2, 1))
    # The images are held by the caller; of the rest two neighbors live at a time.
    assert forward_bytes(chain, (1, 2, 6, 7, 8)) == voxels * (2 + 3 + 8)

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.down = nn.Conv3d(2, 5, 1), nn.Conv3d(10, 1, 1)

        def forward(self, images):
            wide = self.wide(images)
            return self.down(torch.cat([wide, wide.flip(2)], 1))

    # wide, its mirror image and both in one; then the mirror image is gone.
    assert forward_bytes(Skip(), (1, 2, 6, 7, 8)) == voxels * (2 + 5 + 5 + 10)


@pytest.mark.parametrize("name", ["unet", "segresnet", "unetr", "umamba_bot"])
def test_a_forward_with_values_makes_what_was_counted(name):
    """The same count over a real forward, by the addresses its tensors have."""
    from torch.utils._python_dispatch import TorchDispatchMode

    network = build_model(name, in_channels=1, num_classes=3, roi_size=(32, 32, 32), size="small").eval()
    largest = [0]

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            for tensor in made if isinstance(made, tuple | list) else (made,):
                if isinstance(tensor, torch.Tensor):
                    largest[0] = max(largest[0], tensor.untyped_storage().nbytes())
            return made

    with torch.no_grad(), Largest():
        network(torch.rand(1, 1, 32, 32, 32))
    counted = forward_bytes(network, (1, 1, 32, 32, 32))
    assert 2 * largest[0] <= counted <= 12 * largest[0]


def test_what_cannot_run_without_values_is_let_through():
    class Asks(nn.Module):
        def forward(self, images):
            return images if float(images.mean()) > 0 else -images

    assert forward_bytes(Asks(), (1, 1, 8, 8, 8)) == 0
    require_forward(Asks(), in_channels=1, roi_size=(512, 512, 512), what="it")


def test_an_endless_forward_is_believed_after_a_while(monkeypatch):
    monkeypatch.setattr("robustvox.models.activations.OPERATIONS", 50)

    class Endless(nn.Module):
        def forward(self, images):
            for _ in itertools.count():
                images = images + 1
            return images

    assert forward_bytes(Endless(), (1, 1, 8, 8, 8)) >= 2 * 4 * 8**3


def test_a_checkpoint_whose_forward_is_too_large_is_refused_and_the_limit_can_be_raised(
    tmp_path, monkeypatch
):
    arguments = {"size": "small", "channels": [64, 128], "num_res_units": 0}
    window = (64, 64, 64)
    network = build_model("unet", in_channels=1, num_classes=3, roi_size=window, **arguments)
    card = ModelCard(architecture="unet", arguments=arguments, in_channels=1, class_names=("a", "b", "c"),
                     roi_size=window, dataset="toy", window="[0, 1]")  # fmt: skip
    save_checkpoint(tmp_path / "a.safetensors", network, card)
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "0.01")
    with pytest.raises(
        CheckpointError, match=r"0.0 GiB for a forward of a.safetensors on the window .64, 64, 64."
    ):
        load_checkpoint(tmp_path / "a.safetensors")
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "1")
    assert load_checkpoint(tmp_path / "a.safetensors").card == card
