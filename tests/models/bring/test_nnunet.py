"""Trained-model folders of nnU-Net v2, against its own predictor where it is installed."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import scipy.ndimage
import torch

from robustvox.models.bring import nnunet_predictor, open_model
from robustvox.models.bring.nnunet import load
from robustvox.models.bring.nnunet_predictor import NnUNetPredictor, NnUNetWindows, Normalization
from robustvox.models.header import CheckpointError

NETWORK = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESAMPLING = {
    "is_seg": False,
    "order": 3,
    "order_z": 0,
    "force_separate_z": None,
}
CONFIGURATION = {
    "data_identifier": "nnUNetPlans_3d_fullres",
    "preprocessor_name": "DefaultPreprocessor",
    "batch_size": 2,
    "patch_size": [8, 12, 16],
    "median_image_size_in_voxels": [12.0, 16.0, 20.0],
    "spacing": [1.0, 1.0, 1.0],
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": RESAMPLING,
    "resampling_fn_seg_kwargs": RESAMPLING | {"is_seg": True, "order": 1},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": RESAMPLING | {"order": 1},
    "architecture": {
        "network_class_name": NETWORK,
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
    "batch_dice": False,
}
PROPERTIES = {"mean": 60.0, "std": 40.0, "percentile_00_5": -50.0, "percentile_99_5": 160.0}


def write(folder, transpose=(2, 0, 1), extra=None, fold="0", **changes):
    """A miniature trained-model folder in nnU-Net's layout, with random weights."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    configuration = json.loads(json.dumps(CONFIGURATION)) | changes
    plans = {
        "dataset_name": "Dataset001_Toy",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": PROPERTIES},
    }
    labels = {"background": 0, "anterior": 1, "posterior": 2}
    dataset = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": ".nii.gz"}
    arguments = CONFIGURATION["architecture"]["arch_kwargs"] | {
        "conv_op": torch.nn.Conv3d,
        "norm_op": torch.nn.InstanceNorm3d,
        "nonlin": torch.nn.LeakyReLU,
    }
    torch.manual_seed(len(fold))
    network = unet.PlainConvUNet(input_channels=1, num_classes=3, deep_supervision=True, **arguments)
    (folder / f"fold_{fold}").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres", "device": torch.device("cpu")},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "_best_ema": np.float64(0.5),
        "logging": {"ema_fg_dice": [np.float32(0.25)]},
    }
    torch.save(checkpoint | (extra or {}), folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read(folder, **arguments):
    return load(folder, in_channels=1, num_classes=3, **arguments)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "toy")


def image(*shape):
    """Smooth positive volumes with an empty border, as an MRI after skull stripping."""
    generator = np.random.default_rng(0)
    values = np.zeros(shape, np.float32)
    inner = tuple(slice(1, side - 2) for side in shape)
    values[inner] = 0.1 + 0.9 * generator.random(values[inner].shape)
    return values


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(25, 21, 20), (9, 21, 11)], ids=["windows", "smaller than the patch"])
def test_equals_nnunets_own_predictor(tmp_path, transpose, masked, shape, monkeypatch):
    pytest.importorskip("nnunetv2", reason="the reference; pip install nnunetv2")
    from nnunetv2.inference import predict_from_raw_data as inference

    folder = write(tmp_path / "toy", transpose, use_mask_for_norm=[masked])
    theirs = inference.nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), ("0",))
    values = image(*shape)
    data = values.transpose(2, 1, 0)[None]
    preprocess = theirs.configuration_manager.preprocessor_class(verbose=False)
    properties = {"spacing": [1.0, 1.0, 1.0]}
    prepared, _, properties = preprocess.run_case_npy(
        data, None, properties, theirs.plans_manager, theirs.configuration_manager, theirs.dataset_json
    )
    # nnU-Net weighs and accumulates in half precision, in which the weights of a window's corners are a few units of
    # 2**-24. Told to use single precision it must agree everywhere.
    weights = inference.compute_gaussian
    with monkeypatch.context() as patch:
        patch.setattr(torch, "half", torch.float32)
        patch.setattr(inference, "compute_gaussian", functools.partial(weights, dtype=torch.float32))
        expected = theirs.predict_sliding_window_return_logits(torch.from_numpy(prepared))
    box = tuple(slice(*span) for span in properties["bbox_used_for_cropping"])
    back = theirs.plans_manager.transpose_backward

    predictor = read(folder).as_predictor(0.5, "gaussian", 1)
    logits = predictor(torch.from_numpy(values)[None, None])[0]
    # Ours back to slices first, then as nnU-Net permutes, inside its box.
    ours = logits.permute(0, 3, 2, 1).permute(0, *(1 + np.argsort(back))).detach()[(slice(None), *box)]
    # Measured: 1.4e-6, with logits up to 2.5.
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    outside = torch.ones(logits.shape[1:], dtype=torch.bool)
    outside[tuple(slice(1, side - 2) for side in shape)] = False
    assert (logits.argmax(0)[outside] == 0).all()


