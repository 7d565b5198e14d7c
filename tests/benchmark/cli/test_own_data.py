"""One's own data at the command line: empty splits, names of cases and datasets, and that `data` and `run` agree."""

from __future__ import annotations

import gzip
import json
import re
import struct
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.commands.run import _channel_changes
from robustvox.benchmark.plan.cases import load_dataset, select_cases
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.sources import zoo_name
from robustvox.benchmark.specs.spec import UsageError

from ...datasets.layouts import LAYOUTS, Stored, example, put, write


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(toy, dataset, *more, out="out"):
    network = ("--model", "unet", "--checkpoint", str(toy.checkpoints["unet"]))
    return main(["--no-report", *network, "--dataset", str(dataset), "--out", out, *more])


def csv_of(root, rows, header="id,image,label"):
    """A list of cases in one folder, an image and a label each."""
    for n in range(len(rows)):
        case = example(n)
        put(root / f"{n}.nii.gz", case.channels[0], case.affine)
        put(root / f"{n}_seg.nii.gz", case.label, case.affine)
    path = root / f"{root.name}.csv"
    lines = [f"{row},{n}.nii.gz,{n}_seg.nii.gz" for n, row in enumerate(rows)]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


# ---- kind 5: an empty split is a usage error with the way out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_split_says_the_way_out(here, layout):
    path = write(layout, here / "two", {"a": example(), "b": example(1)})
    data = load_dataset(str(path), None)
    for cases in ("4", "all", "first:4", "nosuch"):
        with pytest.raises(
            UsageError, match=r"expected cases in the split validation .* give --split all"
        ) as caught:
            select_cases(data, "validation", cases)
        assert "\n" not in str(caught.value)
    assert select_cases(data, "all", "all") == ("a", "b")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--attack", "gn"],
        ["run", "--attack", "gn", "--cases", "nosuch"],
        ["check", "--attack", "gn", "--only", "C2"],
        ["figures", "--attack", "gn"],
        ["frequency", "--attack", "gn"],
    ],
)
def test_commands_without_a_case_to_run_on_end_with_2(here, toy, capsys, command):
    path = write("msd", here / "two", {"a": example(), "b": example(1)})
    name, *more = command
    network = ("--model", "unet", "--checkpoint", str(toy.checkpoints["unet"]))
    assert main([name, *network, *more, "--dataset", str(path)]) == 2
    text = capsys.readouterr().err
    assert len(text.splitlines()) == 1
    assert "split validation of two" in text
    assert "give --split all" in text


