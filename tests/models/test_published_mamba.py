"""The published Mamba networks: parameters, sizes, gradients, precision, and the layout of their weights."""

from __future__ import annotations

import functools
import math
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from robustvox.models import build_model
from robustvox.models.mamba.residual_unet import without_aliases

NAMES = ("umamba_bot", "umamba_enc", "segmamba", "nnmamba", "lma_unet", "em_unet")
STAGES = {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
PLANNED = {"features": [4, 6, 8], **STAGES, "blocks": 1, "decoder_blocks": 1, "d_state": 3}
TINY = {
    "umamba_bot": PLANNED,
    "umamba_enc": PLANNED,
    "lma_unet": PLANNED,
    "segmamba": {"dims": [4, 4, 6, 6], "depths": [1, 1, 1, 1], "hidden_size": 8, "d_state": 3},
    "nnmamba": {"channels": 4, "blocks": 3, "reduction": 2, "d_state": 3},
    "em_unet": {"init_filters": 16, "blocks_down": [1, 1], "blocks_up": [1], "d_state": 3},
}
"""Anisotropic plans where there is a plan; arguments as lists, the way a checkpoint's header gives them."""

ROIS = {
    **dict.fromkeys(("umamba_bot", "umamba_enc", "lma_unet"), ((4, 8, 12), (6, 4, 4), (2, 4, 16))),
    **dict.fromkeys(("segmamba", "nnmamba"), ((16, 32, 32), (32, 16, 16))),
    "em_unet": ((4, 6, 8), (10, 2, 4)),
}


def tiny(name: str, in_channels: int = 1, randomize: bool = True, **overrides) -> nn.Module:
    """A network with every parameter away from special values: published initializations zero some of them."""
    arguments = {"roi_size": ROIS[name][0], "in_channels": in_channels, "num_classes": 3, "size": "small"}
    network = build_model(name, **arguments, **{**TINY[name], **overrides})
    if randomize:
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                if parameter.ndim == 1 and "A_log" not in key and "dt_proj" not in key:
                    parameter.uniform_(0.5, 1.5) if "bias" not in key else parameter.uniform_(-0.2, 0.2)
    return network.eval()


COUNTS = {
    "umamba_bot": {14: 57_832_166, 4: 57_824_116, 3: 57_823_311},
    "umamba_enc": {14: 59_105_766, 4: 59_097_716, 3: 59_096_911},
    "segmamba": {14: 67_363_262},
    "nnmamba": {14: 15_956_238, 4: 15_942_678, 3: 15_941_619},
    "lma_unet": {14: 63_782_246, 4: 63_774_196, 3: 63_773_391},
    "em_unet": {14: 6_150_531, 4: 6_150_201, 3: 6_150_168},
}


def paper(name: str, num_classes: int = 14, **overrides) -> nn.Module:
    """The paper size with memory reserved but never written, for looking at only."""
    untouched = dict.fromkeys(
        ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "uniform_"), lambda t, *_, **__: t
    )
    with mock.patch.multiple(nn.init, **untouched):
        return build_model(name, in_channels=1, num_classes=num_classes, roi_size=(96, 96, 96), **overrides)


@functools.cache
def published(name: str) -> nn.Module:
    return paper(name)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_paper_sizes_have_the_published_parameters(name):
    assert parameters(published(name)) == COUNTS[name][14]


@pytest.mark.parametrize(
    ("name", "classes"), [(name, classes) for name in NAMES for classes in COUNTS[name] if classes != 14]
)
def test_fewer_classes_change_the_heads_alone(name, classes):
    assert parameters(paper(name, classes)) == COUNTS[name][classes]


def test_the_two_networks_called_segmamba_differ_by_two_directions(published_keys):
    network = paper("segmamba", variant="bmvc")
    assert parameters(network) == 66_850_622
    # Two more sets of convolution, x_proj, dt_proj, A and D in each of the two layers of every stage.
    extra = 0
    for dim in (48, 96, 192, 384):
        inner, rank = 2 * dim, math.ceil(dim / 16)
        one = inner * 4 + inner + (rank + 32) * inner + inner * rank + inner + 16 * inner + inner
        extra += 2 * 2 * one
    assert COUNTS["segmamba"][14] - parameters(network) == extra == 512_640
    assert set(network.state_dict()) == published_keys["segmamba, bmvc"]


