"""What marks promise beyond the contract: where they may be, what the key changes, and what the logo is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import BIM, Key, KeyedMark
from robustvox.attacks.blur import blur
from robustvox.attacks.keyed_mark import predicted_labels, within
from robustvox.attacks.logo import box_sides, raster
from robustvox.attacks.surrogates import Surrogates

SALT = bytes(16)


def box_labels(shape, box):
    labels = torch.zeros(shape, dtype=torch.int64)
    labels[(..., *box)] = 1
    return labels


# --- distance -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    spatial=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.5625, 3.0])] * 3),
    distance=st.sampled_from([0.0, 0.5, 1.0, 1.4, 2.0, 3.2, 50.0]),
    seed=st.integers(0, 99),
)
def test_distance_equals_brute_force(spatial, spacing, distance, seed):
    source = torch.Generator().manual_seed(seed)
    labeled = torch.rand(1, 1, *spatial, generator=source) < 0.15
    spacing = spacing[: len(spatial)]
    expected = torch.zeros_like(labeled)
    points = [p.tolist() for p in labeled[0, 0].nonzero()]
    for index in itertools.product(*map(range, spatial)):
        nearest = min(
            (
                math.dist(
                    [i * s for i, s in zip(index, spacing, strict=False)],
                    [i * s for i, s in zip(p, spacing, strict=False)],
                )
                for p in points
            ),
            default=math.inf,
        )
        expected[(0, 0, *index)] = nearest <= distance * (1 + 1e-9)
    assert torch.equal(within(labeled, distance, spacing), expected)


def test_distance_counts_samples_apart():
    labeled = torch.zeros(2, 1, 5, 5, dtype=torch.bool)
    labeled[0, 0, 2, 2] = True
    near = within(labeled, 1.0, (1.0, 1.0))
    assert near[0].sum() == 5
    assert not near[1].any()


# --- field --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("margin", "spacing"), [(0.0, None), (1.0, (1.0, 1.0, 1.0)), (2.0, (1.0, 2.0, 4.0))])
def test_outside_changes_no_voxel_of_the_label_and_its_margin(margin, spacing, make_case):
    case = make_case((9, 8, 7), channels=2)
    labels = box_labels((2, 1, 9, 8, 7), (slice(3, 5), slice(3, 5), slice(2, 4)))
    mark = KeyedMark(support="outside", margin_mm=margin, spacing_mm=spacing, steps=4)
    moved = mark(case.model, case.images, labels) != case.images
    kept = within(labels > 0, margin, spacing or (1.0,) * 3)
    assert not (moved & kept).any()
    assert (moved.any(1, keepdim=True) | kept).float().mean() > 0.9


def test_without_labels_outside_is_everywhere(make_case):
    model, images, labels = make_case()
    empty = torch.zeros_like(labels)
    outside = KeyedMark(support="outside", spacing_mm=1.0, steps=3)(model, images, empty)
    assert torch.equal(outside, KeyedMark(steps=3)(model, images, empty))


def test_a_margin_in_mm_needs_the_spacing(make_case):
    model, images, labels = make_case()
    mark = KeyedMark(support="outside")
    with pytest.raises(
        ValueError, match=r"spacing_mm: expected the voxel sides for a margin of 2 mm, got None"
    ):
        mark(model, images, labels)
    with pytest.raises(ValueError, match="spacing_mm: expected 3 sides"):
        KeyedMark(support="outside", spacing_mm=(1.0, 1.0))(model, images, labels)
    assert mark.at_spacing((1.0, 2.0, 3.0)).spacing_mm == (1.0, 2.0, 3.0)
    assert KeyedMark(spacing_mm=0.5).at_spacing((1.0, 2.0, 3.0)).spacing_mm == 0.5
    assert BIM().at_spacing((1.0, 2.0, 3.0)) == BIM()


def test_a_label_that_leaves_no_room_is_refused(make_case):
    model, images, labels = make_case()
    with pytest.raises(ValueError, match="support: expected voxels outside the label"):
        KeyedMark(support="outside", margin_mm=0.0)(model, images, torch.ones_like(labels))
    with pytest.raises(ValueError, match="kind: expected a place for a logo of"):
        KeyedMark(kind="logo", margin_mm=0.0)(model, images, torch.ones_like(labels))


def test_keys_decide_the_mark(make_case):
    model, images, labels = make_case((8, 9, 7), batch=1)

    def marked(secret, case, **fields):
        generator = Key(secret).generator(SALT, case)
        return KeyedMark(steps=4, margin_mm=0.0, **fields)(model, images, labels, generator=generator)

    for fields in ({}, {"kind": "logo"}):
        labels = labels * 0
        one = marked(b"k" * 16, "p01", **fields)
        assert torch.equal(one, marked(b"k" * 16, "p01", **fields))
        assert not torch.equal(one, marked(b"l" * 16, "p01", **fields))
        assert not torch.equal(one, marked(b"k" * 16, "p02", **fields))


@pytest.mark.parametrize("sigma", [0.5, 0.8, 2.0])
def test_blur_is_a_gaussian_in_float64(sigma):
    source = torch.Generator().manual_seed(0)
    volume = torch.rand(2, 2, 7, 1, 9, generator=source, dtype=torch.float64)
    reach = math.ceil(3 * sigma)
    weights = torch.tensor(
        [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)], dtype=torch.float64
    )
    weights /= weights.sum()
    expected = volume
    for axis in (2, 3, 4):
        padded = torch.zeros(
            *(s + 2 * reach * (a == axis) for a, s in enumerate(volume.shape)), dtype=torch.float64
        )
        padded.narrow(axis, reach, volume.shape[axis]).copy_(expected)
        expected = (padded.unfold(axis, 2 * reach + 1, 1) * weights).sum(-1)
    torch.testing.assert_close(blur(volume, sigma), expected, atol=1e-14, rtol=0)
    assert blur(volume, 0.0) is volume


def test_a_blurred_mark_is_smoother(make_case):
    model, images, labels = make_case((10, 11, 9), batch=1)

    def roughness(smooth):
        change = KeyedMark(steps=6, smooth=smooth)(model, images, labels) - images
        return (change.diff(dim=2).abs().mean() / change.abs().mean()).item()

    assert roughness(1.5) < 0.8 * roughness(0.0)


# --- logo ---------------------------------------------------------------------------------------


def test_a_logo_is_one_visible_letter_beside_the_label(make_case):
    model, images, _ = make_case((12, 12, 9), batch=2)
    labels = box_labels((2, 1, 12, 12, 9), (slice(5, 8), slice(5, 8), slice(3, 6)))
    mark = KeyedMark(kind="logo", steps=8, margin_mm=1.0, spacing_mm=1.0, opacity=0.8)
    change = mark(model, images, labels) - images
    for one, label in zip(change, labels > 0, strict=True):
        at = (one != 0).any(0).nonzero()
        extent = at.amax(0) - at.amin(0) + 1
        assert (extent <= torch.tensor(box_sides((12, 12, 9)))).all()
        assert 0.1 < one.abs().max() <= 0.8
        assert len(set(one[one != 0].sign().tolist())) == 1, "one shade: all darker or all brighter"
        assert not ((one != 0) & within(label[None], 1.0, (1.0,) * 3)[0]).any()


def test_a_logo_needs_no_gradient_and_costs_its_queries(make_case):
    model, images, labels = make_case((8, 8, 8), batch=1)
    with torch.no_grad():
        blind = KeyedMark(kind="logo", steps=6)(lambda x: model(x).detach(), images, labels * 0)
    assert model.forwards == 7
    assert model.backwards == 0
    assert torch.equal(blind, KeyedMark(kind="logo", steps=6)(model, images, labels * 0))


def test_the_letter_is_a_letter():
    rows = ["".join(".#"[int(cell)] for cell in row) for row in raster((7, 5, 2))[..., 1]]
    assert rows == ["####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"]
    assert raster((1, 1)).all()


# --- surrogates ---------------------------------------------------------------------------------


def test_fused_surrogates_are_the_mean_of_log_probabilities(make_case):
    one, other = make_case(seed=0), make_case(seed=1)
    both = Surrogates([one.model, other.model])
    expected = (one.model(one.images).log_softmax(1) + other.model(one.images).log_softmax(1)) / 2
    torch.testing.assert_close(both(one.images), expected)
    assert torch.equal(Surrogates([one.model])(one.images).argmax(1), one.model(one.images).argmax(1))
    # Scale does not buy votes.
    shouting = Surrogates([lambda x: one.model(x) + 50, other.model])
    torch.testing.assert_close(shouting(one.images), expected, atol=1e-4, rtol=1e-4)


def test_an_attack_on_fused_surrogates_hurts_both_and_leaves_them_as_they_were(make_case, naive_dice):
    one, other = make_case((8, 9, 7), seed=0), make_case((8, 9, 7), seed=1)
    both = Surrogates([one.model, other.model]).train()
    marked = KeyedMark(steps=8, smooth=0.0, eps=0.1)(both, one.images, one.labels)
    assert both.training
    assert all(p.requires_grad for p in both.parameters())
    for model in (one.model, other.model):
        with torch.no_grad():
            before, after = (
                naive_dice(model(x).argmax(1), one.labels, 3).mean() for x in (one.images, marked)
            )
        assert after < before


def test_surrogates_that_cannot_be_fused_are_refused(make_case):
    with pytest.raises(ValueError, match="models: expected at least one"):
        Surrogates([])
    both = Surrogates([make_case(classes=3).model, make_case(classes=4).model])
    with pytest.raises(ValueError, match="models: expected logits of one shape"):
        both(make_case().images)


def test_predicted_labels_are_what_the_model_says(make_case):
    case = make_case()
    case.model.train()
    labels = predicted_labels(case.model, case.images)
    assert labels.shape == case.labels.shape
    assert labels.dtype == torch.int64
    assert case.model.training
