"""Checkpoints: round trip, strictness, and that nothing in a pickle ever runs."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from robustvox.models import (
    CheckpointError,
    ModelCard,
    build_model,
    load_checkpoint,
    read_card,
    save_checkpoint,
)
from robustvox.models.bring.weights import read_state
from robustvox.models.checkpoint import file_sha256, load_strictly, state_sha256
from robustvox.models.header import FORMAT

CARD = ModelCard(
    architecture="unet",
    arguments={"size": "small", "channels": [4, 8], "num_res_units": 1},
    in_channels=1,
    class_names=("background", "one", "two"),
    roi_size=(16, 16, 16),
    dataset="toy",
    window="[0, 1]",
    recipe={"steps": 3},
    validation_dice=0.5,
)


def build(card: ModelCard = CARD):
    return build_model(
        card.architecture,
        in_channels=card.in_channels,
        num_classes=card.num_classes,
        roi_size=card.roi_size,
        **card.arguments,
    )


@pytest.fixture
def saved(tmp_path):
    network = build()
    path = tmp_path / "unet.safetensors"
    save_checkpoint(path, network, CARD, dtype=torch.float32)
    return path, network


def test_round_trip_of_weights_and_card(saved):
    path, network = saved
    loaded = load_checkpoint(path)
    assert loaded.card == CARD
    assert loaded.sha256 == file_sha256(path)
    assert state_sha256(loaded.network) == state_sha256(network)
    assert not loaded.network.training


def test_half_precision_storage_loads_as_float32(tmp_path):
    network = build()
    save_checkpoint(tmp_path / "h.safetensors", network, CARD)
    for name, tensor in load_checkpoint(tmp_path / "h.safetensors").network.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name].half().float())


def test_another_architecture_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"expected a checkpoint of segresnet, found unet"):
        load_checkpoint(saved[0], architecture="segresnet")


@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen", "nan"])
def test_weights_load_strictly(tmp_path, fault):
    state = {k: v.contiguous() for k, v in build().state_dict().items()}
    first = next(iter(state))
    if fault == "missing":
        state.pop(first)
    elif fault == "extra":
        state["more"] = torch.zeros(1)
    elif fault == "misshapen":
        state[first] = state[first][:1].clone()
    else:
        state[first] = torch.full_like(state[first], float("nan"))
    path = tmp_path / "bad.safetensors"
    from dataclasses import asdict

    save_file(state, path, metadata={"format": FORMAT, "card": json.dumps(asdict(CARD))})
    with pytest.raises(CheckpointError, match="NaN" if fault == "nan" else fault):
        load_checkpoint(path)


class Bomb:
    """Leaves a trace when unpickled."""

    def __init__(self, trace) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_nothing_runs(tmp_path, how):
    path, trace = tmp_path / "evil.safetensors", tmp_path / "trace"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(trace)))
    else:
        torch.save({"state_dict": Bomb(trace)}, path)
    with pytest.raises(CheckpointError, match="pickle"):
        load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 7, b"\xff" * 64, b"not a checkpoint at all", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"expected a \.safetensors checkpoint"):
        read_card(path)


def test_missing_file_and_foreign_safetensors(tmp_path):
    with pytest.raises(CheckpointError, match="found no file"):
        load_checkpoint(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="format"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_truncated_weights_are_refused(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="complete weights"):
        load_checkpoint(path)


def test_arguments_that_cannot_be_built_are_refused(tmp_path):
    path = tmp_path / "odd.safetensors"
    save_checkpoint(path, build(), replace(CARD, arguments={"size": "huge"}))
    with pytest.raises(CheckpointError, match="huge"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.to(torch.int64), "expected real weights, found torch.int64 in a.pt: weight"),
        (
            lambda w: w.to(torch.complex64),
            "expected plain tensors in a.pt, found complex numbers at 'weight'",
        ),
        (
            lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
            "expected plain tensors in a.pt, found a sparse, nested or quantized tensor",
        ),
        (lambda w: w.to_sparse(), "expected plain tensors"),
        (lambda w: w.double() * 1e200, "expected finite weights"),  # finite in float64, no more in float32
    ],
)
def test_weights_that_a_cast_would_change_are_refused(change, message):
    network = torch.nn.Linear(3, 2)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_strictly(network, {**before, "weight": change(before["weight"])}, "a.pt")
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    load_strictly(network, {key: tensor.double() for key, tensor in before.items()}, "a.pt")
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    "content", [b"hello", pickle.dumps({"a": range(3)}, protocol=4), pickle.dumps([1, 2])]
)
def test_no_message_advises_to_read_a_file_unsafely(tmp_path, content, recwarn):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(CheckpointError) as refused:
        read_state(tmp_path / "a.pth")
    text = str(refused.value)
    assert "weights_only" not in text
    assert not re.search(r"found: \d+;", text)
    assert not recwarn.list
