"""``--label``: what tables call a model, and nothing that it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records.model_labels import read_labels
from robustvox.benchmark.records.reading import load_records
from robustvox.benchmark.records.unit import RecordsError
from robustvox.benchmark.show.files import load_board
from robustvox.benchmark.specs.model_labels import label_problem


def rows_of(toy) -> dict[str, str]:
    """Unit to the recorded name of the attacked model."""
    costs = load_records(toy.root / "results" / "toy" / "records").costs
    return dict(zip(costs["unit"], costs["surrogate"], strict=True))


def test_a_label_is_shown_everywhere_and_computes_nothing_again(toy, capsys) -> None:
    assert toy("--attack", "gn", models=("unet", "segresnet")) == 0
    before = rows_of(toy)
    asked = ("--attack", "gn", "--transfer")
    capsys.readouterr()
    assert toy(*asked, "--label", "my net v2", "--label", "theirs", models=("unet", "segresnet")) == 0
    said = capsys.readouterr().out
    assert "my net v2" in said
    assert "unet" not in said.replace(str(toy.root), "")
    assert before.items() <= rows_of(toy).items()  # the same units, by the same names
    assert {*rows_of(toy).values()} == {"unet", "segresnet"}
    assert toy.table()["surrogate"].tolist() == ["my net v2", "theirs"]
    pairs = toy.table(name="transfer")
    assert {*zip(pairs["surrogate"], pairs["target"], strict=True)} == {
        ("my net v2", "theirs"),
        ("theirs", "my net v2"),
    }
    results = toy.root / "results"
    assert "my net v2" in (results / "index.html").read_text()
    for page in ("white_box.md", "transfer.md", "success.md"):
        text = (results / "toy" / page).read_text() if (results / "toy" / page).is_file() else "my net v2"
        assert "my net v2" in text, page
    board = load_board(results / "toy")
    assert board.stored["my net v2"] == "unet"
    assert "my net v2" in {*board.ranked["surrogate"]} | {*board.cases["surrogate"]}
    assert main(["leaderboard", "--check", "--out", str(results)]) == 0

    # Without the label it is found in the records, and goes by its label all the same.
    capsys.readouterr()
    assert toy(*asked, models=("unet", "segresnet")) == 0
    assert "0 computed" in capsys.readouterr().out
    assert toy.table()["surrogate"].tolist() == ["my net v2", "theirs"]
    # Another one takes its place.
    assert toy(*asked, "--label", "a", "--label", "b", models=("unet", "segresnet")) == 0
    assert "0 computed" in capsys.readouterr().out
    assert toy.table()["surrogate"].tolist() == ["a", "b"]
    assert main(["compare", "--model", "a", "--model", "b", "--dataset", "toy", "--out", str(results)]) == 0
    assert "a minus b" in capsys.readouterr().out


@pytest.mark.parametrize(
    "label",
    [
        *(
            "",
            " mine",
            "mine ",
            ".",
            "..",
            "../unet",
            "a/b",
            "a\\b",
            "net@1a2b3c4d",
            "net:size=small",
            "a,b",
            "a;b",
            "|",
        ),
        *(
            "a\nb",
            "mine\n",
            "a\tb",
            "\x1b[31mred",
            "a\x00b",
            "\u202egnp",
            "a\u200bb",
            "мой",
            "un\u0435t",
            "\ud800",
        ),
        *("[bold]x", "<b>x</b>", "=cmd()", "x" * 41, "x" * 10_000),
        *(
            "unet",
            "UNet",
            "U-Net",
            "u_n e.t",
            "swin-UNETR",
            "segrnamba",
            "unet pgd_at",
            "unet natural",
            "VISTA-3D",
        ),
    ],
)
def test_what_cannot_stand_for_a_model_is_one_line(label: str, tmp_path, capsys) -> None:
    arguments = ["--model", "unet", "--attack", "gn", "--out", str(tmp_path / "out"), "--label", label]
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: expected ")
    assert "--label" in line
    assert len(line) < 250
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("label", ["unet v2", "my-unet", "A", "net (2026-11)", "9", "x" * 40])
def test_what_can(label: str) -> None:
    assert label_problem(label, ["unet", "segresnet"]) == ""


def test_one_label_a_model(toy, capsys) -> None:
    both = ("unet", "segresnet")
    for labels, said in (
        (["a"], "expected one --label per --model (2), got 1"),
        (["a", "a"], "got 'a' twice"),
    ):
        words = [word for label in labels for word in ("--label", label)]
        assert toy("--attack", "gn", *words, models=both) == 2
        assert said in capsys.readouterr().err
    assert toy("--attack", "gn", "--label", "a", "--label", "b", models=both) == 0
    capsys.readouterr()
    for more in ([], ["--dry-run"]):  # what is another model's stays its own
        assert toy("--attack", "gn", "--label", "b", *more) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "got 'b', which is segresnet@" in line
    assert toy("--attack", "gn", "--label", "segresnet 2") == 0


def test_two_weights_of_one_label_are_told_apart_by_their_hash(toy) -> None:
    assert toy("--attack", "gn", "--label", "mine") == 0
    first = rows_of(toy)
    toy.checkpoints["unet"].write_bytes(_retrained(toy.checkpoints["unet"]))
    assert toy("--attack", "gn", "--label", "mine") == 0
    assert len(rows_of(toy)) == 2 * len(first)
    names = toy.table()["surrogate"].tolist()
    assert len({*names}) == 2
    assert all(name.startswith("mine@") for name in names)


def _retrained(checkpoint: Path) -> bytes:
    from safetensors import safe_open
    from safetensors.torch import save

    with safe_open(checkpoint, "pt") as file:
        tensors, header = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    name = next(iter(tensors))
    return save({**tensors, name: tensors[name] + 0.01}, header)


def test_precisions_of_one_label_are_not_one_row(toy) -> None:
    assert toy("--attack", "gn", "--label", "mine") == 0
    file = toy.root / "results" / "toy" / "records" / "labels.json"
    (line,) = json.loads(file.read_text())
    assert toy("--attack", "gn", "--precision", "bf16") == 0
    (other,) = {*rows_of(toy).values()} - {"unet"}
    # As nothing of ours writes it: both precisions, which have one hash, under one label.
    file.write_text(json.dumps([line, {**line, "name": other}]))
    assert toy("--attack", "gn") == 0
    assert {*toy.table()["surrogate"]} == {"unet", other}
    assert toy("--attack", "gn", "--precision", "bf16", "--label", "mine") == 2


def test_labels_that_somebody_edited(toy, capsys) -> None:
    assert toy("--attack", "gn", "--label", "mine") == 0
    file = toy.root / "results" / "toy" / "records" / "labels.json"
    (line,) = json.loads(file.read_text())
    file.write_text(json.dumps([{**line, "label": "swin_unetr"}]))
    assert toy("--attack", "gn") == 0
    assert toy.table()["surrogate"].tolist() == ["unet"]
    for label in ("swin_unetr", "\x1b[31m", "x" * 9999, "../x"):
        file.write_text(json.dumps([{**line, "label": label}]))
        assert {*load_board(toy.root / "results" / "toy").cases["surrogate"]} == {"unet"}, label
    capsys.readouterr()
    file.write_text("[{}]")
    assert toy("--attack", "gn") in (2, 3)
    (error,) = capsys.readouterr().err.splitlines()[-1:]
    assert "labels.json" in error
    for text in ("{}", "[1]", "[{}]", '[{"name": 1, "sha256": "", "label": ""}]', "[" * 99_999, "\xff"):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(RecordsError, match="remove the file") as damaged:
            read_labels(file.parent)
        assert "labels.json" in str(damaged.value)


def test_published_results_show_names_as_recorded(toy) -> None:
    assert toy("--attack", "gn", "--label", "mine") == 0
    results = toy.root / "results"
    assert read_labels(results / "toy" / "records") != {}
    (results / "published.json").write_text("{}")
    assert read_labels(results / "toy" / "records") == {}


@pytest.mark.slow
def test_workers_compute_what_has_a_label(toy) -> None:
    assert toy("--attack", "gn", "--label", "mine", "--workers", "1") == 0
    assert toy.table()["surrogate"].tolist() == ["mine"]
    assert {*rows_of(toy).values()} == {"unet"}
