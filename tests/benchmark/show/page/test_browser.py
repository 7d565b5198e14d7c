"""The page in headless Chromium: sorting, filters, explanations, silence, accessibility.

Needs node, Chromium, and a folder with playwright-core and axe-core:

    mkdir NODE && cd NODE && npm install playwright-core axe-core
    ROBUSTVOX_NODE_MODULES=NODE/node_modules pytest tests/benchmark/show/page

ROBUSTVOX_CHROMIUM names the browser where it is not called chromium, ROBUSTVOX_SCREENSHOTS a folder for pictures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from robustvox.benchmark.show.page.view import COLUMNS, FILTERS

SCRIPT = Path(__file__).with_name("browser.cjs")
MODULES = os.environ.get("ROBUSTVOX_NODE_MODULES", "")
CHROMIUM = os.environ.get("ROBUSTVOX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def facts(toy_page: Path) -> dict[str, Any]:
    if not shutil.which("node"):
        pytest.skip("no node: install it to test the page in a browser")
    for package in ("playwright-core", "axe-core"):
        if not MODULES or not (Path(MODULES) / package).is_dir():
            pytest.skip(f"no {package}: set ROBUSTVOX_NODE_MODULES to a node_modules folder that holds it")
    if not CHROMIUM:
        pytest.skip("no Chromium: install it or set ROBUSTVOX_CHROMIUM")
    command = ["node", str(SCRIPT), "all", str(toy_page), os.environ.get("ROBUSTVOX_SCREENSHOTS", "")]
    environment = os.environ | {"ROBUSTVOX_CHROMIUM": CHROMIUM}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_complained_about_requested_or_run(facts: dict[str, Any]) -> None:
    assert facts["console"] == []
    assert facts["dialogs"] == []
    assert {url.split("#")[0] for url in facts["requests"] if not url.startswith("data:")} == {
        facts["address"]
    }


def number(text: str) -> float:
    try:
        return float(text.split(" ")[0])
    except ValueError:
        return float("nan")


def test_every_column_sorts_in_both_directions(facts: dict[str, Any]) -> None:
    assert len(facts["sorting"]) == len(COLUMNS)
    for column in facts["sorting"]:
        up, down = column["ascending"], column["descending"]
        assert (up["marked"], down["marked"]) == (["ascending"], ["descending"])
        assert sorted(up["texts"]) == sorted(down["texts"])
        if column["numeric"]:
            for texts, sign in ((up["texts"], 1), (down["texts"], -1)):
                known = [number(text) * sign for text in texts if number(text) == number(text)]
                assert known == sorted(known), column["heading"]
                assert all(number(text) != number(text) for text in texts[len(known) :])
        else:
            distinct = list(dict.fromkeys(up["texts"]))
            assert len(distinct) == len(set(up["texts"]))  # equal values stand together
            assert list(dict.fromkeys(down["texts"])) == distinct[::-1]


def test_filters_show_exactly_the_rows_of_a_value(facts: dict[str, Any]) -> None:
    assert {entry["key"] for entry in facts["filtering"]} == {*FILTERS}
    everything = {e["key"]: e["rows"] for e in facts["filtering"] if not e["value"]}
    for entry in facts["filtering"]:
        wanted = [value for value in everything[entry["key"]] if entry["value"] in ("", value)]
        assert entry["rows"] == wanted
        assert wanted
        assert entry["status"] == f"{len(wanted)} of {len(everything['model'])} rows"


def test_a_search_and_filters_are_kept_by_the_address(facts: dict[str, Any]) -> None:
    found = facts["linking"]
    assert found["searched"] == [["swin_unetr", "pgd 4/255"]]
    assert found["hash"] == "#d-toy?search=UNETR+4%2F255"
    assert found["both"]["hash"] == "#d-toy?search=pgd&model=unet"
    assert found["both"]["rows"] == found["opened"] == [["unet", "pgd 4/255"], ["unet", "pgd 8/255"]]
    assert found["reset"] == "#d-toy"


def test_every_screen_shows_robust_dice_and_all_targets_of_a_transfer(facts: dict[str, Any]) -> None:
    for columns in facts["columns"].values():
        assert columns["board"][:3] == ["Model", "Attack", "Robust Dice"]
        assert len(columns["transfer"]) == 4  # the surrogate and three targets


def test_explanations_come_with_focus_and_pointer_and_go(facts: dict[str, Any]) -> None:
    found = facts["explaining"]
    assert found["title"]
    assert (found["focus"]["shown"], found["focus"]["text"]) == (True, found["title"])
    assert found["focus"]["describedBy"] == "tip"
    assert (found["hover"]["shown"], found["hover"]["text"]) == (True, found["title"])
    assert not found["escape"]["shown"]
    assert not found["away"]["shown"]
    assert found["restored"] == found["title"]
    assert found["header"]["shown"]


def test_one_dataset_and_one_attack_at_a_time(facts: dict[str, Any]) -> None:
    found = facts["choosing"]
    assert found["first"] == found["back"] == ["d-toy"]
    assert found["second"] != found["first"]
    assert len(found["second"]) == len(found["current"]) == 1
    assert all(sum(panels) == 1 and panels[0] for panels in found["panels"])
    assert found["picked"][:2] == [False, True]


def test_everything_shows_without_the_script(facts: dict[str, Any]) -> None:
    assert len(facts["plain"]) > 5
    assert all(facts["plain"])


def test_no_view_is_wider_than_its_screen(facts: dict[str, Any]) -> None:
    assert facts["overflow"] == dict.fromkeys(("desktop", "dark", "phone", "phone dark"), 0)


@pytest.mark.parametrize("view", ["desktop", "dark", "phone", "phone dark"])
def test_axe_finds_no_violation(facts: dict[str, Any], view: str) -> None:
    assert facts["axe"][view] == []