def test_dead_heads_of_umamba_are_the_published_ones():
    heads = published("umamba_enc").decoder.seg_layers
    assert sum(p.numel() for head in list(heads)[:-1] for p in head.parameters()) == 10_808


CASES = [(name, roi) for name in NAMES for roi in ROIS[name]]


@pytest.mark.parametrize(("name", "roi"), CASES)
def test_logits_have_the_size_of_the_image(name, roi):
    with torch.no_grad():
        assert tiny(name, in_channels=2)(torch.rand(2, 2, *roi)).shape == (2, 3, *roi)


DEAD = {
    # Heads of deep supervision, published and unused.
    **dict.fromkeys(("umamba_bot", "umamba_enc", "lma_unet"), ("decoder.seg_layers.0.",)),
    "segmamba": (),
    "nnmamba": (),
    "em_unet": (),
}


def shift_only(network: nn.Module, name: str) -> set[str]:
    """Biases of a convolution right before an instance normalization: it removes them, the gradient is 0."""
    removed = set()
    for key, _ in network.named_parameters():
        if key.endswith(".conv.bias") and name in ("umamba_bot", "umamba_enc", "lma_unet"):
            removed.add(key)
        if name == "segmamba" and ".gscs." in key and key.endswith(".bias"):
            removed.add(key)
    return removed


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_the_whole_input_and_every_live_parameter(name):
    network = tiny(name)
    network.double()
    images = torch.rand(1, 1, *ROIS[name][0], dtype=torch.float64, requires_grad=True)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            # Statistics of this image, or the signal shrinks from layer to layer.
            module.momentum = 1.0
    network.train()(images.detach())
    logits = network.eval()(images)
    (logits * torch.randn_like(logits)).sum().backward()
    assert bool(torch.isfinite(images.grad).all())
    assert (images.grad != 0).double().mean() > 0.9
    removed = shift_only(network, name)
    for key, parameter in network.named_parameters():
        if key.startswith(DEAD[name]) and DEAD[name]:
            assert parameter.grad is None, key
        elif key in removed:
            assert parameter.grad.abs().max() < 1e-9, key
        else:
            assert parameter.grad is not None, key
            assert bool(torch.isfinite(parameter.grad).all()), key
            assert parameter.grad.abs().max() > 1e-9, key


