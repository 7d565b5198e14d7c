"""``figures --ranking``: the picture of the page, from the attack itself, refused where the records say something else."""

from __future__ import annotations

import io
import json

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.specs.suites import Suite, SuiteRow

from ..first_form import rows_in

PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=2"
SMALL = Suite(
    name="robustvox-1",
    split="all",
    rows=(
        SuiteRow(text="", spec="none", label="clean", control=True),
        SuiteRow(text="pgd:eps=8/255,alpha=2/255,steps=2", spec=PGD, label="PGD"),
    ),
)
MODELS = ("unet", "segresnet")


@pytest.fixture
def ranked(toy, monkeypatch, capsys):
    """Records of two ranked models; what a call of ``figures --ranking`` on them ends with and says."""
    for module in ("specs.suites", "show.files"):
        monkeypatch.setattr(f"robustvox.benchmark.{module}.SUITES", {"robustvox-1": SMALL})
    toy.recorded("--attack", SMALL.rows[1].text, models=MODELS)

    def draw(*more: str, order=MODELS) -> tuple[int, str]:
        named = [a for m in order for a in ("--checkpoint", str(toy.checkpoints[m]))]
        places = [
            "--dataset",
            str(toy.folder),
            "--split",
            "all",
            "--results",
            str(toy.root / "results"),
            "--device",
            "cpu",
        ]
        capsys.readouterr()
        code = main(["figures", "--ranking", *places, *named, *more])
        found = capsys.readouterr()
        return code, found.out + found.err

    return draw


def pictures(toy) -> list:
    return sorted((toy.root / "results" / "toy" / "pictures").glob("*"))


def ordered(ranked) -> tuple[str, ...]:
    """The best model first; which one that is nobody knows of random weights."""
    code, _ = ranked(order=MODELS)
    return MODELS if code == 0 else MODELS[::-1]


def test_the_page_gets_the_picture_and_loses_it_with_its_rows(toy, ranked):
    image = pytest.importorskip("PIL.Image")
    order = ordered(ranked)
    code, text = ranked(order=order)
    assert code == 0, text
    (path,) = pictures(toy)
    assert image.open(io.BytesIO(path.read_bytes())).format == "WEBP"
    results = toy.root / "results"
    page = results / "index.html"
    assert main(["leaderboard", "--out", str(results)]) == 0
    assert "data:image/webp;base64," in page.read_text()
    assert main(["leaderboard", "--check", "--out", str(results)]) == 0
    first = path.read_bytes()
    assert ranked(order=order)[0] == 0
    assert pictures(toy)[0].read_bytes() == first
    for records in (results / "toy" / "records").rglob("pgd.jsonl"):
        rows = [
            r | {"dice": min(r["dice"] + 0.2, 1.0)} if r["kind"] == "score" else r for r in rows_in(records)
        ]
        records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["leaderboard", "--out", str(results)]) == 0
    assert "the one that lies there is of other rows and is left out" in page.read_text()
    code, text = ranked(order=order)
    assert code == 1
    assert "expected Dice" in text
    assert "as recorded" in text
    assert pictures(toy)[0].read_bytes() == first


def test_what_cannot_be_drawn_is_one_line(toy, ranked):
    for more, words in (
        (("--model", "unet", "--attack", "pgd"), "expected --ranking alone"),
        (("--protocol", "bmvc2024"), "found fewer"),
    ):
        code, text = ranked(*more)
        assert code == 2
        assert words in text
        assert "Traceback" not in text
    code, text = ranked(order=ordered(ranked)[::-1])
    assert code == 2
    assert "expected" in text
    assert "Traceback" not in text
    assert not pictures(toy)[1:]
