"""Is a model what it claims? Cheats that hide from attacks by gradients each fail a check, and a sound network none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from robustvox.attacks import GN, PGD
from robustvox.benchmark.craft.named import ModelWindow, NamedModel
from robustvox.benchmark.studies.sanity import run_checks

from .cheats import HalfStopped, Quantized, Restless, Scaled, Stopped, Wary, Watching

CLAIM = 0.61
"""About what the network below has on the toy volumes."""

NEW = ("C0", "C24", "C25", "C26", "C27")
EVERY_NEW = ",".join(NEW)


class Learned(nn.Module):
    """A convolution that tells the classes of the toy volumes apart, and can be initialized again."""

    def __init__(self, levels) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, len(levels), 1)
        with torch.no_grad():
            # The nearest level wins: -(x - l)^2 without x^2 is linear in x.
            self.layer.weight.copy_(torch.tensor([600.0 * level for level in levels]).view(-1, 1, 1, 1, 1))
            self.layer.bias.copy_(torch.tensor([-300.0 * level**2 for level in levels]))

    def forward(self, images):
        return self.layer(nn.functional.avg_pool3d(images, 3, 1, 1, count_include_pad=False))


@pytest.fixture
def learned(controls):
    return Learned(controls.Nearest().levels.flatten().tolist())


@pytest.fixture
def statuses(volumes, strong):
    """Status and number of some checks of a network: ``(network, ids) -> {id: result}``."""

    def run(network, ids=EVERY_NEW, attack=None, **about):
        named = NamedModel("toy", "", network.eval(), **about)
        found = run_checks(named, attack or strong, volumes(), num_classes=3, only=ids, queries=60)
        return {result.id: result for result in found}

    return run


def test_a_sound_network_passes(statuses, learned):
    found = statuses(learned, claimed=CLAIM, window=ModelWindow((10, 11, 9), "the model"))
    assert {id: result.status for id, result in found.items()} == dict.fromkeys(NEW, "pass"), [
        r.detail for r in found.values()
    ]
    assert found["C27"].number == pytest.approx(1, abs=0.2)
    assert f"the checkpoint claims {CLAIM:.3f}; volumes fill 100% of the window" in found["C0"].detail


def test_random_weights_are_not_plausible(statuses, learned):
    torch.manual_seed(3)
    learned.layer.reset_parameters()
    assert statuses(learned, "C0")["C0"].status == "fail"


@pytest.mark.parametrize(
    ("about", "status"),
    [
        ({"claimed": CLAIM + 0.04}, "pass"),
        ({"claimed": CLAIM + 0.07}, "warn"),
        ({"claimed": CLAIM + 0.12}, "fail"),
        ({"window": ModelWindow((50, 50, 50), "the model")}, "warn"),
    ],
)
def test_the_window_and_the_claim_are_looked_at(statuses, learned, about, status):
    assert statuses(learned, "C0", **about)["C0"].status == status


def test_a_card_that_lies_fails(statuses, learned):
    found = statuses(learned, "C0", claimed=0.999)["C0"]
    assert found.status == "fail"
    assert found.number == pytest.approx(CLAIM, abs=0.01)


def test_a_model_without_weights_is_compared_with_nothing(statuses, controls):
    found = statuses(controls.Nearest(), "C0")["C0"]
    assert found.status == "pass"
    assert "random weights" not in found.detail


@pytest.mark.parametrize(
    ("cheat", "caught"),
    [
        (lambda n, v: Scaled(n, 2000.0), "C26"),
        (lambda n, v: Scaled(n, 1e6), "C7"),
        (lambda n, v: Quantized(n), "C7"),
        (lambda n, v: Stopped(n), "C27"),
        (lambda n, v: HalfStopped(n, nn.Conv3d(1, 3, 3, padding=1)), "C27"),
        (lambda n, v: Restless(n), "C24"),
        (lambda n, v: Wary(n), "C16"),
        (lambda n, v: Watching(n, v), "C25"),
    ],
    ids=["x2000", "x1e6", "quantized", "stopped", "decoy", "restless", "wary", "watching"],
)
def test_each_cheat_fails_a_check(statuses, learned, volumes, cheat, caught):
    torch.manual_seed(0)
    known = torch.from_numpy(volumes()[0].image)[None]
    weak = PGD(eps=8 / 255, steps=6)
    assert statuses(learned, caught, weak)[caught].status == "pass"
    assert statuses(cheat(learned, known), caught, weak)[caught].status == "fail"


def test_noise_follows_no_gradient(statuses, learned):
    found = statuses(learned, attack=GN())
    assert {id for id, result in found.items() if result.status == "skip"} == {"C24", "C26", "C27"}


def test_the_claim_of_a_checkpoint_reaches_the_check(toy):
    """From the card in the header to the model that is checked."""
    from robustvox.benchmark.plan.build import build_plan
    from robustvox.benchmark.specs.crossing import Computing, Crossing
    from robustvox.models import load_checkpoint, save_checkpoint

    loaded = load_checkpoint(toy.checkpoints["unet"])
    path = toy.root / "claims.safetensors"
    save_checkpoint(path, loaded.network, replace(loaded.card, validation_dice=0.75))
    crossing = Crossing(
        models=("unet",), attacks=("fgsm",), dataset=str(toy.folder), split="all", checkpoints=(path,)
    )
    (model,) = build_plan(crossing, Computing(device="cpu")).surrogates
    assert model.claimed == 0.75
