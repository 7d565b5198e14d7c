"""A case is read as nnU-Net reads it: axes, spacing, intensities, old plans, the ignore label, folds."""

from __future__ import annotations

import itertools
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform

from robustvox.models.bring.folds import Folds
from robustvox.models.bring.nnunet import load
from robustvox.models.case import CaseSource
from robustvox.models.header import CheckpointError

OPERATIONS = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
NAMES = {key: f"torch.nn.{kind.__name__}" for key, kind in OPERATIONS.items()} | {"dropout_op": None}
CT = {"mean": -20.0, "std": 200.0, "percentile_00_5": -700.0, "percentile_99_5": 300.0}
PLAIN, RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"


def arguments(kind):
    per_stage = "n_conv_per_stage" if kind == PLAIN else "n_blocks_per_stage"
    return {
        "n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]],
        per_stage: [1, 1], "n_conv_per_stage_decoder": [1], "conv_bias": True,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip


def write(folder, kind=PLAIN, *, spacing=(1.0, 1.0, 1.0), reader="SimpleITKIO", transpose=(0, 1, 2), old=False,
          scheme="ZScoreNormalization", labels=None, folds=("0",), number=5, patch=(8, 12, 16)):  # fmt: skip
    """A trained-model folder with random weights; ``old`` writes its plan as nnU-Net 2.0 to 2.2 did."""
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    labels = labels or {"background": 0, "a": 1, "b": 2}
    given = arguments(kind)
    data, logits = (
        {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None} for order in (3, 1)
    )
    plan = {
        "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": list(patch), "median_image_size_in_voxels": list(patch), "spacing": list(spacing),
        "normalization_schemes": [scheme], "use_mask_for_norm": [False], "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": data,
        "resampling_fn_seg": "resample_data_or_seg_to_shape", "resampling_fn_seg_kwargs": {**data, "is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape", "resampling_fn_probabilities_kwargs": logits,
    }  # fmt: skip
    if old:
        plan |= {
            "UNet_class_name": kind, "UNet_base_num_features": 4, "unet_max_num_features": 320, "num_pool_per_axis": [1, 1, 1],
            "n_conv_per_stage_encoder": [1, 1], "n_conv_per_stage_decoder": [1],
            "pool_op_kernel_sizes": given["strides"], "conv_kernel_sizes": given["kernel_sizes"],
        }  # fmt: skip
    else:
        plan["architecture"] = {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
            "arch_kwargs": {**given, **NAMES},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }
    plans = {
        "dataset_name": "Dataset001_Toy", "plans_name": "nnUNetPlans", "image_reader_writer": reader,
        "transpose_forward": list(transpose), "transpose_backward": [int(i) for i in np.argsort(transpose)],
        "configurations": {"3d_fullres": plan}, "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager", "foreground_intensity_properties_per_channel": {"0": CT},
    }  # fmt: skip
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": labels,
        "numTraining": number,
        "file_ending": ".nii.gz",
    }
    classes = len([label for label in labels if label != "ignore"])
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for seed, fold in enumerate(folds):
        torch.manual_seed(seed)
        network = getattr(unet, kind)(
            input_channels=1, num_classes=classes, deep_supervision=True, **given, **OPERATIONS
        )
        with torch.no_grad():
            for layer in network.decoder.seg_layers:
                # All features have one mean: without it no class is chosen everywhere, which would compare nothing.
                layer.weight -= layer.weight.mean(1, keepdim=True)
                layer.bias.zero_()
        (folder / f"fold_{fold}").mkdir()
        content = {
            "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (0, 1, 2),
        }  # fmt: skip
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def stored(codes_and_signs=None, spacing=(0.8, 0.9, 2.9), shape=(21, 17, 9)):
    """A volume in some axis order and flips, an empty border around it, intensities like a CT's."""
    values = np.zeros(shape, np.float32)
    inside = tuple(slice(1, side - 1) for side in shape)
    values[inside] = np.random.default_rng(0).normal(0, 300, values[inside].shape)
    image = nib.nifti1.Nifti1Image(values, np.diag([*spacing, 1.0]))
    return (
        image if codes_and_signs is None else image.as_reoriented(np.stack(codes_and_signs, 1).astype(float))
    )


ALL = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def source_of(image, case="a"):
    """The case as the suite has it: turned to RAS, windowed."""
    canonical = nib.funcs.as_closest_canonical(image)
    original = np.ascontiguousarray(np.asarray(canonical.dataobj, np.float32))[None]
    return CaseSource(
        id=case, affine=np.asarray(canonical.affine), stored_affine=np.asarray(image.affine),
        image=np.clip((original + 175) / 425, 0, 1), original=original, low=(-175.0,), high=(250.0,),
    )  # fmt: skip


def predict(model, source):
    assert model.predictor is not None
    with torch.no_grad():
        return model.predictor.for_case(source)(torch.from_numpy(source.image)[None]).argmax(1)[0].numpy()


def as_stored(prediction, image, source):
    change = ornt_transform(io_orientation(source.affine), io_orientation(image.affine))
    return apply_orientation(prediction, change)


def read(folder, **given):
    return load(folder, in_channels=1, num_classes=3, **given)


@pytest.mark.parametrize(
    ("kind", "scheme", "reader", "spacing", "transpose"),
    [
        (PLAIN, "ZScoreNormalization", "SimpleITKIO", (1.0, 1.0, 1.0), (2, 0, 1)),
        (RESIDUAL, "CTNormalization", "NibabelIO", (3.4, 0.8, 1.1), (0, 1, 2)),
        (RESIDUAL, "ZScoreNormalization", "SimpleITKIOWithReorient", (1.2, 1.2, 2.0), (1, 2, 0)),
        (PLAIN, "NoNormalization", "NibabelIOWithReorient", (2.9, 0.9, 0.8), (0, 1, 2)),
    ],
)
def test_equals_nnunets_own_predictor_on_the_stored_file(tmp_path, kind, scheme, reader, spacing, transpose):
    pytest.importorskip("nnunetv2", reason="the reference; pip install nnunetv2")
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = write(tmp_path / "toy", kind, spacing=spacing, reader=reader, transpose=transpose, scheme=scheme)
    theirs = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), ("0",))
    for how in ALL[::11]:
        image, file = stored(how), tmp_path / "image.nii.gz"
        nib.loadsave.save(image, file)
        array, properties = recursive_find_reader_writer_by_name(reader)().read_images([str(file)])
        expected = theirs.predict_single_npy_array(array, properties, None, None, False)
        # Read back: sides are float32 in the file, which decides what half a voxel is rounded to.
        source = source_of(nib.nifti1.load(file))
        found = predict(read(folder), source)
        found = found if "Reorient" in reader else as_stored(found, image, source)
        for label in (1, 2):
            one, other = expected == label, found.transpose(2, 1, 0) == label
            assert one.mean() > 0.05
            # Measured: 0.99998 and better; half precision decides single voxels.
            assert 2 * (one & other).sum() >= 0.999 * (one.sum() + other.sum())


