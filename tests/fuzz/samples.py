"""One good example of every foreign format, the call that reads it, and what a reading must not get wrong."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from robustvox.attacks import Key
from robustvox.benchmark.cli import main
from robustvox.benchmark.records.marked_files import read_stored, seal_file
from robustvox.benchmark.records.seal import Terms
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import Unit, data_fingerprint
from robustvox.benchmark.records.volumes import Note, save_adversarial
from robustvox.datasets import open_dataset
from robustvox.models import ModelCard, build_model, save_checkpoint

from . import oracles

SHAPE = (18, 16, 17)
IDS = ("case_000", "case_001")
LABELS = {"0": "background", "1": "one", "2": "two"}
ARGUMENTS = {"size": "small", "channels": [4, 8], "num_res_units": 1}
ROI = (16, 16, 16)

Call = Callable[[Path], int]
Check = Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A format.

    Args:
        name: of the format.
        folder: a good example; copied for every input.
        file: the one that lies, relative to it.
        kind: how it is mutated: ``document`` (JSON), ``lines`` (JSON lines), ``table``, ``nifti``, ``bytes``, ``tensors``.
        call: what reads it, as the command line does; returns the exit code.
        check: what is wrong with what was accepted, or nothing.
    """

    name: str
    folder: Path
    file: str
    kind: str
    call: Call
    check: Check


@dataclass(frozen=True)
class Command:
    """A command in this process; ``{}`` in its arguments stands for the folder of the input."""

    arguments: tuple[str, ...]

    def typed(self, folder: Path) -> list[str]:
        """The arguments as a user types them."""
        return [argument.replace("{}", str(folder)) for argument in self.arguments]

    def __call__(self, folder: Path) -> int:
        return main(self.typed(folder))


@dataclass(frozen=True)
class Planning(Command):
    """Everything that ``run`` does before the first attack, through the same door."""

    def typed(self, folder: Path) -> list[str]:
        crossed = (
            "--attack",
            "gn",
            "--split",
            "all",
            "--cases",
            IDS[0],
            "--no-report",
            "--out",
            f"{folder}/results",
        )
        return [*super().typed(folder), *crossed]

    def __call__(self, folder: Path) -> int:
        return oracles.plan(self.arguments, folder)


def command(*arguments: str) -> Call:
    return Command(arguments)


def planning(*arguments: str) -> Call:
    return Planning(arguments)


def samples(root: Path, *, thorough: bool = True) -> list[Sample]:
    """All of them, made below ``root``; without ``thorough`` those whose reading takes no more than moments."""
    made: list[Sample] = []
    for make in (_datasets, _volumes, _checkpoints, _bundles, _nnunet, _records, _saved, _marked):
        made += make(root)
    if thorough:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            made += _run_before(root)
    return made


def write_cases(root: Path, suffix: str = ".nii.gz", channel: str = "") -> None:
    """Two small volumes with two classes, in MSD's folders."""
    rng = np.random.default_rng(0)
    for number, case in enumerate(IDS):
        label = np.zeros((SHAPE[0] + number, *SHAPE[1:]), np.uint8)
        label[4:9, 5:12, 4:10], label[10:15, 5:12, 4:10] = 1, 2
        image = rng.normal(100.0, 5.0, label.shape).astype(np.float32) + 60.0 * label
        for folder, name, array in (("imagesTr", case + channel, image), ("labelsTr", case, label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), root / folder / f"{name}{suffix}")


def write_msd(root: Path, suffix: str = ".nii.gz") -> Path:
    write_cases(root, suffix)
    pairs = [{"image": f"./imagesTr/{i}{suffix}", "label": f"./labelsTr/{i}{suffix}"} for i in IDS]
    meta = {
        "modality": {"0": "MRI"},
        "labels": LABELS,
        "training": pairs[:1],
        "validation": pairs[1:],
        "reference": "nobody",
        "licence": "none",
    }
    (root / "dataset.json").write_text(json.dumps(meta))
    return root


