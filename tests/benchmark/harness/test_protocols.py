"""Protocols: robustvox-1 stays what it is, and every defect of bmvc2024 does what it is said to do, alone."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from robustvox.attacks import ATTACKS, BIM, PGD, VAFA, Attack
from robustvox.attacks.losses import dice_ce
from robustvox.attacks.published import LastIterate, MeanCosPGD
from robustvox.benchmark import evaluate
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.view import attack_view, tiles, truncate
from robustvox.benchmark.harness.scoring import Scorer
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.show.tables.success import lost_organs
from robustvox.benchmark.specs.protocols import PROTOCOLS, SWITCHES, Protocol, find_protocol
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import IntensityWindow, Volume
from robustvox.models import SlidingWindow

OURS, THEIRS = PROTOCOLS["robustvox-1"], PROTOCOLS["bmvc2024"]


def volume(label: np.ndarray, spacing=(1.0, 1.0, 1.0), image: np.ndarray | None = None, case="a") -> Volume:
    image = np.random.default_rng(0).random(label.shape) if image is None else image
    return Volume(case, image[None].astype(np.float32), label, spacing, np.eye(4), IntensityWindow(0.0, 1.0))


def organs(shape=(14, 11, 9)) -> np.ndarray:
    label = np.zeros(shape, np.int16)
    label[2:6, 3:8, 2:7] = 1
    label[8:12, 3:8, 2:7] = 2
    return label


def network(seed=0, classes=3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.ReLU(), nn.Conv3d(4, classes, 1)
    )


def batch(case: Volume) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(case.image)[None], torch.from_numpy(case.label.astype(np.int64))[None, None]


# names ------------------------------------------------------------------------------------------------------


def test_the_default_protocol_has_no_defect_and_changes_no_attack():
    assert find_protocol("robustvox-1") is OURS
    assert (OURS.overlap, OURS.mode, OURS.flags) == (0.5, "gaussian", ())
    assert not any(getattr(OURS, switch) for switch in SWITCHES)
    assert all(load_attack(name, OURS) == load_attack(name) for name in ATTACKS)
    assert all(getattr(THEIRS, switch) for switch in SWITCHES)
    assert set(SWITCHES) >= {"tiling", "uint8", "background", "voxel_hd95", "drop_lost", "mean_cosine"}


def test_a_variant_is_named_by_what_differs_from_its_base():
    variant = find_protocol("BMVC-2024:uint8=true, tiling=FALSE,background=false".replace(" ", ""))
    assert variant.name == "bmvc2024:background=false,tiling=false"
    assert find_protocol(variant.name) == variant
    assert replace(variant, name="bmvc2024", tiling=True, background=True) == THEIRS
    assert find_protocol("bmvc2024:tiling=true") is THEIRS
    assert find_protocol("robustvox-1:uint8=true").name == "robustvox-1:uint8=true"
    assert find_protocol("robustvox-1:mode=constant,overlap=0.25").name == (
        "robustvox-1:mode=constant,overlap=0.25"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bmvc2025", "did you mean bmvc2024"),
        ("bmvc2024:tilng=false", "did you mean tiling"),
        ("bmvc2024:tiling=2", "tiling to be true or false, got 2"),
        ("robustvox-1:mode=cubic", "gaussian or constant"),
        ("robustvox-1:overlap=1", r"in \[0, 1\)"),
        ("robustvox-1:overlap=true", r"in \[0, 1\)"),
        ("bmvc2024:name=x", "unknown field"),
    ],
)
def test_what_no_protocol_is(text, message):
    with pytest.raises(UsageError, match=message):
        find_protocol(text)


# what attacks are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "attack", "changed"),
    [
        ("fixed_alpha", "pgd:eps=4/255", {"alpha": 0.01}),
        ("fixed_alpha", "cospgd", {"alpha": 0.01}),
        ("clean_start", "pgd", {"random_start": False}),
        ("dice_ce", "fgsm", {"loss": "dice_ce"}),
        ("slice_renorm", "vafa", {"renorm": "slice"}),
        ("vafa_settings", "vafa", {"q_min": 5.0}),
        ("vafa_settings", "vafa2d", {"q_min": 5.0, "steps": 10}),
    ],
)
def test_a_switch_changes_the_default_and_never_what_was_asked_for(switch, attack, changed):
    alone = find_protocol(f"robustvox-1:{switch}=true")
    assert load_attack(attack, alone).attack == replace(load_attack(attack).attack, **changed)
    without = find_protocol(f"bmvc2024:{switch}=false")
    kept = {key: getattr(load_attack(attack).attack, key) for key in changed}
    theirs, fixed = (_bare(load_attack(attack, protocol).attack) for protocol in (THEIRS, without))
    assert fixed == replace(theirs, **kept)
    asked = load_attack("pgd:alpha=2/255,random_start=true,loss=ce,iterate=best", THEIRS)
    assert asked == load_attack("pgd:alpha=2/255,random_start=true,loss=ce")


def _bare(attack: Attack) -> Attack:
    return attack.attack if isinstance(attack, LastIterate) else attack


@pytest.mark.parametrize("name", ["pgd", "bim", "fgsm", "cospgd", "vafa", "vafa2d", "gn", "apgd"])
def test_the_spec_states_what_ran_without_the_protocol(name):
    named = load_attack(name, THEIRS)
    assert load_attack(named.spec) == named
    assert (named.spec == load_attack(name).spec) == (name in ("gn", "apgd"))
    assert ("iterate=last" in named.spec) == (name not in ("fgsm", "gn", "apgd"))


@pytest.mark.parametrize("text", ["pgd:iterate=first", "fgsm:iterate=last", "pgd:iterate=true"])
def test_iterate_is_best_or_last_where_there_are_iterates(text):
    with pytest.raises(UsageError, match="iterate"):
        load_attack(text)


def test_a_last_iterate_is_not_matched_and_the_error_says_how_it_can_be():
    with pytest.raises(UsageError, match="ask for iterate=best"):
        load_attack("vafa@l2=pgd", THEIRS)
    load_attack("vafa:iterate=best@l2=pgd:iterate=best", THEIRS)
    load_attack("vafa@l2=pgd", find_protocol("bmvc2024:last_iterate=false"))


def test_without_random_start_pgd_is_bim():
    images, labels = batch(volume(organs()))
    pgd = load_attack("pgd:steps=3", find_protocol("robustvox-1:clean_start=true")).attack
    model = network()
    assert torch.equal(pgd(model, images, labels), BIM(steps=3)(model, images, labels))
    assert not torch.equal(PGD(steps=3)(model, images, labels), BIM(steps=3)(model, images, labels))


def test_the_last_iterate_is_the_end_of_the_loop_and_observers_see_the_real_metric():
    class Ringing(nn.Module):
        """Steps of 0.2 around 0.5 jump over the only place where the prediction is wrong."""

        def forward(self, images):
            return torch.cat([1 - 5 * (images - 0.5).abs(), 0 * images], 1)

    case = volume(np.ones((4, 4, 4), np.int16), image=np.full((4, 4, 4), 0.45))
    images, labels = batch(case)
    attack, seen = BIM(eps=0.4, alpha=0.2, steps=3, loss="ce"), []
    last = LastIterate(attack=attack)(Ringing(), images, labels, on_step=seen.append)
    expected = images
    for _ in range(3):
        expected = expected.clone().requires_grad_()
        loss = nn.functional.cross_entropy(Ringing()(expected), labels[:, 0])
        (gradient,) = torch.autograd.grad(loss, expected)
        expected = (expected + 0.2 * gradient.sign()).detach().clamp(images - 0.4, images + 0.4)
    assert torch.allclose(last, expected, atol=1e-6)
    best = attack(Ringing(), images, labels)
    assert not torch.allclose(best, last, atol=0.05)
    real = [(Ringing()(point).argmax(1) == 1).float().mean().item() for point in (images, last)]
    assert (seen[0].metric.item(), seen[-1].metric.item()) == pytest.approx([2 * r / (r + 1) for r in real])


def test_mean_cosine_is_one_scalar_with_a_gradient_of_its_own():
    case = volume(organs())
    images, labels = batch(case)
    model = network().eval()

    def objective(points: torch.Tensor) -> torch.Tensor:
        logits = model(points)
        p, onehot = logits.softmax(1), nn.functional.one_hot(labels[:, 0], 3).movedim(-1, 1).float()
        cosine = nn.functional.cosine_similarity(p, onehot, dim=1).mean()
        return (dice_ce(logits, labels) * cosine).sum()

    start = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(start), start)
    step = (images + 0.01 * gradient.sign()).clamp(0, 1)
    attack = LastIterate(attack=MeanCosPGD(eps=0.01, alpha=0.01, steps=1, random_start=False))
    differs = (attack(model, images, labels) - step).abs() > 1e-6
    assert differs.float().mean() < 1e-2  # signs of gradients that are zero up to rounding


@pytest.mark.parametrize(("name", "coupled"), [("cospgd", False), ("cospgd_mean", True)])
def test_mean_cosine_couples_voxels_that_the_weight_map_keeps_apart(name, coupled):
    """With a pointwise network a voxel's step should not ask what the others look like."""
    torch.manual_seed(3)
    pointwise = nn.Sequential(nn.Conv3d(1, 8, 1), nn.Tanh(), nn.Conv3d(8, 3, 1))
    for layer in (pointwise[0], pointwise[2]):
        nn.init.normal_(layer.weight, std=3.0)
    images, labels = batch(volume(organs()))
    others = images.clone()
    others[..., 1:] = 0
    attack = load_attack(f"{name}:steps=1,random_start=false,iterate=last,alpha=8/255").attack
    first, second = (attack(pointwise, x, labels)[..., :1] for x in (images, others))
    assert torch.equal(first, second) != coupled
    swapped = load_attack("cospgd", find_protocol("robustvox-1:mean_cosine=true"))
    assert swapped == load_attack("cospgd_mean")


