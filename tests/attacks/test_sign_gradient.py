"""Optima, family identities and weights of the sign-gradient attacks."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from robustvox.attacks import BIM, FGSM, PGD, CosPGD, StepInfo
from robustvox.attacks.cospgd import cosine_weight
from robustvox.attacks.losses import cross_entropy_map


@pytest.fixture
def linear():
    """Two classes, one 1x1x1 layer: the worst point of the ball is a known corner."""
    model = nn.Conv3d(1, 2, 1, dtype=torch.float64)
    with torch.no_grad():
        model.weight.view(-1).copy_(torch.tensor([-1.5, 2.0]))
        model.bias.copy_(torch.tensor([0.9, -0.8]))
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(2, 1, 5, 6, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, images.shape, generator=generator)
    return model, images, labels


def corner(images, labels, eps):
    # Class 1 grows with intensity: background voxels are brightened, foreground ones darkened.
    return (images + eps * (1 - 2 * labels)).clamp(0, 1)


@pytest.mark.parametrize("eps", [4 / 255, 0.1, 0.6])
@pytest.mark.parametrize("loss", ["ce", "dice_ce"])
@pytest.mark.parametrize("make", [FGSM, BIM, PGD])
def test_linear_model_gives_the_corner(make, loss, eps, linear):
    model, images, labels = linear
    adversarial = make(eps=eps, loss=loss)(model, images, labels)
    torch.testing.assert_close(adversarial, corner(images, labels, eps), atol=1e-6, rtol=0)


@pytest.mark.parametrize("eps", [4 / 255, 0.1])
def test_cospgd_reaches_the_corner_too(eps, linear):
    model, images, labels = linear
    adversarial = CosPGD(eps=eps)(model, images, labels)
    torch.testing.assert_close(adversarial, corner(images, labels, eps), atol=1e-6, rtol=0)


def test_masked_voxel_of_a_linear_model_has_no_gradient(linear):
    model, images, labels = linear
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > 0.5
    adversarial = FGSM(eps=0.1)(model, images, labels, mask=mask)
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


@pytest.mark.parametrize("make", [BIM, PGD, CosPGD])
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


def test_pointwise_model_gives_pointwise_cospgd(make_case):
    """A change of one voxel's label moves that voxel's trajectory only (fails for a mean cosine)."""
    model, images, labels = make_case(pointwise=True, dtype=torch.float64, classes=5, batch=2)
    other = labels.clone()
    other[0, 0, 1, 2, 3] = (other[0, 0, 1, 2, 3] + 1) % 5
    last = []
    for truth in (labels, other):
        visited = []
        handle = model.register_forward_pre_hook(
            lambda _, x, into=visited: into.append(x[0].detach().clone())
        )
        CosPGD(steps=4)(model, images, truth)
        handle.remove()
        last.append(visited[-1])
    changed = (last[0] != last[1]).nonzero().tolist()
    assert changed in ([], [[0, 0, 1, 2, 3]])


def test_uniform_weight_turns_cospgd_into_pgd(make_case, monkeypatch):
    model, images, labels = make_case()
    monkeypatch.setattr(
        "robustvox.attacks.cospgd.cosine_weight", lambda logits, labels: torch.ones_like(logits[:, 0])
    )
    assert torch.equal(CosPGD(steps=4)(model, images, labels), PGD(steps=4, loss="ce")(model, images, labels))


@pytest.mark.parametrize("name", ["FGSM", "BIM", "PGD"])
def test_agrees_with_torchattacks_on_images(name, linear):
    torchattacks = pytest.importorskip("torchattacks")
    model = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        model.weight.view(-1).copy_(torch.tensor([-1.5, 2.0]))
        model.bias.copy_(torch.tensor([0.9, -0.8]))
    model.eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 1, 12, 9, generator=generator)
    labels = torch.randint(0, 2, images.shape, generator=generator)
    ours = {
        "FGSM": FGSM(eps=0.03, loss="ce"),
        "BIM": BIM(eps=0.03, alpha=0.004, steps=10, loss="ce"),
        "PGD": PGD(eps=0.03, alpha=0.004, steps=10, loss="ce", random_start=False),
    }[name]
    theirs = {
        "FGSM": lambda: torchattacks.FGSM(model, eps=0.03),
        "BIM": lambda: torchattacks.BIM(model, eps=0.03, alpha=0.004, steps=10),
        "PGD": lambda: torchattacks.PGD(model, eps=0.03, alpha=0.004, steps=10, random_start=False),
    }[name]()
    # torchattacks calls cross entropy on (B, K, *) with (B, *) labels, which suits segmentation.
    torch.testing.assert_close(ours(model, images, labels), theirs(images, labels[:, 0]), atol=1e-6, rtol=0)
