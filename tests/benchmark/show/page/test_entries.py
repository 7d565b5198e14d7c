"""Links of model names: every file is there, every address is one, and nothing that a card says runs or breaks out."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from robustvox.benchmark.records.submission import CARDS, Card, publish_card, published_card
from robustvox.benchmark.show.files import check, load_board, render
from robustvox.benchmark.show.page import render_page
from robustvox.benchmark.show.page.entries import Link, Surroundings, linked, load_entries, submitted_entry
from robustvox.models import CATALOG

from .conftest import HOSTILE, sha
from .test_page import Page

REPOSITORY = Path(__file__).resolve().parents[4]
ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?(/[\w.~!$&()*+,;=:@%/?#-]*)?", re.ASCII)

EVIL = (
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1) https:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "http://plain.example/",
    'https://a.example/"onmouseover="alert(1)',
    "https://a.example/'><script>alert(1)</script>",
    "https://good.example\\@evil.example/",
    "https://user:password@evil.example/",
    "https://localhost/",
    "https://b\u00fccher.example/",
    "//evil.example/",
    "file:///etc/passwd",
    "arXiv:2401.04722999 doi:11.1/x",
    "{{ 7 * 7 }}\x00\u202egnp.exe",
)


@pytest.mark.parametrize("text", EVIL)
def test_what_a_card_says_is_text_or_an_address_of_the_web(text):
    pieces = list(linked(text))
    assert "".join(piece.text for piece in pieces) == text
    for piece in pieces:
        assert not piece.href or ADDRESS.fullmatch(piece.href), piece
        assert not piece.href or "@" not in piece.href.split("/")[2]
    hosts = {piece.href.split("/")[2] for piece in pieces if piece.href}
    assert hosts <= {"a.example", "good.example", "b"} - {"b"}


def test_addresses_numbers_and_identifiers_become_links():
    text = "See https://a.example/x(1). Also arXiv: 2401.04722, doi:10.1007/978-3-030-12029-0_40; HTTPS://b.example"
    assert [piece for piece in linked(text) if piece.href] == [
        Link("https://a.example/x(1", "https://a.example/x(1"),
        Link("arXiv: 2401.04722", "https://arxiv.org/abs/2401.04722"),
        Link("doi:10.1007/978-3-030-12029-0_40", "https://doi.org/10.1007/978-3-030-12029-0_40"),
    ]
    assert not list(linked(""))


def card(**changes: object) -> Card:
    said = dict.fromkeys(
        ("title", "paper", "code", "data", "licence", "extra_training_data", "contact"), "none"
    )
    keys = {"model": HOSTILE, "sha256": sha(HOSTILE), "protocol": "robustvox-1", "claimed": {}}
    return Card.model_validate({**said, "authors": ["A"], **keys, **changes})


def test_a_hostile_card_neither_runs_nor_breaks_the_page(toy_results):
    board = load_board(toy_results / "toy")
    fields = ("title", "paper", "code", "data", "licence")
    for first in range(0, len(EVIL), len(fields)):
        texts = [*EVIL[first : first + len(fields)], *EVIL][: len(fields)]
        entry = submitted_entry(card(**dict(zip(fields, texts, strict=True)), authors=texts))
        page = render_page([replace(board, entries={HOSTILE: entry})])
        page.encode("utf-8")
        parsed = Page(page)
        assert parsed.problems == []
        assert sum(tag == "script" for tag, _ in parsed.tags) == 2
        assert not parsed.attributes("onmouseover")
        links = [link for link in parsed.attributes("href") if link[0] != "#" and link != "data:,"]
        assert all(ADDRESS.fullmatch(link) or re.match(r"[\w%]+/", link) for link in links)
        papers = [
            attrs for tag, attrs in parsed.tags if tag == "a" and (attrs["href"] or "").startswith("https:")
        ]
        assert all(attrs["rel"] == "noreferrer" for attrs in papers)


def test_a_published_card_stands_behind_its_model_and_a_bad_one_is_told(toy_results, tmp_path):
    publish_card(card(title="Mine", paper="https://a.example/paper", code="https://a.example/code"), tmp_path)
    assert published_card(tmp_path, sha(HOSTILE)) == card(
        title="Mine", paper="https://a.example/paper", code="https://a.example/code"
    )
    models = {HOSTILE: (HOSTILE, sha(HOSTILE)), "unet": ("unet", sha("unet")), "mine": ("mine", "")}
    found = load_entries(tmp_path, "toy", models)
    assert found[HOSTILE].about == "Mine, by A"
    assert found[HOSTILE].papers == (Link("https://a.example/paper", "https://a.example/paper"),)
    # Nobody's zoo holds these weights, so nothing is said of them; and of a stranger's without a card nothing at all.
    assert found["unet"].weights[0] == Link("not in the zoo, sha256 00000000")
    assert not any(link.href for link in (*found["unet"].code, *found["unet"].card, *found["unet"].licence))
    assert "mine" not in found
    (path,) = (tmp_path / CARDS).glob("*.json")
    assert check(tmp_path) == []
    path.rename(path.with_name("f" * 64 + ".json"))
    assert "expected the card of the checkpoint in its name" in check(tmp_path)[0]
    assert published_card(tmp_path, "f" * 64) is None
    (tmp_path / CARDS / ("f" * 64 + ".json")).write_text("[" * 100_000)
    assert "expected every field filled in" in check(tmp_path)[0]
    too_long = json.dumps(card().model_dump() | {"title": "x" * 3000})
    (tmp_path / CARDS / ("f" * 64 + ".json")).write_text(too_long)
    assert "title" in check(tmp_path)[0]


def test_every_link_of_the_published_page_leads_to_a_file_or_a_paper():
    page = REPOSITORY / "results" / "index.html"
    links = set(map(html.unescape, Page(page.read_text(encoding="utf-8")).attributes("href")))
    files = [link for link in links if link[0] != "#" and not link.startswith(("data:", "https:"))]
    for link in files:
        assert (page.parent / unquote(link)).is_file(), link
    assert all(
        re.match(r"https://(arxiv\.org/abs/|doi\.org/10\.)", link)
        for link in links
        if link.startswith("https:")
    )
    for name in CATALOG:
        assert f"../docs/models/{name}.md" in files
    assert {
        "../LICENSE",
        "../models/zoo/acdc_light/LICENCE.md",
        "../models/zoo/hippocampus/unet.pgd_at.safetensors",
    } <= {*files}


def test_a_page_elsewhere_links_to_nothing_beside_it(toy_results):
    text = render(toy_results)[toy_results / "index.html"]
    assert "../" not in "".join(Page(text).attributes("href"))


def test_files_of_the_same_names_in_another_project_are_not_linked(tmp_path):
    (tmp_path / "LICENSE").write_text("MIT")
    results = tmp_path / "runs"
    results.mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "theirs"\n')
    assert Surroundings(results).link("LICENSE", "Apache-2.0") == Link("Apache-2.0")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "robustvox"\n')
    assert Surroundings(results).link("LICENSE", "Apache-2.0") == Link("Apache-2.0", "../LICENSE")
    assert Surroundings(results).link("no file") == Link("no file")