def test_slice_renormalization_stretches_without_any_attack():
    image = 0.3 + 0.2 * np.random.default_rng(1).random((9, 8, 10))
    images, labels = batch(volume(np.zeros((9, 8, 10), np.int16), image=image))
    nothing = {"q_max": 1e-3, "q_min": 1e-3, "steps": 1, "block_size": 8}
    settings_ = ",".join(f"{key}={value}" for key, value in nothing.items())
    protocol = find_protocol("robustvox-1:slice_renorm=true")
    stretched = load_attack(f"vafa:{settings_}", protocol).attack(network(), images, labels)
    low, high = (getattr(images, reduce)((2, 3), keepdim=True) for reduce in ("amin", "amax"))
    assert torch.allclose(stretched, (images - low) / (high - low), atol=1e-3)
    assert torch.allclose(VAFA(**nothing)(network(), images, labels), images, atol=1e-4)


# how the attack sees the model --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 23), st.integers(1, 9)), min_size=2, max_size=3))
def test_tiles_are_monais(sides):
    from monai.data.utils import dense_patch_slices

    spatial, roi = (tuple(side) for side in zip(*sides, strict=True))
    window = tuple(map(min, roi, spatial))
    assert tiles(spatial, roi) == dense_patch_slices(spatial, window, window)
    covered = np.zeros(spatial, int)
    for box in tiles(spatial, roi):
        assert covered[box].shape == window
        covered[box] += 1
    assert covered.min() == 1
    divides = all(side % w == 0 for side, w in zip(spatial, window, strict=True))
    assert (covered.max() == 1) == divides


