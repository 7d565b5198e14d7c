"""Optima, identities and symmetries of the sign-gradient family; members have files of their own."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robustvox.attacks import APGD, BIM, FGSM, MIFGSM, PGD, CosPGD, SegPGD, StepInfo
from robustvox.attacks.cospgd import cosine_weight
from robustvox.attacks.losses import LOSSES, ce, cross_entropy_map

FAMILY = {
    "fgsm": lambda **more: FGSM(loss="ce", **more),
    "bim": lambda **more: BIM(loss="ce", **more),
    "pgd": lambda **more: PGD(loss="ce", **more),
    "mifgsm": lambda **more: MIFGSM(loss="ce", **more),
    "apgd": lambda **more: APGD(loss="ce", **{"steps": 20} | more),
    "segpgd": SegPGD,
    "cospgd": CosPGD,
}
ITERATIVE = [key for key in FAMILY if key != "fgsm"]


@pytest.fixture
def linear():
    """Two classes, one 1x1x1 layer: the worst point of the ball is a known corner."""
    model = nn.Conv3d(2, 2, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.view(2, 2).copy_(torch.tensor([[-1.5, 0.7], [2.0, -0.6]]))
        model.bias.copy_(torch.tensor([0.9, -0.8]))
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 2, 5, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 1, 5, 6, 7), generator=generator)
    return model, images, labels


def corner(images, labels, eps):
    # Class 1 grows with channel 0 and falls with channel 1: the signs of the weight difference (3.5, -1.3).
    away = torch.cat([1 - 2 * labels, 2 * labels - 1], 1)
    return (images + eps * away).clamp(0, 1)


def visit(attack, model, images, labels, **more):
    """The result and all points that the model saw."""
    visited = []
    result = attack(lambda x: visited.append(x.detach().clone()) or model(x), images, labels, **more)
    return result, torch.stack(visited)


@pytest.mark.parametrize("eps", [4 / 255, 0.1, 0.6])
@pytest.mark.parametrize("key", FAMILY)
def test_linear_model_gives_the_corner(key, eps, linear):
    model, images, labels = linear
    adversarial, path = visit(FAMILY[key](eps=eps), model, images, labels)
    if (
        key == "cospgd"
    ):  # its weighted loss falls again once voxels are surely lost: the corner is the last point
        adversarial = path[-1]
    torch.testing.assert_close(adversarial, corner(images, labels, eps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", ["dice_ce", "mask_ce_balanced", "margin", "js"])
@pytest.mark.parametrize("make", [FGSM, BIM, PGD, MIFGSM, APGD])
def test_linear_model_gives_the_corner_for_other_losses(make, loss, linear):
    model, images, labels = linear
    if loss == "mask_ce_balanced":  # only moves voxels that are right, and only until they are lost
        labels = model(images).argmax(1, keepdim=True)
    adversarial = make(eps=4 / 255, loss=loss)(model, images, labels)
    reached = (adversarial - corner(images, labels, 4 / 255)).abs() < 1e-6
    lost = (model(adversarial).argmax(1, keepdim=True) != labels).expand_as(reached)
    assert (reached | (lost & (loss == "mask_ce_balanced"))).all()
    assert reached.double().mean() > 0.9


def test_masked_voxel_of_a_linear_model_has_no_gradient(linear):
    model, images, labels = linear
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    adversarial = FGSM(eps=0.1)(model, images, labels, mask=mask)
    mask = mask.expand_as(images)
    assert torch.equal(adversarial[~mask], images[~mask])
    torch.testing.assert_close(adversarial[mask], corner(images, labels, 0.1)[mask])


def test_pgd_without_random_start_is_bim(make_case):
    model, images, labels = make_case()
    assert torch.equal(
        PGD(random_start=False, steps=5)(model, images, labels), BIM(steps=5)(model, images, labels)
    )


def test_one_full_step_of_bim_is_fgsm(linear):
    model, images, labels = linear
    assert torch.equal(
        BIM(eps=0.03, alpha=0.03, steps=1)(model, images, labels), FGSM(eps=0.03)(model, images, labels)
    )


def test_fgsm_is_one_forward_and_one_backward_and_shows_the_clean_point(make_case, naive_dice):
    model, images, labels = make_case()
    seen: list[StepInfo] = []
    FGSM()(model, images, labels, on_step=seen.append)
    assert (model.forwards, model.backwards, len(seen)) == (1, 1, 1)
    torch.testing.assert_close(seen[0].metric, naive_dice(model(images).argmax(1), labels, 3))
    assert seen[0].best_step.tolist() == [1, 1]


def test_random_start_fills_the_ball(make_case):
    model, images, labels = make_case((16, 16, 16), batch=1)
    images = images * 0.5 + 0.25
    start = PGD(eps=0.1, steps=0)(model, images, labels)
    delta = start - images
    assert delta.abs().max() <= 0.1
    assert delta.abs().max() > 0.0999
    assert abs(delta.mean()) < 0.003
    assert delta.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.03)


def test_alpha_resolves_to_a_number():
    assert PGD().alpha == pytest.approx(2 / 255)
    assert BIM(eps=0.1, steps=5).alpha == pytest.approx(0.05)
    assert PGD(alpha=0.01).alpha == 0.01
    assert PGD(eps=0.0).alpha == 0.0
    assert PGD(steps=0).alpha is not None


@pytest.mark.parametrize("make", [BIM, PGD, CosPGD, SegPGD, MIFGSM])
def test_unreachable_edge_warns_at_the_callers_line(make):
    with pytest.warns(UserWarning, match=r"steps \* alpha") as caught:
        make(eps=0.1, alpha=0.001, steps=20)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(eps=8 / 255, alpha=8 / 255 / 20, steps=20)
        make(steps=0)
        make(eps=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": -1}, "steps: expected an integer >= 0, got -1"),
        ({"steps": 2.5}, "steps: expected an integer"),
        ({"steps": True}, "steps: expected an integer"),
        ({"alpha": -0.1}, "alpha: expected a finite number in"),
        ({"alpha": 2}, "alpha: .* write 8/255"),
        ({"restarts": 0}, "restarts: expected an integer >= 1"),
        ({"restarts": 3, "random_start": False}, "restarts: expected 1 without random start"),
        ({"random_start": 1}, "random_start: expected True or False"),
        ({"loss": "crossentropy"}, r"loss: expected one of 'ce', .*'dice_ce', got 'crossentropy'"),
    ],
)
def test_bad_hyper_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


def test_restarts_keep_the_worst_per_sample(make_case, naive_dice):
    model, images, labels = make_case(batch=4)
    seen: list[StepInfo] = []
    best = PGD(steps=3, restarts=4)(model, images, labels, on_step=seen.append)
    assert (len(seen), seen[-1].steps) == (16, 15)
    starts = torch.stack([seen[i].loss for i in (0, 4, 8, 12)])
    assert starts.unique().numel() == starts.numel(), "every restart starts elsewhere"
    metric = naive_dice(model(best).argmax(1), labels, 3)
    torch.testing.assert_close(metric, torch.stack([info.metric for info in seen]).amin(0))
    assert seen[-1].best_step.max() > 3, "no restart ever won, so the test shows nothing"
    once = PGD(steps=3)(model, images, labels)
    assert (metric <= naive_dice(model(once).argmax(1), labels, 3) + 1e-6).all()


def test_more_steps_never_hurt_with_the_same_step_size(make_case, naive_dice):
    model, images, labels = make_case(batch=4)
    results = []
    for steps in (2, 4, 8):
        adversarial = PGD(alpha=0.02, steps=steps)(model, images, labels)
        results.append(naive_dice(model(adversarial).argmax(1), labels, 3))
    assert (results[1] <= results[0]).all()
    assert (results[2] <= results[1]).all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_cosine_weight_equals_the_loop_over_voxels(classes):
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, classes, 3, 4, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, 1, 3, 4, 2), generator=generator)
    weight = cosine_weight(logits.requires_grad_(), labels)
    assert not weight.requires_grad
    for b, i, j, k in torch.cartesian_prod(*map(torch.arange, (2, 3, 4, 2))).tolist():
        p = logits[b, :, i, j, k].softmax(0)
        onehot = torch.zeros(classes, dtype=torch.float64)
        onehot[labels[b, 0, i, j, k]] = 1
        expected = torch.nn.functional.cosine_similarity(p, onehot, dim=0)
        assert weight[b, i, j, k].item() == pytest.approx(expected.item(), abs=1e-12)


def test_cosine_weight_is_finite_for_huge_logits():
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1)
    for label, expected in ((0, 1.0), (1, 0.0), (2, 0.0)):
        assert cosine_weight(logits, torch.full((1, 1, 1, 1), label)).item() == expected


def test_cospgd_weight_is_a_constant_for_the_gradient(make_case):
    model, images, labels = make_case(pointwise=True, dtype=torch.float64, classes=2)
    seen, gradients = [], []

    def spy(x):
        logits = model(x)
        if logits.requires_grad:
            logits.register_hook(gradients.append)
            seen.append(logits.detach())
        return logits

    CosPGD(steps=1, random_start=False)(spy, images, labels)
    logits = seen[0].requires_grad_()
    weight = cosine_weight(logits, labels)
    voxels = weight[0].numel()
    (expected,) = torch.autograd.grad((weight * cross_entropy_map(logits, labels)).sum() / voxels, logits)
    torch.testing.assert_close(gradients[0], expected)
    # The undetached product has another gradient: the test can tell.
    p = logits.softmax(1)
    live = p.gather(1, labels)[:, 0] / p.norm(dim=1)
    (wrong,) = torch.autograd.grad((live * cross_entropy_map(logits, labels)).sum() / voxels, logits)
    assert not torch.allclose(gradients[0], wrong, rtol=1e-2)


@pytest.mark.parametrize("key", ["pgd", "cospgd", "segpgd"])
@pytest.mark.parametrize("change", ["label", "image"])
def test_pointwise_model_gives_pointwise_updates(key, change, make_case):
    """A change of one voxel moves that voxel's path only (fails for a mean cosine, or Dice on subsets)."""
    model, images, labels = make_case(pointwise=True, dtype=torch.float64, classes=5, batch=2)
    others = images.clone(), labels.clone()
    voxel = (0, 0, 1, 2, 3)
    if change == "label":
        others[1][voxel] = (others[1][voxel] + 1) % 5
    else:
        others[0][voxel] = 1 - others[0][voxel]
    attack = FAMILY[key](steps=4)
    _, before = visit(attack, model, images, labels)
    _, after = visit(attack, model, *others)
    moved = (before != after).any(0).nonzero().tolist()
    assert moved == [list(voxel)] if change == "image" else moved in ([], [list(voxel)])


