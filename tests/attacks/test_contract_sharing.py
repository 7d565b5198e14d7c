"""What an attack says of samples that share a call: each gets what it gets alone, for the same number of passes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from robustvox.attacks import ATTACKS, CATALOG, FGSM, PGD, Attack, Ensemble, Sharing, load_attack_class
from robustvox.attacks.published import LastIterate

pytestmark = pytest.mark.filterwarnings("ignore:APGD")  # three steps are few

CANVAS = (8, 9, 7)
SHAPES = ((8, 6, 5), (5, 9, 7), (6, 7, 7))


def made(name: str) -> Attack:
    """An attack of the catalogue in a size for tests; the very class, since a subclass promises nothing."""
    kind = load_attack_class(name)
    small = {"steps": 3, "block_size": 4, "queries": 8, "sigma": 0.5, "restarts": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return kind(**{key: value for key, value in small.items() if key in kind.__dataclass_fields__})


EVERY = {name: made(name) for name in CATALOG} | {
    "last pgd": LastIterate(attack=made("pgd")),
    "last vafa": LastIterate(attack=made("vafa")),
    "logo": load_attack_class("keyed_mark")(kind="logo", steps=3, margin_mm=0.0),
}


@dataclass(frozen=True)
class Placed:
    """A sample, and where it lies in the middle of a canvas of zeros."""

    images: Tensor
    labels: Tensor
    mask: Tensor | None

    @property
    def box(self) -> tuple[slice, ...]:
        spatial = self.images.shape[2:]
        starts = [(room - side) // 2 for room, side in zip(CANVAS, spatial, strict=True)]
        return tuple(slice(a, a + side) for a, side in zip(starts, spatial, strict=True))

    def on_canvas(self, values: Tensor) -> Tensor:
        whole = values.new_zeros((*values.shape[:2], *CANVAS))
        whole[(..., *self.box)] = values
        return whole


def placed(make_case, masked: bool) -> tuple[torch.nn.Module, list[Placed]]:
    cases = [make_case(shape, batch=1, dtype=torch.float64, seed=5) for shape in SHAPES]
    for seed, case in enumerate(cases):  # networks of one seed are the same
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            case.images.copy_(torch.rand_like(case.images))
    masks = [torch.ones_like(case.labels, dtype=torch.bool) if masked else None for case in cases]
    for mask in masks:
        if mask is not None:
            mask[..., :2] = False
    parts = [Placed(case.images, case.labels, mask) for case, mask in zip(cases, masks, strict=True)]
    return cases[0].model, parts


def seeded(index: int) -> torch.Generator:
    return torch.Generator().manual_seed(100 + index)


@pytest.fixture(autouse=True)
def _short_ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustvox.attacks.ensemble._STEPS", 3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "name", [key for key, attack in EVERY.items() if attack.shares is Sharing.ANY_SHAPES]
)
def test_samples_of_any_shape_get_what_they_get_alone(name: str, masked: bool, make_case) -> None:
    attack, (net, parts) = EVERY[name], placed(make_case, masked)

    def padding(part: Placed):
        return lambda images: net(part.on_canvas(images))[(..., *part.box)]

    alone, passes = [], set()
    for index, part in enumerate(parts):
        net.forwards = net.backwards = 0
        net.eval()
        alone.append(attack(padding(part), part.images, part.labels, part.mask, seeded(index)))
        passes.add((net.forwards, net.backwards))
    net.forwards = net.backwards = 0
    canvas = torch.cat([part.on_canvas(part.images) for part in parts])
    together = attack(
        net,
        canvas,
        torch.cat([part.on_canvas(part.labels) for part in parts]),
        torch.cat([part.on_canvas(part.mask) for part in parts]) if masked else None,
        [seeded(index) for index in range(len(parts))],
        boxes=[part.box for part in parts],
    )
    assert passes == {(net.forwards, net.backwards)}
    for part, found, wanted in zip(parts, together[:, None], alone, strict=True):
        assert (found[(..., *part.box)] - wanted).abs().max() < 1e-6
        outside = torch.ones(CANVAS, dtype=torch.bool)
        outside[part.box] = False
        assert (found[..., outside] == 0).all(), "the padding is unperturbed"
    assert not torch.equal(together, canvas)


@pytest.mark.parametrize(
    "name", [key for key, attack in EVERY.items() if attack.shares is Sharing.EQUAL_SHAPES]
)
def test_samples_of_equal_shapes_get_what_they_get_alone(name: str, make_case) -> None:
    attack, case = EVERY[name], make_case(CANVAS, batch=3, dtype=torch.float64)
    case.labels[:, :, 2:] = 0  # else no place for a logo
    alone, passes = [], set()
    for index in range(3):
        case.model.forwards = case.model.backwards = 0
        one = slice(index, index + 1)
        alone.append(attack(case.model, case.images[one], case.labels[one], generator=seeded(index)))
        passes.add((case.model.forwards, case.model.backwards))
    case.model.forwards = case.model.backwards = 0
    together = attack(*case, generator=[seeded(index) for index in range(3)])
    assert passes == {(case.model.forwards, case.model.backwards)}
    assert (together - torch.cat(alone)).abs().max() < 1e-6


def test_every_attack_of_the_catalogue_is_in_one_of_the_two_tests() -> None:
    assert {key for key, attack in EVERY.items() if attack.shares is Sharing.ALONE} == set()


def test_a_class_shares_nothing_unless_it_says_so_itself() -> None:
    class Other(PGD):
        pass

    class Fewer(Ensemble):
        sharing = Sharing.ANY_SHAPES

        def members(self) -> tuple[Attack, ...]:
            return (FGSM(), made("vafa"))

    assert PGD().shares is Sharing.ANY_SHAPES
    assert Other().shares is Sharing.ALONE
    assert Fewer().shares is Sharing.EQUAL_SHAPES
    assert LastIterate(attack=Other()).shares is Sharing.ALONE


def test_an_attack_that_feels_the_padding_refuses_it(make_case) -> None:
    case = make_case(CANVAS, batch=1)
    whole = tuple(slice(0, side) for side in CANVAS)
    with pytest.raises(ValueError, match="boxes: expected None for VAFA"):
        made("vafa")(*case, boxes=[whole])


@pytest.mark.parametrize(
    "boxes",
    [
        [],
        [(slice(0, 3), slice(0, 3))],
        [(slice(0, 3), slice(0, 3), slice(0, 20))],
        [(slice(0, 3), slice(2, 2), slice(0, 3))],
        [(slice(0, 3), slice(0, 3), 4)],
        [(slice(0, 3), slice(0, 3), slice(0, 6, 2))],
        [(slice(0, 3), slice(-2, 3), slice(0, 3))],
    ],
)
def test_boxes_that_cannot_be_are_refused(boxes, make_case) -> None:
    with pytest.raises(ValueError, match="boxes: expected 1 tuples of 3 slices"):
        PGD(steps=1)(*make_case(CANVAS, batch=1), boxes=boxes)


def test_a_mask_that_counts_outside_of_a_box_alone_is_refused(make_case) -> None:
    case = make_case(CANVAS, batch=1)
    mask = torch.zeros_like(case.labels, dtype=torch.bool)
    mask[..., 6] = True
    with pytest.raises(ValueError, match="mask: expected at least one True"):
        PGD(steps=1)(*case, mask, boxes=[(slice(0, 8), slice(0, 9), slice(0, 5))])


def test_the_catalogue_is_what_was_tested() -> None:
    assert set(ATTACKS) <= set(EVERY)
