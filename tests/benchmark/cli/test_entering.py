"""A model of somebody's own from `suite` to `submit` to `verify` by somebody else, and what each cheat on the way meets.

The suite of these tests is small, so that all of it takes a second; the real ones are in ``specs/suites.py``.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.records import load_records
from robustvox.benchmark.records.coverage import content_hash
from robustvox.benchmark.records.unit import digest
from robustvox.benchmark.specs.suites import Suite, SuiteRow

from ..first_form import rows_in
from .test_strangers import key_of

PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=2"
SMALL = Suite(
    name="robustvox-1",
    split="all",
    rows=(
        SuiteRow(text="", spec="none", label="clean", control=True),
        SuiteRow(text="gn:std=8/255", spec="gn:std=8/255", label="noise", control=True),
        SuiteRow(text="fgsm:eps=8/255", spec="fgsm:eps=8/255,loss=dice", label="FGSM"),
        SuiteRow(text="pgd:eps=8/255,alpha=2/255,steps=2", spec=PGD, label="PGD", checks=("C9", "C27")),
    ),
)

FACTORY = """
import torch

def make(num_classes):
    torch.manual_seed(0)
    return torch.nn.Conv3d(1, num_classes, 3, padding=1)
"""

PEOPLE = {
    **dict.fromkeys(("title", "paper", "code", "data", "licence", "extra_training_data", "contact"), "none"),
    "authors": ["A. Stranger"],
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    suites = {"robustvox-1": SMALL}
    for module in (
        "specs.suites",
        "records.suite",
        "show.files",
        "cli.commands.suite",
        "cli.commands.verify",
    ):
        monkeypatch.setattr(f"robustvox.benchmark.{module}.SUITES", suites)


def measured(toy, *model: str) -> Path:
    """What `suite` records, in a folder that nobody has published anything in."""
    out = toy.root / "runs"
    command = [
        "suite",
        *model,
        "--dataset",
        str(toy.folder),
        "--known",
        str(toy.root / "none"),
        "--out",
        str(out),
    ]
    assert main([*command, "--device", "cpu"]) == 0
    return out


def submitted(toy, run: Path, *more: str) -> Path:
    """A submission of it, its card filled in."""
    command = ["submit", str(run), "--out", str(toy.root / "submissions"), *more]
    assert main(command) == 1  # the card is blank
    (card,) = (toy.root / "submissions").glob("*/card.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | PEOPLE))
    assert main(command) == 0
    return card.parent


_BUILT: list[Path] = []


@pytest.fixture
def submission(toy, capsys, tmp_path_factory):
    """Of a network of the registry; measured once, since the toy data and weights are the same for every test."""
    if not _BUILT:
        checkpoint = ("--checkpoint", str(toy.checkpoints["unet"]))
        folder = submitted(toy, measured(toy, "--model", "unet", *checkpoint), *checkpoint)
        _BUILT.append(shutil.copytree(folder, tmp_path_factory.mktemp("entering") / "unet"))
    mine = shutil.copytree(_BUILT[0], toy.root / "submission")
    capsys.readouterr()
    return mine


@pytest.fixture
def verify(toy, submission, capsys) -> Callable[..., tuple[int, str]]:
    """Exit code and output of somebody else's look at it, in another folder; all rows unless told otherwise."""

    def run(*more: str) -> tuple[int, str]:
        place = toy.root / "received"
        shutil.copytree(submission, place, dirs_exist_ok=True)
        more = more or ("--sample", "1000")
        code = main(["verify", str(place), "--dataset", str(toy.folder), "--device", "cpu", *more])
        out = capsys.readouterr()
        shutil.rmtree(place)
        return code, out.out + out.err

    return run


def change(
    submission: Path, edit: Callable[[dict[str, Any]], dict[str, Any] | None], name: str = "*"
) -> None:
    """Every row through a function, and the units hashed anew, so that nothing looks edited."""
    for path in submission.glob(f"*/records/*/*/{name}.jsonl"):
        rows = [row for row in map(edit, rows_in(path)) if row is not None]
        keys = {row["unit"]: key_of(row) for row in rows if row["kind"] != "score"}
        path.write_text(
            "".join(
                json.dumps(row | {"unit": keys[row["unit"]]}) + "\n" for row in rows if row["unit"] in keys
            )
        )


