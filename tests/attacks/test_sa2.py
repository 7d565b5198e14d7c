"""SA2: bands, the published formula, what it cannot change, its L2 bound, random start, targets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustvox.attacks import SA2
from robustvox.attacks.base import ball
from robustvox.attacks.dct import crop, dct, idct, pad_to_blocks, split_blocks
from robustvox.attacks.sa2 import band_mask
from robustvox.attacks.ssim import SSIM

BANDS = ("low", "middle", "high")


@pytest.fixture
def trace(monkeypatch):
    """Every evaluated point as (change, volume), in order."""
    points = []
    decode = SA2.decode

    def record(self, images, spectrum, change, bounds):
        result = decode(self, images, spectrum, change, bounds)
        points.append((change.detach().clone(), result.detach().clone()))
        return result

    monkeypatch.setattr(SA2, "decode", record)
    return points


# --- bands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "counts"), [(8, (20, 472, 20)), (16, (120, 3856, 120)), (32, (816, 31136, 816))]
)
def test_published_band_sizes_count_the_mean_in_low(size, counts):
    found = tuple(int(band_mask(size, 3, band).sum()) for band in BANDS)
    assert found == (counts[0] - 1, *counts[1:])
    assert sum(counts) == size**3


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_published_rule_by_loops(size, rank):
    edge = {2: 3 * size // 2 - 1, 3: 5 * size // 2 - 2}[rank]
    masks = {band: band_mask(size, rank, band) for band in BANDS}
    for index in itertools.product(range(size), repeat=rank):
        m = sum(index)
        name = "low" if m <= size // 2 - 1 else "high" if m >= edge else "middle"
        for band in BANDS:
            assert bool(masks[band][index]) == (band == name and m > 0)


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 9),
    rank=st.integers(2, 4),
    rule=st.sampled_from(["index_sum", "equal_count"]),
)
def test_bands_partition_all_coefficients_but_the_mean(size, rank, rule):
    masks = [band_mask(size, rank, band, rule) for band in BANDS]
    total = torch.stack(masks).sum(0)
    everything = torch.ones([size] * rank, dtype=torch.int64)
    everything[(0,) * rank] = 0
    assert torch.equal(total, everything)
    assert torch.equal(band_mask(size, rank, "all", rule).long(), everything)
    if rule == "equal_count":
        counts = [int(mask.sum()) for mask in masks]
        assert max(counts) - min(counts) <= 1
        sums = sum(torch.meshgrid(*[torch.arange(size)] * rank, indexing="ij"))
        for inner, outer in itertools.pairwise(mask for mask in masks if mask.any()):
            assert sums[inner].max() <= sums[outer].min()


def test_unknown_band_or_rule():
    with pytest.raises(ValueError, match="band: expected one of 'all', 'low'"):
        band_mask(8, 3, "mid")
    with pytest.raises(ValueError, match="band_rule: expected one of 'index_sum', 'equal_count'"):
        band_mask(8, 3, "low", "thirds")


# --- the volume that factors stand for ----------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("spatial", [(9, 4, 7), (10, 13), (4, 3, 5, 4)])
@pytest.mark.parametrize("band", ["all", *BANDS])
def test_decode_is_the_published_formula(spatial, band, dtype, tolerance):
    """clamp(IDCT(DCT(x - 1/2) xi) + 1/2, 0, 1), written as it stands in the paper."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, *spatial, generator=generator, dtype=dtype)
    attack = SA2(block_size=4, band=band)
    mask = attack.mask(images)
    spectrum = attack.spectrum(images, mask)
    xi = torch.where(mask, 1 + 0.8 * (torch.rand(spectrum.shape, generator=generator, dtype=dtype) - 0.5), 1)
    literal = idct(dct(pad_to_blocks(images, 4) - 0.5, 4) * xi, 4) + 0.5
    expected = crop(literal, spatial).clamp(0, 1)
    result = attack.decode(images, spectrum, xi - 1, ball(images, 1.0))
    torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)
    assert (result - images).abs().max() > 0.01


