"""Checkpoints of the published repositories, written here from their documented layout."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch
from torch import nn

from robustvox.models import build_model
from robustvox.models.bring import open_model
from robustvox.models.bring.legacy import LegacyPatchMerging
from robustvox.models.bring.published import SIGNATURES, architecture_of
from robustvox.models.header import CheckpointError

STAGES = {"kernel_sizes": ((1, 3, 3), (3, 3, 3)), "strides": ((1, 1, 1), (1, 2, 2))}
PLANNED = {"features": (4, 6), **STAGES, "blocks": 1, "decoder_blocks": 1, "d_state": 3}
TINY = {
    "unet": ({"channels": (4, 8, 12)}, (16, 16, 8)),
    "segresnet": ({"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}, (8, 4, 6)),
    "unetr": ({"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 2}, (32, 16, 16)),
    "swin_unetr": ({"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 2, 2)}, (64, 64, 64)),
    "umamba_bot": (PLANNED, (2, 8, 4)),
    "umamba_enc": (PLANNED, (2, 8, 4)),
    "lma_unet": (PLANNED, (2, 8, 4)),
    "segmamba": (
        {"dims": (4, 4, 6, 6), "depths": (1, 1, 1, 1), "hidden_size": 8, "d_state": 3},
        (16, 32, 16),
    ),
    "nnmamba": ({"channels": 4, "blocks": 3, "reduction": 2, "d_state": 3}, (16, 16, 32)),
    "em_unet": ({"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,), "d_state": 3}, (4, 6, 8)),
}
DATA = {"in_channels": 1, "num_classes": 3, "roi_size": (24, 24, 24)}
ALIASED = ("umamba_bot", "umamba_enc", "lma_unet")


def with_aliases(state: dict) -> dict:
    """The names under which the published U-Mamba decoder and convolution blocks list their tensors again."""
    parts = {".conv.": ".all_modules.0.", ".norm.": ".all_modules.1."}
    again = {}
    for key, tensor in state.items():
        for part, alias in parts.items():
            block, found, kind = key.rpartition(part)
            if found and "mamba" not in block:
                again[f"{block}{alias}{kind}"] = tensor
    state = {**state, **again}
    return {**state, **{f"decoder.{k}": v for k, v in state.items() if k.startswith("encoder.")}}


def published_state(name: str, network: nn.Module) -> dict:
    """The network's weights under their published names: UNETR's as MONAI 1.3 has them, aliases and all."""
    state = {key: tensor for key, tensor in network.state_dict().items() if ".norm_cross_attn." not in key}
    return with_aliases(state) if name in ALIASED else state


def write(path, state: dict, prefix: str = "") -> None:
    """A file as both repositories' training writes it, with scores as numpy scalars and an optimizer."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(3))], lr=1e-4, weight_decay=1e-5)
    optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
    optimizer.step()
    content = {
        "epoch": 4995,
        "epoch_acc": np.mean([np.nanmean(np.array([0.8, np.nan], np.float32))]),
        "best_acc": np.float64(0.8),
        "model_state_dict": {prefix + key: tensor for key, tensor in state.items()},
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {
            "warmup_epochs": 50,
            "base_lrs": [1e-4],
            "last_epoch": 4996,
            "_step_count": 2,
        },
    }
    torch.save(content, path)


def tiny(name: str, **overrides) -> tuple[nn.Module, dict]:
    """A small network without any published initialization, and the arguments that describe it."""
    arguments, roi = TINY[name]
    variant = {"variant": "bmvc"} if name == "segmamba" else {}
    arguments = {"roi_size": roi, **arguments}
    network = build_model(name, in_channels=1, num_classes=3, **{**arguments, **variant, **overrides})
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return network.eval(), arguments


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model_best.pt"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", [name for name in TINY if name != "swin_unetr"])
def test_a_published_checkpoint_gives_the_network_that_wrote_it(name, prefix, path):
    network, arguments = tiny(name)
    write(path, published_state(name, network), prefix)
    brought = open_model(path, **DATA, arguments=arguments)
    assert (brought.name, brought.roi_size) == ("model_best", TINY[name][1])
    image = torch.rand(1, 1, *TINY[name][1])
    with torch.no_grad():
        assert torch.equal(brought.network(image), network(image))


def test_aliases_are_the_published_number(published_keys):
    keys = dict.fromkeys(published_keys["umamba_enc"], torch.zeros(1))
    assert len(keys) == 293
    state = with_aliases(keys)
    assert len(state) == 790
    assert sum(key.startswith("decoder.encoder.") for key in state) == 290


