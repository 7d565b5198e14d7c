"""The contract: bad input is refused by every attack alike; what masks, targets and wrappers mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from robustvox.attacks import Attack

#: what every refusal consists of: where, what was expected, what came, what to do
REFUSAL = re.compile(r"[\w' ]+: expected .+, got .+\. \S.+", re.DOTALL)

SHAPE = (2, 1, 4, 5, 6)


def good():
    """A valid call; three classes, half of the voxels masked out."""
    source = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), nn.Dropout())
    return {
        "model": model,
        "images": torch.rand(SHAPE, generator=source),
        "labels": torch.randint(0, 3, SHAPE, generator=source),
        "mask": torch.rand(SHAPE, generator=source) < 0.5,
    }


def check_refusal(attack, change):
    """TypeError or ValueError that says expected, got, remedy; the model is left as it was."""
    call = good()
    model = call["model"]
    model.train()
    model[2].eval()
    model[0].bias.requires_grad_(False)
    flags = flags_of(model)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    call = call | change(call)
    with pytest.raises((TypeError, ValueError)) as caught:
        attack(**call)
    assert REFUSAL.fullmatch(str(caught.value)), str(caught.value)
    assert flags_of(model) == flags
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def flags_of(model):
    trained = [module.training for module in model.modules()]
    return trained, [(p.requires_grad, p.grad) for p in model.parameters()]


def spoiled(value):
    def change(call):
        images = call["images"].clone()
        images[1, 0, 2, 2, 2] = value
        return {"images": images}

    return change


class Returning(nn.Module):
    """A network that makes something else of its logits."""

    def __init__(self, network, transform):
        super().__init__()
        self.network, self.transform = network, transform

    def forward(self, images):
        return self.transform(self.network(images))


def returning(transform):
    return lambda call: {"model": Returning(call["model"], transform)}


def sharp(logits):
    """Probabilities that are exactly one-hot."""
    return (logits * 1e6).softmax(1)


#: refused by every attack, also by noise
BAD_INPUT = {
    "image below 0": spoiled(-1e-3),
    "image above 1": spoiled(1.001),
    "image in 0..255": lambda call: {"images": call["images"] * 255},
    "image nan": spoiled(float("nan")),
    "image inf": spoiled(float("inf")),
    "image uint8": lambda call: {"images": (call["images"] * 255).byte()},
    "image int64": lambda call: {"images": call["labels"]},
    "image bool": lambda call: {"images": call["mask"]},
    "image float16": lambda call: {"images": call["images"].half()},
    "image complex": lambda call: {"images": call["images"].to(torch.complex64)},
    "image without batch": lambda call: {"images": call["images"][0, 0]},
    "image empty": lambda call: {"images": call["images"][:0]},
    "image array": lambda call: {"images": call["images"].numpy()},
    "image list": lambda call: {"images": call["images"].tolist()},
    "labels float": lambda call: {"labels": call["labels"].float()},
    "labels int32": lambda call: {"labels": call["labels"].int()},
    "labels bool": lambda call: {"labels": call["mask"]},
    "labels negative": lambda call: {"labels": call["labels"] - 1},
    "labels without channel": lambda call: {"labels": call["labels"][:, 0]},
    "labels one-hot": lambda call: {"labels": call["labels"].expand(-1, 3, -1, -1, -1)},
    "labels of another crop": lambda call: {"labels": call["labels"][..., 1:]},
    "labels of another batch": lambda call: {"labels": call["labels"][:1]},
    "labels elsewhere": lambda call: {"labels": call["labels"].to("meta")},
    "labels missing": lambda call: {"labels": None},
    "mask int": lambda call: {"mask": call["mask"].long()},
    "mask float": lambda call: {"mask": call["mask"].float()},
    "mask of another batch": lambda call: {"mask": call["mask"][:1]},
    "mask nowhere": lambda call: {"mask": torch.zeros_like(call["mask"])},
    "mask nowhere in one": lambda call: {
        "mask": call["mask"] & torch.tensor([1, 0]).bool()[:, None, None, None, None]
    },
    "generator a number": lambda call: {"generator": 7},
    "generator too few": lambda call: {"generator": [torch.Generator()]},
    "model a name": lambda call: {"model": "unet"},
    "model none": lambda call: {"model": None},
}

#: refused by every attack that calls the model; noise cannot know
BAD_OUTPUT = {
    "label too high": lambda call: {"labels": call["labels"] + 1},
    "label 255": lambda call: {"labels": torch.where(call["mask"], call["labels"], 255)},
    "probabilities": returning(lambda logits: logits.softmax(1)),
    "probabilities one-hot": returning(sharp),
    "probabilities bfloat16": returning(lambda logits: logits.bfloat16().softmax(1)),
    "probabilities float16": returning(lambda logits: logits.half().softmax(1)),
    "too few classes": returning(lambda logits: logits[:, :2]),
    "one class": returning(lambda logits: logits[:, :1]),
    "other size": returning(lambda logits: logits[..., 1:]),
    "half resolution": returning(lambda logits: logits[..., ::2, ::2]),
    "other batch": returning(lambda logits: logits[:1]),
    "no channel": returning(lambda logits: logits[:, 0]),
    "tuple": returning(lambda logits: (logits,)),
    "list": returning(lambda logits: [logits, logits]),
    "dict": returning(lambda logits: {"out": logits}),
    "array": returning(lambda logits: logits.detach().numpy()),
    "none": returning(lambda logits: None),
    "class indices": returning(lambda logits: logits.argmax(1, keepdim=True)),
    "integer logits": returning(lambda logits: (logits * 100).long()),
    "elsewhere": returning(lambda logits: logits.to("meta")),
    "nan": returning(lambda logits: logits * float("nan")),
    "inf": returning(lambda logits: logits / 0),
}

BAD_TARGETS = {
    "array": lambda call: call["labels"].numpy(),
    "float": lambda call: call["labels"].float(),
    "shape": lambda call: call["labels"][:, 0],
    "negative": lambda call: call["labels"] - 1,
    "too high": lambda call: call["labels"] + 1,
    "elsewhere": lambda call: call["labels"].to("meta"),
    "labels": lambda call: call["labels"],
    "labels of one sample": lambda call: torch.stack([call["labels"][0], (call["labels"][1] + 1) % 3]),
    "labels where it counts": lambda call: torch.where(
        call["mask"], call["labels"], (call["labels"] + 1) % 3
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_refused(any_key, name, quick):
    check_refusal(quick(any_key), BAD_INPUT[name])


@pytest.mark.parametrize("name", BAD_OUTPUT)
def test_bad_output_is_refused(model_key, name, quick):
    check_refusal(quick(model_key), BAD_OUTPUT[name])


def test_logits_without_a_graph_are_refused(gradient_key, quick):
    check_refusal(quick(gradient_key), returning(torch.detach))


def test_logits_that_only_know_the_weights_are_refused(gradient_key, quick):
    """The weights of a model inside a plain function are not frozen: its logits have a graph, without the images."""

    def blind(call):
        call["model"].eval()
        return {"model": lambda images: call["model"](images.detach())}

    call = good()
    with pytest.raises(ValueError, match="model output: expected logits connected to the images"):
        quick(gradient_key)(**call | blind(call))


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_bad_targets_are_refused(targeted_key, name, quick):
    check_refusal(quick(targeted_key), lambda call: {"targets": BAD_TARGETS[name](call)})


def test_noise_refuses_targets(untargeted_key, quick):
    check_refusal(quick(untargeted_key), lambda call: {"targets": (call["labels"] + 1) % 3})


def test_the_good_call_is_accepted(any_key, quick):
    """Also with log-probabilities, which are logits, and with half-precision ones."""
    quick(any_key)(**good())
    for transform in (lambda z: z.log_softmax(1), lambda z: (9 * z).bfloat16(), lambda z: z.double()):
        call = good()
        quick(any_key)(**call | returning(transform)(call))


def test_dlr_needs_three_classes(loss_key, make_case, quick):
    model, images, labels = make_case(classes=2)
    attack = quick(loss_key, loss="dlr")
    with pytest.raises(ValueError) as caught:
        attack(model, images, labels)
    assert REFUSAL.fullmatch(str(caught.value))
    assert "K >= 3" in str(caught.value)
    attack(*make_case(classes=3))


# --- masks --------------------------------------------------------------------------------------


def check_mask(attack, case):
    """Labels of masked voxels have no say; a mask of ones is no mask."""
    model, images, labels = case
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) > 0.4
    other = torch.where(mask, labels, (labels + 1) % 3)
    masked = attack(model, images, labels, mask=mask)
    assert torch.equal(masked, attack(model, images, other, mask=mask))
    assert not torch.equal(masked, attack(model, images, labels))
    everywhere = attack(model, images, labels, mask=torch.ones_like(mask))
    assert (everywhere - attack(model, images, labels)).abs().mean() < 1e-4


def test_masked_voxels_have_no_say(model_key, make_case, quick, effort):
    check_mask(quick(model_key, **effort(model_key, 3)), make_case())


# --- targets ------------------------------------------------------------------------------------


def check_targets(attack, case, reference):
    """Given the targets, the labels have no say; masked targets have none either."""
    model, images, labels = case
    targets = (reference + 1) % 3
    led = attack(model, images, labels, targets=targets)
    assert torch.equal(led, attack(model, images, (labels + 2) % 3, targets=targets))
    assert not torch.equal(led, attack(model, images, labels))
    assert not torch.equal(led, attack(model, images, labels, targets=reference.flip(2)))
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) > 0.4
    hidden = torch.where(mask, targets, 0)
    assert torch.equal(
        attack(model, images, labels, mask=mask, targets=targets),
        attack(model, images, labels, mask=mask, targets=hidden),
    )


def test_only_targets_have_a_say(targeted_key, make_case, quick, effort):
    case = make_case()
    check_targets(quick(targeted_key, **effort(targeted_key, 3)), case, case.labels)


# --- wrappers -----------------------------------------------------------------------------------


def test_metatensor_comes_back_plain(any_key, make_case, quick):
    meta = pytest.importorskip("monai.data").MetaTensor
    model, images, labels = make_case()
    adversarial = quick(any_key)(model, meta(images), meta(labels))
    assert type(adversarial) is torch.Tensor
    assert torch.equal(adversarial, quick(any_key)(model, images, labels))


def test_bound_attack_is_the_attack(any_key, make_case, quick):
    model, images, labels = make_case()
    bound = quick(any_key).bind(model)
    assert torch.equal(bound(images, labels), quick(any_key)(model, images, labels))


# --- the contract catches -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lax(Attack):
    """Overrides the call that validates."""

    def __call__(self, model, images, labels, mask=None, generator=None):
        return images.clone()

    def perturb(self, task):
        return task.images


@dataclass(frozen=True, kw_only=True)
class Past(Attack):
    """Calls the model past the task, which would have checked its output."""

    def perturb(self, task):
        return (task.images + 0.1 * torch.as_tensor(task.model(task.images))[:, :1].sign()).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class Deaf(Attack):
    """Ignores mask and targets."""

    def perturb(self, task):
        return (task.images + 0.1 * (task.labels - 1)).clamp(0, 1)


@pytest.mark.parametrize("name", ["image nan", "labels float", "mask int", "model none"])
def test_the_contract_catches_an_attack_that_takes_anything(name):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_refusal(Lax(), BAD_INPUT[name])


@pytest.mark.parametrize("name", ["probabilities", "integer logits", "label too high"])
def test_the_contract_catches_an_attack_that_trusts_its_model(name):
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_refusal(Past(), BAD_OUTPUT[name])


def test_the_contract_catches_an_attack_that_ignores_mask_and_targets(make_case):
    case = make_case()
    with pytest.raises(AssertionError):
        check_mask(Deaf(), case)
    with pytest.raises(AssertionError):
        check_targets(Deaf(), case, case.labels)