def rewrite_provenance(submission: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The entries of all runs through a function, hashed anew, and the rows that name them."""
    names = {}
    for path in submission.glob("*/records/*/provenance.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        entries = [edit(line["entry"]) for line in lines]
        names |= {line["id"]: digest(entry) for line, entry in zip(lines, entries, strict=True)}
        path.write_text("".join(json.dumps({"id": digest(e), "entry": e}) + "\n" for e in entries))
    change(
        submission,
        lambda row: row | {"provenance": names[row["provenance"]]} if row["kind"] == "cost" else row,
    )


def test_an_own_architecture_goes_from_suite_to_publication(toy, monkeypatch, capsys):
    """By the documented commands alone, two people, two folders."""
    mine = toy.root / "mine"
    mine.mkdir()
    (mine / "own_network.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(mine))
    folder = submitted(toy, measured(toy, "--model", "own_network:make"))
    assert "--model own_network:make --data-root DIR" in capsys.readouterr().out
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "toy"]
    theirs = toy.root / "theirs"
    theirs.mkdir()
    shutil.move(folder, theirs / "received")
    shutil.copy(mine / "own_network.py", theirs)
    sys.modules.pop("own_network")
    monkeypatch.setattr(sys, "path", [str(theirs), *(p for p in sys.path if p != str(mine))])
    look = [
        "verify",
        str(theirs / "received"),
        "--dataset",
        str(toy.folder),
        "--device",
        "cpu",
        "--sample",
        "4",
    ]
    assert main(look) == 1, "nobody's code runs unasked"
    assert "type it yourself" in capsys.readouterr().out
    assert main([*look, "--model", "own_network:make"]) == 0
    assert ", 0 problems" in capsys.readouterr().out
    publish = ["leaderboard", "--publish", str(theirs / "received"), "--out", str(theirs / "results")]
    assert main(publish) == 0
    page = (theirs / "results" / "index.html").read_text()
    assert re.search(r'<th scope="row"><a href="#d-[^"]+">own_network:make</a> ', page.replace("\n", ""))
    assert "none, by A. Stranger" in page, "the card that came with it stands behind its name"
    assert main(["leaderboard", "--check", "--out", str(theirs / "results")]) == 0


def test_a_true_submission_passes(verify, submission):
    code, out = verify()
    assert (code, ", 0 problems" in out) == (0, True), out
    assert len(list((submission / "checkpoints").iterdir())) == 1


def test_suite_makes_nothing_twice(toy, capsys):
    checkpoint = ("--checkpoint", str(toy.checkpoints["unet"]))
    run = measured(toy, "--model", "unet", *checkpoint)
    capsys.readouterr()
    command = ["suite", "--model", "unet", *checkpoint, "--dataset", str(toy.folder), "--device", "cpu"]
    assert main([*command, "--known", str(run), "--out", str(toy.root / "more")]) == 0
    out = capsys.readouterr().out
    assert "unet: nothing to measure on 3 cases" in out
    assert "fgsm" not in out
    assert not (toy.root / "more").exists()


def test_what_is_not_whole_is_not_complete(toy, capsys):
    run = toy.root / "runs"
    assert toy("--attack", "fgsm", out=run) == 0
    capsys.readouterr()
    assert (
        main(["submit", str(run), "--out", str(toy.root / "s"), "--checkpoint", str(toy.checkpoints["unet"])])
        == 1
    )
    out = capsys.readouterr().out
    assert "lacks noise, PGD; python -m benchmark suite --model unet --dataset toy" in out
    assert toy("--attack", "fgsm", models=("segresnet",), out=run) == 0
    assert main(["submit", str(run), "--out", str(toy.root / "s")]) == 2
    assert "expected the rows of one model, got those of segresnet, unet" in capsys.readouterr().err


# --- cheats ---------------------------------------------------------------------------------------


def only(attack: str, **values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda row: (
        row | {k: v for k, v in values.items() if k in row} if row["attack"].startswith(attack) else row
    )


def raised(row: dict[str, Any]) -> dict[str, Any]:
    """Within the tolerance, everywhere, and always in favour of the submitter."""
    if row["kind"] != "score":
        return row
    return row | {"dice": row["dice"] + (0.00099 if row["attack"] == "none" else 0.0099)}


@pytest.mark.parametrize(
    ("cheat", "words"),
    [
        (lambda r: r | {"dice": min(1.0, r["dice"] + 0.2)} if r["kind"] == "score" else r, "more than 0.01 apart"),
        (raised, "expected deviations to both sides"),
        (lambda r: None if r["kind"] == "score" and r["class_id"] == 2 else r, "got 0."),
        (only("", hd95_mm=0.1), "hd95_mm"),
        (only("", nsd=0.99), "nsd"),
        (only("pgd", asr_voxel=0.0, asr_foreground=0.9), "asr_foreground"),
        (only("fgsm", l2=0.1), "l2"),
        (only("fgsm", linf=0.5), "expected a change of at most 0.0313725, got 0.5"),
        (only("pgd", forwards=21.0, backwards=20.0), "forwards 3, recorded 21"),
        (lambda r: r | {"flags": []} if r["kind"] == "cost" else r, ""),
        (lambda r: r | {"dice": 1.7} if r["kind"] == "score" else r, "dice=1.7"),
        (lambda r: r | {"status": "fine"} if r["kind"] == "score" else r, "status='fine'"),
        (lambda r: r | {"seed": 5}, "lacks clean, noise, FGSM, PGD"),
        (lambda r: r | {"surrogate": "segresnet", "target": "segresnet"}, "segresnet"),
    ],
    ids=["dice", "one-sided", "class", "hd95", "nsd", "success", "l2", "linf", "passes", "flags", "range", "status",
         "seed", "name"],
)  # fmt: skip
def test_edited_rows_are_found(verify, submission, cheat, words):
    change(submission, cheat)
    code, out = verify()
    if not words:  # these rows have no flag to hide
        assert code == 0
        return
    assert code in (1, 2)
    assert words in out


def test_an_attack_that_was_taken_out_is_lacking(verify, submission):
    """With its line of the provenance, so that nothing points at it."""
    (path,) = submission.glob("*/records/*/*/pgd.jsonl")
    path.unlink()
    rewrite_provenance(submission, lambda e: e | {"attacks": [a for a in e["attacks"] if a != PGD]})
    code, out = verify()
    assert code == 1
    assert "lacks PGD" in out


def test_hard_cases_that_failed_are_lacking(verify, submission):
    def failing(row):
        if row["case"] != "case_002" or row["attack"] != PGD:
            return row
        kept = {k: v for k, v in row.items() if k in ("unit", "dataset", "case", "attack", "surrogate", "target",
                "protocol", "seed", "surrogate_sha256", "target_sha256", "data_sha256")}  # fmt: skip
        return None if row["kind"] == "score" else {"kind": "failure", **kept, "error": "out of memory"}

    change(submission, failing)
    code, out = verify()
    assert code == 1
    assert "lacks PGD (2 of 3 cases, 1 failed)" in out


def test_fewer_steps_than_the_spec_says_are_found(toy, verify, submission, tmp_path):
    assert toy("--attack", "pgd:eps=8/255,alpha=2/255,steps=1", out=tmp_path / "weak") == 0
    (weak,) = (tmp_path / "weak").rglob("pgd.jsonl")
    (path,) = submission.glob("*/records/*/*/pgd.jsonl")
    mine = {row["kind"]: row for row in rows_in(path)}["cost"]
    path.write_text(weak.read_text())
    change(submission, lambda row: row | {"attack": PGD} | ({"provenance": mine["provenance"]} if row["kind"] == "cost" else {}), "pgd")  # fmt: skip
    code, out = verify()
    assert code == 1
    assert "forwards 3, recorded 2" in out or "apart" in out


def test_a_lying_card_is_found(verify, submission):
    card = json.loads((submission / "card.json").read_text())
    card["claimed"]["toy"]["worst"] = 0.999
    (submission / "card.json").write_text(json.dumps(card))
    code, out = verify()
    assert code == 1
    assert "claimed for toy, as the records say" in out
    del card["contact"]
    (submission / "card.json").write_text(json.dumps(card))
    assert "a card without 'contact'" in verify()[1]


def test_another_checkpoint_under_the_hash_is_found(toy, verify, submission):
    (file,) = (submission / "checkpoints").iterdir()
    shutil.copy(toy.checkpoints["segresnet"], file)
    code, out = verify()
    assert code == 1
    assert "expected the sha256 as its name" in out


def test_what_is_drawn_follows_from_the_records(verify, submission):
    """Nobody can edit where the draw of the moment does not look: the edit moves the draw. And the best cell is always in."""
    records = load_records(submission / "toy" / "records")
    before = content_hash(records)
    seen = {line for line in verify("--sample", "1")[1].splitlines() if line.startswith("agrees")}
    assert any(", pgd:" in line or ", fgsm:" in line for line in seen)
    change(submission, lambda r: r | {"dice": r["dice"] * 0.999} if r["kind"] == "score" else r)
    assert content_hash(load_records(submission / "toy" / "records")) != before
