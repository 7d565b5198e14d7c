"""MONAI bundles: read as data, never run."""

from __future__ import annotations

import json

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from monai.networks.nets.unetr import UNETR

from robustvox.models.bring import open_model
from robustvox.models.bring.bundle import NETWORKS
from robustvox.models.bring.configuration import Configuration
from robustvox.models.bring.legacy import LegacyPatchMerging
from robustvox.models.documents import read_document
from robustvox.models.header import CheckpointError

CLASSES = ("background", "spleen", "liver")
DATA = {"in_channels": 1, "num_classes": 3, "roi_size": (24, 24, 24)}
UNET = {
    "_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8, 12],
    "strides": [2, 2], "num_res_units": 2, "norm": "batch",
}  # fmt: skip


def arguments(definition: dict) -> dict:
    return {key: value for key, value in definition.items() if not key.startswith("_")}


@pytest.fixture
def unet(write_bundle):
    """Factory of a bundle around one small UNet; keywords go into the definition, the rest as it comes."""
    torch.manual_seed(1)
    network = UNet(**arguments(UNET)).eval()

    def make(folder="spleen_ct", metadata=None, config=None, **definition):
        named = write_bundle(
            network, {**UNET, **definition}, classes=CLASSES, name=folder, metadata=metadata, config=config
        )
        return named, network

    return make


def same_logits(brought, network, shape=(1, 1, 16, 16, 16)) -> bool:
    image = torch.rand(shape)
    with torch.no_grad():
        # Sums over one thread and over two differ by 2.2e-6 on logits up to 3.4.
        return torch.allclose(brought.network(image), network(image), atol=1e-5)


def test_a_bundle_gives_its_network_window_and_notes(unet):
    folder, network = unet()
    brought = open_model(folder, **DATA)
    assert (brought.name, brought.roi_size, brought.predictor) == ("spleen_ct", (16, 16, 16), None)
    assert same_logits(brought, network)
    assert "background, spleen, liver" in brought.notes[0]
    assert "pixdim [1.5, 1.5, 2.0], a_min -57, a_max 164" in brought.notes[-1]


def test_the_identity_is_configuration_and_weights(unet):
    folder, network = unet()
    first = open_model(folder, **DATA).sha256
    (folder / "docs" / "README.md").write_text("changed")
    assert open_model(folder, **DATA).sha256 == first
    config = folder / "configs" / "inference.json"
    text = config.read_text()
    config.write_text(text.replace('"roi_size": [16, 16, 16]', '"roi_size": [16, 16, 24]'))
    changed = open_model(folder, **DATA)
    assert changed.roi_size == (16, 16, 24)
    config.write_text(text)
    torch.save({k: v + 1 for k, v in network.state_dict().items()}, folder / "models" / "model.pt")
    assert len({first, changed.sha256, open_model(folder, **DATA).sha256}) == 3


@pytest.mark.parametrize(
    "written",
    [
        {"network_def": {**UNET, "_target_": "monai.networks.nets.UNet"}},
        {"network_def": {**UNET, "_target_": "monai.networks.nets.unet.UNet", "_mode_": "default"}},
        {"width": 4, "network_def": {**UNET, "channels": ["@width", "$@width * 2", "$3*@width"]}},
        {"sizes": {"out": [3]}, "network_def": {**UNET, "out_channels": "@sizes::out::0"}},
        {"sizes": {"out": [3]}, "network_def": {**UNET, "out_channels": "%sizes#out#0"}},
        {"network_def": None, "net": UNET, "network": "@net"},
        {"network_def": None, "net": UNET, "network": "$@net.to(@device)"},
        {"patch": "$[16, 2 * 8, 16]", "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@patch"}},
        {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": 16}},
        {"inferer": {"_target_": "SimpleInferer"}},
    ],
    ids=str,
)
def test_references_and_arithmetic_are_followed(written, unet):
    folder, network = unet(config=written)
    config = folder / "configs" / "inference.json"
    content = {k: v for k, v in json.loads(config.read_text()).items() if v is not None}
    config.write_text(json.dumps(content))
    brought = open_model(folder, **DATA)
    assert brought.roi_size == (16, 16, 16)
    assert same_logits(brought, network)


