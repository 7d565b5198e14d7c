"""The page as a file: structure, numbers, links, escaping, stable bytes, readable differences."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from robustvox.attacks import ATTACKS
from robustvox.benchmark.show.files import check, render, write
from robustvox.benchmark.show.labels import OTHER, attack_names, model_family
from robustvox.benchmark.show.page import Board, render_page
from robustvox.benchmark.show.page.flags import FAILURES, QUESTIONS, explain
from robustvox.benchmark.show.page.matrices import Cell, Matrix
from robustvox.benchmark.show.page.render import TEMPLATES
from robustvox.benchmark.show.tables.results import COLUMNS
from robustvox.models import CATALOG as MODELS

REPOSITORY = Path(__file__).resolve().parents[4]
VOID = {"meta", "link", "br", "input", "img", "hr"}
HOSTILE, FORMULA = "<script>alert(1)</script>", "=cmd|x"


class Page(HTMLParser):
    """Tables as lists of cell texts, ids, links, and a complaint about every tag that does not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.problems: list[str] = []
        self._open: list[str] = []
        self._cell: str | None = None
        self._kind = ""
        self.feed(text)
        self.close()
        self.problems += [f"unclosed {tag}" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._kind = (dict(attrs).get("class") or "").split(" ")[0]
            self.tables.setdefault(self._kind, []).append([])
        elif tag == "tr":
            self.tables[self._kind][-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._kind][-1][-1].append(" ".join(self._cell.split()))
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell += data

    def attributes(self, name: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def text(toy_page: Path) -> str:
    return toy_page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


# --- structure ----------------------------------------------------------------------------------


def test_tags_nest_and_ids_are_unique(page: Page) -> None:
    assert page.problems == []
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "href"):
        references = [
            value.removeprefix("#") for value in page.attributes(name) if name != "href" or value[0] == "#"
        ]
        assert references
        assert set(references) <= set(ids)
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert sum(tag == "caption" for tag, _ in page.tags) == sum(map(len, page.tables.values()))


def test_nothing_points_out_of_the_file(text: str, page: Page, toy_page: Path) -> None:
    # Papers alone are elsewhere: a link asks for nothing before somebody follows it.
    papers = re.findall(
        r'<a href="https://(arxiv\.org/abs/[\d.]+|doi\.org/10\.[\w./-]+)" rel="noreferrer">', text
    )
    assert "arxiv.org/abs/2201.01266" in papers
    inside = re.sub(r'<a href="https://(arxiv|doi)\.org/[\w./-]+" rel="noreferrer">', "<a>", text)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|//[a-z]+\.", inside)
    assert not page.attributes("src")
    links = [value for value in Page(inside).attributes("href") if value[0] != "#" and value != "data:,"]
    assert len(links) > 20
    for link in links:
        assert re.fullmatch(r"[\w%./-]+", link)
        assert (toy_page.parent / unquote(link)).is_file(), link


def test_the_policy_names_exactly_the_style_and_the_scripts(text: str, page: Page) -> None:
    (policy,) = [a["content"] or "" for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    bodies = re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    assert re.findall(r"sha256-([^']+)", policy) == hashes
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on") or name == "style"]


def test_every_white_box_row_is_there_with_its_numbers(page: Page, toy_results: Path) -> None:
    with (toy_results / "toy" / "white_box.csv").open() as file:
        expected = list(csv.DictReader(file))
    header, *rows = page.tables["board"][0]
    assert len(rows) == len(expected) == 18
    for row, wanted in zip(rows, expected, strict=True):
        cell = dict(zip(header, row, strict=True))
        assert cell["Model"] == wanted["target"]
        dice = float(wanted["dice_adv"])
        assert (cell["Robust Dice"], wanted["dice_adv_low"]) == (f"{dice:.3f}", "")  # four cases, no interval
        assert cell["Clean Dice"] == f"{float(wanted['dice_clean']):.3f}"
        assert float(cell["Drop"]) == pytest.approx(float(wanted["dice_clean"]) - dice, abs=6e-4)
        assert (cell["Organs gone"], cell["L2"]) == (wanted["missing"], f"{float(wanted['l2']):.2f}")
        assert cell["Flags"].split() == list(filter(None, wanted["flags"].split(";")))
    failed = [row for row in rows if "1 failed" in row[header.index("Cases")]]
    assert [row[:2] for row in failed] == [["unet", "pgd 8/255"]]


def test_flags_are_explained_where_they_stand(page: Page) -> None:
    titles = [
        attrs["title"] for tag, attrs in page.tags if tag == "button" and "flag" in (attrs.get("class") or "")
    ]
    assert f'{explain("C8:fail")} Rule: fail > 0. Found: Square wins by 0.1 <i onmouseover="x">.' in titles
    assert explain("no-progress") in titles


def test_transfer_and_class_tables(page: Page, text: str) -> None:
    corner, *_ = page.tables["heat"][0]
    assert corner == ["Surrogate ↓ target →", *sorted(["unet", "swin_unetr", HOSTILE])]
    assert "No transfer results yet for =cmd|x" in text
    per_class = [table for table in page.tables["heat"] if table[0][0] == "Model"]
    pgd = next(table for table in per_class if any("gone" in cell for row in table for cell in row))
    assert pgd[0] == ["Model", "liver", "<b>spleen"]
    by_model = {row[0]: row[1:] for row in pgd[1:]}
    assert by_model[HOSTILE][0].endswith("clean 0.90, 1 gone")
    assert by_model[HOSTILE][1].endswith("clean 0.88")


def test_colors_of_a_matrix_span_what_transfers_and_white_box_lies_below() -> None:
    name = attack_names({"pgd:eps=8/255": 1}, {})["pgd:eps=8/255"]

    def matrix(*rows: tuple[Cell | None, ...]) -> Matrix:
        return Matrix("robustvox-1", name, ("a", "b"), tuple(("m", row) for row in rows))

    white, low, high = Cell(0.02, own=True), Cell(0.71), Cell(0.88)
    found = matrix((white, low), (None, high))
    assert found.scale == (0.7, 0.9)
    assert [found.shade(cell) for cell in (white, low, high)] == [0, 1, 18]
    assert matrix((Cell(1.0), None)).scale == (0.9, 1.0)  # equal cells are not told apart by rounding
    assert matrix((white, None)).scale == (0.0, 0.1)  # nothing transfers: the white-box cells themselves
    assert (low.digits, Cell(1.0).digits, Cell(0.999).digits) == (("0.", "71"), ("", "1.00"), ("", "1.00"))


def test_robust_dice_is_the_first_number_and_the_search_box_has_a_name(page: Page, text: str) -> None:
    assert page.tables["board"][0][0][:4] == ["Model", "Attack", "Robust Dice", "Clean Dice"]
    assert re.search(r"Search models and attacks <input type=\"search\" data-key=\"search\"", text)


def test_empty_states(text: str) -> None:
    alone = text[text.index('id="d-zero"') :]
    for words in ("No ranking yet", "No curve yet", "No transfer results yet", "No row is flagged"):
        assert words in alone
    assert "no model has the whole suite." in alone
    assert re.search(r'<li><a href="#d-[^"]+-m-unet">unet</a>: noise 8/255, FGSM 8/255, PGD 8/255, ', alone)
    assert "<code>python -m benchmark suite --model unet --dataset =cmd|x --data-root DIR</code>" in alone


# --- escaping -----------------------------------------------------------------------------------


def test_hostile_names_are_text(text: str, page: Page) -> None:
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not [tag for tag, _ in page.tags if tag == "i"]
    models = {row[0] for row in page.tables["board"][0][1:]}
    assert HOSTILE in models
    assert f"{FORMULA} 8/255" in {row[1] for row in page.tables["board"][0]}


@pytest.mark.parametrize(
    "name", ['"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a\x00\ud800\u2028b", "</title>", "&amp;"]
)
def test_names_cannot_break_out(name: str) -> None:
    table = pd.DataFrame(columns=list(COLUMNS))
    row = {name_: 0.5 for name_ in COLUMNS} | dict.fromkeys(
        ("n_cases", "missing", "hallucinated", "failed"), 1
    )
    row |= dict.fromkeys(("dataset", "protocol", "surrogate", "target"), name) | {
        "attack": name,
        "flags": name,
    }
    white_box = pd.DataFrame([row], columns=list(COLUMNS))
    keys = [
        "dataset",
        "protocol",
        "surrogate",
        "surrogate_sha256",
        "target",
        "target_sha256",
        "attack",
        "case",
        "stored",
    ]
    empty = pd.DataFrame(columns=[*keys, "dice", "missing", "status", "class_id", "class_name"])
    outcomes = pd.DataFrame(columns=[*keys[:4], "attack", "flag", "rule", "detail"])
    found = render_page([Board(name, white_box, table, empty, empty, empty, outcomes, (name,))])
    found.encode("utf-8")
    parsed = Page(found)
    assert parsed.problems == []
    assert "img" not in {tag for tag, _ in parsed.tags}
    assert not parsed.attributes("onerror")
    shown = " ".join(re.sub("[\x00\u2028]", " ", name).replace("\ud800", "?").split())
    assert parsed.tables["board"][0][1][0] == shown


# --- bytes and differences ----------------------------------------------------------------------


def test_another_rendering_gives_the_same_bytes(toy_results: Path, toy_page: Path) -> None:
    assert render(toy_results)[toy_page].encode() == toy_page.read_bytes()
    assert b"\r" not in toy_page.read_bytes()


def test_check_names_page_and_row(toy_results: Path, toy_page: Path, tmp_path: Path) -> None:
    root = shutil.copytree(toy_results, tmp_path / "results")
    copy = root / toy_page.name
    number = re.search(r"<b>(0\.\d{3})</b> <small>", copy.read_text().partition("All white-box")[2])
    assert number
    copy.write_text(copy.read_text().replace(f"<b>{number[1]}</b>", "<b>0.999</b>", 1))
    (problem,) = check(root)
    removed = [line for line in problem.splitlines() if line.startswith("-") and "0.999" in line]
    assert "index.html (committed)" in problem
    assert len(removed) == 1
    assert removed[0].startswith(f"-{HOSTILE} | {FORMULA} 8/255 | 0.999 |")
    assert "<td" not in problem
    copy.write_text(toy_page.read_text().replace('lang="en"', 'lang="de"'))
    assert 'lang="de"' in check(root)[0]
    copy.unlink()
    assert "index.html (missing)" in check(root)[0]


def test_one_new_record_changes_the_rows_concerned(
    toy_results: Path, toy_page: Path, tmp_path: Path, new_noise_score: Callable[[Path], None]
) -> None:
    root = shutil.copytree(toy_results, tmp_path / "results")
    new_noise_score(root)
    (problem,) = [text for text in check(root) if "index.html" in text]
    for sign in "+-":
        lines = [
            line[1:] for line in problem.splitlines() if line[0] == sign and not line.startswith(sign * 3)
        ]
        # The row of the table, the row of the classes, and the ends of their color scale.
        assert lines[0].split(" | ")[:2] == ["unet", "gn std 8/255"]
        assert [line.split(" | ")[0] for line in lines] == ["unet", "unet", lines[-1]]
        assert re.fullmatch(r"Dice \d\.\d\d \d\.\d\d", lines[-1])


def test_a_page_without_records_is_stale(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>old</p>\n")
    assert "no records behind it" in check(tmp_path)[0]
    write(tmp_path)
    assert check(tmp_path) == []
    assert not list(tmp_path.iterdir())


# --- vocabulary and colors ----------------------------------------------------------------------


def test_every_registered_name_has_a_family() -> None:
    assert all(attack_names({name: 1})[name].family != OTHER for name in ATTACKS)
    assert all(model_family(name) != OTHER for name in MODELS)


def test_flags_say_what_the_documentation_says() -> None:
    from robustvox.benchmark.studies.sanity import CHECKS

    rows = re.findall(r"^\| (C\d+) \| (.*?) \|", (REPOSITORY / "docs" / "sanity_checks.md").read_text(), re.M)
    assert dict(rows) == QUESTIONS
    assert set(CHECKS) == set(QUESTIONS)
    table = re.findall(
        r"^\| (C\d+) \|.* \| (.*?) \|$", (REPOSITORY / "docs" / "sanity_checks.md").read_text(), re.M
    )
    assert dict(table) == FAILURES


def luminance(color: str) -> float:
    digits = color * 2 if len(color) == 3 else color
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_heat_map_and_text_in_both_themes() -> None:
    style = (TEMPLATES / "style.css").read_text()
    cells = re.findall(r"^\.h(\d+) \{ background: #(\w+); color: #(\w+); \}", style, re.M)
    assert [int(step) for step, _, _ in cells] == list(range(20))
    assert all(contrast(back, ink) >= 4.5 for _, back, ink in cells)
    brightness = [luminance(back) for _, back, _ in cells]
    assert brightness == sorted(brightness)  # the order shows without color
    themes = [
        dict(re.findall(r"--(\w+): #(\w+)", part)) for part in style.split("prefers-color-scheme: dark")[:2]
    ]
    themes[1] = dict(
        re.findall(r"--(\w+): #(\w+)", style.split("prefers-color-scheme: dark")[1].split("* {")[0])
    )
    for theme in themes:
        for name in ("ink", "muted", "link", "conv", "trans", "mamba", "else", "fail", "warn"):
            for ground in ("paper", "soft"):
                assert contrast(theme[name], theme[ground]) >= 4.5, (name, ground)


def test_eleven_models_every_attack_and_four_datasets_stay_small() -> None:
    names = (("btcv", 13), ("acdc", 3), ("hecktor", 2), ("msd", 2))
    text = render_page([big_board(name, classes) for name, classes in names])
    assert len(text.encode()) < 3_000_000
    page = Page(text)
    assert page.problems == []
    assert [len(table) for table in page.tables["board"]] == [11 * len(ATTACKS) + 1] * 4
    assert len(page.tables["heat"]) == 4 * len(ATTACKS) * 2


def big_board(dataset: str, classes: int) -> Board:
    attacks = [f"{name}:eps=8/255,steps=20" for name in ATTACKS]
    pairs = pd.MultiIndex.from_product([list(MODELS), list(MODELS), attacks]).to_frame(index=False)
    pairs.columns = ["surrogate", "target", "attack"]
    rows = pairs.assign(
        dataset=dataset, protocol="robustvox-1", n_cases=12, missing=0, hallucinated=0, failed=0
    )
    numbers = [name for name in COLUMNS if name not in rows.columns and name != "flags"]
    rows = rows.assign(flags="no-progress;C8:fail", **dict.fromkeys(numbers, 0.12345))[list(COLUMNS)]
    own = rows["surrogate"] == rows["target"]
    hashed = {"surrogate_sha256": "a", "target_sha256": "a"}
    cases = pd.concat([rows[own], rows[own].drop_duplicates("target").assign(attack="none")])
    cases = cases.assign(case="c", dice=0.5, stored=cases["surrogate"], **hashed)
    parts = [cases.assign(class_id=i, class_name=f"organ {i}", status="ok") for i in range(classes)]
    outcomes = pd.DataFrame(
        columns=["dataset", "protocol", "surrogate_sha256", "attack", "surrogate", "flag", "rule", "detail"]
    )
    return Board(dataset, rows[own], rows[~own], cases, pd.concat(parts), cases[:0], outcomes)
