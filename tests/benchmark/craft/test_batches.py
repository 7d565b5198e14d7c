"""Cases attacked together get the numbers of cases attacked alone, whatever their shapes, masks and attack."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robustvox.attacks import ATTACKS, GN, PGD, VAFA, Sharing, load_attack_class
from robustvox.attacks.published import LastIterate
from robustvox.benchmark.craft.batches import Company, company_of, most_together
from robustvox.benchmark.craft.crafting import craft, craft_together
from robustvox.benchmark.craft.matched import Matched
from robustvox.benchmark.craft.meter import StepWatch
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.specs.protocols import PROTOCOLS, find_protocol
from robustvox.datasets import IntensityWindow, Volume
from robustvox.models import SlidingWindow

pytestmark = pytest.mark.filterwarnings("ignore:APGD")  # three steps are few

ROI = (12, 12, 10)
SHAPES = ((9, 12, 7), (12, 8, 10), (10, 11, 9))
SMALL = {"steps": 3, "block_size": 4, "queries": 8, "sigma": 0.5}
RULES = PROTOCOLS["robustvox-1"]


def volume(case: str, shape: tuple[int, ...], dtype: type = np.float64, *, masked: bool = False) -> Volume:
    g = np.random.default_rng(sum(map(ord, case)))
    image = g.random((1, *shape)).astype(dtype)
    label = np.digitize(image[0], (0.6, 0.9)).astype(np.int16)
    label[:, :, 3:] = 0
    ignore = np.zeros(shape, bool)
    ignore[:2] = masked
    window = IntensityWindow(0.0, 1.0)
    return Volume(case, image, label, (1.0, 1.0, 2.0), np.eye(4), window, ignore=ignore if masked else None)


def model(
    dtype: torch.dtype = torch.float64, roi: tuple[int, ...] = ROI, padding: str = "zeros"
) -> NamedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv3d(1, 6, 3, padding=1), nn.InstanceNorm3d(6), nn.GELU(), nn.Conv3d(6, 3, 3, padding=1)
        network = nn.Sequential(*layers).to(dtype).eval()
    return NamedModel("net", "", SlidingWindow(network, roi, padding=padding))


def made(name: str) -> NamedAttack:
    kind = load_attack_class(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return NamedAttack(name, kind(**{k: v for k, v in SMALL.items() if k in kind.__dataclass_fields__}))


EVERY = {name: made(name) for name in (*ATTACKS, "cospgd_mean")}
EVERY["last"] = NamedAttack("last", LastIterate(attack=PGD(steps=3)))
TOGETHER = {"dataset": "d", "protocol": RULES, "seed": 3, "device": "cpu"}


@pytest.fixture(autouse=True)
def _short_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustvox.attacks.ensemble._STEPS", 3)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_attack_gives_cases_what_they_get_alone(name: str, dtype: type) -> None:
    attack, target = EVERY[name], model(torch.from_numpy(np.zeros(1, dtype)).dtype)
    volumes = [
        volume(case, shape, dtype, masked=case == "b") for case, shape in zip("abc", SHAPES, strict=True)
    ]
    if attack.attack.shares is Sharing.EQUAL_SHAPES:
        volumes = [volume(case, SHAPES[0], dtype, masked=case == "b") for case in "abc"]
    companies = [company_of(attack, target, one, RULES) for one in volumes]
    assert companies[0] is not None
    assert companies[0] == companies[1] == companies[2]
    alone = [craft(attack, target, one, **TOGETHER) for one in volumes]
    together = craft_together(attack, [target] * 3, volumes, **TOGETHER)
    for found, wanted, one in zip(together, alone, volumes, strict=True):
        assert found.images.shape == (1, *one.image.shape)
        assert (found.cost.forwards, found.cost.backwards) == (wanted.cost.forwards, wanted.cost.backwards)
        assert found.flags == wanted.flags
        off = (found.images - wanted.images).abs()
        if dtype is np.float64:
            assert off.max() < 1e-6
        # A gradient of nearly zero may turn its sign; what the network says of the volume stays.
        predictions = [target.predictor(each.images).argmax(1) for each in (found, wanted)]
        assert (predictions[0] == predictions[1]).double().mean() > 0.998


def test_cases_of_another_shape_wait_for_their_like() -> None:
    small, other, large = volume("a", SHAPES[0]), volume("b", SHAPES[1]), volume("c", (16, 12, 10))
    pgd, vafa = NamedAttack("", PGD()), NamedAttack("", VAFA())

    def company(attack: NamedAttack, one: Volume, target: NamedModel | None = None) -> Company | None:
        return company_of(attack, target or model(), one, RULES)

    target = model()
    assert company(pgd, small, target) == company(pgd, other, target)
    assert company(vafa, small, target) != company(vafa, other, target)
    assert company(vafa, small, target) == company(vafa, volume("d", SHAPES[0]), target)
    found = company(pgd, large, target)
    assert found is not None
    assert (found.shape, found.windows) == ((1, 16, 12, 10), 2)
    # Networks that see something else than zeros around a small volume see it alone.
    edge = model(padding="edge")
    assert company(pgd, small, edge) != company(pgd, other, edge)


def test_equal_volumes_of_several_windows_get_what_they_get_alone() -> None:
    target, volumes = model(), [volume(case, (16, 12, 13)) for case in "ab"]
    attack = EVERY["pgd"]
    assert company_of(attack, target, volumes[0], RULES) == company_of(attack, target, volumes[1], RULES)
    alone = [craft(attack, target, one, **TOGETHER) for one in volumes]
    for found, wanted in zip(craft_together(attack, [target] * 2, volumes, **TOGETHER), alone, strict=True):
        assert (found.images - wanted.images).abs().max() < 1e-6


def test_what_differs_from_case_to_case_is_attacked_alone() -> None:
    one, target = volume("a", SHAPES[0]), model()

    class Own(PGD):
        """Nobody tested what it does in a batch."""

    class Window(SlidingWindow):
        """Nor what this sees of a volume."""

    mixing = nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3, track_running_stats=False)).eval()
    matched = Matched(attack=GN(), reference=PGD(steps=1))
    pgd = NamedAttack("", PGD())
    for attack, net, rules in (
        (NamedAttack("", Own()), target, RULES),
        (NamedAttack("", matched), target, RULES),
        (pgd, replace(target, predictor=Window(target.predictor.network, ROI)), RULES),  # type: ignore[arg-type]
        (pgd, replace(target, predictor=SlidingWindow(mixing, ROI)), RULES),
        (pgd, replace(target, predictor=mixing), RULES),
        (pgd, target, find_protocol("bmvc2024")),
    ):
        assert company_of(attack, net, one, rules) is None
    assert company_of(pgd, target, one, RULES) is not None


def test_a_spacing_that_an_attack_asks_for_parts_cases() -> None:
    target, one = model(), volume("a", SHAPES[0])
    mark = EVERY["keyed_mark"]
    other = replace(one, spacing_mm=(1.0, 1.0, 3.0))
    assert company_of(mark, target, one, RULES) != company_of(mark, target, other, RULES)


def test_flags_are_those_of_each_case() -> None:
    """One case whose loss is not finite says nothing about its neighbours."""

    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.cat([images, 1 - images], 1) * 5
            dark = images.flatten(1).mean(1) < 0.2
            changed = (images.flatten(1) != 0.1).any(1)
            return torch.where((dark & changed).view(-1, 1, 1, 1, 1), torch.nan, logits)

    target = NamedModel("net", "", SlidingWindow(Broken(), ROI))
    bright, dark = volume("a", ROI), volume("b", ROI)
    bright.label[:] = dark.label[:] = bright.image[0] > 0.5
    dark.image[:] = 0.1
    found = craft_together(
        NamedAttack("bim", load_attack_class("bim")(steps=2)), [target] * 2, [bright, dark], **TOGETHER
    )
    assert "nonfinite-loss" not in found[0].flags
    assert {"nonfinite-loss", "no-progress", "unchanged"} <= found[1].flags


def test_how_many() -> None:
    predictor = model().predictor
    assert isinstance(predictor, SlidingWindow)
    assert [most_together(predictor, 1, 1, asked, "cpu") for asked in ("auto", 5)] == [1, 5]


def test_a_watch_says_where_an_attack_stands() -> None:
    watch = StepWatch()
    assert str(watch) == ""
    craft(EVERY["pgd"], model(), volume("a", SHAPES[0]), **TOGETHER, steps=watch)
    assert str(watch) == "step 3 of 3"