@pytest.mark.parametrize(
    "name", [name for name in SIGNATURES if "mamba" in name or name in ("lma_unet", "em_unet")]
)
def test_published_names_tell_the_architecture(name, published_keys):
    assert architecture_of(dict.fromkeys(published_keys[name], torch.zeros(1))) == name


@pytest.mark.parametrize("kind", ["conv", "perceptron"])
def test_unetr_tells_its_patch_embedding(kind, path):
    network, arguments = tiny("unetr", proj_type=kind)
    write(path, published_state("unetr", network))
    brought = open_model(path, **DATA, arguments=arguments)
    image = torch.rand(1, 1, *TINY["unetr"][1])
    with torch.no_grad():
        assert torch.equal(brought.network(image), network(image))
    other = {"conv": "perceptron", "perceptron": "conv"}[kind]
    with pytest.raises(CheckpointError, match=f"type {other}, found {kind}"):
        open_model(path, **DATA, arguments={**arguments, "proj_type": other})


def test_the_norms_without_use_change_no_logit(path):
    network, arguments = tiny("unetr")
    write(path, published_state("unetr", network))
    brought = open_model(path, **DATA, arguments=arguments).network
    image = torch.rand(1, 1, *TINY["unetr"][1])
    with torch.no_grad():
        before = brought(image)
        for key, parameter in brought.named_parameters():
            if ".norm_cross_attn." in key:
                parameter.fill_(torch.nan)
        assert torch.equal(brought(image), before)


def test_both_networks_called_segmamba_are_told_apart(path):
    for variant, word in (("bmvc", "one-directional"), ("published", "tri-directional")):
        slices = {"num_slices": (64, 32, 16, 8)} if variant == "published" else {}
        network, arguments = tiny("segmamba", variant=variant, roi_size=(32, 32, 32), **slices)
        write(path, published_state("segmamba", network))
        brought = open_model(path, **DATA, arguments={**arguments, "roi_size": (32, 32, 32)})
        assert word in brought.notes[0]
        image = torch.rand(1, 1, 32, 32, 32)
        with torch.no_grad():
            assert torch.equal(brought.network(image), network(image))


# --- Swin-UNETR before MONAI 1.5 ------------------------------------------------------------------


def test_legacy_merging_reads_the_octants_of_monai_1_3():
    # Slices 4 to 6 of MONAI 1.3.0: two octants come twice, two are never read.
    octants = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
    merging = LegacyPatchMerging(dim=3).double()
    with torch.no_grad():
        merging.norm.weight.normal_()
        merging.norm.bias.normal_()
    x = torch.randn(2, 5, 4, 3, 3, dtype=torch.float64)
    padded = torch.zeros(2, 6, 4, 4, 3, dtype=torch.float64)
    padded[:, :5, :, :3] = x
    expected = torch.zeros(2, 3, 2, 2, 6, dtype=torch.float64)
    for b, i, j, k in itertools.product(range(2), range(3), range(2), range(2)):
        row = torch.cat([padded[b, 2 * i + p, 2 * j + q, 2 * k + r] for p, q, r in octants])
        normed = (row - row.mean()) / (row.var(unbiased=False) + 1e-5).sqrt()
        expected[b, i, j, k] = merging.reduction.weight @ (normed * merging.norm.weight + merging.norm.bias)
    assert torch.allclose(merging(x), expected, atol=1e-12)


def test_swin_unetr_has_the_old_patch_merging_unless_told_otherwise(path):
    network, arguments = tiny("swin_unetr")
    write(path, published_state("swin_unetr", network))
    image = torch.rand(1, 1, 32, 32, 32)
    old = open_model(path, **DATA, arguments=arguments)
    new = open_model(path, **DATA, arguments={**arguments, "legacy_merging": False})
    assert sum(isinstance(module, LegacyPatchMerging) for module in old.network.modules()) == 4
    assert "before 1.5" in old.notes[0]
    with torch.no_grad():
        # Patch merging is in the transformer; its coarsest output has been through all of them.
        coarsest = [model.swinViT(image)[-1] for model in (network, new.network, old.network)]
    assert torch.equal(coarsest[1], coarsest[0])
    assert (coarsest[2] - coarsest[0]).norm() > 0.1 * coarsest[0].norm()


# --- what is refused ----------------------------------------------------------------------------