def test_uniform_weight_turns_cospgd_into_pgd(make_case, monkeypatch):
    model, images, labels = make_case()
    monkeypatch.setattr(
        "robustvox.attacks.cospgd.cosine_weight", lambda logits, labels: torch.ones_like(logits[:, 0])
    )
    assert torch.equal(CosPGD(steps=4)(model, images, labels), PGD(steps=4, loss="ce")(model, images, labels))


# --- symmetries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", FAMILY)
def test_scaling_the_objective_changes_nothing(key, make_case, monkeypatch):
    model, images, labels = make_case(batch=3)
    before, path = visit(FAMILY[key](), model, images, labels)
    value = ce(model(images), labels)
    entropy = F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda *args, **more: 4 * entropy(*args, **more))
    assert torch.equal(ce(model(images), labels), 4 * value)
    after, scaled_path = visit(FAMILY[key](), model, images, labels)
    assert torch.equal(path, scaled_path)
    assert torch.equal(before, after)


@pytest.mark.parametrize("key", [*FAMILY, *LOSSES])
def test_adding_a_number_to_all_logits_of_a_voxel_changes_nothing(key, make_case):
    model, images, labels = make_case(pointwise=True, dtype=torch.float64)
    attack = FAMILY[key]() if key in FAMILY else PGD(loss=key)
    shift = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = attack(model, images, labels)
    after = attack(lambda x: model(x) + shift, images, labels)
    torch.testing.assert_close(before, after, atol=1e-12, rtol=0)


