"""What a path is follows from its content, whatever it is called."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile

import pytest
import torch

from robustvox.models import ModelCard, build_model, save_checkpoint
from robustvox.models.bring import BroughtModel, open_model, recognize
from robustvox.models.header import CheckpointError

DATA = {"in_channels": 1, "num_classes": 3, "roi_size": (16, 16, 16)}


def torch_file(**how) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2)}, buffer, **how)
    return buffer.getvalue()


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name in names:
            file.writestr(name, b"")
    return buffer.getvalue()


def nnunet_folder(root, *parts):
    for part in parts:
        path = root / part
        path.mkdir(parents=True) if part.startswith("fold_") else path.write_text("{}")
    return root


def test_formats_are_recognized_under_any_name(tmp_path):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "metadata.json").write_text("{}")
    (tmp_path / "trained").mkdir()
    nnunet_folder(tmp_path / "trained", "dataset.json", "plans.json", "fold_all")
    (tmp_path / "new.bin").write_bytes(torch_file())
    (tmp_path / "old.bin").write_bytes(torch_file(_use_new_zipfile_serialization=False))
    card = ModelCard(architecture="unet", arguments={}, in_channels=1, class_names=("a", "b"),
                     roi_size=(16, 16, 16), dataset="toy", window="[0, 1]")  # fmt: skip
    save_checkpoint(tmp_path / "ours.bin", torch.nn.Conv3d(1, 2, 1), card)
    (tmp_path / "script.bin").write_bytes(archive("model/constants.pkl", "model/data.pkl"))
    names = {"bundle": "bundle", "trained": "nnunet", "new.bin": "published", "old.bin": "published",
             "ours.bin": "safetensors", "script.bin": "torchscript"}  # fmt: skip
    assert {name: recognize(tmp_path / name) for name in names} == names


UNKNOWN = [
    (b"", "an empty file"),
    (b"weights", "something else"),
    (pickle.dumps({"a": 1}), "a pickle, which is code"),
    (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
    (b"version https://git-lfs.example/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    (archive("spleen/configs/metadata.json"), "unpack it"),
    (torch_file()[:300], "a damaged or incomplete archive"),
]


@pytest.mark.parametrize(("content", "message"), UNKNOWN, ids=[message for _, message in UNKNOWN])
def test_another_file_is_refused_with_what_it_looks_like(tmp_path, content, message):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(path, **DATA)
    assert str(error.value).startswith("expected a MONAI bundle folder")
    assert "found in model.pt" in str(error.value)
    assert str(tmp_path) not in str(error.value)


FOLDERS = [
    ((), "an empty folder"),
    (("readme",), "a folder with readme"),
    (("dataset.json",), "a dataset is given to --dataset"),
    (("dataset.json", "plans.json"), "without fold_"),
    (("fold_0",), "without dataset.json and plans.json"),
    (("plans.json", "fold_0"), "without dataset.json"),
]


@pytest.mark.parametrize(("parts", "message"), FOLDERS, ids=[message for _, message in FOLDERS])
def test_another_folder_is_refused_with_what_it_lacks(tmp_path, parts, message):
    with pytest.raises(CheckpointError, match=message):
        recognize(nnunet_folder(tmp_path, *parts))


def test_a_wrong_path_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="found in nowhere: nothing there"):
        recognize(tmp_path / "nowhere")


def test_a_trained_folder_goes_to_its_reader_with_its_parameters(tmp_path, monkeypatch):
    calls = {}

    def load(folder, **given):
        calls.update(given, folder=folder)
        return BroughtModel(name="n", sha256="0", roi_size=(8,), predictor=torch.nn.Identity())

    reader = types.ModuleType("robustvox.models.bring.nnunet")
    reader.load = load
    monkeypatch.setitem(sys.modules, reader.__name__, reader)
    folder = nnunet_folder(tmp_path, "dataset.json", "plans.json", "fold_1")
    windows = {"overlap": 0.25, "mode": "constant", "sw_batch_size": 3}
    open_model(folder, **DATA, **windows, arguments={"fold": 1, "checkpoint": "checkpoint_best.pth"})
    assert calls == {"folder": folder, "in_channels": 1, "num_classes": 3, "fold": "1",
                     "checkpoint": "checkpoint_best.pth", "class_names": (), "channel_names": (), "folds": None,
                     **windows}  # fmt: skip
    with pytest.raises(CheckpointError, match="among fold, checkpoint, window, got flod"):
        open_model(folder, **DATA, arguments={"flod": 1})


def test_our_own_checkpoint_is_read_by_path(tmp_path):
    arguments = {"size": "small", "channels": [4, 8], "num_res_units": 1}
    network = build_model("unet", in_channels=1, num_classes=3, roi_size=(16, 16, 16), **arguments)
    card = ModelCard(architecture="unet", arguments=arguments, in_channels=1, class_names=("a", "b", "c"),
                     roi_size=(16, 16, 16), dataset="toy", window="[0, 1]")  # fmt: skip
    sha256 = save_checkpoint(tmp_path / "mine.safetensors", network, card, dtype=torch.float32)
    brought = open_model(tmp_path / "mine.safetensors", **DATA)
    assert (brought.name, brought.sha256, brought.roi_size) == ("mine", sha256, (16, 16, 16))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        assert torch.equal(brought.network(image), network.eval()(image))
    with pytest.raises(
        CheckpointError, match=r"1 image channel\(s\) and 4 classes, found them for 1 and 3 \(trained"
    ):
        open_model(tmp_path / "mine.safetensors", **{**DATA, "num_classes": 4})
    with pytest.raises(CheckpointError, match="expected a checkpoint of unetr, found unet"):
        open_model(tmp_path / "mine.safetensors", **DATA, architecture="unetr")
    with pytest.raises(CheckpointError, match="among none, got size"):
        open_model(tmp_path / "mine.safetensors", **DATA, arguments={"size": "small"})


@pytest.mark.parametrize("given", [{}, {"network": torch.nn.Identity(), "predictor": torch.nn.Identity()}])
def test_a_brought_model_is_a_network_or_a_predictor(given):
    with pytest.raises(ValueError, match="exactly one"):
        BroughtModel(name="n", sha256="0", roi_size=(8,), **given)