def test_data_and_train_without_cases_end_with_2(here, capsys):
    path = csv_of(here / "held", ["a,test", "b,test"], header="id,split,image,label")
    assert main(["data", "--dataset", str(path)]) == 2
    assert "2 in test" in capsys.readouterr().err
    assert main(["train", "--model", "unet", "--dataset", str(path), "--steps", "1"]) == 2
    assert "the split train of held" in capsys.readouterr().err
    assert main(["data", "--dataset", str(path), "--split", "test"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("a run would score 2 cases (--split test --cases all)")


# ---- kind 6: identity


def test_a_number_that_names_a_case_is_that_case(here):
    path = csv_of(here / "numbered", ["003", "4", "7", "12"])
    data = load_dataset(str(path), None)
    with pytest.warns(UserWarning, match="--cases 003 is the case named 003 of numbered"):
        assert select_cases(data, "all", "003") == ("003",)
    assert len(select_cases(data, "all", "first:3")) == 3
    assert len(select_cases(data, "all", "2")) == 2
    with pytest.raises(UsageError, match="ids look like"):
        select_cases(data, "all", "²")


def test_what_file_names_lose_keeps_files_of_its_own(here, toy, capsys):
    for name, ids in (("cjk", ["张三", "李四", "王五"]), ("marks", ["a b", "a_b", "a/b", "A_b"])):
        path = csv_of(here / name, ids)
        assert run(toy, path, "--attack", "gn", "--split", "all", "--save-adversarial") == 0
        saved = {path.name.lower() for path in (here / "out" / name / "adversarial").rglob("*.nii.gz")}
        assert len(saved) == len(ids)
        saved = ("--adversarial", f"out/{name}/adversarial", "--target", "segresnet")
        weights = ("--checkpoint", str(toy.checkpoints["segresnet"]))
        assert main(["--no-report", *saved, *weights, "--dataset", str(path), "--out", "out"]) == 0
        table = pd.read_csv(here / "out" / name / "transfer.csv")
        assert table["n_cases"].tolist() == [len(ids)]
    capsys.readouterr()


def test_two_lists_of_one_name_are_two_datasets(here, toy, capsys):
    for n, site in enumerate(("north", "south")):
        case = example(n)
        put(here / site / "x.nii.gz", case.channels[0] + 5 * n, case.affine)
        put(here / site / "x_seg.nii.gz", case.label, case.affine)
        (here / site / "test.csv").write_text("image,label\nx.nii.gz,x_seg.nii.gz\n")
        assert run(toy, f"{site}/test.csv", "--attack", "gn", "--split", "all") == 0
    names = sorted(path.parent.name for path in (here / "out").glob("*/records"))
    assert names[0] == "test"
    assert re.fullmatch(r"test-[0-9a-f]{8}", names[1])
    assert [len(load_records(here / "out" / name / "records").costs) for name in names] == [2, 2]
    # Again, in the other order: each finds its own records.
    capsys.readouterr()
    for site in ("south", "north"):
        assert run(toy, f"{site}/test.csv", "--attack", "gn", "--split", "all") == 0
        assert "0 computed, 2 already recorded" in capsys.readouterr().out


def test_figures_of_two_lists_of_one_name_keep_files_of_their_own(here, toy):
    for site in ("one", "two"):
        (here / site).mkdir()
        path = csv_of(here / site, ["p"]).rename(here / site / "test.csv")
        network = ("--model", "unet", "--checkpoint", str(toy.checkpoints["unet"]))
        command = ["figures", *network, "--attack", "gn", "--split", "all", "--format", "svg"]
        assert main([*command, "--dataset", str(path), "--out", "figures"]) == 0
    folders = sorted(path.parent.name for path in (here / "figures").glob("*/slices_p_*.svg"))
    assert folders[0] == "test"
    assert len(folders) == 2
    assert re.fullmatch(r"test-[0-9a-f]{8}", folders[1])


def test_a_model_of_one_list_is_not_taken_for_another_of_its_name(here):
    (here / "one").mkdir()
    (here / "two").mkdir()
    one, two = (csv_of(here / site, ["p"]).rename(here / site / "test.csv") for site in ("one", "two"))
    names = [zoo_name(load_dataset(str(path), None)) for path in (one, two)]
    # The same however results call it, and the plain name for what is registered.
    assert zoo_name(load_dataset(str(one), None, here / "out")) == names[0]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"test-[0-9a-f]{8}", name) for name in names)
    assert zoo_name(load_dataset("phantom", None)) == "phantom"