@pytest.mark.parametrize("key", FAMILY)
def test_renaming_the_classes_changes_nothing(key, make_case):
    model, images, labels = make_case(pointwise=True, dtype=torch.float64, classes=4)
    attack = FAMILY[key]()
    result, path = visit(attack, model, images, labels)
    # The path does not know which class is the background; the choice of the best point does.
    for order, what in (([2, 0, 3, 1], "path"), ([0, 3, 1, 2], "result")):
        names = torch.tensor(order)
        renamed, renamed_path = visit(
            attack, lambda x, n=names: model(x)[:, n], images, names.argsort()[labels]
        )
        pair = (path, renamed_path) if what == "path" else (result, renamed)
        torch.testing.assert_close(*pair, atol=1e-12, rtol=0)


# --- targets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("key", FAMILY)
@pytest.mark.filterwarnings("ignore:APGD. steps")
def test_targeted_moves_to_the_target_for_odd_and_even_steps(key, steps, make_case):
    """Fails when the direction is turned inside the loop: even numbers of steps would cancel out."""
    gained, nearer = [], []
    for seed in range(4):
        model, images, labels = make_case(seed=seed, batch=4)
        targets = model(images).argmax(1, keepdim=True).roll(2, 2)
        attack = FAMILY[key](eps=0.1, **({} if key == "fgsm" else {"steps": steps}))
        seen: list[StepInfo] = []
        result = attack(model, images, labels, targets=targets, on_step=seen.append)
        before, after = model(images), model(result)
        nearer.append(ce(after, targets) - ce(before, targets))
        hits = [(z.argmax(1, keepdim=True) == targets).flatten(1).double().mean(1) for z in (before, after)]
        gained.append(hits[1] - hits[0])
        if key != "fgsm":
            last = torch.stack([info.loss for info in seen])
            assert (last[-1] > last[0]).double().mean() >= 0.75, "the last point is nearer than the first"
    assert torch.stack(nearer).mean() < -0.1
    assert torch.stack(gained).mean() > 0.02


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"js"}))
def test_losses_reach_for_a_class_that_is_nowhere_yet(loss, make_case):
    """A loss on the voxels that already are at the target has no gradient here, and that of js fades."""
    model, images, labels = make_case(classes=4, batch=3)
    plain = model(images)
    bias = torch.zeros(1, 4, 1, 1, 1)
    bias[:, 3] = plain[:, 3].max() - plain[:, :3].max(1).values.min()
    model.register_forward_hook(lambda module, inputs, logits: logits - bias)
    labels = labels.clamp_max(2)
    targets = labels.clone()
    targets[:, :, :3] = 3
    before = model(images)
    assert (before.argmax(1) != 3).all()
    result = PGD(eps=0.2, loss=loss)(model, images, labels, targets=targets)
    mask = targets == 3
    assert (ce(model(result), targets, mask) < ce(before, targets, mask)).all()