@pytest.mark.parametrize("reader", ["SimpleITKIO", "SimpleITKIOWithReorient"])
def test_the_same_patient_in_all_48_orientations(tmp_path, reader):
    # Read as stored, equal arrays give equal predictions in the file; turned to RAS, equal patients do.
    folder = write(tmp_path / "toy", reader=reader, spacing=(2.0, 1.0, 1.0))
    model = read(folder)
    reference = source_of(stored())
    expected = predict(model, reference)
    for how in ALL:
        image = stored(how)
        if reader == "SimpleITKIO":
            image = nib.nifti1.Nifti1Image(np.asarray(stored().dataobj), _affine_in(how))
        source = source_of(image)
        found = predict(model, source)
        found = as_stored(found, image, source) if reader == "SimpleITKIO" else found
        np.testing.assert_array_equal(found, expected)


def _affine_in(how):
    """The affine of the array of ``stored()`` if its axes ran as ``how`` says, sides unchanged."""
    permutation, signs = how
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, sign, side) in enumerate(zip(permutation, signs, (0.8, 0.9, 2.9), strict=True)):
        affine[world, axis] = sign * side
    return affine


def test_intensities_are_the_files_and_not_the_windows(tmp_path):
    model = read(write(tmp_path / "toy", scheme="CTNormalization"))
    image = stored(spacing=(1.0, 1.0, 1.0))
    values = np.asarray(image.dataobj).copy()
    seen = []
    assert model.predictor is not None
    network = model.predictor.windows[0].network
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    predict(model, source_of(image))
    shown = torch.cat([window.flatten() for window in seen])
    low, high = ((CT[f"percentile_{q}"] - CT["mean"]) / CT["std"] for q in ("00_5", "99_5"))
    # Clipped where the plan says, beyond the window of the data on both sides.
    assert float(values.min()) < -700
    assert float(values.max()) > 300
    assert (float(shown.min()), float(shown.max())) == pytest.approx((low, high))


