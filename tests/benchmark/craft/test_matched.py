"""Equal distortion: what a matched attack returns, when it says that it could not, and how it is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustvox.attacks import ATTACKS, GN, PGD, VAFA, Attack, KeyedMark, Uniform
from robustvox.attacks.keyed_mark import within
from robustvox.benchmark import evaluate
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.matched import ATTEMPTS, Match, Matched, at_knob, find_knob
from robustvox.benchmark.craft.search import KnobSearch
from robustvox.benchmark.metrics.distortion import measure
from robustvox.benchmark.plan.attacks import brief, load_attack
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.specs.knobs import KNOBS
from robustvox.benchmark.specs.matched import noise_spec
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import IntensityWindow, Volume

CONTINUOUS = ("gn", "uniform", "fgsm", "bim", "pgd", "cospgd", "vafa")
REFERENCE = PGD(eps=8 / 255, steps=2, alpha=4 / 255)


def small(key: str) -> Attack:
    """A registered attack in a size for tests.

    On a network that hardly reacts, the distortion of VAFA's best point jumps from point to point; a single step
    without the SSIM term keeps it continuous.
    """
    sizes = {"steps": {"apgd": 10, "vafa": 1, "vafa2d": 1}.get(key, 3), "block_size": 4, "ssim_weight": 0.0}
    known = ATTACKS[key].__dataclass_fields__
    return ATTACKS[key](**{name: value for name, value in sizes.items() if name in known})


def with_a_knob() -> list[str]:
    keys = []
    for key, kind in ATTACKS.items():
        if hasattr(kind, "members"):  # hundreds of passes
            continue
        try:
            find_knob(kind())
        except ValueError:
            continue
        keys.append(key)
    return keys


class Job:
    """A tiny network with a batch of different volumes."""

    def __init__(self, batch: int = 2, spatial: tuple[int, ...] = (13, 12, 11)) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 3, 1)).double()
        self.images = torch.rand(batch, 1, *spatial, dtype=torch.float64) * 0.8 + 0.1
        with torch.no_grad():
            self.labels = self.model(self.images).argmax(1, keepdim=True)

    def __call__(self, attack: Attack, only: int | None = None, **more):
        chosen = slice(None) if only is None else slice(only, only + 1)
        generators = [torch.Generator().manual_seed(7 + i) for i in range(len(self.images))][chosen]
        return attack(self.model, self.images[chosen], self.labels[chosen], generator=generators, **more)

    def moved(self, images, on: str = "l2") -> list[float]:
        found = [measure(a, b) for a, b in zip(images, self.images, strict=True)]
        return [d.l2 if on == "l2" else 1 - d.ssim for d in found]


@pytest.fixture
def job() -> Job:
    return Job()


@pytest.mark.parametrize(
    ("key", "on"),
    [
        # Square asks a thousand times per value of its knob.
        pytest.param(key, on, marks=[pytest.mark.slow] if key == "square" else [])
        for key in with_a_knob()
        for on in ("l2", "ssim")
    ],
)
def test_every_attack_with_a_knob_gets_the_distortion_of_the_reference(job, key, on):
    attack = small(key)
    found: list[Match] = []
    images = job(Matched(attack=attack, reference=REFERENCE, on=on), notes=found)
    reference = job.moved(job(REFERENCE), on)
    for have, want, match in zip(job.moved(images, on), reference, found, strict=True):
        assert (have, want) == (match.distortion, match.reference)
        assert have <= want
        assert match.matched == (0.98 * want <= have)
        assert match.matched or key not in CONTINUOUS
        assert match.runs <= 6 or key not in CONTINUOUS


@pytest.mark.parametrize(
    "attack", [VAFA(steps=3, block_size=4), GN(), PGD(steps=3)], ids=["vafa", "gn", "pgd"]
)
def test_the_result_is_the_attack_alone_with_the_knob_that_was_found(job, attack):
    matched = Matched(attack=attack, reference=REFERENCE)
    found: list[Match] = []
    images = job(matched, notes=found)
    assert found[0].value != found[1].value
    for index, match in enumerate(found):
        assert match.knob == find_knob(attack)
        assert torch.equal(images[index : index + 1], job(at_knob(attack, match.value), index))
        assert torch.equal(images[index : index + 1], job(matched, index))


def test_an_attack_is_its_own_match_at_its_own_value(job):
    found: list[Match] = []
    images = job(Matched(attack=REFERENCE, reference=REFERENCE), notes=found)
    assert torch.equal(images, job(REFERENCE))
    assert [(m.runs, m.value, m.matched) for m in found] == [(1, 8 / 255, True)] * 2


def test_mask_targets_and_steps_reach_the_attack(job):
    attack = PGD(steps=3)
    mask = torch.rand(job.labels.shape) < 0.5
    targets = (job.labels + 1) % 3
    shown = []
    with pytest.raises(ValueError, match="follows no target"):
        job(Matched(attack=attack, reference=GN()), targets=targets)
    found: list[Match] = []
    images = job(
        Matched(attack=attack, reference=REFERENCE), 0, mask=mask[:1], targets=targets[:1],
        on_step=shown.append, notes=found,
    )  # fmt: skip
    alone = job(at_knob(attack, found[0].value), 0, mask=mask[:1], targets=targets[:1])
    assert torch.equal(images, alone)
    assert found[0].runs > 1
    assert [info.step for info in shown] == [0, 1, 2, 3]


def test_out_of_reach_keeps_the_nearest_and_says_so(job):
    found: list[Match] = []
    images = job(Matched(attack=VAFA(steps=2, block_size=4, eps=2 / 255), reference=REFERENCE), notes=found)
    saturated = job.moved(job(VAFA(steps=2, block_size=4, eps=2 / 255, q_max=KNOBS["q_max"].largest)))
    for have, limit, match in zip(job.moved(images), saturated, found, strict=True):
        assert not match.matched
        assert 0.9 * limit <= have < 0.98 * match.reference


def test_what_cannot_get_weaker_is_flagged_too(job):
    # The stretch of every slice to [0, 1] moves the volume further than the reference at any q_max.
    found: list[Match] = []
    images = job(
        Matched(attack=VAFA(steps=1, block_size=4, renorm="slice"), reference=GN(std=1e-3)), notes=found
    )
    assert torch.isfinite(images).all()
    for have, match in zip(job.moved(images), found, strict=True):
        assert not match.matched
        assert have == match.distortion > match.reference
        assert match.runs <= ATTEMPTS


def test_a_reference_that_changes_nothing_leaves_nothing_to_give(job):
    found: list[Match] = []
    still = Matched(attack=GN(), reference=PGD(eps=0.0, steps=1))
    assert torch.equal(job(still, notes=found), job.images)
    assert [(m.runs, m.matched) for m in found] == [(0, True)] * 2


def run(distortion, own, cap, target, power=1.0):
    """A search on a function in place of an attack."""
    search = KnobSearch(own, cap, target, 0.02, power)
    for tried in range(ATTEMPTS + 1):
        value = search.propose()
        if value is None or tried == ATTEMPTS:
            break
        assert 0 < value <= max(cap, own)
        search.tell(value, distortion(value))
    return search, tried


@settings(max_examples=300)
@given(
    exponent=st.floats(0.5, 3.0),
    own=st.floats(1e-3, 0.3),
    wanted=st.floats(1e-3, 0.3),
    bend=st.floats(0.0, 2.0),
    power=st.sampled_from([1.0, 2.0]),
)
def test_the_search_finds_every_continuous_growth(exponent, own, wanted, bend, power):
    def distortion(value):
        return value**exponent / (1 + bend * value)

    search, tried = run(distortion, own, 1.0, distortion(wanted), power)
    assert search.matched
    assert tried <= ATTEMPTS


@given(st.lists(st.floats(0.0, 10.0), min_size=ATTEMPTS, max_size=ATTEMPTS), st.floats(0.1, 9.0))
def test_no_function_gets_more_than_the_reference_when_less_was_seen(values, target):
    seen = iter(values)
    told = []

    def distortion(_):
        told.append(next(seen))
        return told[-1]

    search, _ = run(distortion, 0.1, 1.0, target)
    below = [d for d in told if d <= target]
    assert search.best[1] == (max(below) if below else min(told))


def test_a_jump_over_the_target_is_noticed_before_the_attempts_run_out():
    search, tried = run(lambda v: v if v < 0.1 else 2 * v, 0.03, 1.0, 0.15)
    assert not search.matched
    assert tried < ATTEMPTS
    assert 0.095 < search.best[1] < 0.1


def test_what_follows_the_knob():
    assert at_knob(PGD(eps=0.1, alpha=0.03, steps=10), 0.2).alpha == pytest.approx(0.06)
    assert at_knob(PGD(eps=0.1, alpha=0.1, steps=1), 1.0).alpha == 1.0
    lowered = at_knob(VAFA(q_min=5.0), 2.0)
    assert (lowered.q_max, lowered.q_min) == (2.0, 2.0)
    assert at_knob(VAFA(q_min=5.0), 7.0).q_min == 5.0
    assert at_knob(VAFA(), 20.0) == VAFA()
    # Short runs warned when they were built and do not warn again in every run.
    with pytest.warns(UserWarning, match="edge of its ball"):
        weak = PGD(alpha=1e-4, steps=2)
    assert at_knob(weak, 0.5).alpha == pytest.approx(1e-4 * 0.5 / (8 / 255))


@pytest.mark.skipif("sa2" not in ATTACKS, reason="SA2 is not in the registry")
def test_beta_follows_rho():
    attack = ATTACKS["sa2"](rho=0.2, beta=0.05)
    assert find_knob(attack) == "rho"
    assert at_knob(attack, 0.4).beta == pytest.approx(0.1)


@dataclass(frozen=True, kw_only=True)
class Knobless(Attack):
    """Somebody's attack without any size."""

    steps: int = 1

    def perturb(self, task):
        return task.images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attack": Knobless()}, "Knobless to have a knob"),
        ({"attack": GN(std=0.0)}, "GN to have a knob"),
        ({"on": "linf"}, "on: expected one of"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": "much"}, "tolerance"),
        ({"attack": Matched(attack=GN(), reference=REFERENCE)}, "attack: expected an attack that is not matched"),
        ({"reference": Matched(attack=GN(), reference=REFERENCE)}, "reference: expected"),
        ({"reference": "pgd"}, "reference: expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Matched(**{"attack": GN(), "reference": REFERENCE} | settings)


@pytest.mark.parametrize("key", with_a_knob())
@pytest.mark.parametrize("middle", ["@l2=", "@ssim~0.05=", "@SSIM="])
def test_the_canonical_spec_of_a_match_rebuilds_it(key, middle):
    first = load_attack(f"{key}{middle}pgd:eps=4/255")
    assert isinstance(first.attack, Matched)
    assert load_attack(first.spec) == first
    assert first.spec.startswith(f"{key}:")
    assert noise_spec(first.spec) == load_attack("pgd:eps=4/255").spec
    assert noise_spec(noise_spec(first.spec)) == noise_spec(first.spec)


def test_a_match_is_short_to_read_and_can_be_pasted_back():
    spec = load_attack("vafa:block_size=8@l2=pgd:eps=8/255").spec
    assert brief(spec) == "vafa:block_size=8@l2=pgd:eps=8/255"
    assert load_attack(brief(spec)).spec == spec
    assert brief(load_attack("gn@ssim~0.1=fgsm:eps=1/255").spec) == "gn@ssim~0.1=fgsm:eps=1/255"
    assert "@" not in load_attack("vafa").spec


def volumes() -> list[Volume]:
    random = np.random.default_rng(0)
    made = []
    for name in ("a", "b"):
        label = np.zeros((12, 11, 13), np.int16)
        label[3:8, 3:8, 2:7] = 1
        image = np.clip(0.3 + 0.4 * label + random.normal(0, 0.05, label.shape), 0, 1).astype(np.float32)
        made.append(Volume(name, image[None], label, (1.0, 1.0, 1.0), np.eye(4), IntensityWindow(0.0, 1.0)))
    return made


def test_every_case_is_matched_to_the_row_of_the_reference(tmp_path):
    torch.manual_seed(0)
    table = evaluate(
        {"net": nn.Conv3d(1, 2, 3, padding=1)},
        {"mine": REFERENCE, "twin": REFERENCE, "vafa": VAFA(steps=1, block_size=4), "bound": VAFA(steps=1, eps=1 / 255)},
        volumes(), num_classes=2, roi_size=(8, 8, 8), store=tmp_path, match=REFERENCE,
    ).table  # fmt: skip
    costs = load_records(tmp_path).costs
    costs = costs.assign(name=costs["attack"].str.partition(":")[0]).pivot(
        index="case", columns="name", values="l2"
    )
    # Bit for bit: the reference inside runs with the noise of its own row.
    assert (costs["twin"] == costs["mine"]).all()
    ratio = costs["vafa"] / costs["mine"]
    assert ratio.between(0.98, 1.0).all()
    flags = {row["attack"].partition(":")[0]: row["flags"] for row in table.to_dict("records")}
    assert "unmatched" not in flags["mine"] + flags["vafa"]
    assert "unmatched" in flags["bound"]
    assert any("@l2~0.02=mine:" in spec for spec in table["attack"])
    assert not any("@" in spec for spec in table["attack"] if spec.startswith("mine"))


def test_an_unregistered_reference_is_named_by_where_it_comes_from():
    torch.manual_seed(0)
    table = evaluate(
        {"net": nn.Conv3d(1, 2, 1)}, {"gn": GN()}, volumes()[:1], num_classes=2, roi_size=(8, 8, 8),
        match=Uniform(eps=2 / 255), match_on="ssim",
    ).table  # fmt: skip
    assert "@ssim~0.02=uniform:" in table.loc[0, "attack"]
    with pytest.raises(UsageError, match="cannot match own"):
        evaluate(
            {"net": nn.Conv3d(1, 2, 1)}, {"own": Knobless()}, volumes()[:1], num_classes=2, roi_size=(8, 8, 8),
            match=GN(),
        )  # fmt: skip


MATCH = ("--match", "pgd:steps=2,alpha=4/255")


def test_the_command_line_matches_all_but_the_reference(toy, capsys):
    attacks = (
        "--attack",
        "pgd:steps=2,alpha=4/255",
        "--attack",
        "gn",
        "--attack",
        "vafa:steps=1,block_size=8",
    )
    assert toy(*attacks, *MATCH, "--match-on", "SSIM") == 0
    printed = capsys.readouterr().out
    assert "gn@ssim=pgd" in printed
    table = toy.table().set_index(toy.table()["attack"].str.partition(":")[0])
    assert [("@ssim" in spec) for spec in table["attack"]] == [True, False, True]
    # Matched per case: so the mean of 1 - SSIM lies in the same band.
    for name in ("gn", "vafa"):
        share = (1 - float(table.loc[name, "ssim"])) / (1 - float(table.loc["pgd", "ssim"]))
        assert 0.98 <= share <= 1.0
    # One run of the reference and two or more of the attack, all of them counted.
    assert table.loc["vafa", "forwards"] >= 3 + 2 * 2
    assert table.loc["gn", "forwards"] == 3
    assert toy(*attacks, *MATCH, "--match-on", "ssim") == 0
    assert "0 computed, 12 already recorded" in capsys.readouterr().out
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attack", "gn", "--match", "pgdd"], "did you mean pgd?"),
        (["--attack", "gn", "--match", "pgd:eps=8"], "eps"),
        (["--attack", "gn", "--match", "pgd", "--match-on", "linf"], "--match-on"),
        (["--attack", "gn", "--match-on", "l2"], "expected --match"),
        (["--attack", "gn:std=0", *MATCH], "knob"),
        (["--attack", "gn@l2=pgd", *MATCH], "not matched itself"),
        (["--attack", "gn@linf=pgd"], "on: expected one of"),
        (["--attack", "gn@l2~much=pgd"], "tolerance"),
        (["--attack", "gn@l2=pgdd"], "did you mean pgd?"),
        (["--attack", "gn@l2"], "gn@l2"),
    ],
)
def test_a_mistake_about_matching_is_one_line(toy, capsys, arguments, message):
    assert toy(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_measured_distortions_stand_in_every_row(toy, capsys):
    toy("--attack", "gn", "--cases", "case_000")
    printed = capsys.readouterr().out
    for heading in ("Linf", "L2", "PSNR", "SSIM"):
        assert heading in printed
    row = toy.table().iloc[0]
    assert all(math.isfinite(float(row[name])) and row[name] != 0 for name in ("linf", "l2", "psnr", "ssim"))


def kinds_of(kind: type) -> set[type]:
    return {kind} | {below for sub in kind.__subclasses__() for below in kinds_of(sub)}


@pytest.mark.parametrize(
    "kind",
    # In an order that is the same in every process, or the workers of pytest collect different tests.
    sorted(
        (k for k in kinds_of(Attack) if any(f.type in ("Attack", Attack) for f in fields(k))),
        key=lambda kind: kind.__qualname__,
    ),
    ids=lambda kind: kind.__name__,
)
def test_attacks_that_hold_attacks_hand_the_spacing_on(kind):
    inner = KeyedMark(support="outside", margin_mm=2.0)
    names = [field.name for field in fields(kind) if field.type in ("Attack", Attack)]
    fitted = kind(**dict.fromkeys(names, inner)).at_spacing((1.0, 2.0, 3.0))
    assert [getattr(fitted, name).spacing_mm for name in names] == [(1.0, 2.0, 3.0)] * len(names)


def test_a_matched_mark_keeps_its_margin_in_mm(job):
    """Millimetres of the case, not of the searching attack: what the search returns leaves the margin alone."""
    labels = torch.zeros_like(job.labels)
    labels[:, :, 5:8, 5:7, 5:6] = 1
    job.labels = labels
    spacing = (1.0, 2.0, 4.0)
    mark = KeyedMark(support="outside", margin_mm=2.5, steps=2)
    both = Matched(attack=mark, reference=Uniform(eps=4 / 255)).at_spacing(spacing)
    near = within(labels > 0, 2.5, spacing)
    moved = job(both) != job.images
    assert not moved[near].any()
    assert moved[~near].float().mean() > 0.9
    with pytest.raises(ValueError, match="spacing_mm: expected the voxel sides"):
        job(Matched(attack=mark, reference=Uniform(eps=4 / 255)))
