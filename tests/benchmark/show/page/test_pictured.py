"""The picture of a ranking is that of its rows, or none."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest

from robustvox.benchmark.show.files import load_board, render
from robustvox.benchmark.show.page.pictured import COLUMNS, FOLDER, LARGEST, embedded, load_pictures, pictured
from robustvox.benchmark.show.page.ranking import rank

from .conftest import PGD, score, unit
from .test_defences import SHAS, filled, results  # noqa: F401
from .test_page import Page

Image = pytest.importorskip("PIL.Image")


def picture(width: int = 40, height: int = 20) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (2 * height, len(COLUMNS) * width, 3), np.uint8)
    Image.fromarray(noise).save(stream, format="WEBP", quality=50)
    return stream.getvalue()


def wanted(folder):
    board = load_board(folder / "toy")
    found = pictured(board, rank(board, "robustvox-1"))
    assert found is not None
    return found


def page(folder) -> str:
    return render(folder)[folder / "index.html"]


def put(folder, name: str, data: bytes) -> None:
    (folder / "toy" / FOLDER).mkdir(exist_ok=True)
    (folder / "toy" / FOLDER / f"{name}.webp").write_bytes(data)


def test_best_and_worst_on_the_case_that_is_most_like_their_means(results):  # noqa: F811
    found = wanted(results)
    assert [row.model for row in found.rows] == ["unet@pgd_at", "segresnet"]
    assert found.case == "c4"  # of nine cases whose Dice rise in equal steps, the middle one
    assert found.rows[0].attacked == pytest.approx(0.79)
    assert found.rows[0].clean == pytest.approx(0.875)
    assert found.attack.startswith("pgd:")
    assert [name for _, name in found.classes] == ["liver", "<b>spleen"]


def test_the_picture_of_these_rows_is_embedded_with_their_numbers(results):  # noqa: F811
    assert "No picture of the best and the worst model. " in page(results)
    put(results, wanted(results).key, picture())
    text = page(results)
    assert base64.b64encode(picture()).decode() in text
    assert "place 1: Dice of this case 0.875 clean, 0.790 attacked" in text
    assert "No picture" not in text
    parsed = Page(text)
    assert parsed.problems == []
    views = [
        attrs["viewbox"]
        for tag, attrs in parsed.tags
        if tag == "svg" and attrs.get("aria-label", "").endswith("segresnet")
    ]
    assert views == [f"{40 * column} 20 40 20" for column in range(4)]


def test_a_picture_of_other_rows_is_left_out_with_a_line(results):  # noqa: F811
    from robustvox.benchmark.records.store import RecordStore

    put(results, wanted(results).key, picture())
    before = wanted(results).key
    named = {
        "surrogate": "segresnet",
        "target": "segresnet",
        "surrogate_sha256": SHAS["segresnet"],
        "target_sha256": SHAS["segresnet"],
    }
    row = replace(unit("c4", wanted(results).attack, "unet"), **named, data_sha256="e" * 64)
    with RecordStore(results / "toy" / "records") as store:
        score(store, row, [0.43, 0.24])
    assert wanted(results).key != before
    text = page(results)
    assert "the one that lies there is of other rows and is left out" in text
    assert "data:image/webp" not in text
    assert "figures --ranking --dataset toy" in text


NO_PICTURES = (
    b"",
    b"GIF89a" * 20,
    b"RIFF1234WEBPVP8X" + bytes(40),
    b'"><script>alert(1)</script>',
    picture()[:20],
)


def test_what_is_no_picture_is_left_out(results):  # noqa: F811
    assert all(embedded(data) is None for data in NO_PICTURES)
    put(results, wanted(results).key, NO_PICTURES[3])
    text = page(results)
    assert "No picture" in text
    assert "alert" not in text
    put(results, wanted(results).key, picture() + bytes(LARGEST))
    assert load_pictures(results / "toy") == {}, "a large file is not even read"


def test_one_model_has_no_picture(results):  # noqa: F811
    board = load_board(results / "toy")
    alone = rank(board, "robustvox-1")
    assert pictured(board, replace(alone, places=alone.places[:1])) is None
    assert PGD in set(board.white_box["attack"])