def test_a_yaml_configuration_and_other_files_of_weights_are_read(unet):
    yaml = pytest.importorskip("yaml")
    from safetensors.torch import save_file

    folder, network = unet()
    config = folder / "configs" / "inference.json"
    config.with_name("train.yaml").write_text(yaml.safe_dump(json.loads(config.read_text())))
    config.write_text(json.dumps({"run": "$print()"}))
    (folder / "models" / "model.pt").unlink()
    save_file(network.state_dict(), folder / "models" / "model.safetensors")
    assert same_logits(open_model(folder, **DATA), network)
    config.with_name("train.yaml").write_text("!!python/object/apply:os.mkdir [owned]")
    with pytest.raises(CheckpointError, match=r"train.yaml as JSON or YAML"):
        open_model(folder, **DATA)


def test_weights_may_stand_under_the_name_of_the_model(unet):
    folder, network = unet()
    torch.save({"model": network.state_dict(), "optimizer": {"state": {}}}, folder / "models" / "model.pt")
    assert same_logits(open_model(folder, **DATA), network)


def test_without_a_window_the_data_decides(unet):
    plain = {"network_data_format": {"inputs": {"image": {"num_channels": 1}}, "outputs": {}}}
    folder, _ = unet(metadata=plain, config={"inferer": {"_target_": "SimpleInferer"}})
    brought = open_model(folder, **DATA)
    assert brought.roi_size == DATA["roi_size"]
    assert "names no window" in brought.notes[0]


# --- nothing runs -------------------------------------------------------------------------------


RUNS = [
    "$__import__('pathlib').Path('{owned}').touch()",
    "$import os; os.mkdir('{owned}')",
    "$(lambda: open('{owned}', 'w'))()",
    "$[open('{owned}', 'w') for _ in [1]]",
    "$@bundle_root.__class__",
    "$open('{owned}', 'w') if True else 3",
    "$'3' * 3",
    "$1 / 0",
    "$9 ** 9 ** 9",
    "$" + "(" * 500 + "3" + ")" * 500,
    "@other_file.json::value",
    "%configs/other.json::value",
]


@pytest.mark.parametrize("text", RUNS)
def test_what_would_run_is_refused_and_quoted(text, unet, tmp_path):
    text = text.format(owned=tmp_path / "owned")
    folder, _ = unet(out_channels=text)
    with pytest.raises(CheckpointError) as error:
        open_model(folder, **DATA)
    assert " ".join(text.split())[:100] in str(error.value)
    assert "network_def::out_channels in inference.json" in str(error.value)
    assert "nothing was run" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_what_the_network_does_not_need_is_not_even_looked_at(unet, tmp_path):
    owned = tmp_path / "owned"
    folder, network = unet(
        config={
            "imports": [f"$__import__('os').mkdir('{owned}')"],
            "initialize": [f"$open('{owned}', 'w')"],
            "handlers": [{"_target_": "os.mkdir", "path": str(owned)}],
        }
    )
    assert same_logits(open_model(folder, **DATA), network)
    assert not owned.exists()


@pytest.mark.parametrize(
    "definition",
    [
        {"_target_": "scripts.network.Net"},
        {"_target_": "os.mkdir", "path": "owned"},
        {"_target_": "monai.networks.nets.TorchVisionFCModel"},
        {"_target_": "mymonai.networks.nets.UNet"},
        {"_target_": "torch.load"},
    ],
)
def test_only_segmentation_networks_of_monai_are_built(definition, unet):
    folder, _ = unet(**definition)
    with pytest.raises(CheckpointError, match="which would be imported and called") as error:
        open_model(folder, **DATA)
    assert f'_target_ "{definition["_target_"]}" at network_def' in str(error.value)
    assert "package.module:factory" in str(error.value)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ({"norm": {"_target_": "os.mkdir", "path": "owned"}}, "_target_ os.mkdir.*would be called"),
        ({"_requires_": ["$import os"]}, "_requires_"),
        ({"_disabled_": True}, "_disabled_"),
        ({"_mode_": "callable"}, "_mode_"),
        ({"pretrained": True}, "would download"),
        ({"channels": "@channels"}, "a value named channels"),
        ({"channels": "@network_def::channels"}, "references with an end"),
        ({"width": 3}, "expected arguments of UNet .* 'width'"),
        ({"strides": [2]}, "expected arguments of UNet"),
        ({"spatial_dims": 2}, "3 spatial axes"),
        ({"channels": [4, 8, 16]}, "misshapen"),
        ({"channels": [4, 8, 12, 16], "strides": [2, 2, 2]}, "missing"),
    ],
)
def test_a_definition_that_cannot_be_is_refused(definition, message, unet):
    folder, _ = unet(**definition)
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(folder, **DATA)
    assert "\n" not in str(error.value)


