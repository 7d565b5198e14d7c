"""Every refusal names what was expected, what came and what to do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from robustvox.attacks import FGSM, GN, PGD, Attack, Uniform, checks

MODEL = nn.Conv3d(1, 3, 1)
IMAGES = torch.rand(2, 1, 4, 5, 6)
LABELS = torch.zeros(2, 1, 4, 5, 6, dtype=torch.int64)


def spoiled(value: float) -> torch.Tensor:
    images = IMAGES.clone()
    images[1, 0, 2, 2, 2] = value
    return images


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": spoiled(-0.001)}, ValueError, r"images: expected values in \[0, 1\], got range \[-0.001"),
        ({"images": spoiled(1.5)}, ValueError, r"got range \[.*1.5\]. Map the intensity window"),
        ({"images": spoiled(float("nan"))}, ValueError, "images: expected finite values"),
        ({"images": spoiled(float("inf"))}, ValueError, "images: expected finite values"),
        ({"images": IMAGES.half()}, ValueError, r"expected float32 or float64, got torch.float16"),
        ({"images": (IMAGES * 255).byte()}, ValueError, "expected float32 or float64, got torch.uint8"),
        ({"images": IMAGES[0, 0]}, ValueError, r"expected shape \(B, C, \*spatial\).*got \(4, 5, 6\)"),
        ({"images": IMAGES[:0]}, ValueError, "expected at least one voxel"),
        ({"images": IMAGES.numpy()}, TypeError, "images: expected a torch.Tensor, got ndarray"),
        (
            {"labels": LABELS[:, 0]},
            ValueError,
            r"labels: expected shape .*\(2, 1, 4, 5, 6\), got \(2, 4, 5, 6\)",
        ),
        ({"labels": LABELS.int()}, ValueError, "labels: expected int64, got torch.int32"),
        ({"labels": LABELS - 1}, ValueError, "labels: expected class indices >= 0, got -1"),
        ({"labels": LABELS + 3}, ValueError, "labels: expected classes below K = 3, got 3"),
        ({"labels": LABELS.to("meta")}, ValueError, "labels: expected device cpu like images, got meta"),
        ({"labels": None}, TypeError, "labels: expected a torch.Tensor, got NoneType"),
        ({"mask": LABELS}, ValueError, "mask: expected bool"),
        ({"mask": LABELS[:1].bool()}, ValueError, "mask: expected shape"),
        ({"mask": LABELS.bool()}, ValueError, "mask: expected at least one True voxel per sample"),
        ({"generator": 7}, TypeError, "generator: expected a torch.Generator or a sequence of them, got int"),
        (
            {"generator": [torch.Generator()]},
            ValueError,
            "generator: expected one torch.Generator or 2 of them",
        ),
        ({"model": "unet"}, TypeError, "model: expected a callable, got str"),
        ({"model": lambda x: (MODEL(x),)}, TypeError, "model output: .* got tuple. Wrap the model"),
        ({"model": lambda x: MODEL(x)[..., 1:]}, ValueError, r"\(2, K, 4, 5, 6\), got \(2, 3, 4, 5, 5\)"),
        ({"model": lambda x: MODEL(x)[:, :1]}, ValueError, r"expected K >= 2 classes, got 1. .*cat"),
        ({"model": lambda x: MODEL(x) * float("nan")}, ValueError, "model output: expected finite logits"),
        ({"model": lambda x: MODEL(x).softmax(1)}, ValueError, "expected logits, got probabilities"),
        ({"model": lambda x: MODEL(x).half().softmax(1)}, ValueError, "expected logits, got probabilities"),
        (
            {"model": lambda x: MODEL(x).long()},
            ValueError,
            "floating-point logits on cpu, got torch.int64 on cpu",
        ),
        (
            {"model": lambda x: MODEL(x).to("meta")},
            ValueError,
            "got torch.float32 on meta. Return the network's",
        ),
        ({"model": lambda x: MODEL(x.detach())}, ValueError, "connected to the images by autograd"),
        ({"model": lambda x: MODEL(x).detach()}, ValueError, "connected to the images by autograd"),
    ],
)
@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=1)])
def test_bad_calls(attack, changes, error, message):
    call = {"model": MODEL, "images": IMAGES, "labels": LABELS} | changes
    with pytest.raises(error, match=message):
        attack(**call)


def test_logits_that_only_resemble_probabilities_pass():
    FGSM()(lambda x: MODEL(x).sigmoid(), IMAGES, LABELS)
    FGSM()(lambda x: MODEL(x).softmax(1) * 2, IMAGES, LABELS)


def test_half_precision_inside_the_model_is_welcome():
    half = nn.Conv3d(1, 3, 1).bfloat16()
    adversarial = PGD(steps=2)(lambda x: half(x.bfloat16()), IMAGES, LABELS)
    assert adversarial.dtype == torch.float32


def test_an_output_is_connected_through_any_graph():
    images = IMAGES.clone().requires_grad_()
    inner = images * 2
    checks.connected(torch.utils.checkpoint.checkpoint(MODEL, inner, use_reentrant=True), images)
    checks.connected(MODEL(inner) + 1, inner)
    checks.connected(images[:1], images)
    deep = images
    for _ in range(3000):  # deeper than Python recurses
        deep = deep + 1
    checks.connected(deep, images)
    for other in (MODEL(IMAGES), IMAGES, MODEL(inner.detach())):
        with pytest.raises(ValueError, match="got a constant"):
            checks.connected(other, images)
    with pytest.raises(ValueError, match="got a constant"):
        checks.connected(images * 3, inner)


@dataclass(frozen=True, kw_only=True)
class Broken(Attack):
    """An attack with a defect; the base class must not let its volume out."""

    kind: str

    @property
    def radius(self) -> float | None:
        return None if self.kind == "range" else 0.1

    def perturb(self, task):
        return {
            "budget": lambda: (task.images - 0.2).clamp_min(0),
            "range": lambda: task.images + 0.5,
            "nan": lambda: task.images * float("nan"),
            "shape": lambda: task.images[:1],
            "dtype": lambda: task.images.double(),
            "rounding": lambda: task.images + 0.1 + 5e-7 * (task.images < 0.5),
        }[self.kind]()


@pytest.mark.parametrize("kind", ["budget", "range", "nan", "shape", "dtype"])
def test_a_defective_attack_is_caught(kind):
    with pytest.raises(RuntimeError, match=r"Broken.perturb: expected .* got .* Fix the attack"):
        Broken(kind=kind)(MODEL, IMAGES, LABELS)


def test_rounding_is_projected_back():
    images = IMAGES * 0.5
    adversarial = Broken(kind="rounding")(MODEL, images, LABELS)
    assert (adversarial.double() - images.double()).abs().max().item() <= 0.1


def test_gaussian_noise_has_its_standard_deviation():
    images = torch.full((2, 1, 20, 20, 20), 0.5)
    labels = torch.zeros(images.shape, dtype=torch.int64)
    noise = GN(std=0.05)(MODEL, images, labels) - images
    assert noise.std().item() == pytest.approx(0.05, rel=0.03)
    assert noise.abs().max() > 0.15
    for bad in (-0.1, float("nan"), "4"):
        with pytest.raises(ValueError, match="std: expected"):
            GN(std=bad)


def test_uniform_and_corner_noise():
    images = torch.full((2, 1, 20, 20, 20), 0.5)
    labels = torch.zeros(images.shape, dtype=torch.int64)
    flat = Uniform(eps=0.1)(MODEL, images, labels) - images
    corner = Uniform(eps=0.1, corners=True)(MODEL, images, labels) - images
    assert flat.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert torch.unique(corner.sign()).tolist() == [-1.0, 1.0]
    torch.testing.assert_close(corner.abs(), torch.full_like(corner, 0.1))
    assert abs(corner.mean()) < 0.005