def test_window_places_and_weights_equal_nnunets():
    reference = pytest.importorskip("nnunetv2.inference.sliding_window_prediction", reason="the reference")
    for roi in ((8, 12, 16), (7, 9, 20)):
        windows = NnUNetWindows(torch.nn.Identity(), roi)
        weight = windows.importance(torch.zeros(1, dtype=torch.float64))[0, 0]
        theirs = reference.compute_gaussian(roi, dtype=torch.float64, device=torch.device("cpu"))
        torch.testing.assert_close(weight, theirs)
        for shape in ((8, 12, 20), (23, 40, 61), (9, 13, 21)):
            starts = [windows.starts(s, r) for s, r in zip(shape, roi, strict=True)]
            assert starts == reference.compute_steps_for_sliding_window(shape, roi, 0.5)


def test_windows_spread_evenly():
    # The example in nnU-Net's own comment: side 110, window 64, half overlap.
    assert NnUNetWindows(torch.nn.Identity(), (64,)).starts(110, 64) == [0, 23, 46]
    assert NnUNetWindows(torch.nn.Identity(), (64,)).starts(64, 64) == [0]


def gaussian(roi, dtype):
    point = np.zeros(roi)
    point[tuple(side // 2 for side in roi)] = 1
    weight = scipy.ndimage.gaussian_filter(point, [side / 8 for side in roi], mode="constant")
    weight /= weight.max()
    weight[weight == 0] = weight[weight > 0].min()
    return torch.as_tensor(weight, dtype=dtype)


def blended(windows, image):
    """What nnU-Net stores of a volume no smaller than the window, weights made on the way."""
    ones = torch.ones(windows.roi_size, dtype=torch.half)
    weight = (gaussian(windows.roi_size, torch.float64) * 10).half() if windows.mode == "gaussian" else ones
    weight[weight == 0] = weight[weight > 0].min()
    total, output = torch.zeros(image.shape[2:], dtype=torch.half), None
    for _, box in windows.windows(1, image.shape[2:]):
        logits = windows.network(image[(slice(None), slice(None), *box)])[0]
        if output is None:
            output = torch.zeros((len(logits), *image.shape[2:]), dtype=torch.half)
        output[(slice(None), *box)] += logits * weight
        total[box] += weight
    return (output / total)[None]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_weights_are_made_once_and_blend_to_the_same_bits(mode, monkeypatch):
    made = []

    def counted(*arguments, **named):
        made.append(arguments[0].shape)
        return scipy.ndimage.gaussian_filter(*arguments, **named)

    monkeypatch.setattr(nnunet_predictor, "gaussian_filter", counted)
    nnunet_predictor._gaussian.cache_clear()
    torch.manual_seed(0)
    roi, network = (7, 24, 9), torch.nn.Conv3d(1, 3, 3, padding=1)
    windows = NnUNetWindows(network, roi, mode=mode)
    for dtype in (torch.float32, torch.float64):
        one = torch.ones(roi) if mode == "constant" else gaussian(roi, dtype)
        assert torch.equal(windows.importance(torch.zeros(1, dtype=dtype))[0, 0], one.to(dtype))
    with torch.no_grad():
        for shape in ((7, 24, 9), (11, 30, 21), (11, 30, 21), (9, 41, 10), (11, 30, 21)):
            images = torch.rand(1, 1, *shape)
            assert torch.equal(windows.deployed(images), blended(windows, images))
            windows(images)
    assert made == ([roi] if mode == "gaussian" else [])


@pytest.mark.parametrize("masked", [False, True])
def test_input_gradients_equal_finite_differences(masked):
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1).double()
    scheme = Normalization("ZScoreNormalization", masked, {})
    predictor = NnUNetPredictor([network], [scheme], (4, 4, 4), (2, 0, 1))
    # No voxel is 0 inside, so no perturbation moves the box.
    images = torch.rand(1, 1, 4, 5, 7, dtype=torch.float64) + 0.1
    assert torch.autograd.gradcheck(predictor, images.requires_grad_(), fast_mode=True)


def test_gradients_reach_every_voxel_of_a_real_network(folder):
    predictor = read(folder).as_predictor(0.5, "gaussian", 1)
    images = torch.rand(2, 1, 19, 15, 9).add(0.01).requires_grad_()
    logits = predictor(images)
    assert logits.shape == (2, 3, 19, 15, 9)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.99


def test_a_batch_equals_its_items(folder):
    predictor = read(folder).as_predictor(0.5, "gaussian", 1)
    images = torch.rand(2, 1, 19, 15, 9)
    images[1, :, :4] = 0
    with torch.no_grad():
        together, single = predictor(images), torch.cat([predictor(item[None]) for item in images])
    torch.testing.assert_close(together, single)


def test_schemes_follow_their_formulas():
    channel, mask = torch.rand(4, 5, 6), torch.rand(4, 5, 6) > 0.3
    window = (-100.0, 200.0)
    ct = Normalization("CTNormalization", False, PROPERTIES, window)(channel, mask)
    hu = channel.double().numpy() * 300 - 100
    np.testing.assert_allclose(ct.numpy(), (np.clip(hu, -50, 160) - 60) / 40, atol=1e-5)
    raw = Normalization("NoNormalization", False, {}, window)(channel, mask)
    np.testing.assert_allclose(raw.numpy(), hu, atol=1e-3)
    unit = Normalization("RescaleTo01Normalization", False, {})(channel, mask)
    assert (float(unit.min()), float(unit.max())) == (0.0, 1.0)


def test_opened_by_its_folder_with_window_in_our_axes(folder):
    model = open_model(folder, in_channels=1, num_classes=3, roi_size=(32, 32, 32), arguments={"fold": 0})
    # Patch (8, 12, 16) in the network's axes, which are x, z, y here.
    assert (model.name, model.roi_size) == ("toy", (8, 16, 12))
    assert model.spacing_mm == (1.0, 1.0, 1.0)


def test_folds_are_averaged(folder):
    other = write(folder.parent / "other", fold="11")
    (other / "fold_11").rename(folder / "fold_11")
    images = torch.rand(1, 1, 10, 12, 14)
    with torch.no_grad():
        both, one, two = (
            read(folder, fold=f).as_predictor(0.5, "gaussian", 1)(images) for f in ("0+11", "0", "11")
        )
    torch.testing.assert_close(both, (one + two) / 2)
    assert not torch.allclose(one, two)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": [16, 16]}, "3d configuration"),
        ({"previous_stage": "3d_lowres"}, "cascade after 3d_lowres"),
        ({"preprocessor_name": "Own"}, "preprocessor_name among DefaultPreprocessor in toy, found Own"),
        ({"normalization_schemes": ["Own"]}, "found Own"),
        ({"architecture": {"network_class_name": "os.system"}}, "os.system, nothing was run"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused_by_name(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read(write(tmp_path / "toy", **changes))


def test_an_operation_outside_torch_is_refused(tmp_path):
    architecture = json.loads(json.dumps(CONFIGURATION["architecture"]))
    architecture["arch_kwargs"]["nonlin"] = "os.system"
    with pytest.raises(CheckpointError, match="found os.system, nothing was run"):
        read(write(tmp_path / "toy", architecture=architecture))


class Harmful:
    def __reduce__(self):
        return print, ("ran",)


def test_a_checkpoint_with_code_is_refused(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="nothing was run"):
        read(write(tmp_path / "toy", extra={"optimizer_state": Harmful()}))
    assert "ran" not in capsys.readouterr().out


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="missing"):
        read(write(tmp_path / "toy", extra={"network_weights": {"a": torch.ones(1)}}))


def test_other_data_and_missing_folds_are_refused(folder):
    with pytest.raises(CheckpointError, match="2 image channel"):
        load(folder, in_channels=2, num_classes=3)
    with pytest.raises(CheckpointError, match="labels 0 to 4"):
        load(folder, in_channels=1, num_classes=5)
    with pytest.raises(CheckpointError, match="found fold_0/checkpoint_final.pth"):
        read(folder, fold="3")
    edit(folder / "dataset.json", labels={"background": 0, "whole": [1, 2], "core": 2})
    with pytest.raises(CheckpointError, match="regions whole"):
        read(folder)


def test_channels_in_another_order_than_the_datas_are_refused(folder):
    edit(folder / "dataset.json", channel_names={"1": "PET", "0": "CT"})
    with pytest.raises(CheckpointError, match="expected channel 0 of .* to be PET as in the data, found CT"):
        load(folder, in_channels=2, num_classes=3, channel_names=("PET", "CT"))
