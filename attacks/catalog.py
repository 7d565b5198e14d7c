"""The attacks there are, a row each, without importing any of them.

A row is all that the rest of the suite knows of an attack besides its class: `list`, the page, the tables, the
citations and the contract tests take it from here. To add an attack, write its module and add its row.
"""

from __future__ import annotations

from dataclasses import dataclass

NOISE, SIGN, FREQUENCY, BLACK_BOX, ENSEMBLE, MARK = (
    "noise", "sign gradient", "frequency", "black-box", "ensemble", "mark",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AttackEntry:
    """What there is to know of an attack before it is loaded.

    Attributes:
        module: submodule of this package.
        kind: name of the class.
        summary: one line for people.
        family: what the page groups and filters by.
        budget: the hyper-parameter that says how far it may go.
        cite: keys of the bibliography, at least one.
        one_step: whether it takes a single step, and so is no measure of the worst case.
        iterates: whether it keeps the best of several points, so that ``iterate=last`` may be asked for.
        compatibility: whether it is there only to compare with published tables; then it is no member of ``ATTACKS``.
    """

    module: str
    kind: str
    summary: str
    family: str
    budget: str
    cite: tuple[str, ...]
    one_step: bool = False
    iterates: bool = False
    compatibility: bool = False


CATALOG: dict[str, AttackEntry] = {
    "gn": AttackEntry(
        module="noise",
        kind="GN",
        summary="Gaussian noise, the control without any knowledge of the model",
        family=NOISE,
        budget="std",
        cite=("kim2020torchattacks",),
    ),
    "uniform": AttackEntry(
        module="noise",
        kind="Uniform",
        summary="uniform or corner noise inside the L-inf ball, the fair control",
        family=NOISE,
        budget="eps",
        cite=("madry2018towards",),
    ),
    "smooth_noise": AttackEntry(
        module="smooth",
        kind="SmoothNoise",
        summary="signs of smoothed noise, the fair control of smooth",
        family=NOISE,
        budget="eps",
        cite=("dong2019evading",),
    ),
    "fgsm": AttackEntry(
        module="fgsm",
        kind="FGSM",
        summary="one signed gradient step to the edge of the L-inf ball",
        family=SIGN,
        budget="eps",
        cite=("goodfellow2015explaining",),
        one_step=True,
    ),
    "bim": AttackEntry(
        module="fgsm",
        kind="BIM",
        summary="iterated FGSM from the clean volume",
        family=SIGN,
        budget="eps",
        cite=("kurakin2017adversarial",),
        iterates=True,
    ),
    "pgd": AttackEntry(
        module="pgd",
        kind="PGD",
        summary="projected gradient ascent from a random start, with restarts",
        family=SIGN,
        budget="eps",
        cite=("madry2018towards",),
        iterates=True,
    ),
    "mifgsm": AttackEntry(
        module="mifgsm",
        kind="MIFGSM",
        summary="BIM along the accumulated gradient, meant to transfer",
        family=SIGN,
        budget="eps",
        cite=("dong2018boosting",),
        iterates=True,
    ),
    "annealed": AttackEntry(
        module="annealed",
        kind="Annealed",
        summary="PGD along the accumulated gradient, its step shrinking by a cosine, for long runs",
        family=SIGN,
        budget="eps",
        cite=("dong2018boosting", "loshchilov2017sgdr"),
        iterates=True,
    ),
    "smooth": AttackEntry(
        module="smooth",
        kind="Smooth",
        summary="MI-FGSM along blurred gradients: what transfers from a stolen model",
        family=SIGN,
        budget="eps",
        cite=("dong2019evading", "dong2018boosting"),
        iterates=True,
    ),
    "segpgd": AttackEntry(
        module="segpgd",
        kind="SegPGD",
        summary="PGD on cross entropy that turns from right voxels to wrong ones",
        family=SIGN,
        budget="eps",
        cite=("gu2022segpgd",),
        iterates=True,
    ),
    "cospgd": AttackEntry(
        module="cospgd",
        kind="CosPGD",
        summary="PGD on cross entropy weighted per voxel by cosine alignment",
        family=SIGN,
        budget="eps",
        cite=("agnihotri2024cospgd",),
        iterates=True,
    ),
    "apgd": AttackEntry(
        module="apgd",
        kind="APGD",
        summary="PGD with momentum and self-halving steps, eight losses, shrinking radius",
        family=SIGN,
        budget="eps",
        cite=("croce2020reliable", "croce2024towards"),
    ),
    "square": AttackEntry(
        module="square",
        kind="Square",
        summary="gradient-free random search, the probe for masked gradients",
        family=BLACK_BOX,
        budget="eps",
        cite=("andriushchenko2020square",),
    ),
    "vafa": AttackEntry(
        module="vafa",
        kind="VAFA",
        summary="frequency attack through learned 3D DCT quantization tables",
        family=FREQUENCY,
        budget="q_max",
        cite=("hanif2023frequency",),
        iterates=True,
    ),
    "vafa2d": AttackEntry(
        module="vafa2d",
        kind="VAFA2D",
        summary="VAFA with a 2D DCT in every slice",
        family=FREQUENCY,
        budget="q_max",
        cite=("hanif2023frequency", "duan2021advdrop"),
        iterates=True,
    ),
    "sa2": AttackEntry(
        module="sa2",
        kind="SA2",
        summary="frequency attack that scales the coefficients of chosen DCT bands",
        family=FREQUENCY,
        budget="rho",
        cite=("hanif2025frequency",),
        iterates=True,
    ),
    "keyed_mark": AttackEntry(
        module="keyed_mark",
        kind="KeyedMark",
        summary="watermark that misleads models and that only a key takes off again",
        family=MARK,
        budget="eps",
        cite=("wei2023miadmark", "dong2018boosting"),
    ),
    "ensemble": AttackEntry(
        module="ensemble",
        kind="Ensemble",
        summary="the frozen standard: the worst of five attacks per volume",
        family=ENSEMBLE,
        budget="eps",
        cite=("croce2020reliable", "croce2024towards"),
    ),
    "ensemble2": AttackEntry(
        module="ensemble",
        kind="Ensemble2",
        summary="the ensemble and a long annealed run: the worst of six attacks per volume",
        family=ENSEMBLE,
        budget="eps",
        cite=("croce2020reliable", "croce2024towards", "dong2018boosting"),
    ),
    "cospgd_mean": AttackEntry(
        module="published",
        kind="MeanCosPGD",
        summary="CosPGD as published for volumes, one mean cosine; for comparison with published tables",
        family=SIGN,
        budget="eps",
        cite=("agnihotri2024cospgd",),
        iterates=True,
        compatibility=True,
    ),
}