def test_every_allowed_network_exists():
    import monai.networks.nets

    assert all(hasattr(monai.networks.nets, name) for name in NETWORKS)


# --- bundles for other data ---------------------------------------------------------------------


def test_other_data_is_told(unet):
    folder, _ = unet()
    with pytest.raises(
        CheckpointError, match=r"for 1 image channel\(s\) and 8 classes, found 1 and 3 in metadata"
    ):
        open_model(folder, **{**DATA, "num_classes": 8})
    with pytest.raises(
        CheckpointError, match=r"for 2 image channel\(s\) and 3 classes, found 1 and 3 in metadata"
    ):
        open_model(folder, **{**DATA, "in_channels": 2})
    metadata = folder / "configs" / "metadata.json"
    metadata.write_text("{}")
    with pytest.raises(CheckpointError, match="and 8 classes, found 1 and 3 in inference.json"):
        open_model(folder, **{**DATA, "num_classes": 8})
    config = folder / "configs" / "inference.json"
    config.write_text(config.read_text().replace('"out_channels": 3', '"out_channels": 8'))
    with pytest.raises(
        CheckpointError, match="weights for 1 .* and 8 classes, found them for 1 and 3 in model.pt"
    ):
        open_model(folder, **{**DATA, "num_classes": 8})


def test_other_intensities_and_overlapping_classes_are_refused(unet):
    inputs = {"image": {"num_channels": 1, "value_range": [-1024, 3071]}}
    folder, _ = unet("hounsfield", metadata={"network_data_format": {"inputs": inputs, "outputs": {}}})
    with pytest.raises(CheckpointError, match=r"value_range \[-1024, 3071\]"):
        open_model(folder, **DATA)
    steps = [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}]
    folder, _ = unet("overlapping", config={"postprocessing": {"_target_": "Compose", "transforms": steps}})
    with pytest.raises(CheckpointError, match="overlapping ones"):
        open_model(folder, **DATA)


@pytest.mark.parametrize("window", [(16, 16, 18), (15, 16, 16)])
def test_a_window_the_network_cannot_take_is_refused_before_the_first_forward(window, unet, monkeypatch):
    folder, _ = unet(config={"inferer": {"_target_": "SlidingWindowInferer", "roi_size": list(window)}})
    with pytest.raises(
        CheckpointError, match=r"the nearest that work are \(\d+, 16, 16\) and \(16, 16, \d+\)"
    ):
        open_model(folder, **DATA)


def test_what_is_missing_is_named(unet):
    folder, _ = unet()
    weights, config = folder / "models" / "model.pt", folder / "configs" / "inference.json"
    weights.rename(weights.with_suffix(".ts"))
    with pytest.raises(CheckpointError, match=r"model\.pt .*found model\.ts; model\.ts is TorchScript"):
        open_model(folder, **DATA)
    config.write_text("{")
    with pytest.raises(CheckpointError, match="expected inference.json as JSON"):
        open_model(folder, **DATA)
    config.write_text("[]")
    with pytest.raises(CheckpointError, match="found list"):
        open_model(folder, **DATA)
    config.write_text("{}")
    with pytest.raises(CheckpointError, match=r"with a network .* found inference.json, metadata.json"):
        open_model(folder, **DATA)


# --- older MONAI --------------------------------------------------------------------------------