def test_gradient_stops_at_the_clamp_and_off_the_band(make_case):
    _, images, _ = make_case((8, 8, 8), dtype=torch.float64)
    attack = SA2(block_size=4, band="middle")
    mask = attack.mask(images)
    spectrum = attack.spectrum(images, mask)
    change = torch.full_like(spectrum, 0.3).mul_(mask).requires_grad_()
    bounds = ball(images, 1.0)
    outer = torch.randn(images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(attack.decode(images, spectrum, change, bounds), change, outer)
    free = images + idct(spectrum * change.detach(), 4)
    inside = (free >= 0) & (free <= 1)
    assert 0 < inside.double().mean() < 1
    torch.testing.assert_close(gradient, dct(outer * inside, 4) * spectrum)
    assert (gradient[..., ~mask] == 0).all()
    assert (gradient[..., mask] != 0).any()


@pytest.mark.parametrize("band", ["all", *BANDS])
@pytest.mark.parametrize("rule", ["index_sum", "equal_count"])
def test_mean_and_other_bands_are_never_touched(band, rule, trace, make_case):
    model, images, labels = make_case((9, 4, 6))
    attack = SA2(block_size=4, band=band, band_rule=rule, steps=4, rho=0.3)
    attack(model, images, labels)
    mask = attack.mask(images)
    assert len(trace) == 5
    for change, _ in trace:
        assert (change[..., ~mask] == 0).all()
        assert change.abs().max() <= torch.tensor(0.3)
        assert (change[..., mask] != 0).float().mean() > 0.9
    assert split_blocks(mask[None, None].float(), 4)[..., 0, 0, 0].sum() == 0


def test_block_means_are_preserved_before_the_clamp(make_case):
    model, images, labels = make_case((8, 4, 12), dtype=torch.float64)
    images = images * 0.2 + 0.4  # nothing reaches the clamp
    adversarial = SA2(block_size=4, rho=0.5)(model, images, labels)
    means = [split_blocks(v, 4).mean((3, 4, 5)) for v in (adversarial, images)]
    torch.testing.assert_close(*means, atol=1e-14, rtol=0)
    assert (adversarial - images).abs().max() > 0.02


@pytest.mark.parametrize("rho", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("band", ["all", "high"])
def test_l2_bound_per_block(rho, band, make_case):
    model, images, labels = make_case((8, 4, 12), dtype=torch.float64)
    attack = SA2(block_size=4, rho=rho, band=band)
    delta = split_blocks(attack(model, images, labels) - images, 4).flatten(3).norm(dim=3)
    blocks = split_blocks(images, 4).flatten(3)
    assert (delta <= rho * (blocks - blocks.mean(3, keepdim=True)).norm(dim=3) + 1e-12).all()
    mask = split_blocks(attack.mask(images)[None, None], 4).flatten(3)
    reach = rho * (split_blocks(dct(images, 4), 4).flatten(3) * mask).norm(dim=3)
    assert (delta <= reach + 1e-12).all()
    assert delta.max() > 0.3 * min(rho, 1.0) / rho * reach.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1e-6, 0.37, 1.0])
def test_constant_volume_comes_back_bit_for_bit(value, dtype, make_case):
    model, images, labels = make_case((9, 8, 5), dtype=dtype)
    images.fill_(value)
    assert torch.equal(SA2(block_size=4, rho=0.5)(model, images, labels), images)


def test_constant_block_is_a_fixed_point_beside_others(make_case):
    model, images, labels = make_case((8, 8, 8))
    images[..., :4] = 0.37
    adversarial = SA2(block_size=4, rho=0.5, steps=3)(model, images, labels)
    assert torch.equal(adversarial[..., :4], images[..., :4])
    assert not torch.equal(adversarial[..., 4:], images[..., 4:])


@pytest.mark.parametrize("spatial", [(9, 33, 5), (40, 7)])
def test_zero_rho_returns_the_same_bits(spatial, make_case):
    model, images, labels = make_case(spatial)
    images.view(-1)[0] = -0.0
    adversarial = SA2(rho=0.0, steps=2)(model, images, labels)
    assert torch.equal(adversarial.view(torch.int32), images.view(torch.int32))


def test_optional_ball_binds_and_is_seen_by_the_model(trace, make_case):
    model, images, labels = make_case((8, 8, 8))
    free = SA2(rho=0.5, steps=4)(model, images, labels)
    trace.clear()
    attack = SA2(rho=0.5, steps=4, eps=4 / 255)
    adversarial = attack(model, images, labels)
    assert (free - images).abs().max() > 8 / 255
    assert all((x - images).abs().max().item() <= 4 / 255 for x in [*(x for _, x in trace), adversarial])
    assert (SA2().radius, attack.radius) == (None, 4 / 255)


# --- the loop -----------------------------------------------------------------------------------


def test_start_is_uniform_per_sample_and_needs_no_steps(trace, make_case):
    model, images, labels = make_case((16, 16, 14), batch=2)
    adversarial = SA2(steps=0, rho=0.4)(model, images, labels)
    ((change, volume),) = trace
    assert torch.equal(adversarial, volume)
    assert change.shape == (2, 1, 16, 16, 16)
    drawn = change[..., SA2().mask(images)]
    assert 0.399 < drawn.max() <= 0.4
    assert abs(drawn.mean()) < 0.01
    assert drawn.std().item() == pytest.approx(0.4 / math.sqrt(3), rel=0.03)
    assert not torch.equal(change[0], change[1])