@pytest.mark.parametrize("make", [BIM, MIFGSM])
@pytest.mark.parametrize("seed", range(3))
def test_aiming_at_the_own_prediction_never_lowers_its_confidence(make, seed, make_case):
    model, images, labels = make_case(batch=4, seed=seed)
    targets = model(images).argmax(1, keepdim=True)
    result = make(loss="ce", steps=7)(model, images, labels, targets=targets)
    assert torch.equal(model(result).argmax(1, keepdim=True), targets)
    assert (ce(model(result), targets) <= ce(model(images), targets) + 1e-6).all()


# --- another library ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD", "MIFGSM"])
def test_agrees_with_torchattacks_on_images(name, make_case):
    torchattacks = pytest.importorskip("torchattacks")
    model, images, labels = make_case((12, 9), batch=3, pointwise=True, dtype=torch.float64, classes=2)
    model.eval()
    ours = {
        "FGSM": FGSM(eps=0.03, loss="ce"),
        "BIM": BIM(eps=0.03, alpha=0.004, steps=10, loss="ce"),
        "PGD": PGD(eps=0.03, alpha=0.004, steps=10, loss="ce", random_start=False),
        "MIFGSM": MIFGSM(eps=0.03, alpha=0.004, steps=10, loss="ce"),
    }[name]
    theirs = {
        "FGSM": lambda: torchattacks.FGSM(model, eps=0.03),
        "BIM": lambda: torchattacks.BIM(model, eps=0.03, alpha=0.004, steps=10),
        "PGD": lambda: torchattacks.PGD(model, eps=0.03, alpha=0.004, steps=10, random_start=False),
        "MIFGSM": lambda: torchattacks.MIFGSM(model, eps=0.03, alpha=0.004, steps=10, decay=1.0),
    }[name]()
    last = []
    seen = ours(lambda x: last.append(x.detach().clone()) or model(x), images, labels)
    # Ours returns the best visited point, theirs the last one.
    final = seen if name == "FGSM" else last[-1]
    # torchattacks calls cross entropy on (B, K, *) with (B, *) labels, which suits segmentation.
    torch.testing.assert_close(final, theirs(images, labels[:, 0]), atol=1e-6, rtol=0)
