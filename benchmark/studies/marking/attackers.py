"""Somebody who trains a remover: marks of his own keys, made on a model of his own, and volumes of his own."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from robustvox.attacks import Key, KeyedMark
from robustvox.datasets import Dataset

from ...craft.named import NamedModel
from ...plan.attacks import attack_spec
from ...records.paths import component
from .marks import StudiedMark, make_mark
from .trained import RemoverRecipe, ResidualRemover, train_remover


@dataclass(frozen=True)
class Attacker:
    """A trained remover and what it was trained from.

    Args:
        view: name in the tables.
        identity: hash of model, mark, volumes and recipe.
        remover: the network.
        seconds: marking the pairs and training, where it was trained.
    """

    view: str
    identity: str
    remover: ResidualRemover
    seconds: float


def load_or_train(
    folder: Path,
    model: NamedModel,
    dataset: Dataset,
    cases: Sequence[str],
    recipe: RemoverRecipe,
    device: str,
) -> Attacker:
    """The remover of an attacker whose own model this is, from its file below ``folder`` if nothing changed since."""
    mark = StudiedMark("field", KeyedMark(), (model,))
    facts = [model.sha256, attack_spec("keyed_mark", mark.attack), list(cases), asdict(recipe)]
    identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path, view = folder / f"{component(f'remover_{model.name}')}.safetensors", f"trained on {model.name}"
    remover = ResidualRemover(dataset.in_channels, recipe.channels, recipe.bound)
    try:
        with safe_open(path, "pt") as stored:
            known = stored.metadata() or {}
        if known.get("identity") == identity:
            remover.load_state_dict(load_file(path))
            return Attacker(view, identity, remover.to(device).eval(), float(known["seconds"]))
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError):
        pass  # none yet, or not ours: train it
    started = time.perf_counter()
    marked, clean = [], []
    for number, case in enumerate(cases):
        volume = dataset.load(case)
        key = Key(f"robustvox study of marks, attacker {number}".encode())
        # He has no labels either: his own model's predictions will do.
        marked.append(make_mark(mark, volume, volume.image, None, key, device).image)
        clean.append(volume.image)
    remover = train_remover(marked, clean, recipe, device)
    seconds = time.perf_counter() - started
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in remover.state_dict().items()}
    save_file(weights, path, {"identity": identity, "seconds": f"{seconds:.1f}"})
    return Attacker(view, identity, remover, seconds)
