"""`--attack torchattacks:NAME`: spelling, identity, refusals, and a whole run."""

from __future__ import annotations

import pickle
import sys

import pytest

from robustvox.attacks import interop, interop_export
from robustvox.attacks.interop import SUPPORTED, TorchAttack
from robustvox.benchmark.plan.attacks import attack_spec, brief, load_attack
from robustvox.benchmark.specs.spec import UsageError

pytest.importorskip("torchattacks")


@pytest.mark.parametrize(
    "written",
    [
        "torchattacks:MIFGSM,eps=8/255,steps=2",
        "torchattacks:MIFGSM:eps=8/255,steps=2",
        "TorchAttacks:mifgsm,steps=2",
        "torchattacks:mi-fgsm,steps=2,alpha=2/255,decay=1",
    ],
)
def test_all_spellings_are_one_attack(written):
    named = load_attack(written)
    assert named.spec == "torchattacks:MIFGSM:alpha=2/255,decay=1,eps=8/255,steps=2"
    assert named.attack == TorchAttack(name="MIFGSM", parameters={"steps": 2})


@pytest.mark.parametrize("name", sorted(SUPPORTED))
def test_the_canonical_spec_rebuilds_the_attack_and_pickles(name):
    named = load_attack(f"torchattacks:{name}")
    assert load_attack(named.spec) == named == pickle.loads(pickle.dumps(named))
    assert named.spec.split(":")[1] == name


def test_the_table_on_screen_shows_what_is_not_default():
    assert brief(load_attack("torchattacks:MIFGSM,steps=2").spec) == "torchattacks:MIFGSM:eps=8/255,steps=2"
    assert brief(load_attack("torchattacks:GN").spec) == "torchattacks:GN:std=0.1"


def test_specs_tell_attacks_under_a_name_of_ones_own_apart():
    specs = {attack_spec("mine", TorchAttack(name=name)) for name in ("FGSM", "FFGSM", "BIM", "PGD", "TPGD")}
    assert len(specs) == 5
    assert "mine:attack=FGSM,eps=8/255" in specs


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("torchattacks", "torchattacks: name: expected one of FGSM"),
        ("torchattacks:", "torchattacks: name: expected one of FGSM"),
        ("torchattacks:MIFGMS", "Did you mean MIFGSM?"),
        ("torchattacks:DIFGSM", "torchattacks: DIFGSM: .* it resizes and shifts 2D images"),
        ("torchattacks:AutoAttack,eps=8/255", "torchattacks: AutoAttack: .* one label per image"),
        ("torchattacks:MIFGSM,step=2", "step: expected a parameter of MIFGSM .* Did you mean steps?"),
        ("torchattacks:MIFGSM,eps=8", "eps: .* 8/255"),
        ("torchattacks:MIFGSM,eps=8/255,2", "expected parameters as key=value, got '2'"),
    ],
)
def test_refusals_are_usage_errors_of_one_line(written, message):
    with pytest.raises(UsageError, match=message) as error:
        load_attack(written)
    assert "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(monkeypatch):
    interop._defaults.cache_clear()
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(UsageError, match=r"pip install 'robustvox\[torchattacks\]'") as error:
        load_attack("torchattacks:MIFGSM")
    assert "\n" not in str(error.value)
    with pytest.raises(ImportError):
        interop_export.package()


def test_runs_from_the_command_line(toy, capsys):
    assert toy("--attack", "torchattacks:MIFGSM,eps=8/255,steps=2", "--attack", "torchattacks:GN") == 0
    table = toy.table().set_index("attack")
    row = table.loc["torchattacks:MIFGSM:alpha=2/255,decay=1,eps=8/255,steps=2"]
    assert (row["forwards"], row["backwards"], row["n_cases"], row["failed"]) == (2, 2, 3, 0)
    assert row["linf"] == pytest.approx(4 / 255, abs=1e-6)  # two steps of 2/255
    assert table.loc["torchattacks:GN:std=0.1", "linf"] > 0.2
    capsys.readouterr()
    assert toy("--attack", "torchattacks:MIFGSM,eps=8/255,steps=2") == 0
    assert "0 computed" in capsys.readouterr().out


def test_refused_on_the_command_line(toy, capsys):
    assert toy("--attack", "torchattacks:DIFGSM") == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "DIFGSM" in captured.err
