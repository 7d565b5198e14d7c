"""Commands of a report can be pasted, and settings are all there."""

from __future__ import annotations

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from robustvox.benchmark.report.asked import check_command, settings, untried, view_command, with_attacks
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.suites import SUITES

PGD = "pgd:alpha=2/255,eps=8/255,loss=dice,random_start=true,restarts=1,steps=20"


@pytest.fixture
def plan() -> Any:
    return SimpleNamespace(
        surrogates=[SimpleNamespace(name="my net")], cases=("a", "b", "c"), dataset=SimpleNamespace(name="ct"),
        protocol=PROTOCOLS["robustvox-1"],
        attacks=[SimpleNamespace(spec=spec) for spec in ("gn:std=8/255", PGD)],
    )  # fmt: skip


def test_what_was_not_tried_is_the_rest_of_the_suite():
    suite = SUITES["robustvox-1"]
    name, rows = untried("robustvox-1", ["gn:std=8/255", PGD])
    assert name == "robustvox-1"
    assert {row.spec for row in rows} == {row.spec for row in suite.run} - {"gn:std=8/255", PGD}
    assert untried("robustvox-1", [row.spec for row in suite.rows]) == ("robustvox-1", ())
    assert untried("nobody's", []) == ("", ())


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("x run --attack=pgd:eps=1/255 --model m --recompute --json", "x run --model m --attack fgsm"),
        ("x --model 'a b' --attack pgd --out 'my runs'", "x --model 'a b' --out 'my runs' --attack fgsm"),
    ],
)
def test_other_attacks_take_the_place_of_those_that_ran(plan, command, expected):
    assert with_attacks(command, plan, ["fgsm"]) == expected


@pytest.mark.parametrize(
    "command", ["x run --config s.yaml --attack pgd", "x run", "x 'torn", "", "x --adversarial d"]
)
def test_a_command_that_does_not_name_its_attacks_is_written_anew(plan, command):
    plan.protocol = PROTOCOLS["bmvc2024"]
    made = shlex.split(with_attacks(command, plan, ["fgsm"]))
    assert made[-11:] == [
        "run", "--model", "my net", "--dataset", "ct", "--protocol", "bmvc2024", "--cases", "a,b,c", "--attack", "fgsm",
    ]  # fmt: skip


def test_checks_keep_the_data_and_the_weights_and_nothing_that_check_does_not_take(plan):
    command = (
        "python -m benchmark run --model m --checkpoint w.pt --attack pgd --attack gn --data-root 'my data' --cases all "
        "--transfer --workers 2 --untrained --dataset=ct"
    )
    made = check_command(command, plan)
    assert made == (
        "python -m benchmark check --model m --checkpoint w.pt --data-root 'my data' --untrained --dataset=ct "
        "--attack pgd:eps=8/255 --cases a,b"
    )
    plan.attacks = plan.attacks[:1]
    assert check_command(command, plan) == ""


def test_a_viewer_goes_where_the_next_report_finds_it(plan):
    command = (
        "python -m benchmark run --model m --checkpoint w.pt --attack pgd --dataset ct --out=my --transfer"
    )
    assert view_command(command, plan, "m", "case b", PGD) == (
        "python -m benchmark view 'case b' --model m --checkpoint w.pt --dataset ct --attack pgd:eps=8/255 --results my "
        "--out my"
    )
    assert (
        view_command(command.replace("run", "run --model n"), plan, "m", "a", PGD) == ""
    )  # whose checkpoint is it?
    zoo = "python -m benchmark --model m --model n --attack pgd"
    assert view_command(zoo, plan, "n", "a", PGD) == (
        "python -m benchmark view a --model n --dataset ct --attack pgd:eps=8/255 --results runs --out runs"
    )


def test_an_attack_is_named_as_its_protocol_reads_it(plan):
    plan.protocol = PROTOCOLS["bmvc2024"]  # fills in another loss where none is written
    plan.attacks = [SimpleNamespace(spec="fgsm:eps=8/255,loss=dice")]
    assert "--attack fgsm:eps=8/255,loss=dice" in check_command("", plan)


def test_the_commands_are_ones_that_the_program_takes(plan, capsys):
    from robustvox.benchmark.cli import main

    view = view_command("", plan, "my net", "a", PGD)
    for command in (check_command("", plan), with_attacks("", plan, ["fgsm"]), view):
        words = shlex.split(command)
        assert main(words[words.index("benchmark") + 1 :]) == 2  # every option is known, the dataset is not
        assert "unknown dataset 'ct'" in capsys.readouterr().err


def test_every_setting_is_there_whatever_its_shape():
    found = settings(
        {"a": {"b": [{"c": 1}, {"c": None}], "d": {}, "e": [1, 2], "f": True}, "g": {"h": 8 / 255}}
    )
    assert found == [
        ("a", [("b.0.c", "1"), ("b.1.c", "none"), ("d", "none"), ("e", "1, 2"), ("f", "true")]),
        ("g", [("h", "8/255")]),
    ]
