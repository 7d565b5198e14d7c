"""What a bundle declares to do to an image is done inside the model, as MONAI does it, or refused by name."""

from __future__ import annotations

import json

import monai.transforms as mt
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.networks.nets.unet import UNet

from robustvox.models.bring import open_model
from robustvox.models.bring import transforms as steps
from robustvox.models.bring.configuration import Configuration
from robustvox.models.bring.preprocessing import MAKERS, read_preprocessing
from robustvox.models.case import CaseSource
from robustvox.models.header import CheckpointError

DATA = {"in_channels": 1, "num_classes": 3, "roi_size": (16, 16, 16)}
UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8],
    "strides": [2], "num_res_units": 1, "norm": "batch",
}  # fmt: skip


def hounsfield(*shape, channels=2):
    """Intensities with zeros, negative values and a flat background."""
    values = np.random.default_rng(0).normal(20, 150, (channels, *shape)).astype(np.float32)
    values[:, :2] = 0.0
    return values


INTENSITIES = [
    ("ScaleIntensityRange", {"a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True}),
    ("ScaleIntensityRange", {"a_min": -100, "a_max": 100, "b_min": -1.0, "b_max": 1.0}),
    ("ScaleIntensityRange", {"a_min": 0, "a_max": 255}),
    ("ScaleIntensityRangePercentiles", {"lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True}),
    ("ScaleIntensityRangePercentiles", {"lower": 5, "upper": 90, "b_min": 0, "b_max": 255, "relative": True, "channel_wise": True}),
    ("ClipIntensityPercentiles", {"lower": 2, "upper": 98}),
    ("ScaleIntensity", {"minv": -1.0, "maxv": 1.0}),
    ("ScaleIntensity", {"minv": None, "maxv": None, "factor": 0.5}),
    ("ScaleIntensity", {"channel_wise": True}),
    ("NormalizeIntensity", {}),
    ("NormalizeIntensity", {"nonzero": True, "channel_wise": True}),
    ("NormalizeIntensity", {"subtrahend": 40.0, "divisor": 80.0}),
    ("NormalizeIntensity", {"subtrahend": [40.0, 20.0], "divisor": [80.0, 10.0], "channel_wise": True}),
    ("ThresholdIntensity", {"threshold": 10.0, "above": False, "cval": 3.0}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), INTENSITIES, ids=lambda value: str(value))
def test_intensities_are_changed_as_monai_changes_them(name, given):
    values = hounsfield(5, 6, 7)
    expected = np.asarray(getattr(mt, name)(**given)(torch.from_numpy(values.copy())))
    frame = steps.Frame(torch.from_numpy(values), np.eye(4))
    MAKERS[name](dict(given))(frame)
    np.testing.assert_allclose(frame.image.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "given"), [INTENSITIES[i] for i in (0, 3, 6, 10)], ids=lambda value: str(value)
)
def test_gradients_equal_finite_differences(name, given):
    # No two voxels are equal: where values tie, an order statistic has no derivative.
    values = torch.from_numpy(np.random.default_rng(1).normal(20, 150, (2, 3, 3, 4))).requires_grad_()

    def change(image):
        frame = steps.Frame(image, np.eye(4))
        MAKERS[name](dict(given))(frame)
        return frame.image

    assert torch.autograd.gradcheck(change, values, eps=1e-5, atol=1e-4)


def case(shape=(14, 18, 12), spacing=(1.0, 1.2, 2.0), channels=1):
    """A CT in LPS, windowed by the data to [-175, 250] HU, and its source."""
    original = hounsfield(*shape, channels=channels)
    image = np.clip((original + 175) / 425, 0, 1).astype(np.float32)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    return CaseSource(id="a", affine=affine, image=image, original=original, low=(-175.0,), high=(250.0,))


CHAINS = [
    [("Orientationd", {"axcodes": "RAS"}), ("Spacingd", {"pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"}),
     ("ScaleIntensityRanged", {"a_min": -300, "a_max": 300, "b_min": 0, "b_max": 1, "clip": True})],
    [("Spacingd", {"pixdim": [0.8, 1.0, 2.5]}), ("Orientationd", {"axcodes": "SPL"}), ("NormalizeIntensityd", {"nonzero": True})],
    [("ScaleIntensityd", {"minv": 0, "maxv": 1}), ("NormalizeIntensityd", {}), ("SpatialPadd", {"spatial_size": [16, 16, 16]})],
    [("NormalizeIntensityd", {}), ("ScaleIntensityd", {"minv": -1.0, "maxv": 1.0})],
    [("CropForegroundd", {"source_key": "image", "margin": 3})],
    [("CropForegroundd", {"source_key": "image", "margin": [1, 0, 4], "allow_smaller": True}), ("NormalizeIntensityd", {})],
]  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: ", ".join(name for name, _ in chain))
def test_a_chain_equals_monais_compose_of_the_file(chain):
    source = case()
    config = {
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": name, "keys": ["image"], **given} for name, given in chain],
        }
    }
    reading = read_preprocessing(Configuration(config, "inference.json"))
    assert reading is not None
    seen = []

    class Seen(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return torch.cat([images, -images], 1)

    predictor = steps.Preprocessed(Seen(), reading.steps, "toy").for_case(source)
    logits = predictor(torch.from_numpy(source.image)[None])
    composed = mt.Compose([getattr(mt, name)(keys=["image"], **given) for name, given in chain])
    assert source.original is not None
    stored = MetaTensor(torch.from_numpy(source.original.copy()), affine=torch.from_numpy(source.affine))
    expected = composed({"image": stored})
    np.testing.assert_allclose(seen[0][0].numpy(), np.asarray(expected["image"]), rtol=1e-4, atol=1e-4)
    # The logits lie on the grid of the image again; a network that passes its input on shows where everything went.
    assert logits.shape[2:] == source.image.shape[1:]
    back = composed.inverse(expected)["image"] if not any("Spacing" in name for name, _ in chain) else None
    if back is not None and "Intensity" not in chain[-1][0]:
        assert back.shape == source.image.shape


def test_without_an_orientation_a_file_is_seen_along_its_own_axes():
    """MONAI's reader turns nothing: what a bundle is fed is the array of the file, and logits come back to ours."""
    values, stored = hounsfield(6, 7, 5, channels=1), np.zeros((4, 4))
    stored[0, 1], stored[1, 2], stored[2, 0], stored[3, 3] = -1.0, -1.2, 2.0, 1.0  # the file is SLP
    sides = np.abs(stored[:3, :3]).sum(1)
    canonical = np.flip(values.transpose(0, 2, 3, 1), (1, 2)).copy()
    source = CaseSource(
        id="a", affine=np.diag([*sides, 1.0]), stored_affine=stored, image=canonical, original=canonical, low=(0.0,),
        high=(1.0,),
    )  # fmt: skip
    seen = []

    class Seen(torch.nn.Module):
        def forward(self, images):
            seen.append(images)
            return images

    chain = [steps.NormalizeIntensity(nonzero=True), steps.SpatialPad(spatial_size=(8, 8, 8))]
    predictor = steps.Preprocessed(Seen(), chain, "toy")
    assert predictor.sides(source) == (8, 8, 8)
    logits = predictor.for_case(source)(torch.from_numpy(canonical)[None])
    monai = mt.Compose([mt.NormalizeIntensity(nonzero=True), mt.SpatialPad((8, 8, 8))])
    np.testing.assert_allclose(seen[0][0].numpy(), np.asarray(monai(values)), rtol=1e-5, atol=1e-5)
    expected = mt.NormalizeIntensity(nonzero=True)(canonical)
    np.testing.assert_allclose(logits[0].numpy(), np.asarray(expected), rtol=1e-5, atol=1e-5)


def test_logits_come_back_through_orientation_and_spacing():
    affine = np.diag([-1.0, -1.2, 2.0, 1.0])
    ramp = np.linspace(0, 1, 14)[None, :, None, None] + np.zeros((1, 14, 18, 12))
    source = CaseSource(id="a", affine=affine, image=ramp.astype(np.float32), low=(0.0,), high=(1.0,))
    chain = [steps.Orientation(axcodes="RAS"), steps.Spacing(pixdim=(0.5, 0.6, 1.0))]
    found = steps.Preprocessed(torch.nn.Identity(), chain, "toy").for_case(source)(
        torch.from_numpy(ramp)[None]
    )
    torch.testing.assert_close(found[0], torch.from_numpy(ramp), atol=1e-6, rtol=0)


def test_gradients_go_through_orientation_spacing_and_crop():
    values = torch.rand(1, 1, 4, 5, 6, dtype=torch.float64) + 0.1
    source = CaseSource(
        id="a", affine=np.diag([-1.0, 1.0, 2.0, 1.0]), image=values[0].numpy(), low=(0.0,), high=(1.0,)
    )
    chain = [
        steps.Orientation(axcodes="RAS"),
        steps.Spacing(pixdim=(1.3, 0.9, 1.5)),
        steps.CropForeground(margin=1),
    ]
    network = torch.nn.Conv3d(1, 2, 3, padding=1).double()
    predictor = steps.Preprocessed(network, chain, "toy").for_case(source)
    assert torch.autograd.gradcheck(predictor, values.requires_grad_())


def test_outside_of_the_foreground_the_background_wins():
    image = np.zeros((1, 8, 8, 8), np.float32)
    image[:, 2:5, 3:6, 1:7] = 0.5
    source = CaseSource(id="a", affine=np.eye(4), image=image, low=(0.0,), high=(1.0,))
    network = torch.nn.Conv3d(1, 2, 1)
    torch.nn.init.constant_(network.bias, 0.0)
    with torch.no_grad():
        network.bias[1] = 5.0
        predictor = steps.Preprocessed(network, [steps.CropForeground()], "toy").for_case(source)
        classes = predictor(torch.from_numpy(image)[None]).argmax(1)[0].numpy()
    np.testing.assert_array_equal(classes == 1, image[0] > 0)


@pytest.fixture
def bundle(write_bundle):
    """Factory of a bundle with these transforms as its preprocessing."""
    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in UNET.items() if not key.startswith("_")}).eval()

    def make(transforms, name="toy", config=None, **metadata):
        written = {"preprocessing": {"_target_": "Compose", "transforms": transforms}, **(config or {})}
        return write_bundle(
            network, UNET, classes=("background", "a", "b"), name=name, config=written, metadata=metadata
        )

    return make