def _datasets(root: Path) -> list[Sample]:
    msd = write_msd(root / "msd")
    (msd / "list.json").write_text((msd / "dataset.json").read_text())
    raw = root / "raw"
    write_cases(raw, channel="_0000")
    meta = {"channel_names": {"0": "MRI"}, "labels": {v: int(k) for k, v in LABELS.items()}, "numTraining": 2,
            "file_ending": ".nii.gz"}  # fmt: skip
    (raw / "dataset.json").write_text(json.dumps(meta))
    (raw / "splits_final.json").write_text(json.dumps([{"train": [IDS[0]], "val": [IDS[1]]}] * 5))
    table = root / "csv"
    write_cases(table)
    rows = "".join(
        f"imagesTr/{i}.nii.gz,labelsTr/{i}.nii.gz,{i},{s}\n"
        for i, s in zip(IDS, ("train", "val"), strict=True)
    )
    (table / "cohort.csv").write_text("image,label,id,split\n" + rows)
    (table / "cohort.json").write_text(json.dumps({"channels": ["MRI"], "labels": LABELS}))
    return [
        Sample(
            name=name,
            folder=folder,
            file=file,
            kind=kind,
            call=command("data", "--dataset", where),
            check=check,
        )
        for name, folder, file, kind, where, check in (
            ("dataset.json", msd, "dataset.json", "document", "{}", oracles.listed("dataset.json")),
            ("datalist", msd, "list.json", "document", "{}/list.json", oracles.listed("list.json")),
            ("nnU-Net dataset.json", raw, "dataset.json", "document", "{}", oracles.nothing),
            ("splits_final.json", raw, "splits_final.json", "document", "{}", oracles.folds),
            ("CSV", table, "cohort.csv", "table", "{}/cohort.csv", oracles.nothing),
            (
                "CSV side file",
                table,
                "cohort.json",
                "document",
                "{}/cohort.csv",
                oracles.listed("cohort.json"),
            ),
        )
    ]


def _volumes(root: Path) -> list[Sample]:
    plain, packed = write_msd(root / "nii", ".nii"), write_msd(root / "gz")
    read = command("data", "--dataset", "{}")
    return [
        Sample(name="NIfTI", folder=plain, file="imagesTr/case_001.nii", kind="nifti", call=read,
               check=oracles.volume("imagesTr/case_001.nii")),
        Sample(name="NIfTI label", folder=plain, file="labelsTr/case_001.nii", kind="nifti", call=read,
               check=oracles.volume("imagesTr/case_001.nii")),
        Sample(name="gzip", folder=packed, file="imagesTr/case_001.nii.gz", kind="bytes", call=read,
               check=oracles.unchanged_volume(packed / "imagesTr/case_001.nii.gz")),
    ]  # fmt: skip


