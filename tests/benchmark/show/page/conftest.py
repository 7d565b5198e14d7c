"""Small results as the harness writes them: hostile names, flags, a failed case, a lost organ, transfers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustvox.benchmark.records import outcomes as checks
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit

HOSTILE = "<script>alert(1)</script>"
FORMULA = "=cmd|x"
MODELS = ("unet", "swin_unetr", HOSTILE)
PGD, PGD4, FGSM = "pgd:eps=8/255,steps=20", "pgd:eps=4/255,steps=20", "fgsm:eps=8/255"
VAFA = "vafa:eps=none,q_max=20,steps=20"
ATTACKS = (PGD, PGD4, FGSM, VAFA, "gn:std=8/255", f"{FORMULA}:eps=8/255")


def sha(model: str) -> str:
    return str(MODELS.index(model)) * 64


def unit(case: str, attack: str, surrogate: str, target: str = "", **changes: Any) -> Unit:
    target = target or surrogate
    base: dict[str, Any] = {
        **{"dataset": "toy", "case": case, "attack": attack, "protocol": "robustvox-1", "seed": 0},
        **{"surrogate": surrogate, "surrogate_sha256": sha(surrogate)},
        **{"target": target, "target_sha256": sha(target), "data_sha256": ""},
    }
    return Unit(**base | changes)


def score(
    store: RecordStore, what: Unit, dice: list[float], flags: tuple[str, ...] = (), l2: float = 5.0
) -> None:
    rows = [
        {
            **{"class_id": i, "class_name": name, "dice": value, "hd95_mm": 3.0, "nsd": value},
            "status": "missing" if value == 0 else "ok",
        }
        for i, (name, value) in enumerate(zip(("liver", "<b>spleen"), dice, strict=True), start=1)
    ]
    eps = 0.0 if what.attack == "none" else 8 / 255
    cost = {"linf": eps, "l2": l2, "psnr": 30.0, "ssim": 0.97, "forwards": 21, "backwards": 20}
    store.append(what, rows, {**cost, "seconds": 1.0, "flags": list(flags), "provenance": ""})


def fill(results: Path, dataset: str = "toy", seed: int = 0) -> None:
    """Records of one dataset under ``results``."""
    rng = np.random.default_rng(seed)
    with RecordStore(results / dataset / "records") as store:
        for rank, model in enumerate(MODELS):
            for number in range(4):
                case = f"c{number}"
                score(store, unit(case, "none", model, dataset=dataset), [0.9, 0.9 - 0.01 * rank], l2=0.0)
                for strength, attack in enumerate(ATTACKS):
                    lost = attack == PGD and rank == 2 and number == 0
                    dice = [0.8 - 0.1 * rank - 0.02 * strength + 0.01 * rng.random() for _ in range(2)]
                    flags = ("no-progress", "<i>odd") if attack == FGSM and not rank else ()
                    what = unit(case, attack, model, dataset=dataset)
                    score(store, what, [0.0, dice[1]] if lost else dice, flags, l2=4.0 + strength)
        for target in MODELS[1:]:
            score(store, unit("c0", PGD, "unet", target, dataset=dataset), [0.85, 0.84])
            score(store, unit("c0", VAFA, "unet", target, dataset=dataset), [0.86, 0.84])
        store.fail(unit("c4", PGD, "unet", dataset=dataset), "out of memory")
    outcome = {
        **{
            "dataset": dataset,
            "protocol": "robustvox-1",
            "surrogate": "unet",
            "surrogate_sha256": sha("unet"),
        },
        **{"attack": PGD, "check": "C8", "slug": "gradient-free", "status": "fail", "flag": "C8:fail"},
        **{
            "number": 0.1,
            "rule": "fail > 0",
            "detail": 'Square wins by 0.1 <i onmouseover="x">',
            "cases": ["c0"],
        },
        **{"seed": 0, "queries": 10, "robustvox": "0.1.0", "commit": "", "torch": "2"},
    }
    checks.save(results / dataset / "checks", [checks.CheckOutcome(**outcome)])


@pytest.fixture(scope="session")
def toy_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with two datasets, one of them without transfers."""
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        fill(root)
        with RecordStore(root / "zero" / "records") as store:
            for attack in ("none", FGSM):
                score(store, unit("c0", attack, "unet", dataset=FORMULA), [0.9, 0.8])
    return root


@pytest.fixture(scope="session")
def toy_page(toy_results: Path) -> Path:
    """The page of it, written."""
    from robustvox.benchmark.show.files import write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        write(toy_results)
    return toy_results / "index.html"


@pytest.fixture
def new_noise_score() -> Callable[[Path], None]:
    """Scores one case of one model under noise again, on other data; the later result counts."""

    def add(results: Path) -> None:
        with RecordStore(results / "toy" / "records") as store:
            score(store, unit("c1", "gn:std=8/255", "unet", data_sha256="b" * 64), [0.3, 0.2], l2=8.0)

    return add