def refused(path, arguments, **data) -> str:
    with pytest.raises(CheckpointError) as error:
        open_model(path, **{**DATA, **data}, arguments=arguments)
    assert "\n" not in str(error.value)
    assert str(path.parent) not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["unet", "segresnet", "unetr", "umamba_enc", "nnmamba"])
def test_other_channels_and_classes_are_named(name, path):
    network, arguments = tiny(name)
    write(path, published_state(name, network))
    for channels, classes in ((1, 5), (2, 3), (2, 14)):
        message = refused(path, arguments, in_channels=channels, num_classes=classes)
        assert (
            f"weights for {channels} image channel(s) and {classes} classes, found them for 1 and 3"
            in message
        )


def test_missing_and_extra_weights_are_named(path):
    network, arguments = tiny("umamba_bot")
    state = published_state("umamba_bot", network)
    # The alias of a lost weight is no substitute: nobody knows that they were the same.
    write(path, {k: v for k, v in state.items() if k != "encoder.stem.convs.0.conv.bias"})
    assert "1 missing (encoder.stem.convs.0.conv.bias)" in refused(path, arguments)
    write(path, {**state, "encoder.more": torch.zeros(1)})
    assert "1 extra (encoder.more)" in refused(path, arguments)
    write(path, {**state, "mamba.D": torch.full_like(state["mamba.D"], torch.nan)})
    assert "NaN or infinity" in refused(path, arguments)


def test_half_of_the_norms_without_use_is_not_completed(path):
    network, arguments = tiny("unetr")
    state = published_state("unetr", network)
    key = "vit.blocks.0.norm_cross_attn.weight"
    write(path, {**state, key: network.state_dict()[key]})
    assert "23 missing" in refused(path, arguments)


def test_another_architecture_is_named(path):
    network, arguments = tiny("segresnet")
    write(path, published_state("segresnet", network))
    with pytest.raises(CheckpointError, match="a checkpoint of unet, found segresnet .* --model segresnet"):
        open_model(path, **DATA, architecture="unet", arguments=arguments)
    write(path, {"backbone.weight": torch.zeros(3)})
    assert "found backbone.weight" in refused(path, {})


def test_a_window_the_architecture_cannot_take_is_refused_with_the_nearest(path):
    network, arguments = tiny("segresnet")
    write(path, published_state("segresnet", network))
    message = refused(path, {**arguments, "roi_size": (8, 5, 6)})
    assert "the nearest sizes that work are (8, 4, 6) and (8, 6, 6)" in message
    assert "write roi_size=(96,96,96)" in refused(path, {**arguments, "roi_size": 96})
    assert "does not take these parameters" in refused(path, {**arguments, "widths": 3})


def test_unetr_says_for_which_window_it_was_made(path):
    network, arguments = tiny("unetr")
    write(path, published_state("unetr", network))
    assert "these weights have 2 patches" in refused(path, {**arguments, "roi_size": (16, 16, 16)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "found list"),
        ({"epoch": 3, "args": {}}, "found the keys epoch, args"),
        ({"best_acc": np.str_("x")}, "numpy scalar of type U1"),
        ({}, "found the keys none"),
    ],
)
def test_a_file_without_weights_is_refused(content, message, path):
    torch.save(content, path)
    assert message in refused(path, {})


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_nothing_runs(zipped, path, tmp_path):
    network, arguments = tiny("segresnet")
    content = {"model_state_dict": network.state_dict(), "args": Evil(tmp_path / "owned")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refused(path, arguments)
    assert "posix.mkdir" in message or "nt.mkdir" in message
    assert "nothing was run" in message
    assert not (tmp_path / "owned").exists()
    # The trap is real: reading the file without the guard springs it.
    torch.load(path, weights_only=False)
    assert (tmp_path / "owned").exists()


def test_a_truncated_file_is_refused(path):
    network, arguments = tiny("segresnet")
    write(path, published_state("segresnet", network))
    path.write_bytes(path.read_bytes()[:-2000])
    assert "copy the file again" in refused(path, arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY])
def test_paper_sizes_load_as_published(name, path):
    """Over windows of 96^3, without a word about the configuration."""
    variant = {"variant": "bmvc"} if name == "segmamba" else {}
    network = build_model(name, in_channels=1, num_classes=14, roi_size=(96, 96, 96), **variant)
    write(path, published_state(name, network))
    brought = open_model(path, **{**DATA, "num_classes": 14})
    assert brought.roi_size == (96, 96, 96)
    found, expected = brought.network.state_dict(), network.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
