"""Named, frozen protocols: what a number in a table means. A change needs a new name, never an edit.

A protocol decides three separate things: how the attack sees the model, what becomes of the volume before it is
scored, and how scores are averaged. Every switch below is off in ``robustvox-1`` and on in ``bmvc2024``, which
repeats the published benchmark (arXiv 2406.08486) with the defects that define its numbers. One switch turned makes
a variant with a name of its own, ``bmvc2024:tiling=false`` or ``robustvox-1:uint8=true``, so that the effect of
each defect can be measured; the records of a variant never mix with those of a named protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from .spec import Spec, UsageError, canonical, match


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How volumes are predicted, attacked and scored.

    Args:
        name: goes into every record and table row.
        overlap: share of a window covered by its neighbor when a volume is predicted.
        mode: blending weights of the sliding window, ``"gaussian"`` or ``"constant"``.
        padding: what surrounds a volume smaller than the window: ``"zeros"``, ``"edge"`` or ``"reflect"``.
        tiling: the attack sees one window after the other, not overlapping, instead of the stitched prediction that
            is scored; where tiles overlap at the far edge the later one overwrites the earlier.
        fixed_alpha: iterative L-inf attacks step by 0.01 whatever eps is.
        clean_start: PGD starts at the clean volume, which makes it BIM.
        dice_ce: L-inf attacks climb soft Dice plus cross entropy, background included.
        mean_cosine: CosPGD weighs the loss by one mean cosine instead of voxel by voxel (``cospgd_mean``).
        slice_renorm: VAFA stretches every slice to [0, 1].
        vafa_settings: VAFA's quantization steps are at least 5 (paper: 1), and VAFA-2D takes 10 steps.
        last_iterate: iterative attacks return their last point instead of the best one.
        uint8: volumes are truncated to 8 bits between the attacked model and every other one; the attacked model
            and the clean volume keep floats.
        background: class 0 counts in every mean.
        voxel_hd95: HD95 is measured in voxels, on anisotropic grids as on isotropic ones.
        drop_lost: HD95 leaves out a class that only one side has, and Dice one that only the prediction has.
    """

    name: str
    overlap: float = 0.5
    mode: str = "gaussian"
    padding: str = "zeros"
    tiling: bool = False
    fixed_alpha: bool = False
    clean_start: bool = False
    dice_ce: bool = False
    mean_cosine: bool = False
    slice_renorm: bool = False
    vafa_settings: bool = False
    last_iterate: bool = False
    uint8: bool = False
    background: bool = False
    voxel_hd95: bool = False
    drop_lost: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """What stands beside numbers whose columns do not mean what their heading says."""
        return tuple(text for switch, text in _FLAGS.items() if getattr(self, switch))

    def attack_defaults(self, attack: str) -> dict[str, Any]:
        """Parameters that an attack of the registry takes here where the user gives none.

        Example:
            >>> PROTOCOLS["bmvc2024"].attack_defaults("vafa")
            {'renorm': 'slice', 'q_min': 5.0, 'iterate': 'last'}
        """
        found: dict[str, Any] = {}
        for switch, attacks, parameters in _DEFAULTS:
            if getattr(self, switch) and attack in attacks:
                found |= parameters
        return found


#: switch -> flag of the rows in which a column means something else than in `robustvox-1`
_FLAGS = {"background": "with-background", "voxel_hd95": "hd95-voxels", "drop_lost": "drops-lost"}


#: (switch, attacks it concerns, parameters it sets); what the published scripts ran, and nothing for other attacks
_DEFAULTS: tuple[tuple[str, tuple[str, ...], Mapping[str, Any]], ...] = (
    ("fixed_alpha", ("bim", "pgd", "cospgd", "cospgd_mean"), {"alpha": 0.01}),
    ("clean_start", ("pgd",), {"random_start": False}),
    ("dice_ce", ("fgsm", "bim", "pgd"), {"loss": "dice_ce"}),
    ("slice_renorm", ("vafa", "vafa2d"), {"renorm": "slice"}),
    ("vafa_settings", ("vafa",), {"q_min": 5.0}),
    ("vafa_settings", ("vafa2d",), {"q_min": 5.0, "steps": 10}),
    ("last_iterate", ("bim", "pgd", "cospgd", "cospgd_mean", "vafa", "vafa2d"), {"iterate": "last"}),
)


#: fields that are not part of the name
SWITCHES = tuple(field.name for field in fields(Protocol) if field.type == "bool")


DEFAULT_PROTOCOL = "robustvox-1"

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        # The attack differentiates through the same overlapping window that is scored; foreground classes only;
        # distances in mm; float32 throughout; best iterate; per-case seeds; budgets measured.
        DEFAULT_PROTOCOL: Protocol(name=DEFAULT_PROTOCOL),
        "bmvc2024": Protocol(
            name="bmvc2024", mode="constant", padding="zeros", **dict.fromkeys(SWITCHES, True)
        ),
    }
)


def find_protocol(text: str) -> Protocol:
    """The protocol or variant that ``NAME[:switch=true,...]`` means.

    A variant is named by what differs from its base, sorted; without any difference it is the base.

    Raises:
        UsageError: unknown protocol or field, or a value a field cannot take.

    Example:
        >>> find_protocol("BMVC2024:uint8=true,tiling=false").name
        'bmvc2024:tiling=false'
    """
    spec = Spec.parse(text)
    base = PROTOCOLS[match(spec.name, PROTOCOLS, "protocol")]
    known = {field.name for field in fields(Protocol)} - {"name"}
    changes = {match(key, known, f"field of {base.name}"): value for key, value in spec.parameters.items()}
    changes = {key: value for key, value in changes.items() if value != getattr(base, key)}
    for key, value in changes.items():
        _check(key, value)
    return replace(base, name=canonical(base.name, changes), **changes) if changes else base


def _check(key: str, value: Any) -> None:
    if key in SWITCHES:
        fits, wanted = isinstance(value, bool), "true or false"
    elif key == "padding":
        fits, wanted = value in ("zeros", "edge", "reflect"), "zeros, edge or reflect"
    elif key == "mode":
        fits, wanted = value in ("gaussian", "constant"), "gaussian or constant"
    else:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
        wanted = "a number in [0, 1)"
    if not fits:
        raise UsageError(f"--protocol: expected {key} to be {wanted}, got {value!r}")
