"""Names of the weights in published Mamba checkpoints, written out from the public layouts."""

from __future__ import annotations

import itertools

import pytest

from robustvox.models.mamba.residual_unet import Plan

BLOCK = ("A_log", "D", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")


def mamba_keys(prefix: str, projected: bool = True, tri: bool = False) -> set[str]:
    keys = {*BLOCK, "in_proj.weight"} | ({"out_proj.weight"} if projected else set())
    for s in ("b", "s") if tri else ():
        keys |= {f"A_{s}_log", f"D_{s}", f"conv1d_{s}.weight", f"conv1d_{s}.bias", f"x_proj_{s}.weight"}
        keys |= {f"dt_proj_{s}.weight", f"dt_proj_{s}.bias"}
    return {f"{prefix}.{key}" for key in keys}


def conv_norm(prefix: str, bias: bool = True) -> set[str]:
    kinds = ("conv.weight", "norm.weight", "norm.bias") + (("conv.bias",) if bias else ())
    return {f"{prefix}.{kind}" for kind in kinds}


def both(prefix: str) -> set[str]:
    return {f"{prefix}.weight", f"{prefix}.bias"}


def umamba_keys(name: str) -> set[str]:
    features = Plan().features
    keys = conv_norm("encoder.stem.convs.0")
    for i, j, part in itertools.product(range(6), range(2), ("conv1", "conv2")):
        keys |= conv_norm(f"encoder.stages.{i}.blocks.{j}.{part}")
    for i in (1, 2, 3, 4):
        keys |= conv_norm(f"encoder.stages.{i}.blocks.0.skip.1", bias=False)
    assert features[4] == features[5]
    for i, j, part in itertools.product(range(5), range(2), ("conv1", "conv2")):
        keys |= conv_norm(f"decoder.stages.{i}.blocks.{j}.{part}")
    for i in range(5):
        keys |= conv_norm(f"decoder.stages.{i}.blocks.0.skip.0", bias=False)
        keys |= both(f"decoder.transpconvs.{i}") | both(f"decoder.seg_layers.{i}")
    if name == "umamba_bot":
        keys |= mamba_keys("mamba") | both("ln")
    for i in range(6):
        if name == "umamba_enc":
            keys |= mamba_keys(f"encoder.mamba_layers.{i}.mamba") | both(f"encoder.mamba_layers.{i}.norm")
        if name == "lma_unet":
            for layers in ("mamba_layers", "w_mamba_layers"):
                prefix = f"encoder.{layers}.{i}"
                keys |= both(f"{prefix}.norm") | {f"{prefix}.out_proj.weight"}
                for direction in ("mamba_forw", "mamba_backw"):
                    keys |= mamba_keys(f"{prefix}.{direction}", projected=False)
    return keys


def unetr_block(prefix: str, projected: bool) -> set[str]:
    parts = ("conv1", "conv2") + (("conv3",) if projected else ())
    return {f"{prefix}.{part}.conv.weight" for part in parts}


def segmamba_keys(tri: bool) -> set[str]:
    keys = both("vit.downsample_layers.0.0") | both("out.conv.conv")
    for i in range(4):
        keys |= both(f"vit.mlps.{i}.fc1") | both(f"vit.mlps.{i}.fc2")
        keys |= both(f"vit.downsample_layers.{i}.1") if i else set()
        for part in ("proj", "proj2", "proj3", "proj4"):
            keys |= both(f"vit.gscs.{i}.{part}")
        for j in range(2):
            keys |= both(f"vit.stages.{i}.{j}.norm") | mamba_keys(f"vit.stages.{i}.{j}.mamba", tri=tri)
    for i in range(1, 6):
        keys |= unetr_block(f"encoder{i}.layer", projected=True)
    for i in range(2, 6):
        keys |= unetr_block(f"decoder{i}.conv_block", projected=True)
        keys.add(f"decoder{i}.transp_conv.conv.weight")
    return keys | unetr_block("decoder1.layer", projected=False)


def batch_norm(prefix: str) -> set[str]:
    tracked = {f"{prefix}.{key}" for key in ("running_mean", "running_var", "num_batches_tracked")}
    return both(prefix) | tracked


def nnmamba_keys() -> set[str]:
    keys: set[str] = set()
    for part in ("in_conv", "conv5", "conv6", "conv7", "conv8"):
        keys |= both(f"{part}.conv.0") | batch_norm(f"{part}.conv.1")
        keys |= both(f"{part}.conv.3") | batch_norm(f"{part}.conv.4")
    for i, j in itertools.product((1, 2, 3), range(3)):
        block = f"layer{i}.{j}"
        keys |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        keys |= batch_norm(f"{block}.bn1") | batch_norm(f"{block}.bn2")
        if j == 0:
            keys |= both(f"att{i}.layer1") | both(f"att{i}.layer2")
            keys |= {f"{block}.downsample.0.weight"} | batch_norm(f"{block}.downsample.1")
        else:
            layer = f"{block}.mamba_layer"
            keys |= {f"{layer}.nin.weight", f"{layer}.nin2.weight"} | mamba_keys(f"{layer}.mamba")
            keys |= batch_norm(f"{layer}.norm") | batch_norm(f"{layer}.norm2")
    return keys


def em_unet_keys() -> set[str]:
    def layer(prefix: str) -> set[str]:
        parts = both(f"{prefix}.norm") | both(f"{prefix}.proj") | {f"{prefix}.skip_scale"}
        return parts | mamba_keys(f"{prefix}.mamba")

    keys = {"convInit.conv.weight"} | both("conv_final.0") | both("conv_final.2.conv")
    for i, blocks in enumerate((1, 2, 2, 4)):
        keys |= layer(f"down_layers.{i}.0.0") if i else set()
        for j, part in itertools.product(range(1, blocks + 1), ("1", "2")):
            prefix = f"down_layers.{i}.{j}"
            keys |= both(f"{prefix}.norm{part}") | layer(f"{prefix}.conv{part}")
    for i in range(3):
        keys.add(f"up_samples.{i}.0.conv.weight")
        for part in ("1", "2"):
            keys |= both(f"up_layers.{i}.0.norm{part}") | {f"up_layers.{i}.0.conv{part}.conv.weight"}
    return keys


LAYOUTS = {
    **{name: umamba_keys(name) for name in ("umamba_bot", "umamba_enc", "lma_unet")},
    "segmamba": segmamba_keys(tri=True),
    "segmamba, bmvc": segmamba_keys(tri=False),
    "nnmamba": nnmamba_keys(),
    "em_unet": em_unet_keys(),
}


@pytest.fixture(scope="session")
def published_keys() -> dict[str, set[str]]:
    """Network -> every key of its published state dict."""
    return LAYOUTS