def test_without_a_case_intensities_of_ct_are_asked_for(tmp_path):
    folder = write(tmp_path / "toy", scheme="CTNormalization")
    with pytest.raises(ValueError, match=r"bind the predictor to the case, or give window=\(low,high\)"):
        read(folder).as_predictor(0.5, "gaussian", 1)(torch.rand(1, 1, 8, 12, 16))
    assert (
        read(folder, window=(-175, 250))
        .as_predictor(0.5, "gaussian", 1)(torch.rand(1, 1, 8, 12, 16))
        .shape[1]
        == 3
    )


def test_values_under_attack_are_those_that_are_scored_and_gradients_arrive(tmp_path):
    model, source = read(write(tmp_path / "toy", spacing=(2.0, 1.0, 1.0))), source_of(stored())
    assert model.predictor is not None
    predictor = model.predictor.for_case(source)
    images = torch.from_numpy(source.image)[None].requires_grad_()
    attacked = predictor(images)
    with torch.no_grad():
        torch.testing.assert_close(attacked, predictor(images), atol=0, rtol=0)
    (gradient,) = torch.autograd.grad(attacked.square().mean(), images)
    assert torch.isfinite(gradient).all()
    inside = torch.from_numpy(source.original != 0)[None]
    assert (gradient[inside] != 0).float().mean() > 0.95
    # Against finite differences of the same predictor without its rounding to half precision.
    step = torch.zeros_like(images).normal_(generator=torch.Generator().manual_seed(0)) * 1e-3 * inside
    with torch.no_grad():
        change = (predictor(images + step).square().mean() - predictor(images - step).square().mean()) / 2
    assert float(change) == pytest.approx(float((gradient * step).sum()), rel=0.2, abs=1e-4)


def test_plans_before_2_3_are_converted_as_nnunet_does(tmp_path):
    for kind in (PLAIN, RESIDUAL):
        new, old = (write(tmp_path / f"{kind}_{old}", kind, old=old) for old in (False, True))
        source = source_of(stored())
        np.testing.assert_array_equal(predict(read(new), source), predict(read(old), source))
    plans = json.loads((old / "plans.json").read_text())
    del plans["configurations"]["3d_fullres"]["conv_kernel_sizes"]
    (old / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(CheckpointError, match="expected conv_kernel_sizes in plans.json"):
        read(old)


def test_the_ignore_label_has_no_logit(tmp_path):
    folder = write(tmp_path / "toy", labels={"background": 0, "a": [1], "b": 2, "ignore": 3})
    assert predict(read(folder), source_of(stored())).max() <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resampling_fn_data": "own_resampling"}, "a resampling among .* found own_resampling"),
        ({"resampling_fn_data_kwargs": {"order": 3, "blur": 1}}, "found blur=1"),
    ],
)
def test_resampling_that_is_not_known_is_refused_by_name(tmp_path, changes, message):
    folder = write(tmp_path / "toy")
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= changes
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(CheckpointError, match=message):
        read(folder)


def test_folds_that_are_known_say_what_was_held_out(tmp_path):
    folder = write(tmp_path / "toy", folds=("0", "1"))
    cases = ("a", "b", "c")
    folds = Folds(
        held_out=(frozenset("a"), frozenset("b")),
        trained_on=(frozenset("bc"), frozenset("ac")),
        source="somebody",
    )
    one = read(folder, fold="1", folds=folds)
    assert (one.held_out, one.trained_on) == (("b",), frozenset("ac"))
    assert "trained on 2 of the data's cases, 1 held out, by somebody" in one.notes[-1]
    each = read(folder, fold="cv", folds=folds)
    assert (each.held_out, each.trained_on) == (("a", "b"), frozenset())
    image = stored()
    for case, fold in (("a", "0"), ("b", "1")):
        source = source_of(image, case)
        np.testing.assert_array_equal(predict(each, source), predict(read(folder, fold=fold), source))
    with pytest.raises(ValueError, match="validated on, found c"):
        predict(each, source_of(image, cases[-1]))
    unknown = read(folder)
    assert (unknown.held_out, unknown.trained_on) == (None, frozenset())
    assert "is not known" in unknown.notes[-1]
    with pytest.raises(CheckpointError, match="splits_final.json beside plans.json"):
        read(folder, fold="cv")
