"""What a forward of a described network holds at once, found out without computing or allocating any of it.

The network is copied to PyTorch's `meta` device, where tensors have a shape and no values, and asked for the logits of one
window. Every tensor that an operation makes is counted while it lives; the most that lives at one time is what the forward
needs at the least. Scratch space inside an operation, and what a gradient keeps, come on top.
"""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import CheckpointError
from .limits import memory_limit, require_memory

OPERATIONS = 20_000
"""A forward of more is believed; counting it would take longer than it is worth."""

WIDE = 4
"""Tensors of the widest layer at full resolution that a network holds at once, where nothing is counted."""


def without_values(network: nn.Module) -> nn.Module | None:
    """A copy on the `meta` device, of no size; None for a network that cannot be copied."""
    memo: dict[int, Tensor] = {}
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = (
            nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
        )
    try:
        # The memo holds what a copy would be made of, so that no weight is ever copied.
        return copy.deepcopy(network, memo)
    except Exception:  # noqa: BLE001 - somebody else's module may refuse to be copied in any way
        return None


def require_forward(network: nn.Module, *, in_channels: int, roi_size: Sequence[int], what: str) -> None:
    """Refuse a network whose forward on one window needs more than :func:`~.limits.memory_limit`.

    A network that cannot run without values is let through: its first forward will tell.

    Args:
        network: in eval mode.
        in_channels: image channels.
        roi_size: window in voxels.
        what: names it.

    Raises:
        CheckpointError: with the need and how to allow it.

    Example:
        >>> wide = nn.Sequential(nn.Conv3d(1, 4000, 1), nn.Conv3d(4000, 2, 1))
        >>> require_forward(wide, in_channels=1, roi_size=(16, 16, 16), what="wide")
        >>> require_forward(wide, in_channels=1, roi_size=(128, 128, 128), what="wide")
        Traceback (most recent call last):
        robustvox.models.errors.CheckpointError: expected at most 4.0 GiB for a forward of wide on the window (128, 128, 128), found a need of 31.3 GiB; ...
    """
    roi = tuple(roi_size)
    widest = max((max(p.shape[:2], default=1) for p in network.parameters()), default=1)
    if WIDE * 4 * widest * math.prod(roi) <= memory_limit():
        return
    require_memory(forward_bytes(network, (1, in_channels, *roi)), f"a forward of {what} on the window {roi}")


def forward_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """Bytes of all tensors that live at one time in a forward without a gradient; 0 where nobody can tell.

    Args:
        network: anything that can be copied and runs without values.
        shape: of the images, ``(B, C, *spatial)``.

    Example:
        >>> forward_bytes(nn.Conv3d(1, 3, 1), (1, 1, 8, 8, 8)) == 4 * 8**3 * (1 + 3)
        True
    """
    twin = without_values(network)
    if twin is None:
        return 0
    images = torch.empty(tuple(shape), device="meta")
    counted = _Living(images)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), counted:
            twin(images)
    except (CheckpointError, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - it needs values, or fails: either shows at its first real forward
        return counted.most if counted.stopped else 0
    return counted.most


class _Stop(Exception):  # noqa: N818 - no error, a way out of somebody else's forward
    """Enough operations were counted."""


class _Living(TorchDispatchMode):
    """Counts the bytes of tensors by their storage, from the operation that makes them until nobody holds them."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.most, self.stopped = 0, False
        self._now, self._operations = 0, 0
        self._holders: dict[int, int] = {}
        self._note(images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._operations += 1
        if self._operations > OPERATIONS:
            self.stopped = True
            raise _Stop
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return made

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._holders:
            self._holders[key] = 0
            self._now += size
            self.most = max(self.most, self._now)
        self._holders[key] += 1
        weakref.finalize(tensor, self._let_go, key, size).atexit = False

    def _let_go(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self._now -= size
