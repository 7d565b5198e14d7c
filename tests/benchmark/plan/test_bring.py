"""Models somebody brings to the command line: paths, factories, published checkpoints, and what is refused."""

from __future__ import annotations

import os
import sys

import pandas as pd
import pytest
import torch
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet

from robustvox.benchmark.cli import main
from robustvox.benchmark.plan.bring import last_part
from robustvox.benchmark.plan.model_text import locate
from robustvox.benchmark.records.provenance import describe
from robustvox.benchmark.records.reading import load_records
from robustvox.models import CATALOG, build_model

SEGRESNET = {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}
OPTIONS = "init_filters=8,blocks_down=(1,1),blocks_up=(1,),roi_size=(16,16,16)"


@pytest.fixture
def run(toy, capsys):
    """Run on the first toy case; returns the exit code, what was printed and what was said as an error."""

    def run(*arguments: str):
        code = main(
            ["--no-report", *arguments, "--attack", "fgsm", "--dataset", str(toy.folder), "--cases", "case_000",
             "--out", str(toy.root / "out")]
        )  # fmt: skip
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def refused(run):
    """The one line that a usage error is."""

    def refused(*arguments: str) -> str:
        code, _, error = run(*arguments)
        assert code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "Traceback" not in error
        return error

    return refused


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Factory of the importable module ``mine`` from its source."""

    def write(source: str) -> None:
        folder = tmp_path / "importable"
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text(source)
        monkeypatch.syspath_prepend(folder)

    sys.modules.pop("mine", None)
    yield write
    sys.modules.pop("mine", None)


@pytest.fixture
def segresnet(tmp_path):
    """A small published checkpoint: the file and the network that wrote it."""
    network = build_model("segresnet", in_channels=1, num_classes=3, roi_size=(16, 16, 16), **SEGRESNET)
    folder = tmp_path / "Results" / "natural"
    folder.mkdir(parents=True)
    torch.save({"epoch": 3, "model_state_dict": network.state_dict()}, folder / "model_best.pt")
    return folder / "model_best.pt", network


def spleen(write_bundle, classes: int, name="spleen_ct", **more):
    definition = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": classes,
                  "channels": [4, 8], "strides": [2], "num_res_units": 1}  # fmt: skip
    network = UNet(**{k: v for k, v in definition.items() if k != "_target_"})
    return write_bundle(
        network, definition, classes=[f"class {i}" for i in range(classes)], name=name, **more
    )


def table(toy):
    return pd.read_csv(toy.root / "out" / "toy" / "white_box.csv", keep_default_na=False)


# --- end to end -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_is_attacked_on_the_phantom(write_bundle, tmp_path, capsys):
    folder = spleen(write_bundle, 8, window=(48, 48, 48))
    out = tmp_path / "results"
    assert main(["--model", str(folder), "--attack", "fgsm", "--cases", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "spleen_ct: its classes, in order: class 0, class 1" in printed
    row = pd.read_csv(out / "phantom" / "white_box.csv").iloc[0]
    assert (row["surrogate"], row["n_cases"], row["failed"]) == ("spleen_ct", 1, 0)
    assert 0 < row["linf"] <= 8 / 255 + 1e-7
    assert main(["leaderboard", "--check", "--out", str(out)]) == 0


def test_records_name_the_folder_and_never_where_it_is(run, toy, write_bundle):
    folder = spleen(write_bundle, 3)
    assert run("--model", str(folder))[0] == 0
    costs = load_records(toy.root / "out" / "toy" / "records").costs
    assert set(costs["surrogate"]) == {"spleen_ct"}
    assert set(costs["surrogate_sha256"].str.len()) == {64}
    for path in (toy.root / "out").rglob("*"):
        assert path.is_dir() or str(folder.parent) not in path.read_text(), path
    # Other weights in the same folder are another model.
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    torch.save({k: v * 1.5 for k, v in state.items()}, folder / "models" / "model.pt")
    assert "2 computed, 0 already" in run("--model", str(folder))[1]
    assert len(set(load_records(toy.root / "out" / "toy" / "records").costs["surrogate_sha256"])) == 2


def test_a_published_checkpoint_runs_by_name_and_by_path(run, toy, segresnet):
    path, _ = segresnet
    assert run("--model", f"SegResNet:{OPTIONS}", "--checkpoint", str(path))[0] == 0
    assert run("--model", f"{path}:{OPTIONS}")[0] == 0
    rows = table(toy)
    assert sorted(name.partition(":")[0] for name in rows["surrogate"]) == ["model_best", "segresnet"]
    assert rows["dice_adv"].nunique() == 1


def test_two_checkpoints_of_one_architecture_are_two_models(run, toy, segresnet):
    path, network = segresnet
    other = path.parent.parent / "robust.pt"
    torch.save({k: v + 0.1 for k, v in network.state_dict().items()}, other)
    model = f"segresnet:{OPTIONS}"
    assert (
        run("--model", model, "--checkpoint", str(path), "--model", model, "--checkpoint", str(other))[0] == 0
    )
    costs = load_records(toy.root / "out" / "toy" / "records").costs
    assert costs["surrogate_sha256"].nunique() == 2


def test_paths_that_look_alike_are_two_models(run, toy, segresnet):
    path, network = segresnet
    twins = [path.parent / name for name in ("run_1.pt", "run1.pt")]
    for i, twin in enumerate(twins):
        torch.save({k: v + i for k, v in network.state_dict().items()}, twin)
    assert run(*(a for twin in twins for a in ("--model", f"{twin}:{OPTIONS}")))[0] == 0
    assert load_records(toy.root / "out" / "toy" / "records").costs["surrogate_sha256"].nunique() == 2


def test_a_path_stands_beside_a_name_with_its_checkpoint(run, toy, segresnet):
    path, _ = segresnet
    unet = str(toy.checkpoints["unet"])
    assert run("--model", f"{path}:{OPTIONS}", "--model", "unet", "--checkpoint", unet)[0] == 0
    assert sorted(name.partition(":")[0] for name in table(toy)["surrogate"]) == ["model_best", "unet"]


def test_our_own_file_runs_by_path(run, toy):
    assert run("--model", str(toy.checkpoints["unet"]))[0] == 0
    assert table(toy)["surrogate"].tolist() == ["unet"]


# --- factories ----------------------------------------------------------------------------------


def test_a_factory_gets_its_checkpoint_and_its_weights_are_its_identity(run, toy, module, tmp_path):
    module(
        "import torch\n"
        "def net(num_classes, checkpoint=None, width=1, weights=''):\n"
        "    network = torch.nn.Conv3d(1, num_classes, 3, padding=1)\n"
        "    network.load_state_dict(torch.load(checkpoint or weights, weights_only=True))\n"
        "    return network\n",
    )
    path = tmp_path / "conv.pt"
    torch.save(torch.nn.Conv3d(1, 3, 3, padding=1).state_dict(), path)
    assert run("--model", "mine:net", "--checkpoint", str(path))[0] == 0
    assert run("--model", f"mine:net:width=2,weights={path}")[0] == 0
    costs = load_records(toy.root / "out" / "toy" / "records").costs
    assert set(costs["surrogate"]) == {"mine:net", "mine:net:weights=conv.pt,width=2"}
    assert costs["surrogate_sha256"].nunique() == 1
    for file in (toy.root / "out").rglob("*"):
        assert file.is_dir() or str(tmp_path) not in file.read_text(), file


def test_a_factory_may_return_a_predictor(run, toy, module):
    module(
        "import torch\nfrom robustvox.models import SlidingWindow\n"
        "def net(num_classes):\n"
        "    torch.manual_seed(0)\n"
        "    return SlidingWindow(torch.nn.Conv3d(1, num_classes, 1), (8, 8, 8), overlap=0.25)\n",
    )
    code, printed, _ = run("--model", "mine:net")
    assert code == 0
    assert "mine:net: its own window (8, 8, 8), overlap 0.25" in printed
    assert table(toy)["n_cases"].tolist() == [1]


def test_a_factory_is_found_by_the_name_of_an_entry_point(run, toy, module, tmp_path):
    module("import torch\ndef net(num_classes):\n    return torch.nn.Conv3d(1, num_classes, 1)\n")
    package = tmp_path / "importable" / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[robustvox.models]\nmy_net = mine:net\n")
    assert run("--model", "my_net")[0] == 0
    assert table(toy)["surrogate"].tolist() == ["my_net"]


CONV = "import torch\ndef net(num_classes):\n    return torch.nn.Conv3d(1, num_classes, 1)\n"
FACTORIES = [
    ("def net():\n    raise KeyError('weights')\n", "mine:net: KeyError: 'weights' (at mine.py:2)"),
    ("def net():\n    assert False\n", "mine:net: AssertionError (at mine.py:2)"),
    ("def net(width):\n    return None\n", "width"),
    ("def net():\n    return None\n", "to return a torch.nn.Module, got NoneType"),
    ("net = 3\n", "a function that returns a network, got int"),
    ("net = (\n", "importable package.module:Name, found: SyntaxError"),
    ("raise RuntimeError('no licence')\n", "found: RuntimeError: no licence (at mine.py:1)"),
    ("def other(): pass\n", "has no attribute 'net'"),
    ("import torch\ndef net():\n    return torch.nn.Conv3d(1, 4, 1)\n", "logits of 3 classes"),
    ("import torch\ndef net():\n    return torch.nn.Conv3d(4, 3, 1)\n", "found that it takes 4"),
]


@pytest.mark.parametrize(("source", "message"), FACTORIES, ids=[message for _, message in FACTORIES])
def test_a_factory_that_cannot_be_used_is_one_line(source, message, refused, module):
    module(source)
    assert message in refused("--model", "mine:net")


def test_a_window_that_the_network_cannot_take_is_refused_and_one_from_the_data_fits(run, refused, module):
    module(
        "import torch\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv3d(1, 2, 64, 64), "
        "torch.nn.ConvTranspose3d(2, 3, 64, 64))\n"
    )
    assert "mine:net expected another roi_size than" in refused(
        "--model", "mine:net", "--roi-size", "16,16,16"
    )
    assert run("--model", "mine:net")[0] == 0


def test_a_factory_without_a_place_for_the_checkpoint_says_so(refused, module, segresnet):
    module(CONV)
    assert "found no parameter `checkpoint`" in refused(
        "--model", "mine:net", "--checkpoint", str(segresnet[0])
    )


def test_what_fails_at_the_first_forward_is_a_failed_case(run, toy, module):
    module(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, images):\n"
        "        if images.mean().item() >= 0:\n"
        "            raise LookupError('no table\\nfor this')\n"
        "def net():\n    return Net()\n",
    )
    code, printed, error = run("--model", "mine:net")
    assert code == 1
    assert "Traceback" not in printed + error
    line = next(line for line in printed.splitlines() if line.startswith("failed"))
    assert "mine:net failed on a window of shape (1, 1, " in line
    assert "LookupError: no table for this; correct the model" in line
    assert table(toy)["failed"].tolist() == [1]


# --- refused --------------------------------------------------------------------------------------


def test_a_bundle_that_would_run_code_is_refused(refused, write_bundle, tmp_path):
    owned = tmp_path / "owned"
    config = {"network_def": {"_target_": "UNet", "spatial_dims": f"$__import__('os').mkdir('{owned}')"}}
    folder = spleen(write_bundle, 3, config=config)
    assert "which would run as Python; nothing was run" in refused("--model", str(folder))
    assert not owned.exists()


def test_a_checkpoint_that_would_run_code_is_refused(refused, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"model_state_dict": {"a": torch.ones(1)}, "args": Evil()}, tmp_path / "evil.pt")
    for arguments in (("--model", "segresnet", "--checkpoint"), ("--model",)):
        assert "mkdir, which reading the file would run" in refused(*arguments, str(tmp_path / "evil.pt"))
    assert not (tmp_path / "owned").exists()


def test_other_data_is_refused(refused, write_bundle, segresnet):
    assert "3 classes, found 1 and 4 in metadata.json" in refused("--model", str(spleen(write_bundle, 4)))
    path, network = segresnet
    state = network.state_dict()
    state["conv_final.2.conv.weight"] = torch.zeros(5, 8, 1, 1, 1)
    state["conv_final.2.conv.bias"] = torch.zeros(5)
    torch.save(state, path)
    assert "and 3 classes, found them for 1 and 5 in model_best.pt" in refused("--model", f"{path}:{OPTIONS}")


def test_mistakes_with_paths_are_told(refused, toy, segresnet, write_bundle, tmp_path):
    path, folder = str(segresnet[0]), str(spleen(write_bundle, 3))
    assert "found in nowhere: nothing there" in refused("--model", str(tmp_path / "nowhere"))
    assert "found in best.pt: nothing there" in refused("--model", "best.pt")
    assert r"found in C:\models\bundle: nothing there" in refused("--model", r"C:\models\bundle")
    assert "a dataset is given to --dataset" in refused("--model", str(toy.folder))
    assert "a folder is given to --model" in refused("--model", "unet", "--checkpoint", folder)
    assert "a path has its own weights" in refused("--model", folder, "--checkpoint", path)
    assert "among legacy_merging, got fold" in refused("--model", f"{folder}:fold=1")
    assert "found segresnet in model_best.pt; run with --model segresnet" in refused(
        "--model", "unetr", "--checkpoint", path
    )
    assert "nearest sizes that work are (8, 8, 8) and (8, 10, 8)" in refused(
        "--model", f"{path}:{OPTIONS.replace('(16,16,16)', '(8,9,8)')}"
    )


# --- what is a path -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "parameters"),
    [
        ("runs/spleen", "runs/spleen", {}),
        ("runs/spleen:fold=1,checkpoint=checkpoint_best.pth", "runs/spleen",
         {"fold": 1, "checkpoint": "checkpoint_best.pth"}),
        ("./unet", "unet", {}),
        ("model_best.PT", "model_best.PT", {}),
        ("m.pt:roi_size=(64,64,64),size=small", "m.pt", {"roi_size": (64, 64, 64), "size": "small"}),
        (r"C:\runs\spleen:fold=0", r"C:\runs\spleen", {"fold": 0}),
        ("/a:b/c", "/a:b/c", {}),
        ("mine", "mine", {}),
        ("a:b", "a:b", {}),
        ("a:b=c", "a:b=c", {}),
    ],
)  # fmt: skip
def test_paths(text, path, parameters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "a:b", "a:b=c"):
        (tmp_path / name).mkdir()
    found = locate(text, CATALOG)
    assert found is not None
    assert (str(found[0]), found[1]) == (path, parameters)


@pytest.mark.parametrize(
    "text",
    ["unet", "Swin-UNETR", "unet:size=small", "unet:bad/part", "package.module:factory", "nowhere",
     "package.module:factory:weights=/tmp/w.pt", "x" * 5000, "nul\0byte"],
)  # fmt: skip
def test_names(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet").mkdir()
    assert locate(text, CATALOG) is None


def test_home_is_meant(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/best.pt")[0] == tmp_path / "best.pt"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("/home/me/w.pt", "w.pt"), ("~/w.pt", "w.pt"), ("../w.pt", "w.pt"), (r"C:\me\w.pt", "w.pt"), ("8/255", "8/255"),
     ("paper", "paper"), (0.5, 0.5), ((1, 2), (1, 2))],
)  # fmt: skip
def test_values_lose_their_folders(value, shown):
    assert last_part(value) == shown


@pytest.mark.parametrize(
    ("argument", "shown"),
    [("/home/me/spleen", "spleen"), ("/home/me/spleen:fold=1", "spleen:fold=1"), ("--model=/home/me/w.pt", "--model=w.pt"),
     ("mine:net:weights=/home/me/w.pt,k=2", "mine:net:weights=w.pt,k=2"), ("a:w=C:\\me\\w.pt", "a:w=w.pt"),
     ("pgd:eps=8/255,alpha=2/255", "pgd:eps=8/255,alpha=2/255"), ("runs/spleen", "runs/spleen")],
)  # fmt: skip
def test_the_command_in_the_provenance_has_no_home_folder(argument, shown):
    import shlex

    assert shlex.split(describe([argument])["command"])[3:] == [shown]


def test_a_segresnet_of_monai_is_the_published_one(segresnet):
    # Independent of our builder: the file loads into MONAI's class with the published arguments.
    path, _ = segresnet
    network = SegResNet(spatial_dims=3, in_channels=1, out_channels=3, **SEGRESNET)
    network.load_state_dict(torch.load(path, weights_only=True)["model_state_dict"], strict=True)