def test_a_network_that_cannot_run_is_one_line_of_training(here, capsys):
    path = write("msd", here / "mine", {name: example(n) for n, name in enumerate("abcde")})
    train = ["train", "--dataset", str(path), "--steps", "1", "--checkpoint", "x.safetensors"]
    assert main([*train, "--model", "unet:channels=(0,4)"]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: expected unet:channels=(0,4) to run on windows of 12x14x10, found: ")
    assert "Traceback" not in said


def test_messages_of_the_command_outlive_a_filter_of_pythons_warnings(here, toy, capsys):
    path = csv_of(here, ["003", "b"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert run(toy, path, "--attack", "gn", "--split", "all", "--cases", "003") == 0
    assert "--cases 003 is the case named 003" in capsys.readouterr().err


def test_a_folder_called_like_a_registered_dataset_is_another_one(here):
    path = write("msd", here / "phantom", {"a": example()})
    assert re.fullmatch(r"phantom-[0-9a-f]{8}", load_dataset(str(path), None).name)


def test_compare_figures_and_verify_take_what_run_took(here, toy, capsys):
    path = write("msd", here / "data" / "Mine", {f"c{n}": example(n) for n in range(5)})
    for name in ("unet", "segresnet"):
        network = ("--model", name, "--checkpoint", str(toy.checkpoints[name]))
        assert (
            main(["--no-report", *network, "--attack", "gn", "--dataset", "data/Mine", "--out", "out"]) == 0
        )
    for text in ("data/Mine", "./data/Mine/", str(path), "mine", "Mine"):
        two = ("--model", "unet", "--model", "segresnet")
        assert main(["compare", *two, "--dataset", text, "--out", "out"]) == 0, text
        assert main(["figures", "--results", "out", "--dataset", text, "--out", "figures"]) == 0, text
    weights = [a for file in toy.checkpoints.values() for a in ("--checkpoint", str(file))]
    assert main(["verify", "out/mine", "--dataset", "data/Mine", "--sample", "2", *weights]) == 0
    assert main(["compare", *two, "--dataset", "data/Other", "--out", "out"]) == 2
    capsys.readouterr()


# ---- kind 4: eps per channel


def test_the_row_says_the_change_of_each_channel_in_its_unit(here):
    from robustvox.attacks import FGSM
    from robustvox.benchmark import evaluate

    case = example()
    both = Stored((case.channels[0], case.channels[0] * 0.1), case.label, case.affine)
    path = write("csv", here, {"a": both}, modality=("CT", "PET"))
    data = load_dataset(str(path), None)
    volume = data.load("a")
    import torch

    network = torch.nn.Conv3d(2, 3, 3, padding=1)
    evaluate({"m": network}, {"fgsm": FGSM()}, data, cases=["a"], roi_size=(16, 16, 16), store=here / "r")
    (records,) = [load_records(here / "r")]
    row = records.costs[records.costs["attack"] != "none"].iloc[0]
    said = f"13.3 HU; {volume.window.physical(8 / 255)[1]:.3g} a.u."
    assert row["linf_channels"] == said
    (line,) = _channel_changes(records)
    assert line.startswith("largest change per channel, fgsm")
    assert line.endswith(f"on m: {said}")


# ---- the stored orientation on saving


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL"])
def test_saved_volumes_lie_on_the_file_they_are_made_from(here, toy, axes):
    from robustvox.datasets.geometry import turn

    case = example()
    image, affine = turn(case.channels[0], case.affine, axes)
    label, _ = turn(case.label, case.affine, axes)
    path = write("msd", here / "turned", {"a": Stored((image,), label, affine)})
    assert (
        run(toy, path, "--attack", "gn:std=0", "--split", "all", "--save-adversarial", "--units", "original")
        == 0
    )
    (saved,) = (here / "out" / "turned" / "adversarial").rglob("*.nii.gz")
    found = nib.load(saved)
    np.testing.assert_allclose(found.affine, nib.load(path / "imagesTr/a.nii.gz").affine, atol=1e-6)
    low, high = np.percentile(image, (0.5, 99.5))
    np.testing.assert_allclose(np.asarray(found.dataobj), image.clip(low, high), atol=1e-3)


# ---- `data` and `run` refuse the same


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _rewrite(change):
    def apply(path):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)

    return apply


def _poke(offset, content):
    def apply(path):
        raw = bytearray(gzip.decompress(path.read_bytes()))
        raw[offset : offset + len(content)] = content
        path.write_bytes(gzip.compress(bytes(raw)))

    return apply


DAMAGE = {
    "none": lambda path: None,
    "gone": lambda path: path.unlink(),
    "torn": _truncate,
    "0 bytes": lambda path: path.write_bytes(b""),
    "no gzip": lambda path: path.write_bytes(b"plain text"),
    "constant": _rewrite(lambda a: np.zeros_like(a)),
    "one voxel": _rewrite(lambda a: np.where(np.arange(a.size).reshape(a.shape) == 5, a, 0).astype(a.dtype)),
    "NaN": _rewrite(lambda a: np.full(a.shape, np.nan, np.float32)),
    "complex": _rewrite(lambda a: a.astype(np.complex64)),
    "cropped": _rewrite(lambda a: a[1:]),
    "flat": _rewrite(lambda a: a[..., 0]),
    "cine": _rewrite(lambda a: np.stack([a, a], -1)),
    "singleton": _rewrite(lambda a: a[..., None, None]),
    "halves": _rewrite(lambda a: a.astype(np.float32) * np.float32(0.5)),
    "unknown type": _poke(70, struct.pack("<h", 999)),
    "unknown unit": _poke(123, b"\x07"),
    "no side": _poke(80, struct.pack("<f", 0.0)),
    "other pixdim": _poke(80, struct.pack("<f", 7.5)),
    "no slope": _poke(112, struct.pack("<ff", np.nan, np.nan)),
    "endless": _poke(42, struct.pack("<3h", 32767, 32767, 32767)),
    "negative": _poke(42, struct.pack("<3h", -5, 14, 10)),
    "bytes": lambda path: path.write_bytes(bytes(np.random.default_rng(1).integers(0, 256, 900, np.uint8))),
}


@pytest.fixture(scope="module")
def agreement(tmp_path_factory):
    return tmp_path_factory.mktemp("agreement")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.data())
def test_data_and_run_agree_case_by_case(agreement, capsys, data):
    """40 folders of four cases, each file damaged in one of many ways."""
    from robustvox.attacks import GN
    from robustvox.benchmark.craft.named import NamedAttack, NamedModel
    from robustvox.benchmark.harness.bench import Bench
    from robustvox.benchmark.harness.execute import execute
    from robustvox.benchmark.plan.plan import Plan
    from robustvox.benchmark.records.store import RecordStore
    from robustvox.benchmark.specs.protocols import PROTOCOLS

    root = agreement / f"n{len(list(agreement.iterdir()))}"
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    path = write(layout, root, {f"c{n}": example(n) for n in range(4)})
    kinds = st.sampled_from(sorted(DAMAGE))
    for file in sorted(root.rglob("c?*.nii.gz")):
        if data.draw(st.booleans()):
            DAMAGE[data.draw(kinds)](file)
    found = root / "found.json"
    code = main(["data", "--dataset", str(path), "--split", "all", "--out", str(found)])
    assert "Traceback" not in capsys.readouterr().err
    reports = {case["id"]: case for case in json.loads(found.read_text())["cases"]}
    dataset = load_dataset(str(path), None)
    model = NamedModel("constant", "", _Constant())
    plan = Plan(
        dataset,
        list(dataset.splits["all"]),
        [model],
        [model],
        [NamedAttack("gn:std=0", GN(std=0.0))],
        PROTOCOLS["robustvox-1"],
    )
    with RecordStore(root / "records") as store:
        events = list(execute(Bench(plan), store))
    reasons = {event.job.case: event.error for event in events if event.job.clean}
    assert {case: (r["status"] != "found", r["problem"]) for case, r in reports.items()} == {
        case: (bool(reason), reason) for case, reason in reasons.items()
    }
    assert code == int(any(reasons.values()))


def _constant():
    import torch

    class Constant(torch.nn.Module):
        """Background everywhere, for any number of voxels and classes."""

        def forward(self, images):
            zero = images[:, :1] * 0
            return torch.cat([zero + 1, *[zero] * 7], 1)

    return Constant()


_Constant = _constant