@pytest.mark.parametrize("name", NAMES)
def test_the_input_gradient_is_the_derivative(name):
    network = tiny(name).double()
    roi = ROIS[name][0]
    images = torch.rand(1, 1, *roi, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(images)
    weight = torch.randn(1, 3, *roi, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((network(images) * weight).sum(), images)
    with torch.no_grad():
        ahead, behind = ((network(images + s * 1e-6 * direction) * weight).sum() for s in (1, -1))
    torch.testing.assert_close(
        (gradient * direction).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-4 * float(gradient.norm())
    )


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_deterministic_and_independent_of_the_batch(name):
    network = tiny(name)
    images = torch.rand(2, 1, *ROIS[name][0])
    with torch.no_grad():
        together = network(images)
        assert torch.equal(together, network(images))
        apart = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
    # In float64: a ReLU that rounding tips the other way moves single entries of a float32 gradient.
    network.double()
    images = images.detach().double().requires_grad_()
    weight = torch.randn_like(images).expand_as(together)
    together = torch.autograd.grad((network(images) * weight).sum(), images)[0]
    for image, expected, w in zip(images, together, weight, strict=True):
        x = image.detach()[None].requires_grad_()
        got = torch.autograd.grad((network(x) * w).sum(), x)[0][0]
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_recomputing_the_layers_changes_nothing(name, monkeypatch):
    """The memory-saving path of the large layers gives the same logits, gradients and batch statistics."""
    from robustvox.models.mamba import volume

    images = torch.rand(2, 1, *ROIS[name][0])
    results = []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(volume, "RECOMPUTE_ELEMENTS", limit)
        torch.manual_seed(0)
        network = tiny(name).train()
        calls = []

        def counted(*arguments, calls=calls, **options):
            calls.append(1)
            return checkpoint(*arguments, **options)

        monkeypatch.setattr(volume, "checkpoint", counted)
        x = images.clone().requires_grad_()
        logits = network(x)
        results.append((logits, torch.autograd.grad(logits.square().sum(), x)[0], network.state_dict()))
        assert bool(calls) == (limit == 0)
    for index in range(2):
        torch.testing.assert_close(results[0][index], results[1][index], rtol=0, atol=0)
    assert all(torch.equal(results[0][2][key], results[1][2][key]) for key in results[0][2])


@pytest.mark.parametrize("name", NAMES)
def test_mamba_keeps_full_precision_under_autocast(name, monkeypatch):
    from robustvox.models.mamba import scan

    seen = set()
    check = scan.check_scan
    monkeypatch.setattr(scan, "check_scan", lambda *a: seen.update(x.dtype for x in a) or check(*a))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(torch.isfinite(tiny(name)(torch.rand(1, 1, *ROIS[name][0]))).all())
    assert seen == {torch.float32}


@pytest.mark.parametrize("name", NAMES)
def test_axes_permute_the_network_not_its_weights(name):
    """A network told to see the axes in another order equals the plain one on the transposed image."""
    plain = tiny(name)
    roi = ROIS[name][0]
    axes = (2, 0, 1)
    own = [0, 0, 0]
    for position, axis in enumerate(axes):
        own[axis] = roi[position]
    turned = build_model(
        name, in_channels=1, num_classes=3, roi_size=own, size="small", axes=axes, **TINY[name]
    ).eval()
    turned.load_state_dict(plain.state_dict())
    images = torch.rand(1, 1, *own)
    with torch.no_grad():
        expected = plain(images.permute(0, 1, *(2 + axis for axis in axes)))
        got = turned(images)
    assert got.shape[2:] == tuple(own)
    torch.testing.assert_close(got.permute(0, 1, *(2 + axis for axis in axes)), expected)


@pytest.mark.parametrize(
    ("name", "axes", "divisors"),
    [
        ("umamba_bot", (0, 1, 2), (8, 32, 32)),
        ("umamba_enc", (2, 1, 0), (32, 32, 8)),
        ("lma_unet", (1, 0, 2), (32, 8, 32)),
        ("segmamba", (0, 1, 2), (16, 16, 16)),
        ("nnmamba", (0, 1, 2), (16, 16, 16)),
        ("em_unet", (0, 1, 2), (8, 8, 8)),
    ],
)
def test_paper_windows_are_checked_before_the_first_forward(name, axes, divisors):
    narrow = {"umamba": {"features": [4] * 6}, "lma_un": {"features": [4] * 6}, "em_une": {"init_filters": 8}}
    narrow |= {"segmam": {"dims": [4] * 4, "hidden_size": 4}, "nnmamb": {"channels": 16}}

    def build(roi):
        arguments = {"in_channels": 1, "num_classes": 2, "roi_size": roi, "axes": axes}
        return build_model(name, **arguments, **narrow[name[:6]])

    assert build((96, 96, 96)).divisors == divisors
    low = tuple(2 * d for d in divisors)
    assert build(low).divisors == divisors
    for axis in range(3):
        bad = tuple(side + (i == axis) for i, side in enumerate(low))
        high = tuple(side + (i == axis) * divisors[axis] for i, side in enumerate(low))
        with pytest.raises(ValueError, match="nearest sizes that work") as error:
            build(bad)
        assert f"{low} and {high}" in str(error.value)
    if name != "em_unet":
        with pytest.raises(ValueError, match="more than one voxel"):
            build(divisors)


@pytest.mark.parametrize("name", NAMES)
def test_a_forward_on_another_size_is_refused_too(name):
    network = tiny(name)
    bad = tuple(side + 1 for side in ROIS[name][0])
    with pytest.raises(ValueError, match="nearest sizes that work"):
        network(torch.rand(1, 1, *bad))
    for images in (torch.rand(1, 2, *ROIS[name][0]), torch.rand(1, *ROIS[name][0])):
        with pytest.raises(ValueError, match=r"expected images of shape \(B,1,X,Y,Z\)"):
            network(images)


BAD = [
    ("umamba_bot", {"axes": (0, 1, 1)}, "permutation"),
    ("umamba_bot", {"features": [4, 8]}, "one kernel and one stride"),
    ("umamba_enc", {"strides": [[2, 2, 2]] * 6}, "first stride"),
    ("umamba_enc", {"kernel_sizes": [[3, 3]] * 6}, "three numbers"),
    ("umamba_enc", {"kernel_sizes": [[2, 3, 3]] * 6}, "odd"),
    ("umamba_enc", {"blocks": 0}, "positive"),
    ("umamba_enc", {"depth": 3}, "depth"),
    ("lma_unet", {"pixel_window": [0, 1, 1]}, "pixel_window"),
    ("segmamba", {"variant": "v2"}, "variant"),
    ("segmamba", {"dims": [8, 16]}, "four positive dims"),
    ("segmamba", {"num_slices": [64, 32]}, "four stages"),
    ("segmamba", {"num_slices": [7, 1, 1, 1]}, "multiple of num_slices 7"),
    ("nnmamba", {"channels": 8}, "lower the reduction"),
    ("em_unet", {"init_filters": 12}, "multiple of 8"),
    ("em_unet", {"blocks_up": [1]}, "one blocks_up less"),
]


@pytest.mark.parametrize(("name", "overrides", "message"), BAD)
def test_bad_arguments_are_named(name, overrides, message):
    narrow = {"features": [4] * 6} if name in ("umamba_enc", "umamba_bot") else {}
    with pytest.raises(ValueError, match=message):
        paper(name, **{**narrow, **overrides})


def test_published_slices_fit_96():
    """The constants of the published code divide the tokens of a 96^3 window, though they are not its planes."""
    assert paper("segmamba", num_slices=[64, 32, 16, 8]).slices == (64, 32, 16, 8)


# The layout of the published weights, written out once more and independently of the networks.


@pytest.mark.parametrize("name", NAMES)
def test_weights_have_the_published_names(name, published_keys):
    assert set(published(name).state_dict()) == published_keys[name]


def test_published_umamba_file_loads_strictly_without_its_aliases():
    """The published layout: 790 keys for 293 tensors, because parts are registered under further names."""
    canonical = published("umamba_enc").state_dict()
    assert len(canonical) == 293

    def with_module_aliases(state):
        further = {}
        for key, tensor in state.items():
            for index, part in enumerate(("conv", "norm")):
                if f".{part}." in key and "mamba" not in key:
                    stem, _, leaf = key.rpartition(f".{part}.")
                    further[f"{stem}.all_modules.{index}.{leaf}"] = tensor
        return {**state, **further}

    file = with_module_aliases(canonical)
    held = {f"decoder.{key}": value for key, value in file.items() if key.startswith("encoder.")}
    file.update(held)
    assert (len(file), len(held)) == (790, 290)
    assert without_aliases(file).keys() == canonical.keys()
    network = tiny("umamba_enc")
    state = {key: torch.rand_like(value) for key, value in network.state_dict().items()}
    network.load_state_dict(without_aliases(with_module_aliases(state)), strict=True)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_blocks_of_an_nnmamba_level_share_one_layer():
    network = tiny("nnmamba")
    assert network.layer2[1].mamba_layer is network.layer2[2].mamba_layer
    assert network.layer1[1].mamba_layer is not network.layer2[1].mamba_layer
    assert network.layer1[0].mamba_layer is None


def test_nnmamba_logits_are_not_negative_as_published():
    images = torch.rand(1, 1, 16, 16, 32)
    with torch.no_grad():
        assert tiny("nnmamba", last_relu=True)(images).min() == 0
        assert tiny("nnmamba", last_relu=False)(images).min() < 0


@pytest.mark.parametrize("name", ["umamba_enc", "lma_unet", "umamba_bot"])
def test_residual_blocks_start_as_published(name):
    """U-Mamba-Enc and LMa-UNet zero the second normalization of every residual block, U-Mamba-Bot does not."""
    norms = [p for key, p in tiny(name, randomize=False).named_parameters() if ".conv2.norm." in key]
    assert len(norms) == 10
    zero = all(bool((p == 0).all()) for p in norms)
    assert zero == (name != "umamba_bot")


def test_convolutions_start_from_hes_initialization():
    weight = build_model("umamba_bot", in_channels=1, num_classes=3, roi_size=(16, 16, 16), size="small")
    kernel = weight.encoder.stages[3].blocks[0].conv2.conv.weight
    assert float(kernel.detach().std()) == pytest.approx(
        math.sqrt(2 / (1 + 1e-4) / (27 * kernel.shape[0])), rel=0.02
    )
