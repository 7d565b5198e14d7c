"""Networks of somebody else's code: which windows they take is tried out, and their failures become one line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..activations import without_values
from ..cpu import with_contiguous_gradients
from ..norms import with_own_norms

FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError)
"""What a forward may raise by itself; control flow (an interrupt, a recomputation's end) passes through."""

SHOWN = 300
"""Characters of a message that are shown."""

DIVISORS = (2, 4, 8, 16, 32, 64)
CUBES = (32, 48, 64, 80, 96, 112, 128, 160, 192)
"""Windows that are tried for a network that is tied to one."""

CHANNELS = range(1, 9)
"""Image channels that are tried for a network that takes no window at all."""


class Foreign(nn.Module):
    """A network under a name; what goes wrong inside says so in one line, with the window it went wrong on.

    Args:
        network: maps ``(B, C, *roi)`` to logits ``(B, K, *roi)``.
        name: for the message.

    Raises:
        RuntimeError: in the forward, whatever the network raised, except for lack of memory, which is left as it
            is.
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = with_contiguous_gradients(with_own_norms(network)), name

    def forward(self, images: Tensor) -> Tensor:
        try:
            return self.network(images)
        except torch.cuda.OutOfMemoryError:
            raise
        except FAILURES as error:
            raise RuntimeError(
                f"{self.name} failed on a window of shape {tuple(images.shape)}: {describe(error)}; "
                "correct the model"
            ) from error


def describe(error: BaseException) -> str:
    """An exception in one line: its type and the beginning of what it says."""
    said = " ".join(str(error).split())
    said = said[:SHOWN] + ("..." if len(said) > SHOWN else "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def check_window(
    network: nn.Module, name: str, *, in_channels: int, num_classes: int, roi_size: Sequence[int]
) -> None:
    """Refuse a window or a number of classes a network cannot have, before its first forward.

    A copy without values (on PyTorch's `meta` device) is asked for the shape of its logits, which costs next to
    nothing. A network that cannot be asked this way is let through: its first forward will tell.

    Args:
        network: in eval mode.
        name: for messages.
        in_channels: image channels.
        num_classes: logit channels the data needs.
        roi_size: window in voxels.

    Raises:
        ValueError: a window the network fails on although it takes others, with the nearest of those; another
            number of image channels or of logit channels.

    Example:
        >>> from torch import nn
        >>> halve = nn.Sequential(nn.Conv3d(1, 2, 2, stride=2), nn.ConvTranspose3d(2, 3, 2, stride=2))
        >>> check_window(halve, "halve", in_channels=1, num_classes=3, roi_size=(8, 8, 6))
        >>> check_window(halve, "halve", in_channels=1, num_classes=3, roi_size=(8, 8, 5))
        Traceback (most recent call last):
        ValueError: halve expected another roi_size than (8, 8, 5) ...; the nearest that work are (8, 8, 4) and (8, 8, 6)
    """
    probe = _Probe.of(network, in_channels)
    if probe is None:
        return
    roi = tuple(roi_size)
    found = probe(roi)
    if isinstance(found, str):
        nearest = list(itertools.islice(_working(probe, roi), 2))
        if nearest:
            raise ValueError(
                f"{name} expected another roi_size than {roi} ({found}); the nearest that work are "
                f"{' and '.join(map(str, sorted(nearest)))}"
            )
        for channels in CHANNELS:
            if not isinstance(_Probe(probe.network, channels)(roi), str):
                raise ValueError(
                    f"expected {name} to take images of {in_channels} channel(s), found that it takes {channels}; build "
                    "it for the channels of the data"
                )
        return
    if found != num_classes:
        raise ValueError(
            f"expected logits of {num_classes} classes (background included) from {name}, got {found}; build it "
            "for the classes of the data"
        )


def can_be_asked(network: nn.Module) -> bool:
    """Whether :func:`check_window` can try windows on a network, or lets them all through."""
    return _Probe.of(network, 1) is not None


class _Probe:
    """Asks a network for the number of its logit channels on a window, without computing anything."""

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        self.network, self.in_channels = network, in_channels

    @classmethod
    def of(cls, network: nn.Module, in_channels: int) -> _Probe | None:
        """None for a network that cannot be copied without its values."""
        twin = without_values(network)
        return None if twin is None else cls(twin, in_channels)

    def __call__(self, roi: tuple[int, ...]) -> int | str:
        """Logit channels on the window, or what went wrong."""
        images = torch.empty((1, self.in_channels, *roi), device="meta")
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                logits = self.network(images)
        except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything
            return describe(error)
        if not isinstance(logits, Tensor) or logits.ndim != images.ndim:
            return f"it returned {type(logits).__name__} instead of logits (B, K, *roi)"
        if tuple(logits.shape[2:]) != roi:
            return f"its logits have the size {tuple(logits.shape[2:])}"
        return logits.shape[1]


def _working(probe: _Probe, roi: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The nearest windows that work, below and above: multiples of the smallest power of two, else cubes."""
    below = [tuple(max(side // d, 1) * d for side in roi) for d in DIVISORS]
    above = [tuple(-(-side // d) * d for side in roi) for d in DIVISORS]
    found = [
        next((w for w in dict.fromkeys(windows) if not isinstance(probe(w), str)), None)
        for windows in (below, above)
    ]
    yield from dict.fromkeys(window for window in found if window is not None)
    if not any(found):
        size = max(roi)
        cubes = ((side,) * len(roi) for side in sorted(CUBES, key=lambda side: abs(side - size)))
        yield from (cube for cube in cubes if not isinstance(probe(cube), str))
