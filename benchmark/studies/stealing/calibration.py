"""From one scanner's data to another's: a transfer function from power spectra alone, magnitude only.

The paper on stealing through inputs and outputs (arXiv 2407.03512) calibrates ultrasound machines against each
other with the transfer function of its sibling (arXiv 2311.16028), which this follows: power spectra of both
machines, a noise floor, and a Wiener-regularized quotient. Radial bins in three dimensions, spectra of unpaired
patients, and the bound of the gain are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from robustvox.datasets.scanner import frequencies
from robustvox.models.filtered import RadialFilter

from .scans import Scan

_TINY = 1e-20  # power of a volume without any texture, which no quotient may meet as zero


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The transfer function between scanners A and B, both ways.

    Attributes:
        frequency: centers of the radial bins, cycles per mm.
        to_a_gain, to_b_gain: gains there, 1 at frequency 0.
        log_h: estimated log |H_B / H_A|.
        snr: power over the noise floor, the smaller of the two scanners'.
    """

    frequency: tuple[float, ...]
    to_a_gain: tuple[float, ...]
    to_b_gain: tuple[float, ...]
    log_h: tuple[float, ...]
    snr: tuple[float, ...]

    def filter_to_a(self, spacing_mm: Sequence[float]) -> RadialFilter:
        """B to A for volumes of one spacing, as a module."""
        return RadialFilter(self.frequency, self.to_a_gain, spacing_mm)

    def filter_to_b(self, spacing_mm: Sequence[float]) -> RadialFilter:
        """A to B for volumes of one spacing, as a module."""
        return RadialFilter(self.frequency, self.to_b_gain, spacing_mm)

    def to_a(self, images: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """``(B, C, *spatial)`` of scanner B as scanner A would show it; linear, so it may leave [0, 1]."""
        return self.filter_to_a(spacing_mm).to(images.device)(images)

    def to_b(self, images: Tensor, spacing_mm: Sequence[float]) -> Tensor:
        """``(B, C, *spatial)`` of scanner A as scanner B would show it; linear, so it may leave [0, 1]."""
        return self.filter_to_b(spacing_mm).to(images.device)(images)

    def bent(self, log_gains: Sequence[float], max_gain: float) -> Calibration:
        """With the gain to A multiplied by a curve: ``log_gains`` at equally spaced frequencies, linear between."""
        knots = np.linspace(0.0, self.frequency[-1], len(log_gains))
        curve = np.exp(np.interp(self.frequency, knots, log_gains))
        return replace(
            self,
            to_a_gain=tuple(float(g) for g in np.minimum(np.array(self.to_a_gain) * curve, max_gain)),
            to_b_gain=tuple(float(g) for g in np.minimum(np.array(self.to_b_gain) / curve, max_gain)),
        )


@dataclass(frozen=True, kw_only=True)
class PowerCalibration:
    """Fits a :class:`Calibration` to the power spectra of scans of either scanner.

    Per scanner m: mean removed, Hann window per axis, S_m(f) = |FFT|^2 averaged over scans and directions in
    radial bins; floor N_m = min_f S_m; SNR_m = (S_m - N_m) / N_m and SNR the smaller one; h = sqrt(S_B / S_A);
    **W = h / (h^2 + 1/SNR)** takes B to A. Nothing has to be undone from A to B, so there the gain is h with the same
    care for noise, h / (1 + 1/SNR). Where noise is all there is, both fall to zero instead of raising it. The gain is
    at most ``max_gain``, and 1 at frequency 0.

    Scans of both need not show the same patients ("population": public volumes of the same anatomy against the
    thief's own) nor have the same size. Scans of one object on both scanners ("phantom") are the same call.

    Source: Soylu and Oelze, "Machine-to-Machine Transfer Function in Deep Learning-Based Quantitative
        Ultrasound", arXiv 2311.16028.
    Differs from the source: 3-D radial bins in cycles per mm for windows of 200 samples along the beam; a filter in
        the DFT for 51 taps; a window, since these volumes are crops; unpaired volumes; the bound of the gain; the
        way from A to B, where the source exchanges the machines in W.

    Args:
        bins: radial bins from 0 to the corner of the frequency cube, at least 4.
        max_gain: largest gain, at least 1.

    Raises:
        ValueError: for a parameter out of range, or no scans.

    Example:
        >>> from robustvox.datasets.scanner import ScannerShift
        >>> from robustvox.benchmark.studies.stealing.scans import texture_phantoms
        >>> a = texture_phantoms(2, (24, 24, 24), (1.0, 1.0, 1.0))
        >>> blur = ScannerShift(psf_mm=0.5, noise=0.0)
        >>> b = [Scan(s.id, blur(s.image, s.spacing_mm, s.id), s.spacing_mm) for s in a]
        >>> fitted = PowerCalibration().fit(a, b)
        >>> abs(fitted.log_h[10] - np.log(blur.transfer(np.array(fitted.frequency[10])))) < 0.15
        np.True_
    """

    bins: int = 24
    max_gain: float = 6.0

    def __post_init__(self) -> None:
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or self.bins < 4:
            raise ValueError(f"bins: expected a whole number >= 4, got {self.bins!r}")
        if not (math.isfinite(self.max_gain) and self.max_gain >= 1):
            raise ValueError(f"max_gain: expected a finite number >= 1, got {self.max_gain!r}")

    def fit(self, a: Sequence[Scan], b: Sequence[Scan]) -> Calibration:
        """The transfer function between the scanners of ``a`` and ``b``; the order of the scans changes nothing."""
        if not a or not b:
            raise ValueError(
                f"expected scans of both scanners, got {len(a)} of A and {len(b)} of B; give at least one each"
            )
        top = max(math.sqrt(sum((0.5 / mm) ** 2 for mm in scan.spacing_mm)) for scan in (*a, *b))
        edges = np.linspace(0.0, top, self.bins + 1)
        power_a, power_b = self.spectrum(a, edges), self.spectrum(b, edges)
        known = np.isfinite(power_a) & np.isfinite(power_b)
        center = ((edges[:-1] + edges[1:]) / 2)[known]
        power_a, power_b = power_a[known], power_b[known]
        h = np.sqrt((power_b + _TINY) / (power_a + _TINY))
        snr = np.minimum(_snr(power_a), _snr(power_b))
        return Calibration(
            frequency=_floats(center),
            to_a_gain=_floats(np.minimum(_wiener(h, snr), self.max_gain)),
            to_b_gain=_floats(np.minimum(h * snr / (snr + 1), self.max_gain)),
            log_h=_floats(np.log(h)),
            snr=_floats(snr),
        )

    def spectrum(self, scans: Sequence[Scan], edges: np.ndarray) -> np.ndarray:
        """Mean power per radial bin, channels and directions together; NaN where no coefficient falls."""
        powers, counts = [], []
        for scan in scans:
            spatial = scan.image.shape[1:]
            window = np.ones(spatial)
            for axis, side in enumerate(spatial):
                # The periodic window of n + 2 without its zeros: never all zero, however thin the volume is.
                taper = np.hanning(side + 2)[1:-1]
                window = window * taper.reshape([-1 if i == axis else 1 for i in range(len(spatial))])
            place = np.digitize(frequencies(spatial, scan.spacing_mm).ravel(), edges[1:-1])
            for channel in scan.image.astype(np.float64):
                power = (
                    np.abs(np.fft.fftn((channel - channel.mean()) * window)) ** 2 / np.square(window).sum()
                )
                powers.append(np.bincount(place, power.ravel(), minlength=len(edges) - 1))
                counts.append(np.bincount(place, minlength=len(edges) - 1))
        # fsum is exact, hence the same in any order of the scans.
        total = np.array([math.fsum(column) for column in zip(*powers, strict=True)])
        count = np.sum(counts, axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _wiener(h: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """h / (h^2 + 1/SNR), written so that an SNR of 0 gives 0."""
    return h * snr / (h**2 * snr + 1)


def _snr(power: np.ndarray) -> np.ndarray:
    floor = power.min()
    return (power - floor + _TINY) / (floor + _TINY)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
