"""TotalSegmentator's folders, SAM-Med3D over a package, self-supervised encoders, class maps, clicks, geometry."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustvox.models import CheckpointError
from robustvox.models.prompted import open_target
from robustvox.models.prompted.classes import ClassMap, match_classes, read_map
from robustvox.models.prompted.geometry import Grid, box_around, turn
from robustvox.models.prompted.prompts import PromptRecipe, clicks_from
from robustvox.models.prompted.ssl_encoder import load_ssl_encoder

from .conftest import gradient_is_the_finite_difference, settle

# Class maps


def test_the_arg_max_of_merged_classes_is_the_class_of_the_networks_own():
    logits = torch.randn(2, 9, 4, 5, 6)
    classes = ClassMap(channels=((3, 5), (8,), (1, 2, 4)), background=(0, 6, 7))
    owner = {0: 0, 6: 0, 7: 0, 3: 1, 5: 1, 8: 2, 1: 3, 2: 3, 4: 3}
    expected = torch.tensor([owner[c] for c in range(9)])[logits.argmax(1)]
    assert torch.equal(classes(logits).argmax(1), expected)
    assert torch.equal(classes.narrowed()(logits[:, classes.used]), classes(logits))


def test_independent_sigmoids_win_above_one_half():
    logits = torch.randn(1, 2, 6, 6, 6)
    classes = ClassMap(channels=((0, 1),), background=())
    assert torch.equal(classes(logits).argmax(1) == 1, (logits.sigmoid() > 0.5).any(1))


@pytest.mark.parametrize(
    ("names", "classes", "mapping", "message"),
    [
        (["liver"], ["background", "spleen"], None, "found no spleen among its 1"),
        (
            ["liver", "Liver"],
            ["background", "liver"],
            None,
            "expected one channel called 'liver' in net, found 2",
        ),
        (["a", "b"], ["background", "x", "y"], {"x": ["a"], "y": ["a"]}, "found two for a"),
        (["a"], ["background", "x"], {"z": ["a"]}, "found z; the data has x"),
        (["a"], ["background", "x"], {"x": [4]}, "expected channels 0 to 0 in the map of net, found 4"),
    ],
)
def test_wrong_class_maps_are_refused(names, classes, mapping, message):
    with pytest.raises(CheckpointError, match=message):
        match_classes(names, classes, overlapping=True, name="net", mapping=mapping)


def test_several_classes_become_one_by_a_map(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"kidneys": ["kidney_left", 2]}))
    found = match_classes(
        ["background", "left kidney", "right kidney", "liver"],
        ["background", "liver", "kidneys"],
        overlapping=False,
        name="net",
        mapping=read_map(path),
    )
    assert found == ClassMap(channels=((3,), (1, 2)), background=(0,))
    path.write_text('{"kidneys": "kidney_left"}')
    with pytest.raises(CheckpointError, match="write lists"):
        read_map(path)


# Geometry


@settings(max_examples=30, deadline=None)
@given(
    axes=st.permutations(["R", "A", "S"]).flatmap(
        lambda p: st.tuples(*(st.sampled_from([a, {"R": "L", "A": "P", "S": "I"}[a]]) for a in p))
    ),
    seed=st.integers(0, 99),
)
def test_turning_follows_the_affine_and_comes_back(axes, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(2, 6, 3).tolist())
    image = torch.from_numpy(rng.random((1, 1, *shape)))
    order, flips = turn("".join(axes), "RAS")
    sides = [shape[i] for i in order]
    low = [int(rng.integers(0, side)) for side in sides]
    box = tuple((a, int(rng.integers(a + 1, side + 1))) for a, side in zip(low, sides, strict=True))
    grid = Grid(shape=shape, order=order, flips=flips, box=box, size=tuple(b - a for a, b in box))
    seen = grid.to_network(image)
    for voxel in np.ndindex(*shape):
        place = [round(x) for x in grid.point(voxel)]
        if all(0 <= p < n for p, n in zip(place, seen.shape[2:], strict=True)):
            assert seen[(0, 0, *place)] == image[(0, 0, *voxel)]
    back = grid.to_data(seen, outside=torch.tensor([7.0]))
    inside = grid.to_data(torch.ones_like(seen), outside=torch.tensor([0.0])) == 1
    assert torch.equal(back[inside], image[inside])
    assert (back[~inside] == 7).all()


def test_world_axes_run_as_the_letters_say():
    # Nibabel's own reorientation is the reference.
    import nibabel as nib

    data = np.random.default_rng(0).random((3, 4, 5))
    affine = np.diag([-2.0, -1.0, 3.0, 1.0])  # L, P, S
    axes = "".join(nib.orientations.aff2axcodes(affine))
    order, flips = turn(axes, "RAS")
    grid = Grid(shape=(3, 4, 5), order=order, flips=flips, box=((0, 3), (0, 4), (0, 5)), size=(3, 4, 5))
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine)).get_fdata()
    np.testing.assert_array_equal(
        grid.to_network(torch.from_numpy(data)[None, None])[0, 0].numpy(), canonical
    )


def test_a_box_stays_inside_and_holds_its_center():
    for center in np.ndindex(7, 5):
        box = box_around(center, (4, 5), (7, 5))
        for side, c, n in zip(box, center, (7, 5), strict=True):
            assert 0 <= side.start <= c < side.stop <= n


# Clicks


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), clicks=st.integers(1, 4), click_seed=st.integers(0, 3))
def test_clicks_fall_into_the_largest_component_of_their_class(seed, clicks, click_seed):
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    label = (ndimage.gaussian_filter(rng.random((10, 11, 9)), 1.2) > 0.5) * rng.integers(1, 3)
    recipe = PromptRecipe(kind="click", clicks=clicks, seed=click_seed)
    asked = {"num_classes": 3, "recipe": recipe, "case_id": "a", "spacing_mm": (1.0, 1.0, 2.0)}
    prompts = clicks_from(label, **asked)
    assert prompts == clicks_from(label, **asked)
    for class_id, points in prompts.points.items():
        components, count = ndimage.label(label == class_id)
        assert len(points) == (clicks if count else 0)
        if count:
            largest = 1 + np.bincount(components.ravel())[1:].argmax()
            assert {components[p] for p in points} == {largest}


def test_the_first_click_is_the_deepest_voxel_by_brute_force():
    label = np.zeros((9, 9, 9), int)
    label[1:8, 2:7, 3:8] = 1
    label[0, 0, 0] = 1  # another component, smaller
    spacing = np.array([1.0, 2.0, 1.0])
    inside = np.argwhere(label[1:] == 1) + np.array([1, 0, 0])
    padded = np.pad(label, 1)
    outside = np.argwhere(padded == 0) - 1
    depth = [np.sqrt((((outside - p) * spacing) ** 2).sum(1)).min() for p in inside]
    recipe = PromptRecipe(kind="click")
    prompts = clicks_from(label, num_classes=2, recipe=recipe, case_id="a", spacing_mm=tuple(spacing))
    (click,) = prompts.points[1]
    assert depth[inside.tolist().index(list(click))] == pytest.approx(max(depth))
    others = [
        clicks_from(
            label,
            num_classes=2,
            recipe=PromptRecipe(kind="click", seed=s),
            case_id="a",
            spacing_mm=tuple(spacing),
        ).points[1]
        for s in (1, 2, 3)
    ]
    assert len({*others, (click,)}) > 2


# TotalSegmentator


@pytest.fixture
def folder(tmp_path):
    """A trained-model folder with five folds, as nnU-Net v2 writes it."""
    module = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    kwargs = {
        "n_stages": 2, "features_per_stage": [4, 6], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1], "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    plans = {
        "plans_name": "nnUNetPlans", "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 10.0, "std": 100.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0}
        },
        "configurations": {
            "3d_fullres": {
                "patch_size": [16, 16, 16], "spacing": [3.0, 3.0, 3.0], "preprocessor_name": "DefaultPreprocessor",
                "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": kwargs, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }  # fmt: skip
    root = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    root.mkdir()
    labels = {"background": 0, "spleen": 1, "kidney_right": 2, "kidney_left": 3, "liver": 4}
    meta = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(meta))
    (root / "plans.json").write_text(json.dumps(plans))
    real = {**kwargs, "conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    for fold in range(5):
        network = settle(module.PlainConvUNet(1, num_classes=5, deep_supervision=False, **real), seed=fold)
        (root / f"fold_{fold}").mkdir()
        torch.save(
            {"network_weights": network.state_dict(), "init_args": {"configuration": "3d_fullres"}},
            root / f"fold_{fold}" / "checkpoint_final.pth",
        )
    return root


def test_a_totalsegmentator_folder_is_resampled_and_mapped_by_name(folder, case):
    here = case(spacing_mm=(1.5, 1.5, 3.0))
    opened = open_target("totalsegmentator", folder, ("background", "left kidney", "liver"))
    assert opened.model.classes == ClassMap(channels=((3,), (4,)), background=(0, 1, 2))
    target = opened.model.for_case(here)
    assert target.grid.size == (10, 13, 14)
    logits = target(here.image)
    assert logits.shape == (1, 3, *here.image.shape[2:])
    own = target.segmenter.predictor(target.grid.to_network(target.scale(here.image)))  # type: ignore[operator]
    expected = opened.model.classes(own)
    size = tuple(here.image.shape[2:])
    resized = nn.functional.interpolate(expected, size=size, mode="trilinear", align_corners=False)
    torch.testing.assert_close(logits, resized, atol=1e-5, rtol=1e-4)
    assert torch.allclose(target.scale(here.image), here.image * 425 - 175)


def test_five_folds_are_averaged(folder, case):
    here = case(spacing_mm=(3.0, 3.0, 3.0))
    classes = ("background", "liver")
    names = {"map": None}
    single = [
        open_target("totalsegmentator", folder, classes, options={"fold": fold}, **names).model
        for fold in range(5)
    ]
    five = open_target("totalsegmentator", folder, classes, options={"fold": "0+1+2+3+4"}).model
    inputs = here.image * 425 - 175
    mean = torch.stack([m.segmenter.windows(inputs, (0, 1, 2, 3, 4)) for m in single]).mean(0)
    torch.testing.assert_close(five.segmenter.windows(inputs, (0, 1, 2, 3, 4)), mean, atol=1e-5, rtol=1e-4)


def test_totalsegmentators_gradient_equals_the_finite_difference(folder, case):
    here = case(spatial=(10, 12, 8), spacing_mm=(3.0, 2.0, 3.0))
    target = open_target("totalsegmentator", folder, ("background", "liver")).model.for_case(here)
    gradient_is_the_finite_difference(target, here.image)


def test_a_missing_folder_names_the_licence(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"trained-model folder.*brain_aneurysm is CC BY-NC.*no folder at"
    ):
        open_target("totalsegmentator", tmp_path / "nowhere", ("background", "liver"))


# SAM-Med3D


class ToySam(nn.Module):
    """The parts of SAM-Med3D with the interface of its repository, two channels wide."""

    class ImageEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = nn.Conv3d(1, 2, 16, stride=16)

        def forward(self, x):
            return self.patch_embed(x)

    class PromptEncoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Linear(3, 2)
            self.mask = nn.Conv3d(1, 2, 4, stride=4)

        def get_dense_pe(self):
            return torch.ones(1, 2, 8, 8, 8)

        def forward(self, points, boxes, masks):
            coords, labels = points
            assert boxes is None
            assert masks.shape == (1, 1, 32, 32, 32)
            assert (labels == 1).all()
            return self.position(coords / 128), self.mask(masks)

    class MaskDecoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Conv3d(2, 1, 1)

        def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings,
                    multimask_output):  # fmt: skip
            assert multimask_output is False
            x = image_embeddings + image_pe + dense_prompt_embeddings
            x = x + sparse_prompt_embeddings.mean(1)[..., None, None, None]
            return nn.functional.interpolate(self.up(torch.tanh(x)), scale_factor=4.0), None

    def __init__(self):
        super().__init__()
        self.image_encoder = self.ImageEncoder()
        self.prompt_encoder = self.PromptEncoder()
        self.mask_decoder = self.MaskDecoder()


@pytest.fixture
def sam_package(monkeypatch):
    package, module = types.ModuleType("segment_anything"), types.ModuleType("segment_anything.build_sam3D")
    module.sam_model_registry3D = {"vit_b_ori": lambda checkpoint=None: ToySam()}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "segment_anything", package)
    monkeypatch.setitem(sys.modules, "segment_anything.build_sam3D", module)


def test_sam_med3d_asks_for_every_class_by_click(sam_package, tmp_path, case):
    network = settle(ToySam())
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "sam.pth")
    opened = open_target("sam_med3d", tmp_path / "sam.pth", ("background", "this", "that"))
    here = case()
    target = opened.model.for_case(here)
    assert target.roi_size == (128, 128, 128)
    logits = target(here.image)
    assert logits.shape == (1, 3, *here.image.shape[2:])
    assert not torch.equal(logits[:, 1], logits[:, 2])
    gradient_is_the_finite_difference(target, here.image)
    with pytest.raises(CheckpointError, match="expected prompts of sam_med3d among click, got click_pred"):
        open_target("sam_med3d", tmp_path / "sam.pth", ("background", "this"), prompts="click_pred")


def test_sam_med3d_without_its_package_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(CheckpointError, match="expected the package segment_anything"):
        open_target("sam_med3d", tmp_path / "sam.pth", ("background", "this"))


# Self-supervised encoders


def swin():
    from monai.networks.nets.swin_unetr import SwinUNETR

    return SwinUNETR(in_channels=1, out_channels=3, feature_size=12, depths=(1, 1, 1, 1))


@pytest.mark.parametrize("layout", ["5050 CT", "disruptive autoencoders"])
def test_an_encoder_is_loaded_and_nothing_else(tmp_path, layout):
    source, network = settle(swin(), 1), settle(swin(), 2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {}
    for key, tensor in source.swinViT.state_dict().items():
        if layout == "5050 CT":
            state["module." + key.replace("mlp.linear", "mlp.fc")] = tensor
        else:
            first, dot, rest = key.partition(".0.")
            state[
                f"encoder.{first}.0.0.{rest}" if dot and first.startswith("layers") else f"encoder.{key}"
            ] = tensor
    state["module.rotation_head.weight" if layout == "5050 CT" else "encoder.mask_token"] = torch.zeros(3)
    torch.save({"state_dict" if layout == "5050 CT" else "model": state}, tmp_path / "ssl.pt")
    names = load_ssl_encoder(network, tmp_path / "ssl.pt")
    after = network.state_dict()
    for key, tensor in after.items():
        expected = source.state_dict()[key] if key.startswith("swinViT.") else before[key]
        assert torch.equal(tensor, expected), key
    assert len(names) == len(source.swinViT.state_dict())
    del state[next(key for key in state if "attn.qkv.weight" in key)]
    torch.save({"model": state}, tmp_path / "ssl.pt")
    with pytest.raises(CheckpointError, match="1 missing"):
        load_ssl_encoder(network, tmp_path / "ssl.pt")


def test_unsafe_files_run_nothing(tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="nothing was run"):
        open_target("vista3d", tmp_path / "evil.pt", ("background", "liver"))
    assert not (tmp_path / "ran").exists()


def test_unknown_targets_and_prompts(tmp_path):
    with pytest.raises(CheckpointError, match="expected a target among obelisk_hybrid"):
        open_target("medsam", None, ("background", "liver"))
    with pytest.raises(CheckpointError, match="expected prompts among none, class"):
        open_target("vista3d", None, ("background", "liver"), prompts="box")
