"""What an attack may cost is told before it runs, and held while it runs."""

from __future__ import annotations

import warnings

import pytest
import torch

from robustvox.attacks import ATTACKS, Uniform
from robustvox.benchmark.craft.meter import Meter
from robustvox.benchmark.craft.passes import most_passes
from robustvox.benchmark.plan.attacks import load_attack

QUICK = {"steps": 3, "queries": 5, "restarts": 2, "block_size": 4}
TORCHATTACKS = ("FGSM", "PGD:steps=3", "MIFGSM:steps=3", "EOTPGD:steps=2,eot_iter=2", "VMIFGSM:steps=2,N=3",
                "SINIFGSM:steps=2,m=3", "PGDL2:steps=3", "GN")  # fmt: skip


def spent(spec: str) -> tuple[int, int]:
    """Passes that an attack makes on a tiny volume, and the most it may make."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attack = load_attack(spec).attack
        meter = Meter(torch.nn.Conv3d(1, 3, 3, padding=1))
        images, labels = torch.rand(1, 1, 5, 6, 7), torch.randint(3, (1, 1, 5, 6, 7))
        attack(meter, images, labels, generator=torch.Generator().manual_seed(0))
    return meter.forwards + meter.backwards, most_passes(attack)


@pytest.mark.parametrize("name", [name for name, kind in ATTACKS.items() if not hasattr(kind, "members")])
def test_no_attack_makes_more_passes_than_told(name):
    known = {key: value for key, value in QUICK.items() if key in ATTACKS[name].__dataclass_fields__}
    passes, most = spent(f"{name}:" + ",".join(f"{k}={v}" for k, v in known.items()) if known else name)
    # Not more, and with what every restart and every start add, not much less.
    assert passes <= most <= passes + 4


def test_the_standard_and_matched_attacks_stay_below_too():
    for name, members in (("ensemble", 5), ("ensemble2", 6)):
        passes, most = spent(name)
        assert passes <= most <= passes + 4 * members
    passes, most = spent("uniform@l2=pgd:steps=2,alpha=8/255")
    assert passes <= most
    assert most_passes(load_attack("pgd:iterate=last,steps=7").attack) == 16


@pytest.mark.parametrize("name", TORCHATTACKS)
def test_attacks_of_torchattacks_stay_below(name):
    pytest.importorskip("torchattacks")
    passes, most = spent(f"torchattacks:{name}")
    assert passes <= most


def test_steps_by_another_name_end_at_the_limit():
    """What no parameter tells is counted while it runs."""

    class Endless(Uniform):
        def perturb(self, task):
            while True:
                task.logits(task.images)

    assert most_passes(Endless()) < 10
    meter = Meter(torch.nn.Conv3d(1, 3, 1), limit=10)
    images, labels = torch.rand(1, 1, 5, 6, 7), torch.ones(1, 1, 5, 6, 7, dtype=torch.int64)
    with pytest.raises(ValueError, match="expected at most 10 forward and backward passes"):
        Endless()(meter, images, labels)
    assert meter.forwards == 10
