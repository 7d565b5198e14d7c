"""Groups by defence, the scatter and the organs by size: what a page of natural and robust models shows."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from dataclasses import replace

import pytest

from robustvox.benchmark.records.organs import read_organs, write_organs
from robustvox.benchmark.records.store import RecordStore
from robustvox.benchmark.records.unit import RecordsError
from robustvox.benchmark.show.files import render
from robustvox.benchmark.show.labels import model_defence
from robustvox.benchmark.show.page.ranking import Place
from robustvox.benchmark.show.page.scatter import scatter
from robustvox.benchmark.specs.suites import SUITES

from .conftest import PGD, PGD4, score, unit

SHAS = {"unet": "a" * 64, "unet@pgd_at": "b" * 64, "segresnet": "c" * 64}
DICE = {"unet": [0.5, 0.3], "unet@pgd_at": [0.8, 0.7], "segresnet": [0.4, 0.2]}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defences")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        fill_ranked(folder)
    return folder


@pytest.fixture
def results(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "results")


def fill_ranked(tmp_path) -> None:
    """Records of three models that have the whole suite, nine cases each."""
    with RecordStore(tmp_path / "toy" / "records") as store:
        for model, sha in SHAS.items():
            for case in range(9):
                named = {"surrogate": model, "target": model, "surrogate_sha256": sha, "target_sha256": sha}
                score(store, replace(unit(f"c{case}", "none", "unet"), **named), [0.9, 0.85], l2=0.0)
                for attack in (PGD, PGD4, *(row.spec for row in SUITES["robustvox-1"].run)):
                    dice = [value + 0.01 * case for value in DICE[model]]
                    score(store, replace(unit(f"c{case}", attack, "unet"), **named), dice)
    write_organs(tmp_path / "toy", ["background", "liver", "<b>spleen"], [{1: 1500.0, 2: 200.0}])


def page(results) -> str:
    return render(results)[results / "index.html"]


def test_models_are_grouped_by_defence_and_ranked_over_all(results):
    text = page(results)
    first, second = text.index('class="group"'), text.rindex('class="group"')
    assert "pgd_at" in text[first : first + 80]  # the best place is first
    assert "natural" in text[second : second + 80]
    ranking = text[first : text.index("</table>", first)]
    places = [ranking.index(f">{name}</a> ") for name in ("unet@pgd_at", "unet", "segresnet")]
    assert places == sorted(places)
    assert "<td>1</td>" in ranking
    assert "<td>3</td>" in ranking


def test_rows_know_smallest_and_largest_organ(results):
    text = page(results)
    assert "Mean Dice of the smallest organ, &lt;b&gt;spleen (200 ml on average)" in text
    row = next(line for line in text.split("\n") if "<tr data-flagged" in line and "unet@pgd_at" in line)
    assert "<td>0.740</td><td>0.840</td>" in row  # spleen 0.7 + 0.04, liver 0.8 + 0.04
    (results / "toy" / "organs.csv").unlink()
    bare = page(results)
    row = next(line for line in bare.split("\n") if "<tr data-flagged" in line and "unet@pgd_at" in line)
    assert "<td>n/a</td><td>n/a</td>" in row


def test_a_damaged_list_of_organs_is_said(results):
    (results / "toy" / "organs.csv").write_text("class_id,mean_ml\none,two\n")
    with pytest.raises(RecordsError, match="expected the columns class_id"):
        read_organs(results / "toy")


def test_sizes_are_means_over_cases_that_have_the_organ(tmp_path):
    write_organs(tmp_path, ["background", "a", "b", "never"], [{0: 9.0, 1: 1.0, 2: 4.0}, {1: 3.0}])
    assert read_organs(tmp_path) == {1: 2.0, 2: 4.0}
    assert read_organs(tmp_path / "nowhere") == {}


def test_the_scatter_keeps_dots_inside_and_in_order(results):
    def place(name: str, clean: float, worst: float) -> Place:
        return Place(
            1,
            False,
            name,
            "convolutional",
            model_defence(name),
            clean,
            worst,
            worst - 0.02,
            worst + 0.02,
            0,
            "pgd",
            1,
        )

    found = scatter([place("unet", 0.88, 0.55), place("unet@pgd_at", 0.87, 0.71), place("unetr", 0.85, 0.6)])
    assert found is not None
    assert found.markers == (("natural", 0), ("pgd_at", 1))
    dots = {dot.model: dot for dot in found.dots}
    assert dots["unetr"].x < dots["unet@pgd_at"].x < dots["unet"].x
    assert dots["unet@pgd_at"].y < dots["unetr"].y < dots["unet"].y  # pixels grow downwards
    left, right = found.x_ticks[0][0], found.x_ticks[-1][0]
    assert all(left <= dot.x <= right and dot.high <= dot.y <= dot.low for dot in found.dots)
    assert scatter([place("unet", 0.9, 0.5)]) is None
    assert page(results).count('class="scatter charts"') == 1


def test_every_dot_of_the_scatter_has_its_name_beside_it(results):
    places = [
        Place(1, False, name, "convolutional", "natural", 0.88, 0.7 - i / 1000, 0.6, 0.75, 0, "pgd", 9)
        for i, name in enumerate(("unet", "unetr", "segresnet", "a name that is longer than the margin"))
    ]
    found = scatter(places)
    assert found is not None
    heights = [dot.label_y for dot in found.dots]
    assert all(low + 11.9 <= high for low, high in itertools.pairwise(heights))
    assert found.dots[-1].short.endswith("\u2026")
    figure = page(results).split('class="scatter charts"')[1].split("</figure>")[0]
    for model in SHAS:
        assert re.search(rf"<text [^>]*><title>{model}: clean [^<]*</title>{model}</text>", figure)


def test_the_page_opens_on_the_data_with_a_ranking_and_counts_one_model_as_one(results):
    with RecordStore(results / "first" / "records") as store:  # before "toy" by name, and without a ranking
        for attack in ("none", PGD):
            score(store, unit("c0", attack, "unet", dataset="first"), [0.9, 0.8])
    text = page(results)
    assert re.findall(r'<section class="dataset" id="(\S+)"', text) == ["d-toy", "d-first"]
    assert "1 model, 1 attack, up to 1 case." in text
    assert "3 models, " in text
    assert text.index("Ranking: worst case") < text.index("All white-box results")


def test_how_to_read_is_five_sentences_and_how_to_enter_gives_the_commands(results):
    text = page(results)
    read = text.split("<summary>How to read this</summary>")[1].split("</p>")[0]
    assert len(re.findall(r"\.(?=\s|$)", read)) == 5
    enter = text.split("<summary>How to enter</summary>")[1].split("</details>")[0]
    for command in ("suite", "submit", "verify"):
        assert f"python -m benchmark {command} " in enter