@dataclass(frozen=True, kw_only=True)
class Numbered(Attack):
    """Paints what it is given with the number of the call."""

    seen: list

    def perturb(self, task):
        self.seen.append(task.images)
        return torch.full_like(task.images, len(self.seen) / 10)


def test_later_tiles_overwrite_and_each_starts_from_the_clean_volume():
    case = volume(organs((10, 8, 5)))
    images, labels = batch(case)
    predictor = SlidingWindow(network(), (6, 8, 8))
    attack = Numbered(seen=[])
    painted = attack_view(THEIRS, attack, predictor)(predictor, images, labels)
    assert len(attack.seen) == 2
    assert torch.equal(attack.seen[0], images[:, :, :6])
    assert torch.equal(attack.seen[1], images[:, :, 4:])
    assert torch.equal(painted[0, 0, :, 0, 0], torch.tensor([0.1] * 4 + [0.2] * 6))
    whole = Numbered(seen=[])
    attack_view(OURS, whole, predictor)(predictor, images, labels)
    assert [x.shape for x in whole.seen] == [images.shape]


def test_tiled_attacks_keep_their_budget_and_need_a_window():
    images, labels = batch(volume(organs()))
    predictor = SlidingWindow(network(), (8, 8, 8))
    adversarial = attack_view(THEIRS, PGD(steps=2), predictor)(predictor, images, labels)
    assert (adversarial - images).abs().max() <= 8 / 255
    with pytest.raises(ValueError, match="tiling=false"):
        attack_view(THEIRS, PGD(), network())