def test_start_follows_the_generator(make_case):
    model, images, labels = make_case()
    one, two, again = (
        SA2(steps=0)(model, images, labels, generator=torch.Generator().manual_seed(s)) for s in (1, 2, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_factors_move_by_beta_in_the_direction_of_the_loss(trace, make_case):
    model, images, labels = make_case((8, 8, 8), dtype=torch.float64)
    SA2(rho=0.5, beta=0.01, steps=5, block_size=4, ssim_weight=0.0)(model, images, labels)
    for (before, _), (after, _) in itertools.pairwise(trace):
        step = (after - before)[before != 0].abs()
        clipped = after[before != 0].abs() >= 0.5 - 1e-12
        assert ((step - 0.01).abs() < 1e-12)[~clipped].all()
        assert (step <= 0.01 + 1e-12).all()
    assert (SA2(rho=0.4).beta, SA2(beta=0.1).beta) == (0.2, 0.1)


def test_learned_factors_beat_the_start(make_case):
    gains = []
    for seed in range(6):
        model, images, labels = make_case((8, 8, 8), seed=seed)
        seen = []
        SA2(block_size=4, ssim_weight=0.0)(model, images, labels, on_step=seen.append)
        gains.append((seen[-1].loss - seen[0].loss).mean().item())
    assert min(gains) > 0


def test_larger_range_costs_more_dice_on_average(make_case):
    means = []
    for rho in (0.05, 0.2, 0.6):
        best = []
        for seed in range(6):
            model, images, labels = make_case((8, 8, 8), seed=seed)
            seen = []
            SA2(rho=rho, block_size=4, steps=8)(model, images, labels, on_step=seen.append)
            best.append(torch.stack([info.metric for info in seen]).amin(0).mean().item())
        means.append(sum(best) / len(best))
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("targeted", [False, True])
def test_ssim_weight_keeps_the_volume_similar(targeted, trace, make_case):
    """Also towards a target: only the loss turns its sign."""
    model, images, labels = make_case((8, 8, 8), batch=3)
    similar = []
    for weight in (0.0, 100.0):
        trace.clear()
        SA2(rho=0.6, ssim_weight=weight)(
            model, images, labels, targets=(labels + 1) % 3 if targeted else None
        )
        similar.append(SSIM(images)(trace[-1][1]))
    assert (1 - similar[1] < 0.5 * (1 - similar[0])).all()


def test_loss_weight_scales_the_loss_only(make_case):
    model, images, labels = make_case((8, 8, 8))
    values = {}
    for weights in ((1.0, 0.0), (1.0, 2.0), (3.0, 2.0)):
        seen = []
        SA2(steps=0, loss_weight=weights[0], ssim_weight=weights[1])(
            model, images, labels, on_step=seen.append
        )
        values[weights] = seen[0].loss
    loss, penalty = values[1.0, 0.0], values[1.0, 0.0] - values[1.0, 2.0]
    assert (penalty > 0).all()
    torch.testing.assert_close(values[3.0, 2.0], 3 * loss - penalty)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rho": -0.1}, "rho: expected a finite number >= 0, got -0.1"),
        ({"rho": math.nan}, "rho: expected a finite number"),
        ({"beta": -1.0}, "beta: expected a finite number >= 0"),
        ({"block_size": 1}, "block_size: expected an integer >= 2, got 1"),
        ({"block_size": (8, 8, 8)}, "block_size: expected an integer >= 2"),
        ({"steps": -1}, "steps: expected an integer >= 0"),
        ({"band": "mid"}, "band: expected one of 'all', 'low', 'middle', 'high'"),
        ({"band_rule": "thirds"}, "band_rule: expected one of"),
        ({"band": "low", "block_size": 3}, "band: expected a band with coefficients, got 'low'"),
        ({"loss_weight": 0}, "loss_weight: expected a number > 0, got 0"),
        ({"loss_weight": math.inf}, "loss_weight: expected a finite number"),
        ({"ssim_weight": -1.0}, "ssim_weight: expected a finite number >= 0"),
        ({"loss": "mse"}, "loss: expected one of"),
        ({"eps": 8}, "eps: expected .* 8/255"),
    ],
)
def test_bad_hyper_parameters(settings, message):
    with pytest.raises(ValueError, match=message):
        SA2(**settings)