LOAD = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]


def test_a_case_is_needed_where_the_file_decides(bundle):
    model = open_model(
        bundle([*LOAD, {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164}]),
        **DATA,
    )
    predictor = model.as_predictor(0.5, "gaussian", 1)
    with pytest.raises(ValueError, match="bind the predictor with for_case"):
        predictor(torch.rand(1, 1, 16, 16, 16))
    source = case((16, 16, 16))
    assert predictor.for_case(source)(torch.from_numpy(source.image)[None]).shape == (1, 3, 16, 16, 16)


@pytest.mark.parametrize(
    "written",
    [
        "@steps",
        "$@steps",
        "$@first + @second",
        {"_target_": "Compose", "transforms": ["@scale", {"_target_": "Compose", "transforms": "@second"}]},
        {"_target_": "monai.transforms.Compose", "transforms": "$@first + @second"},
    ],
    ids=str,
)
def test_references_and_sums_of_lists_are_followed(written):
    scale = {"_target_": "ScaleIntensityD", "keys": "@image_key"}
    norm = {"_target_": "monai.transforms.NormalizeIntensityDict", "keys": ["@image_key", "label"], "nonzero": "$@one == 1 and True" if False else True}  # fmt: skip
    config = {"image_key": "image", "scale": scale, "first": [scale], "second": [norm], "steps": [scale, norm], "preprocessing": written}  # fmt: skip
    found = read_preprocessing(Configuration(config, "inference.json"))
    assert found is not None
    assert [type(step).__name__ for step in found.steps] == ["ScaleIntensity", "NormalizeIntensity"]