def test_a_volume_within_one_window_has_one_view():
    images, labels = batch(volume(organs()))
    predictor = SlidingWindow(network(), (16, 16, 16))
    end_to_end, tiled = (
        attack_view(protocol, PGD(steps=2), predictor)(predictor, images, labels)
        for protocol in (OURS, THEIRS)
    )
    assert torch.equal(end_to_end, tiled)


# what is scored -----------------------------------------------------------------------------------------------


def test_truncation_is_half_a_grey_value_darker():
    images = torch.rand(200_000, dtype=torch.float64)
    moved = (truncate(images) - images) * 255
    assert -1 < moved.min() <= moved.max() <= 0
    assert moved.mean() == pytest.approx(-0.5, abs=0.01)
    exact = torch.arange(256, dtype=torch.uint8).float() / 255
    assert torch.equal(truncate(truncate(exact)), truncate(exact))


@pytest.mark.parametrize(
    ("protocol", "quantized"), [("robustvox-1", False), ("robustvox-1:uint8=true", True)]
)
def test_only_the_transfer_target_sees_eight_bits(protocol, quantized):
    seen: dict[str, list] = {"a": [], "b": []}

    class Spy(SlidingWindow):
        def forward(self, images):
            seen[self.network.tag].append(images.detach().clone())
            return super().forward(images)

    models = {}
    for seed, tag in enumerate(seen):
        net = network(seed)
        net.tag = tag
        models[tag] = Spy(net, (16, 16, 16))
    table = evaluate(
        models, {"pgd": PGD(steps=1)}, [volume(organs())], num_classes=3, transfer=True, protocol=protocol,
        roi_size=(16, 16, 16),
    ).table.set_index(["surrogate", "target"])  # fmt: skip

    def eight_bit(images):
        return torch.equal((images * 255).round() / 255, images)

    # In the order of the plan: clean on a; a's attack (2 forwards), a scored; b's attack, scored on a.
    clean, _, _, itself, transferred = seen["a"]
    assert not eight_bit(clean)
    assert not eight_bit(itself)
    assert eight_bit(transferred) == quantized
    limit = 9 / 255 if quantized else 8 / 255
    assert table.loc[("a", "a"), "linf"] <= 8 / 255
    assert (8 / 255 < table.loc[("b", "a"), "linf"] <= limit) == quantized


# how scores are averaged --------------------------------------------------------------------------------------


def _both(draw_seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw_seed)
    reference, prediction = (rng.choice(5, (8, 7, 6), p=[0.4, 0.2, 0.2, 0.1, 0.1]) for _ in range(2))
    prediction = np.where(rng.random(reference.shape) < 0.7, reference, prediction)
    prediction[prediction == 3] = 0  # lost
    reference[reference == 4] = 1  # hallucinated
    return prediction, reference


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_monais_with_background_and_without_spacing(seed):
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.networks.utils import one_hot

    prediction, reference = _both(seed)
    table = Scorer(THEIRS, volume(reference, (1.5, 1.5, 2.0)), num_classes=6, nsd_tolerance_mm=1.0)(
        prediction
    )
    p, r = (one_hot(torch.from_numpy(x)[None, None], 6) for x in (prediction, reference))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI says which classes are empty
        dice = compute_dice(p, r, include_background=True)[0].numpy()
        hd95 = compute_hausdorff_distance(p, r, include_background=True, percentile=95)[0].numpy()
    assert table["class_id"].tolist() == list(range(6))
    assert table["status"].tolist() == ["ok", "ok", "ok", "missing", "hallucinated", "absent"]
    np.testing.assert_allclose(table["dice"], dice, rtol=1e-6)
    np.testing.assert_allclose(table["hd95_mm"], hd95, rtol=1e-5)
    assert np.isnan(hd95[3])
    assert np.isnan(dice[4])