class Small(nn.Module):
    """A network for TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("unet", in_channels=1, num_classes=3, roi_size=ROI, **ARGUMENTS)


def card() -> ModelCard:
    return ModelCard(
        architecture="unet", arguments=ARGUMENTS, in_channels=1, class_names=tuple(LABELS.values()), roi_size=ROI,
        dataset="msd", window="[0, 1]", recipe={"steps": 1}, validation_dice=0.5, validation_interval=(0.4, 0.6),
        validation_cases=1, parameters=1, flops=1,
    )  # fmt: skip


def _checkpoints(root: Path) -> list[Sample]:
    folder = write_msd(root / "model")
    save_checkpoint(folder / "own.safetensors", network(), card(), torch.float32)
    torch.save({"epoch": 3, "model_state_dict": network().state_dict()}, folder / "theirs.pt")
    torch.jit.script(Small()).save(str(folder / "script.pt"))
    data = ("--dataset", "{}")
    named = ("--model", "unet", *data, "--checkpoint", "{}/own.safetensors")
    theirs = ("--model", "unet:size=small,channels=(4,8),num_res_units=1,roi_size=(16,16,16)", *data)
    state = oracles.state(network().state_dict())
    return [
        Sample(name="safetensors", folder=folder, file="own.safetensors", kind="bytes", call=planning(*named),
               check=oracles.safetensors_state("own.safetensors")),
        Sample(name="model card", folder=folder, file="own.safetensors", kind="card", call=planning(*named),
               check=oracles.card("own.safetensors")),
        Sample(name="PyTorch file", folder=folder, file="theirs.pt", kind="bytes",
               call=planning(*theirs, "--checkpoint", "{}/theirs.pt"), check=state),
        Sample(name="PyTorch tensors", folder=folder, file="theirs.pt", kind="tensors",
               call=planning(*theirs, "--checkpoint", "{}/theirs.pt"), check=oracles.torch_state("theirs.pt")),
        Sample(name="TorchScript", folder=folder, file="script.pt", kind="bytes",
               call=planning("--model", "{}/script.pt", *data, "--roi-size", "16"), check=oracles.nothing),
    ]  # fmt: skip


BUNDLE = {
    "imports": ["$import glob"],
    "channels": [4, 8],
    "wide": "$@channels::0 * 2",
    "network_def": {
        "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": ["@channels::0", "@wide"],
        "strides": [2], "num_res_units": 1,
    },
    "network": "$@network_def.to(@device)",
    "device": "$torch.device('cpu')",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1,
             "clip": True},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.5},
    "postprocessing": {"_target_": "Compose", "transforms": [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]},
}  # fmt: skip
METADATA = {
    "version": "0.5.6", "monai_version": "1.4.0",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [16, 16, 16], "value_range": [0, 1],
                             "is_patch_data": True, "channel_def": {"0": "image"}}},
        "outputs": {"pred": {"type": "image", "num_channels": 3, "channel_def": LABELS}},
    },
}  # fmt: skip


def _bundles(root: Path) -> list[Sample]:
    import monai.networks.nets as nets

    made = []
    for kind in ("json", "yaml"):
        folder = write_msd(root / f"with_bundle_{kind}")
        bundle = folder / "bundle"
        for part in ("configs", "models"):
            (bundle / part).mkdir(parents=True)
        torch.manual_seed(0)
        torch.save(
            nets.UNet(3, 1, 3, channels=[4, 8], strides=[2], num_res_units=1).state_dict(),
            bundle / "models" / "model.pt",
        )
        (bundle / "configs" / "metadata.json").write_text(json.dumps(METADATA))
        # JSON is YAML too, so that one mutation serves both readers.
        (bundle / "configs" / f"inference.{kind}").write_text(json.dumps(BUNDLE))
        call = planning("--model", "{}/bundle", "--dataset", "{}")
        made.append(
            Sample(name=f"bundle {kind}", folder=folder, file=f"bundle/configs/inference.{kind}",
                   kind="document" if kind == "json" else "yaml", call=call, check=oracles.nothing)
        )  # fmt: skip
        if kind == "json":
            made.append(
                Sample(name="bundle metadata", folder=folder, file="bundle/configs/metadata.json", kind="document",
                       call=call, check=oracles.nothing)
            )  # fmt: skip
    return made


ARCHITECTURE = {
    "n_stages": 2, "features_per_stage": [4, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [1, 1],
    "n_conv_per_stage_decoder": [1], "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
PLANS = {
    "dataset_name": "Dataset001_Toy", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
    "configurations": {"3d_fullres": {
        "preprocessor_name": "DefaultPreprocessor", "patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": RESAMPLING,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {**RESAMPLING, "order": 1},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": ARCHITECTURE, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }},
    "foreground_intensity_properties_per_channel": {
        "0": {"mean": 60.0, "std": 40.0, "percentile_00_5": -50.0, "percentile_99_5": 160.0},
    },
}  # fmt: skip


def _nnunet(root: Path) -> list[Sample]:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    folder = write_msd(root / "with_nnunet")
    model = folder / "trained"
    (model / "fold_0").mkdir(parents=True)
    kinds = {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    torch.manual_seed(0)
    trained = PlainConvUNet(
        input_channels=1, num_classes=3, deep_supervision=True, **{**ARCHITECTURE, **kinds}
    )
    torch.save(
        {"network_weights": trained.state_dict(), "init_args": {"configuration": "3d_fullres"}},
        model / "fold_0" / "checkpoint_final.pth",
    )
    (model / "plans.json").write_text(json.dumps(PLANS))
    meta = {"channel_names": {"0": "CT"}, "labels": {v: int(k) for k, v in LABELS.items()}, "numTraining": 2}
    (model / "dataset.json").write_text(json.dumps(meta))
    (model / "splits_final.json").write_text(json.dumps([{"train": [IDS[0]], "val": [IDS[1]]}]))
    call = planning("--model", "{}/trained", "--dataset", "{}")
    return [
        Sample(name=name, folder=folder, file=f"trained/{file}", kind=kind, call=call, check=check)
        for name, file, kind, check in (
            ("nnU-Net plans", "plans.json", "document", oracles.plans),
            ("nnU-Net model dataset", "dataset.json", "document", oracles.nothing),
            ("nnU-Net model splits", "splits_final.json", "document", oracles.nothing),
            ("nnU-Net checkpoint", "fold_0/checkpoint_final.pth", "bytes", oracles.nothing),
        )
    ]


COST = {
    "linf": 0.03,
    "l2": 1.5,
    "psnr": 30.0,
    "ssim": 0.9,
    "forwards": 2,
    "backwards": 1,
    "seconds": 0.1,
    "flags": [],
}


def _records(root: Path) -> list[Sample]:
    folder = root / "written"
    with RecordStore(folder / "results" / "toy" / "records") as store:
        entry = {
            "protocol": "robustvox-1", "models": {"unet": "a" * 64}, "attacks": ["fgsm:eps=8/255,loss=dice"],
            "surrogates": ["unet"], "targets": ["unet"], "white_box": True, "cases": list(IDS), "seed": 0,
            "dataset": {"source": "nobody", "licence": "none"},
        }  # fmt: skip
        provenance = store.provenance(entry)
        for case in IDS:
            for attack in ("none", "fgsm:eps=8/255,loss=dice"):
                unit = Unit(
                    dataset="toy", case=case, attack=attack, surrogate="unet", surrogate_sha256="a" * 64, target="unet",
                    target_sha256="a" * 64, protocol="robustvox-1", seed=0, data_sha256="b" * 64,
                )  # fmt: skip
                scores = [
                    {"class_id": k, "class_name": n, "dice": 0.5, "hd95_mm": 2.0, "nsd": 0.5, "status": "ok"}
                    for k, n in enumerate(("one", "two"), start=1)
                ]
                store.append(unit, scores, {**COST, "provenance": provenance})
    base = "results/toy/records/robustvox-1"
    calls = {
        "verify": command("verify", "{}/results", "--sample", "0"),
        "cite": command("cite", "--out", "{}/results"),
        "migrate": command("migrate", "--out", "{}/results"),
    }
    return [
        Sample(name=f"{what}, {name}", folder=folder, file=file, kind="lines", call=call, check=check)
        for name, call in calls.items()
        for what, file, check in (
            ("records", f"{base}/unet/fgsm.jsonl", oracles.records),
            ("provenance", f"{base}/provenance.jsonl", oracles.nothing),
        )
        if name != "migrate" or what == "records"
    ]


def _saved(root: Path) -> list[Sample]:
    folder = write_msd(root / "msd_saved")
    save_checkpoint(folder / "own.safetensors", network(), card(), torch.float32)
    volume = open_dataset(folder).load(IDS[1])
    note = Note(
        key="0f" * 8, units="unit", dataset="msd_saved", case=IDS[1], attack="gn:std=8/255", surrogate="unet",
        surrogate_sha256="ab", protocol="robustvox-1", seed=0, data_sha256=data_fingerprint(volume), forwards=0,
        backwards=0, seconds=0.0, flags=(),
    )  # fmt: skip
    path = save_adversarial(folder / "adversarial", volume, volume.image, note)
    file = path.relative_to(folder).as_posix()
    call = oracles.rescoring(file)
    check = oracles.unchanged_saved(path)
    return [
        Sample(name="saved volume", folder=folder, file=file, kind="bytes", call=call, check=check),
        Sample(
            name="saved volume's header",
            folder=folder,
            file=file,
            kind="nifti",
            call=call,
            check=oracles.nothing,
        ),
    ]


def _run_before(root: Path) -> list[Sample]:
    """Formats that commands write and read again; their good examples take runs, and reading them takes seconds."""
    folder = write_msd(root / "recorded")
    save_checkpoint(folder / "own.safetensors", network(), card(), torch.float32)
    model = [
        "--dataset",
        str(folder),
        "--model",
        "unet",
        "--checkpoint",
        str(folder / "own.safetensors"),
        "--split",
        "all",
    ]
    out = ["--out", str(folder / "results")]
    run = ["--no-report", *model, "--cases", "all", "--attack", "fgsm", *out]
    bands = [
        "frequency",
        *model,
        "--cases",
        IDS[0],
        "--attack",
        "gn",
        "--bands",
        "low_high",
        "--cuts",
        "1/4",
        *out,
    ]
    checks = ["check", *model, "--cases", IDS[0], "--attack", "fgsm", "--only", "C1,C2", *out]
    if main(run) != 0 or main(bands) != 0 or main(checks) == 2:
        raise RuntimeError("the jobs whose files are fuzzed failed")
    base = "results/recorded"
    board, whole = (
        command("leaderboard", "--out", "{}/results"),
        command("leaderboard", "--check", "--out", "{}/results"),
    )
    return [
        Sample(name=name, folder=folder, file=f"{base}/{file}", kind=kind, call=call, check=check)
        for name, file, kind, call, check in (
            ("records, leaderboard", "records/robustvox-1/unet/fgsm.jsonl", "lines", board, oracles.recorded),
            (
                "records, leaderboard --check",
                "records/robustvox-1/unet/fgsm.jsonl",
                "lines",
                whole,
                oracles.recorded,
            ),
            (
                "records, resume",
                "records/robustvox-1/unet/clean.jsonl",
                "lines",
                again(run),
                oracles.recorded,
            ),
            (
                "provenance, leaderboard --check",
                "records/robustvox-1/provenance.jsonl",
                "lines",
                whole,
                oracles.nothing,
            ),
            ("outcomes of checks", "checks/robustvox-1.jsonl", "lines", board, oracles.nothing),
            ("frequency rows", "frequency/cases.csv.gz", "packed table", again(bands), oracles.nothing),
            ("source.json", "source.json", "document", again(run), oracles.nothing),
        )
    ]


def again(job: list[str]) -> Call:
    """A job whose folder is the copy's."""
    folder = str(Path(job[job.index("--dataset") + 1]))
    return lambda copy: main([argument.replace(folder, str(copy)) for argument in job])


def _marked(root: Path) -> list[Sample]:
    folder = root / "marked"
    write_cases(folder)
    path = folder / "imagesTr" / "case_000.nii.gz"
    original = read_stored(path)
    marked = original.with_voxels(original.voxels + np.float32(1))
    key = b"the owner's key, of more than sixteen bytes"
    (folder / "key").write_bytes(key)
    seal = seal_file(
        original, marked, key=Key(key), case="case_000", terms=Terms(salt=bytes(16), nonce=bytes(16))
    )
    inside = folder / "in"
    inside.mkdir()
    marked.write(inside / path.name)
    (inside / "case_000.seal").write_bytes(seal)
    call = command("unlock", "{}/in", "--key-file", "{}/key", "--out", "{}/out")
    check = oracles.unlocked(original.digest)
    return [
        Sample(name=name, folder=folder, file=file, kind="bytes", call=call, check=check)
        for name, file in (
            ("seal", "in/case_000.seal"),
            ("marked volume", "in/case_000.nii.gz"),
            ("key file", "key"),
        )
    ]