SWIN = {"_target_": "SwinUNETR", "spatial_dims": 3, "img_size": 96, "in_channels": 1, "out_channels": 3,
        "feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 2, 2]}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "asked", "legacy"),
    [
        ("1.4.0", None, True),
        ("1.5.1", None, False),
        ("1.4.0", False, False),
        ("1.5.1", True, True),
        ("", None, False),
    ],
)
def test_patch_merging_follows_the_version_of_the_bundle(version, asked, legacy, write_bundle):
    network = SwinUNETR(**{k: v for k, v in arguments(SWIN).items() if k != "img_size"}).eval()
    folder = write_bundle(
        network, SWIN, classes=CLASSES, window=(64, 64, 64), metadata={"monai_version": version}
    )
    given = {} if asked is None else {"legacy_merging": asked}
    brought = open_model(folder, **DATA, arguments=given)
    merging = [m for m in brought.network.modules() if type(m).__name__.endswith("PatchMerging")]
    assert [isinstance(m, LegacyPatchMerging) for m in merging] == [legacy] * 4
    assert f"legacy_merging={str(not legacy).lower()} takes the other" in brought.notes[1]


def test_unetr_of_an_older_monai_is_read(write_bundle):
    definition = {"_target_": "UNETR", "in_channels": 1, "out_channels": 3, "img_size": [16, 16, 16], "feature_size": 4,
                  "hidden_size": 12, "mlp_dim": 16, "num_heads": 2, "pos_embed": "perceptron"}  # fmt: skip
    current = {k: v for k, v in arguments(definition).items() if k != "pos_embed"}
    network = UNETR(**current, proj_type="perceptron").eval()
    folder = write_bundle(network, definition, classes=CLASSES)
    state = {k: v for k, v in network.state_dict().items() if "norm_cross_attn" not in k}
    torch.save(state, folder / "models" / "model.pt")
    assert same_logits(open_model(folder, **DATA), network)


def test_merging_is_no_question_for_another_network(write_bundle):
    definition = {"_target_": "SegResNet", "in_channels": 1, "out_channels": 3, "init_filters": 8,
                  "blocks_down": [1, 1], "blocks_up": [1], "norm": ["GROUP", {"num_groups": 4}]}  # fmt: skip
    network = SegResNet(**arguments(definition)).eval()
    folder = write_bundle(network, definition, classes=CLASSES)
    assert same_logits(open_model(folder, **DATA), network)
    with pytest.raises(CheckpointError, match="with a SwinUNETR only, found SegResNet"):
        open_model(folder, **DATA, arguments={"legacy_merging": True})
    with pytest.raises(CheckpointError, match="among legacy_merging, got fold"):
        open_model(folder, **DATA, arguments={"fold": 1})


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("$-2 + 3 * (4 - 1)", 7),
        ("$7 // 2", 3),
        ("$7 % 4", 3),
        ("$@a / 2", 2.0),
        ("$(1, @a, 'x', None, True)", [1, 4, "x", None, True]),
        ("$@list::1", 6),
        ("$@nested#deep::0+1", 3),
        ({"k": ["@a", {"m": "@list"}]}, {"k": [4, {"m": [5, 6]}]}),
        ("plain", "plain"),
        ("mail@host", "mail@host"),
        (2.5, 2.5),
        (None, None),
    ],
)
def test_values(raw, value):
    config = Configuration(
        {"a": 4, "list": [5, "@b"], "b": "$@a + 2", "nested": {"deep": ["$1 + 1"]}}, "c.json"
    )
    found = config.literal(raw)
    assert found == value
    assert type(found) is type(value)


def test_references_in_a_circle_are_named():
    config = Configuration({"a": "@b", "b": "$1 + @a"}, "c.json")
    with pytest.raises(CheckpointError, match=r"with an end in c\.json, found a -> b -> a"):
        config.literal("@a")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "metadata.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="expected metadata.json as JSON"):
        read_document(tmp_path / "metadata.json")
    (tmp_path / "metadata.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="expected metadata.json as JSON"):
        read_document(tmp_path / "metadata.json")