@pytest.mark.parametrize("seed", range(2))
def test_every_scoring_switch_alone(seed):
    prediction, reference = _both(seed)
    case = volume(reference, (1.5, 1.5, 2.0))

    def scored(protocol: Protocol | str):
        chosen = find_protocol(protocol) if isinstance(protocol, str) else protocol
        table = Scorer(chosen, case, num_classes=6, nsd_tolerance_mm=1.0)(prediction)
        return table.set_index("class_id")[["dice", "hd95_mm", "nsd"]]

    ours = scored(OURS)
    with_background = scored("robustvox-1:background=true")
    assert with_background.loc[1:].equals(ours)
    both = (
        ((prediction == 0) & (reference == 0)).sum() * 2 / ((prediction == 0).sum() + (reference == 0).sum())
    )
    assert with_background.loc[0, "dice"] == pytest.approx(both)
    dropped = scored("robustvox-1:drop_lost=true")
    assert dropped.loc[[1, 2]].equals(ours.loc[[1, 2]])
    assert dropped.loc[[3, 4], "hd95_mm"].isna().all()
    assert (dropped.loc[3, "dice"], np.isnan(dropped.loc[4, "dice"])) == (0.0, True)
    voxels = scored("robustvox-1:voxel_hd95=true")
    assert voxels[["dice", "nsd"]].equals(ours[["dice", "nsd"]])
    assert voxels.loc[3, "hd95_mm"] == pytest.approx(np.linalg.norm(reference.shape))
    assert ours.loc[3, "hd95_mm"] == pytest.approx(
        np.linalg.norm(np.multiply(reference.shape, (1.5, 1.5, 2)))
    )


@st.composite
def scored_cases(draw) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(3, 7)) for _ in range(3))
    reference = rng.choice(3, shape, p=(0.5, 0.3, 0.2))
    prediction = np.where(
        rng.random(shape) < draw(st.sampled_from([0.6, 0.9])), reference, rng.choice(3, shape)
    )
    return prediction, reference, tuple(draw(st.sampled_from([0.7, 1.0, 2.5])) for _ in range(3))


def aggregates(protocol: Protocol, case: tuple, changed: np.ndarray) -> tuple[float, float, float]:
    """What the tables average, larger is better."""
    scorer = Scorer(protocol, volume(case[1], case[2]), num_classes=3, nsd_tolerance_mm=1.0)
    table = scorer(changed)
    return table["dice"].mean(), -table["hd95_mm"].mean(), table["nsd"].mean()


@settings(max_examples=60, deadline=None)
@given(scored_cases(), st.sampled_from([1, 2]))
def test_losing_an_organ_never_helps_in_robustvox_1_and_does_in_bmvc2024(case, organ):
    prediction, reference, _ = case
    other = 3 - organ
    assume(all((x == k).any() for x in (prediction, reference) for k in (1, 2)))
    lost = np.where(prediction == organ, 0, prediction)
    invented = np.where(reference == organ, 0, reference)
    ours = [aggregates(OURS, case, x) for x in (prediction, lost)]
    assert all(after <= before + 1e-12 for before, after in zip(*ours, strict=True))
    # The rest is unchanged, so losing the worse of two organs always makes the mean distance look better.
    drops = find_protocol("robustvox-1:drop_lost=true")
    scorer = Scorer(drops, volume(reference, case[2]), num_classes=3, nsd_tolerance_mm=1.0)
    distance = scorer(prediction).set_index("class_id")["hd95_mm"]
    theirs = [aggregates(drops, case, x) for x in (prediction, lost)]
    assert (theirs[1][1] > theirs[0][1]) == (distance[organ] > distance[other])
    # A hallucinated organ costs Dice with us and nothing in the published means.
    without = (prediction, invented, case[2])
    for protocol, hidden in ((OURS, False), (drops, True)):
        clean, worse = (aggregates(protocol, without, x)[0] for x in (lost, prediction))
        assert (worse == clean) if hidden else (worse < clean or clean == 0)


def test_losing_the_worst_organ_improves_the_published_distance():
    reference = organs((20, 12, 12))
    prediction = reference.copy()
    prediction[18:, 10:, 10:] = 2  # a stray piece far from organ 2
    prediction[8:12] *= prediction[8:12] != 2
    prediction[11, 3:8, 2:7] = 2
    lost = np.where(prediction == 2, 0, prediction)
    case = (prediction, reference, (1.0, 1.0, 1.0))
    for protocol, better in ((OURS, False), (THEIRS, True)):
        before, after = (aggregates(protocol, case, x)[1] for x in (prediction, lost))
        assert (after > before) == better


# the whole way ------------------------------------------------------------------------------------------------


