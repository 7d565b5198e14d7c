"""The targets that others trained, what each needs and costs. Readable without torch."""

from __future__ import annotations

from dataclasses import dataclass

COMMON = ("prompts", "clicks", "click_seed", "map", "allow_modality_mismatch")
"""Parameters of every target; others go to its adapter."""


@dataclass(frozen=True, kw_only=True)
class TargetEntry:
    """One target as ``list`` shows it.

    Args:
        what: it is, in one line.
        parameters: number of trainable values; None where the user's folder decides.
        window: voxels of a full window; likewise.
        forward_gb: memory of one forward of one window without gradients, in GB; None where it was not measured.
        gradient_gb: memory of one forward and input gradient of one window, in GB; likewise.
        seconds: of one forward and input gradient of one window on one CPU core; likewise.
        prompts: kinds it can be asked by, the default first.
        source: paper.
        scaled: memory and seconds were measured on smaller windows and grow with the voxels from there.
        resized_by: parameters that make another network of it, for which the figures do not hold.
    """

    what: str
    parameters: int | None
    window: tuple[int, int, int] | None
    forward_gb: float | None
    gradient_gb: float | None
    seconds: float | None
    prompts: tuple[str, ...]
    source: str
    scaled: bool = False
    resized_by: tuple[str, ...] = ()


TARGETS: dict[str, TargetEntry] = {
    "obelisk_hybrid": TargetEntry(
        what="OBELISK hybrid, 8 abdominal organs in CT",
        parameters=229_217,
        window=(144, 144, 144),
        forward_gb=1.5,
        gradient_gb=2.8,
        seconds=11,
        prompts=("none",),
        source="Heinrich et al., MedIA 54 (2019)",
    ),
    "obelisk_unet": TargetEntry(
        what="all-convolutional U-Net of the OBELISK paper, 8 abdominal organs in CT",
        parameters=883_740,
        window=(144, 144, 144),
        forward_gb=None,
        gradient_gb=None,
        seconds=None,
        prompts=("none",),
        source="Heinrich et al., MedIA 54 (2019)",
    ),
    "vista3d": TargetEntry(
        what="VISTA3D, 132 structures in CT by class or by click",
        parameters=217_964_982,
        window=(128, 128, 128),
        forward_gb=3.8,
        gradient_gb=13,
        seconds=140,
        scaled=True,
        resized_by=("width",),
        prompts=("class", "click", "click_pred"),
        source="He et al., arXiv:2406.05285",
    ),
    "suprem_swin_unetr": TargetEntry(
        what="SuPreM, Swin UNETR under a CLIP-driven head, 32 structures in CT",
        parameters=62_595_315,
        window=(96, 96, 96),
        forward_gb=None,
        gradient_gb=None,
        seconds=None,
        prompts=("none",),
        source="Li et al., arXiv:2501.11253",
    ),
    "suprem_segresnet": TargetEntry(
        what="SuPreM, SegResNet, 32 structures in CT",
        parameters=4_701_424,
        window=(96, 96, 96),
        forward_gb=1.2,
        gradient_gb=2.1,
        seconds=7,
        prompts=("none",),
        source="Li et al., arXiv:2501.11253",
    ),
    "totalsegmentator": TargetEntry(
        what="a TotalSegmentator or other nnU-Net v2 folder, with its own classes and spacing",
        parameters=None,
        window=None,
        forward_gb=None,
        gradient_gb=None,
        seconds=None,
        prompts=("none",),
        source="Wasserthal et al., doi:10.1148/ryai.230024",
    ),
    "sam_med3d": TargetEntry(
        what="SAM-Med3D over the user's package, any class by click",
        parameters=None,
        window=(128, 128, 128),
        forward_gb=None,
        gradient_gb=None,
        seconds=None,
        prompts=("click",),
        source="Wang et al., arXiv:2310.15161",
    ),
}
"""Measured with tests/performance/targets.py, 13 organs asked for, torch 2.14, one thread. VISTA3D took 2.0 GB at 32^3
and 3.2 GB at 64^3 (1.8 and 2.0 GB without gradients), which grows to 13 GB at 128^3."""
