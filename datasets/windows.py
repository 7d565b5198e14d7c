"""Which original intensities become 0 and 1, channel by channel."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from .base import CaseError, ChannelWindows, IntensityWindow

PERCENTILES = (0.5, 99.5)
"""MRI has no absolute scale: each volume and channel is mapped by its own percentiles."""

CT_WINDOW = IntensityWindow(-175.0, 250.0, "HU")
"""Soft-tissue window of the published benchmark (arXiv 2406.08486)."""

MOSTLY = 0.5
"""From this share of voxels of one value on, that value is the empty part of the field of view."""

LEAST_SPAN = 0.02
"""Share of a given window that a channel must span; one in [0, 1] that is called CT spans 0.0024 of it. In a mostly empty
field of view, the share of their distance from the empty part that the other voxels must span."""

Windows = IntensityWindow | tuple[IntensityWindow | None, ...] | None
"""One window for all channels, one per channel (``None``: its percentiles), or percentiles for all."""

_CT = {"CT", "CTA", "CECT", "NCCT"}
_OTHER = {"PET", "PT", "SPECT", "SUV", "MR", "MRI", "T1", "T2"}


def is_ct(channel: str) -> bool:
    """Whether a channel's name says that it holds CT numbers, which are Hounsfield units.

    A name that speaks of another modality too (``PET/CT``, ``PET registered to CT``) does not.

    Example:
        >>> [is_ct(name) for name in ("CT", "ct", "CT_contrast", "PET/CT", "MRI", "octant")]
        [True, True, True, False, False, False]
    """
    text = channel.upper()
    words = set(re.split(r"[^A-Z0-9]+", text))
    said = bool(words & _CT) or "COMPUTED TOMOGRAPHY" in text
    return said and not words & _OTHER and "EMISSION" not in text


def windows_of(channels: Sequence[str]) -> Windows:
    """The windows of channels by their names: CT by one in HU, everything else by its own percentiles.

    Example:
        >>> [w and w.unit for w in windows_of(("CT", "PET"))]
        ['HU', None]
    """
    each = tuple(CT_WINDOW if is_ct(channel) else None for channel in channels)
    return each[0] if len(set(each)) == 1 else each


def describe(windows: Windows) -> str:
    """One line for the provenance.

    Example:
        >>> describe(windows_of(("CT", "PET")))
        'window -175..250 HU (channel 0), per-volume percentiles (0.5, 99.5) (channel 1)'
    """
    if not isinstance(windows, tuple):
        return _describe(windows)
    return ", ".join(f"{_describe(w)} (channel {k})" for k, w in enumerate(windows))


def _describe(window: IntensityWindow | None) -> str:
    if window is None:
        return f"per-volume percentiles {PERCENTILES}"
    return f"window {window.low:g}..{window.high:g} {window.unit}"


def choose_windows(image: np.ndarray, windows: Windows, case_id: str) -> IntensityWindow | ChannelWindows:
    """The window of each channel of one image; a single channel, or one window for all, gives a plain window.

    Shape:
        image: ``(C, *spatial)``, original intensities.

    Raises:
        CaseError: a channel without contrast, or one that is nearly constant in the window it is given.
    """
    each = windows if isinstance(windows, tuple) else (windows,) * len(image)
    if len(each) != len(image):
        raise CaseError(case_id, f"{len(each)} channels", str(len(image)), "name every channel")
    chosen = tuple(
        percentile_window(channel, case_id, where=_where(k, len(image)))
        if window is None
        else _check_span(channel, window, case_id, where=_where(k, len(image)))
        for k, (channel, window) in enumerate(zip(image, each, strict=True))
    )
    same = len(chosen) == 1 or (isinstance(windows, IntensityWindow))
    return chosen[0] if same else ChannelWindows(chosen)


def percentile_window(image: np.ndarray, case_id: str, *, where: str = "") -> IntensityWindow:
    """The window that maps the 0.5 and 99.5 percentile of an image to 0 and 1.

    Where more than half of all voxels hold one and the same value, as around a masked organ, the percentiles are
    those of the others: a field of view that is mostly empty is not an empty volume. Others that are nearly equal
    (a mask, vessels at one value) span the window together with the empty part.

    Args:
        image: original intensities of one channel, any shape.
        case_id: for messages.
        where: ``" in channel 1"``, for messages.

    Raises:
        CaseError: there is one value only, or the percentiles coincide.

    Example:
        >>> masked = np.zeros(10_000)
        >>> masked[:200] = np.linspace(100, 200, 200)
        >>> window = percentile_window(masked, "a")
        >>> round(window.low, 1), round(window.high, 1)
        (100.5, 199.5)
    """
    empty = float(np.median(image))
    there = image[image != empty]
    share = there.size / image.size
    if not there.size:
        raise CaseError(
            case_id, "an image with contrast", f"{empty:g} in every voxel{where}", "drop the empty volume"
        )
    values = there if share < MOSTLY else image
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if share < MOSTLY and high - low <= LEAST_SPAN * max(abs(low - empty), abs(high - empty)):
        low, high = min(low, empty), max(high, empty)
    if not high > low:
        raise CaseError(
            case_id,
            "an image with contrast",
            f"percentiles {low:.6g} and {high:.6g}{where}, {share:.2%} of the voxels differ from {empty:g}",
            "check the intensities of the file",
        )
    return IntensityWindow(low, high)


def _check_span(image: np.ndarray, window: IntensityWindow, case_id: str, *, where: str) -> IntensityWindow:
    """Intensities of another unit than the window's leave nothing to see in it."""
    low, high = float(image.min()), float(image.max())
    seen = min(high, window.high) - max(low, window.low)
    if seen < LEAST_SPAN * (window.high - window.low):
        raise CaseError(
            case_id,
            f"intensities in {window.unit} with contrast in {window.low:g}..{window.high:g}{where}",
            f"{low:.6g}..{high:.6g}",
            f"give the original {window.unit}, or do not name the channel CT",
        )
    return window


def check_hounsfield(image: np.ndarray, channels: Sequence[str], case_id: str) -> None:
    """Refuse what is called CT and is not in HU although it spans the window: stored with an offset, or as a picture.

    Args:
        image: ``(C, *spatial)`` as stored.
        channels: their names; only those that say CT are looked at.
        case_id: for messages.

    Raises:
        CaseError: with what it looks like.
    """
    for number, (channel, name) in enumerate(zip(image, channels, strict=False)):
        if not is_ct(name):
            continue
        low, high = float(channel.min()), float(channel.max())
        above = float((channel > CT_WINDOW.high).mean())
        found, remedy = "", "give the original HU"
        if (low, high) == (0.0, 255.0):
            found = "0..255, as pictures of 8 bits have it"
        elif low >= 0 and above > MOSTLY:
            found = f"{low:g}..{high:g}, nothing below 0 and {above:.0%} above {CT_WINDOW.high:g}, as scanners store HU + 1024"
            remedy = "subtract the offset (or set scl_inter)"
        if found:
            expected = f"intensities in HU{_where(number, len(image))}"
            raise CaseError(case_id, expected, found, f"{remedy}, or do not name the channel CT")


def _where(channel: int, channels: int) -> str:
    return f" in channel {channel}" if channels > 1 else ""