def test_python_way_with_background_rows(tmp_path):
    case = volume(organs(), (1.5, 1.5, 2.0))
    arguments = ({"n": network()}, {"pgd": PGD(steps=1)}, [case])
    tables = {
        name: evaluate(*arguments, num_classes=3, roi_size=(8, 8, 8), protocol=name, store=tmp_path).table
        for name in ("robustvox-1", "bmvc2024")
    }
    records = load_records(tmp_path)
    rows = records.scores.groupby("protocol")["class_id"].unique().map(sorted)
    assert rows.to_dict() == {"robustvox-1": [1, 2], "bmvc2024": [0, 1, 2]}
    assert set(lost_organs(records)["class_id"]) <= {1, 2}
    assert tables["robustvox-1"].loc[0, "flags"] == ""
    both = tables["bmvc2024"].set_index("protocol")
    assert both.loc["bmvc2024", "flags"] == "drops-lost;hd95-voxels;with-background"
    assert both.loc["robustvox-1", "dice_adv"] == tables["robustvox-1"].loc[0, "dice_adv"]


def test_command_line(toy, capsys):
    for protocol in ("robustvox-1", "bmvc2024", "bmvc2024:tiling=false"):
        attacks = ("--attack", "pgd:steps=4", "--attack", "cospgd:steps=4")
        assert toy(*attacks, "--cases", "case_000", "--protocol", protocol) == 0
    table = toy.table()
    assert table.groupby("protocol").size().to_dict() == {
        "bmvc2024": 2, "bmvc2024:tiling=false": 2, "robustvox-1": 2,
    }  # fmt: skip
    specs = dict(zip(table["protocol"] + table["attack"].str[:8], table["attack"], strict=True))
    assert specs["bmvc2024cospgd_m"].startswith("cospgd_mean:alpha=0.01,eps=8/255,iterate=last")
    assert specs["robustvox-1cospgd:a"] == load_attack("cospgd:steps=4").spec
    assert (table["failed"] == 0).all()
    assert main(["leaderboard", "--check", "--out", str(toy.root / "results")]) == 0
    capsys.readouterr()
    assert toy("--attack", "pgd", "--protocol", "bmvc2024:tilng=false") == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
    checked = toy.arguments("--attack", "pgd", "--protocol", "bmvc2024")
    assert main(["check", *checked]) == 2
    assert "expected --protocol robustvox-1" in capsys.readouterr().err


TOTALSEGMENTATOR = {1: 1, 2: 2, 3: 3, 4: 4, 15: 5, 5: 6, 6: 7, 52: 8, 63: 9, 64: 10, 7: 11, 8: 12, 9: 13}


CORNER = (slice(30, 82), slice(40, 80), slice(0, 30))
"""A part of the CT that is larger than the window along one axis."""


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("part", [CORNER, (slice(None),) * 3])
def test_a_real_ct_as_a_btcv_case_runs_in_both_protocols(data_root, tmp_path, capsys, part):
    import pandas as pd

    source = data_root / "totalsegmentator_ct"
    if not (source / "ct.nii.gz").is_file():
        pytest.skip("no real CT: ROBUSTVOX_DATA holds no totalsegmentator_ct")
    ct, seg = (nib.load(source / f"{name}.nii.gz").slicer[part] for name in ("ct", "seg"))
    classes = np.zeros(256, np.uint8)
    classes[list(TOTALSEGMENTATOR)] = list(TOTALSEGMENTATOR.values())
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "BTCV" / folder).mkdir(parents=True)
    nib.save(ct, tmp_path / "BTCV/imagesTr/img0001.nii.gz")
    mapped = nib.Nifti1Image(classes[np.asarray(seg.dataobj)], seg.affine)
    nib.save(mapped, tmp_path / "BTCV/labelsTr/label0001.nii.gz")
    for protocol in PROTOCOLS:
        run = ["--dataset", "btcv", "--data-root", str(tmp_path), "--cases", "img0001", "--untrained"]
        run += ["--model", "unet", "--attack", "pgd:steps=1,eps=2/255", "--protocol", protocol]
        assert main([*run, "--out", str(tmp_path / "results"), "--device", "cpu"]) == 0
        shown = capsys.readouterr().out
        assert " pgd:eps=2/255,steps=1 " in shown
        assert ("HD95 mm" in shown) != ("HD95 voxels" in shown) == (protocol == "bmvc2024")
    table = pd.read_csv(tmp_path / "results/btcv/white_box.csv").set_index("protocol")
    assert (table["failed"] == 0).all()
    assert table["flags"].str.contains("untrained").all()
    assert (table["linf"] <= 2 / 255).all()
    if part is CORNER:
        assert table.loc["bmvc2024", "forwards"] == 2 * table.loc["robustvox-1", "forwards"] == 4