def test_what_is_for_another_key_or_disabled_is_left_out():
    transforms = [
        *LOAD,
        {"_target_": "NormalizeIntensityd", "keys": "other"},
        {"_target_": "ScaleIntensityd", "keys": "image", "_disabled_": "@off"},
        {"_target_": "EnsureTyped", "keys": "image"},
        {"_target_": "Lambdad", "keys": "label", "func": "$lambda x: x"},
    ]
    config = {"off": True, "preprocessing": {"_target_": "Compose", "transforms": transforms}}
    found = read_preprocessing(Configuration(config, "inference.json"))
    assert found is not None
    assert found.steps == ()


REFUSED = [
    ({"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x / 255"}, "found Lambdad at preprocessing::transforms::2"),
    ({"_target_": "scripts.own.Window", "keys": "image"}, "found scripts.own.Window"),
    ({"_target_": "Resized", "keys": "image", "spatial_size": [96, 96, 96]}, "found Resized"),
    ({"_target_": "HistogramNormalized", "keys": "image"}, "found HistogramNormalized"),
    ({"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": "$os.getcwd()", "a_max": 1}, "would run as Python"),
    ({"_target_": "ScaleIntensityRanged", "keys": "image", "a_max": 1}, "a_min"),
    ({"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1], "mode": "nearest"}, "only bilinear"),
    ({"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, -1]}, "above 0"),
    ({"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1], "diagonal": True}, "diagonal False .* found True"),
    ({"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.int16"}, "found EnsureTyped to integers"),
    ({"_target_": "CropForegroundd", "keys": ["image", "label"], "source_key": "label"}, "by the image .*found source_key 'label'"),
    ({"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": [["R", "L"], ["A", "P"], ["S", "I"]]}, "labels None"),
    ({"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "select_fn": "$lambda x: x > 5"}, "would run as Python"),
    ("$[monai.transforms.ScaleIntensityd(keys='image')]", "would run as Python"),
]  # fmt: skip


@pytest.mark.parametrize(("transform", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_transform_that_is_not_followed_is_refused_by_name(bundle, transform, message):
    transforms = [*LOAD, transform] if isinstance(transform, dict) else transform
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(bundle(transforms), **DATA)
    assert "\n" not in str(error.value)


def test_the_preprocessing_decides_over_the_metadata(bundle):
    inputs = {"image": {"num_channels": 1, "value_range": [-1, 1]}}
    scaled = [*LOAD, {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1, "maxv": 1}]
    formats = {"network_data_format": {"inputs": inputs, "outputs": {}}}
    assert open_model(bundle(scaled, "agrees", **formats), **DATA).preprocessing
    unit = [*LOAD, {"_target_": "ScaleIntensityd", "keys": "image"}]
    with pytest.raises(
        CheckpointError, match=r"images in \[0, 1\] of its preprocessing, found value_range \[-1, 1\]"
    ):
        open_model(bundle(unit, "contradicts", **formats), **DATA)
    raw = {"image": {"num_channels": 1, "value_range": [-1000, 1000]}}
    hounsfields = bundle(LOAD, "raw", network_data_format={"inputs": raw, "outputs": {}})
    assert "gets the intensities of the file" in open_model(hounsfields, **DATA).notes[-1]


def test_the_preprocessing_is_part_of_the_identity(bundle):
    one, other = (
        bundle(
            [*LOAD, {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": nonzero}], f"n{nonzero}"
        )
        for nonzero in (True, False)
    )
    assert open_model(one, **DATA).sha256 != open_model(other, **DATA).sha256


@pytest.mark.parametrize(
    "step",
    [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": "$True"},
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": "@overlap"},
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": [True, False]},
        {"_target_": "monai.transforms.ActivationsD", "keys": "pred", "other": "$torch.sigmoid"},
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
        {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: 1 / (1 + torch.exp(-x))"},
        {"_target_": "monai.transforms.Lambda", "func": "$torch.sigmoid"},
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["postprocessing", "validate"])
def test_overlapping_classes_are_refused_however_they_are_written(bundle, step, place):
    composed = {"_target_": "Compose", "transforms": [step]}
    config = {"overlap": True, "postprocessing": composed} if place == "postprocessing" else {
        "overlap": True, "postprocessing": None, "validate": {"postprocessing": composed}}  # fmt: skip
    folder = bundle(LOAD, config=config)
    with pytest.raises(CheckpointError, match="overlapping ones"):
        open_model(folder, **DATA)


def test_a_sigmoid_that_cannot_be_read_is_refused(bundle):
    step = {"_target_": "Activationsd", "keys": "pred", "sigmoid": "$@network.sigmoid"}
    folder = bundle(LOAD, config={"postprocessing": {"_target_": "Compose", "transforms": [step]}})
    with pytest.raises(CheckpointError, match="would run as Python"):
        open_model(folder, **DATA)


def test_a_bundle_without_preprocessing_says_so(bundle):
    folder = bundle(LOAD)
    config = folder / "configs" / "inference.json"
    content = json.loads(config.read_text())
    del content["preprocessing"]
    config.write_text(json.dumps(content))
    model = open_model(folder, **DATA)
    assert model.preprocessing == ()
    assert "declares no preprocessing" in model.notes[-1]


def test_postprocessing_that_is_not_done_is_said(bundle):
    after = [
        {"_target_": name, "keys": "pred"}
        for name in ("Activationsd", "KeepLargestConnectedComponentd", "SaveImaged")
    ]
    model = open_model(
        bundle(LOAD, config={"postprocessing": {"_target_": "Compose", "transforms": after}}), **DATA
    )
    assert "its postprocessing is not done: KeepLargestConnectedComponentd" in model.notes


@pytest.mark.parametrize("place", ["train::deterministic_transforms", "infer_transforms", "test::pre"])
def test_preprocessing_is_found_under_any_name(place):
    first, *rest = reversed(place.split("::"))
    chain = [*LOAD, {"_target_": "NormalizeIntensityd", "keys": "image"}]
    config = {first: {"_target_": "Compose", "transforms": chain} if "infer" in place else chain}
    for name in rest:
        config = {name: config}
    config["postprocessing"] = {
        "_target_": "Compose",
        "transforms": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
    }
    found = read_preprocessing(Configuration(config, "train.json"))
    assert found is not None
    assert [type(step).__name__ for step in found.steps] == ["NormalizeIntensity"]


def test_two_chains_that_read_files_are_not_guessed_between():
    chain = {"_target_": "Compose", "transforms": LOAD}
    with pytest.raises(
        CheckpointError, match="one preprocessing in train.json, found a::pre, b; call the one"
    ):
        read_preprocessing(Configuration({"a": {"pre": chain}, "b": chain}, "train.json"))


def test_random_transforms_of_training_are_refused_by_name(bundle):
    chain = {"_target_": "Compose", "transforms": [*LOAD, {"_target_": "RandFlipd", "keys": "image"}]}
    with pytest.raises(CheckpointError, match="found RandFlipd"):
        open_model(bundle(LOAD, config={"preprocessing": None, "train": {"preprocessing": chain}}), **DATA)


def test_a_byte_order_mark_in_a_configuration(bundle):
    folder = bundle(LOAD)
    for file in (folder / "configs").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert open_model(folder, **DATA).name == "toy"


def test_channels_in_another_order_than_the_datas_are_refused(bundle):
    inputs = {"image": {"num_channels": 2, "value_range": [0, 1], "channel_def": {"0": "T1", "1": "FLAIR"}}}
    folder = bundle(LOAD, network_data_format={"inputs": inputs, "outputs": {}})
    with pytest.raises(
        CheckpointError, match="expected channel 0 of metadata.json to be FLAIR as in the data"
    ):
        open_model(folder, **{**DATA, "in_channels": 2}, channel_names=("FLAIR", "T1"))


def test_a_bundle_whose_forward_is_too_large_is_refused_before_it_runs(bundle, monkeypatch):
    folder = bundle(LOAD)
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "0.0001")  # below its 16^3 window of 8 channels
    with pytest.raises(CheckpointError, match="GiB for a forward of toy on the window"):
        open_model(folder, **DATA)
