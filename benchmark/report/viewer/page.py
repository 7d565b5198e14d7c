"""From a scene to one HTML file: NiiVue, the volumes and the script that shows them, and a policy against requests."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

from ...harness.compute import ClassScore, mean_dice
from ...plan.attacks import short_name
from ...show.figures.labels import class_style
from ...show.html import environment, policy
from ...specs.names import printable
from .volumes import Scene, embedded, largest_change

NIIVUE = "0.69.0"
"""Version of NiiVue beside this file, as npm has it: ``dist/niivue.umd.js``, compressed with xz."""

SHA256 = "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
"""Of that file before compression."""

WRONG = "#ff2828"
"""Of voxels in which a prediction differs from the reference."""

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Organ:
    """A row of the legend: a class, its color, and its scores before and after."""

    class_id: int
    name: str
    color: str
    dice: tuple[str, str]
    hd95_mm: tuple[str, str]


def render_viewer(scene: Scene, convention: str = "radiological") -> str:
    """The page of a scene; it asks the network for nothing and changes nothing.

    Args:
        scene: what is shown.
        convention: ``"radiological"``, the patient's right on the left, or ``"neurological"``.
    """
    script = (_HERE / "viewer.js").read_text(encoding="utf-8")
    style = (_HERE / "viewer.css").read_text(encoding="utf-8")
    scripts = [library(), script]
    shown = organs(scene)
    return (
        environment(_HERE)
        .get_template("viewer.html.j2")
        .render(
            scene=scene,
            title=f"{scene.dataset}, {scene.case}  ·  {scene.models}  ·  {short_name(scene.attack)}",
            organs=shown,
            dice=tuple(f"{mean_dice(tuple(scores)):.3f}" for scores in (scene.before, scene.after)),
            data=_data(scene, shown, convention),
            version=NIIVUE,
            licences=escape((_HERE / "THIRD_PARTY.md").read_text(encoding="utf-8")),
            wrong=WRONG,
            style=Markup(style),
            scripts=[Markup(text) for text in scripts],
            policy=policy([style], scripts),
            convention=convention,
            reach=f"{largest_change(scene):.3g}",
        )
    )


def organs(scene: Scene) -> list[Organ]:
    """Every class with its scores, background left out."""
    before, after = ({score.class_id: score for score in scores} for scores in (scene.before, scene.after))
    return [
        Organ(
            class_id,
            name,
            class_style(class_id)[0],
            (_dice(before.get(class_id)), _dice(after.get(class_id))),
            (_distance(before.get(class_id)), _distance(after.get(class_id))),
        )
        for class_id, name in enumerate(scene.class_names)
        if class_id
    ]


def _dice(score: ClassScore | None) -> str:
    return "n/a" if score is None or score.dice != score.dice else f"{score.dice:.3f}"


def _distance(score: ClassScore | None) -> str:
    return "n/a" if score is None or score.hd95_mm != score.hd95_mm else f"{score.hd95_mm:.1f}"


def _data(scene: Scene, shown: list[Organ], convention: str) -> Markup:
    """What the script reads, as JSON that cannot end its tag."""
    text = json.dumps(
        {
            "volumes": embedded(scene),
            "unit": printable(scene.unit),
            "window": scene.window,
            "reach": largest_change(scene),
            "classes": ["background", *(printable(organ.name) for organ in shown)],
            "wrong": WRONG,
            "colors": ["#000000", *(organ.color for organ in shown)],
            "start": (scene.affine @ [*scene.start, 1.0])[:3].tolist(),
            "radiological": convention == "radiological",
        },
        allow_nan=False,
    )
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def library() -> str:
    """NiiVue, of which not a byte differs from what npm has.

    Raises:
        ValueError: if it does.
    """
    raw = lzma.decompress((_HERE / "niivue.umd.js.xz").read_bytes())
    found = hashlib.sha256(raw).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"expected NiiVue {NIIVUE} with sha256 {SHA256[:12]}, found {found[:12]}; install robustvox again"
        )
    return raw.decode("utf-8").rstrip("\n")
