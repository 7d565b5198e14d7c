"""Model files that lie: refused in one line, before memory or time is spent on them."""

from __future__ import annotations

import json
import random
import zipfile

import pytest
import torch
from torch import nn

from robustvox.models import (
    CheckpointError,
    ModelCard,
    build_model,
    limits,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from robustvox.models.bring.configuration import Configuration
from robustvox.models.bring.weights import read_state
from robustvox.models.class_order import in_order, require_channels, require_order
from robustvox.models.documents import parse_json, read_document
from robustvox.models.limits import build_within, require_window

ARGUMENTS = {"size": "small", "channels": [4, 8], "num_res_units": 1}


def card_of(**changes) -> ModelCard:
    given = {
        "architecture": "unet", "arguments": ARGUMENTS, "in_channels": 1, "class_names": ("background", "one", "two"),
        "roi_size": (16, 16, 16), "dataset": "toy", "window": "[0, 1]",
    }  # fmt: skip
    return ModelCard(**{**given, **changes})


def saved(folder, **changes):
    network = build_model("unet", in_channels=1, num_classes=3, roi_size=(16, 16, 16), **ARGUMENTS)
    save_checkpoint(folder / "a.safetensors", network, card_of(**changes))
    return folder / "a.safetensors"


CARDS = {
    "one class": {"class_names": ("background",)},
    "a class twice": {"class_names": ("background", "one", "one")},
    "no window": {"roi_size": (0, 16, 16)},
    "a window that nothing holds": {"roi_size": (4096, 4096, 4096)},
    "a Dice above 1": {"validation_dice": 1.5},
    "no Dice": {"validation_dice": float("nan")},
    "channels as a text": {"in_channels": "1"},
    "minus one channel": {"arguments": {**ARGUMENTS, "channels": [-4, 8]}},
    "weights that nothing holds": {"arguments": {**ARGUMENTS, "channels": [100_000, 200_000]}},
    "layers without end": {"arguments": {**ARGUMENTS, "num_res_units": 10**9}},
}


@pytest.mark.parametrize("what", CARDS)
def test_cards_that_lie_are_refused(tmp_path, monkeypatch, what):
    monkeypatch.setattr(limits, "MODULES", 2_000)  # counting to the real limit takes seconds
    with pytest.raises(CheckpointError, match=r"a\.safetensors") as caught:
        load_checkpoint(saved(tmp_path, **CARDS[what]))
    assert "\n" not in str(caught.value)


def test_a_card_with_a_field_too_many_or_nested_too_deep_is_refused(tmp_path):
    path = saved(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    told = json.loads(header["__metadata__"]["card"])
    for text in (
        json.dumps({**told, "extra": 1}),
        json.dumps(told).replace('"toy"', "[" * 5000 + "]" * 5000),
    ):
        header["__metadata__"]["card"] = text
        changed = json.dumps(header).encode()
        path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
        with pytest.raises(CheckpointError, match="model card of a.safetensors|complete model card"):
            read_card(path)


def test_the_limit_of_weights_can_be_raised(monkeypatch):
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "0.001")
    with pytest.raises(
        CheckpointError, match=r"the weights of big, found a need of .* set ROBUSTVOX_MEMORY_GIB=1 to"
    ):
        build_within(lambda: nn.Linear(1000, 1000), "big")
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "1")
    assert build_within(lambda: nn.Linear(1000, 1000), "big").weight.shape == (1000, 1000)
    with pytest.raises(CheckpointError, match="the window"):
        require_window((1000, 1000, 1000), 5, "a model")


def test_building_within_the_limit_changes_no_weight():
    def build() -> nn.Module:
        return build_model("swin_unetr", in_channels=1, num_classes=2, roi_size=(32, 32, 32), size="small")

    torch.manual_seed(3)
    plain = build().state_dict()
    torch.manual_seed(3)
    counted = build_within(build, "swin").state_dict()
    assert all(torch.equal(plain[key], counted[key]) for key in plain)


TENSORS = {
    "sparse": lambda t: t.to_sparse(),
    "without values": lambda t: t.to("meta"),
    "complex": lambda t: torch.complex(t, torch.ones_like(t)),
    "more values than are stored": lambda t: torch.zeros(1).expand(1 << 20, 1 << 20),
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_that_are_no_plain_numbers_are_refused(tmp_path, what):
    torch.save({"a": TENSORS[what](torch.ones(4, 4))}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=what):
        read_state(tmp_path / "a.pt")


def test_not_one_flipped_bit_of_an_archive_is_loaded_as_another_weight(tmp_path):
    path = tmp_path / "a.pt"
    weights = {"a": torch.arange(600.0)}
    torch.save(weights, path)
    whole, rng, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
        try:
            found = read_state(path)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(found["a"], weights["a"])
    assert refused > 75


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTVOX_MEMORY_GIB", "0.01")
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(1 << 26))
    with pytest.raises(CheckpointError, match="found a need of"):
        read_state(tmp_path / "a.pt")


def test_references_that_double_are_refused():
    doubled = {f"r{n}": [f"@r{n - 1}"] * 2 for n in range(1, 40)}
    config = Configuration({"r0": 1, **doubled}, "inference.json")
    with pytest.raises(CheckpointError, match="values behind the references of inference.json"):
        config.literal("@r39")
    squared = {f"r{n}": f"$@r{n - 1} * @r{n - 1}" for n in range(1, 40)}
    with pytest.raises(CheckpointError, match="would run as Python"):
        Configuration({"r0": 3, **squared}, "inference.json").literal("@r39")


def test_yaml_that_repeats_itself_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(CheckpointError, match="at most 200000 values in a.yaml"):
        read_document(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[" * 70 + "]" * 70, '{"a": 1, "a": 2}', "9" * 50_000, "\ud800"]
)
def test_json_that_is_none_is_one_line(text):
    with pytest.raises(CheckpointError, match="the card") as caught:
        parse_json(text, "the card")
    assert len(str(caught.value)) < 500


def test_classes_in_another_order_are_refused_and_other_names_are_not():
    require_order(["background", "liver", "tumour"], ["background", "liver", "cancer"], "x")
    with pytest.raises(
        CheckpointError, match="expected class 1 of x to be liver as in the data, found cancer"
    ):
        require_order(["background", "cancer", "liver"], ["background", "liver", "cancer"], "x")


def test_channels_in_another_order_are_refused_and_other_names_are_not():
    require_channels(["T1", "noNorm"], ["T1w", "PET"], "x")
    require_channels(in_order({"1": "PET", "0": "CT"}), ["CT", "PET"], "x")
    require_channels((), ["CT", "PET"], "x")
    with pytest.raises(
        CheckpointError,
        match="expected channel 0 of x to be PET as in the data, found CT; list the data's channels",
    ):
        require_channels(in_order({"1": "PET", "0": "CT"}), ["PET", "CT"], "x")
