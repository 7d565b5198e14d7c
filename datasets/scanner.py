"""A second scanner with a known transfer function: what a vendor's competitor owns.

Real pairs of scanners over the same patients are rare, and their transfer functions are never known. This one is
simulated, so that a calibration can be compared with the truth.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from .base import Volume


@dataclass(frozen=True, kw_only=True)
class ScannerShift:
    """Turns a volume of scanner A into what scanner B would have measured of the same patient.

    In this order: the modulation transfer function H multiplies the 3-D DFT, a smooth bias field and ``gain``
    multiply, ``gamma`` bends, colored noise is added, and one clip to [0, 1] ends it. With
    ``G_s(f) = exp(-2 (pi s f)^2)``, the transfer function of a Gaussian of standard deviation ``s`` mm,

        H(f) = G_psf(f) * (1 + edge * (1 - G_edge_mm(f)))

    A blur (``psf_mm``) and an edge-enhancing reconstruction kernel (``edge``); ``f`` in cycles per mm, so that the
    same scanner acts alike on volumes of any spacing. H(0) is 1: the mean stays. The DFT is periodic, which
    joins opposite faces of a tight crop; a filter that inverts it on the same crop profits from that.

    Source: ours. The design of modulation transfer function and noise power spectrum is that of any text on
    imaging physics (e.g. Barrett and Myers, Foundations of Image Science, 2004).

    Args:
        psf_mm: standard deviation of the point spread function, mm, >= 0.
        edge: how much the highest frequencies are raised, >= 0; 6 means up to seven times.
        edge_mm: width of the edge kernel, mm, > 0.
        bias: largest log gain of the bias field, >= 0; a random polynomial of degree 2 per case.
        noise: standard deviation of the added noise on [0, 1], >= 0.
        nps_tilt: its power spectrum goes like f^nps_tilt, >= 0; 0 is white, 1 that of filtered back projection.
        gamma: exponent of the intensities, > 0.
        gain: factor of the intensities, > 0.
        seed: with the case id the seed of bias and noise.

    Shape:
        image: ``(C, *spatial)`` float in [0, 1]; the result alike, float32.

    Raises:
        ValueError: for a parameter out of range, or a spacing that does not fit the image.

    Example:
        >>> scanner = ScannerShift(edge=6, noise=0.0)
        >>> [round(float(h), 2) for h in scanner.transfer(np.array([0.0, 0.1, 0.5]))]
        [1.0, 2.07, 6.96]
        >>> scanner(np.full((1, 6, 5, 4), 0.5, np.float32), spacing_mm=(1.0, 1.0, 2.0)).std() < 1e-6
        np.True_
    """

    psf_mm: float = 0.0
    edge: float = 0.0
    edge_mm: float = 1.0
    bias: float = 0.0
    noise: float = 0.01
    nps_tilt: float = 1.0
    gamma: float = 1.0
    gain: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name in ("edge_mm", "gamma", "gain")
            if field.name == "seed":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < 0 or (positive and value == 0):
                raise ValueError(
                    f"{field.name}: expected a finite number {'> 0' if positive else '>= 0'}, got {value!r}; "
                    "a scanner is written like edge:6,noise:0.01"
                )

    @classmethod
    def parse(cls, text: str) -> ScannerShift:
        """Read ``NAME:VALUE[,NAME:VALUE...]``, for instance ``edge:6,noise:0.02``.

        Raises:
            ValueError: unknown name, or no number.

        Example:
            >>> ScannerShift.parse("edge:6,psf_mm:0.5").psf_mm
            0.5
        """
        known = {field.name: field.type for field in fields(cls)}
        values: dict[str, float | int] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, value = part.replace("=", ":").partition(":")
            if name not in known:
                raise ValueError(f"expected a shift among {', '.join(known)}, got {name!r} in {text!r}")
            try:
                values[name] = int(value) if name == "seed" else float(value)
            except ValueError:
                raise ValueError(
                    f"expected a number after {name}:, got {value!r} in {text!r}; write {name}:1"
                ) from None
        return cls(**values)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """What :meth:`parse` reads back: the values that differ from the defaults."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return ",".join(f"{f.name}:{getattr(self, f.name):g}" for f in changed)

    def transfer(self, frequency: np.ndarray) -> np.ndarray:
        """H at frequencies in cycles per mm, any shape."""
        f = np.asarray(frequency, np.float64)
        return _gaussian(f, self.psf_mm) * (1 + self.edge * (1 - _gaussian(f, self.edge_mm)))

    def __call__(self, image: np.ndarray, spacing_mm: Sequence[float], case_id: str = "") -> np.ndarray:
        """The image as scanner B measures it."""
        spatial = image.shape[1:]
        if len(spacing_mm) != len(spatial):
            raise ValueError(
                f"expected one spacing per spatial axis of {image.shape}, got {tuple(spacing_mm)}; "
                "pass image (C, *spatial) and the volume's spacing_mm"
            )
        rng = np.random.default_rng(_seed(self.seed, case_id))
        frequency = frequencies(spatial, spacing_mm)
        result = np.stack(
            [_filter(channel, self.transfer(frequency)) for channel in image.astype(np.float64)]
        )
        # Drawn whatever the parameters are, so that one of them never moves the others' randomness.
        field, noise = _polynomial(spatial, rng), rng.standard_normal(image.shape)
        result = result * np.exp(self.bias * field) * self.gain
        result = np.sign(result) * np.abs(result) ** self.gamma
        amplitude = frequency ** (self.nps_tilt / 2)
        for channel in noise:
            colored = _filter(channel, amplitude)
            channel[...] = colored / max(float(colored.std()), np.finfo(float).tiny)
        return np.clip(result + self.noise * noise, 0.0, 1.0).astype(np.float32)

    def scan(self, volume: Volume) -> Volume:
        """The volume with its image replaced; id, label and geometry stay."""
        return replace(volume, image=self(volume.image, volume.spacing_mm, volume.id))


def frequencies(spatial: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Length of the frequency vector of every DFT coefficient, cycles per mm, ``(*spatial)``.

    Example:
        >>> frequencies((4,), (2.0,)).tolist()
        [0.0, 0.125, 0.25, 0.125]
    """
    axes = [np.fft.fftfreq(side, mm) for side, mm in zip(spatial, spacing_mm, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij", sparse=True)))


def _gaussian(frequency: np.ndarray, sigma_mm: float) -> np.ndarray:
    return np.exp(-2 * (math.pi * sigma_mm * frequency) ** 2)


def _filter(image: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    return np.fft.ifftn(np.fft.fftn(image) * transfer).real


def _polynomial(spatial: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """A random polynomial of degree 2 over the volume, largest absolute value 1."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in spatial), indexing="ij", sparse=True)
    terms = [*axes, *(a * b for i, a in enumerate(axes) for b in axes[i:])]
    field = sum(weight * term for weight, term in zip(rng.standard_normal(len(terms)), terms, strict=True))
    field = np.broadcast_to(field, tuple(spatial))
    return field / max(float(np.abs(field).max()), np.finfo(float).tiny)


def _seed(seed: int, case_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"scanner:{seed}:{case_id}".encode()).digest()[:8], "big")
