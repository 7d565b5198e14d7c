"""What was typed is imported; what a file names is found among what is there, and only attacks are called."""

from __future__ import annotations

import sys
import types

import pytest

from robustvox.attacks import PGD, Uniform
from robustvox.benchmark.plan.attacks import brief, load_attack, recorded_attack, short_name
from robustvox.benchmark.plan.cases import load_dataset, recorded_dataset
from robustvox.benchmark.plan.models import recorded_model
from robustvox.benchmark.plan.registries import UnregisteredError
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import open_dataset

OURS = PROTOCOLS["robustvox-1"]


class Own(Uniform):
    """An attack of somebody's own in a module that is imported already."""


class Trap(types.ModuleType):
    """A module that makes what it is asked for."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was asked for")


@pytest.fixture
def loaded(monkeypatch):
    module = types.ModuleType("own_module")
    module.Own, module.function = Own, print
    monkeypatch.setitem(sys.modules, "own_module", module)
    monkeypatch.setitem(sys.modules, "trap_module", Trap("trap_module"))


def test_registered_attacks_are_found_in_files():
    for spec in (load_attack(text).spec for text in ("pgd", "vafa@l2=pgd", "cospgd_mean")):
        assert recorded_attack(spec) == load_attack(spec)


def test_an_imported_attack_is_found_and_shortened(loaded):
    assert recorded_attack("own_module:Own").attack == Own()
    assert brief("own_module:Own:corners=false,eps=8/255") == "own_module:Own:eps=8/255"


@pytest.mark.parametrize(
    "spec",
    ["absent_module:Own", "own_module:Other", "own_module:function", "trap_module:Own", "os:system:command=false",
     "gn@l2=absent_module:Own", "absent_module:Own@l2=gn", "robustvox.attacks.pgd:PGD.bind"],
)  # fmt: skip
def test_nothing_else_is(spec, loaded):
    with pytest.raises(
        UsageError, match=r"somebody's own code|to be a subclass of robustvox\.attacks\.Attack"
    ):
        recorded_attack(spec)
    assert brief(spec) == spec
    assert "absent_module" not in sys.modules


@pytest.mark.parametrize("text", ["pgd:nonsense", "pgd:steps=-1", ":::", "@", "a@l2=b@l2=c"])
def test_what_is_no_spec_is_shown_as_it_is(text):
    assert brief(text) == short_name(text) == text


@pytest.mark.parametrize(
    "name",
    [
        "own_module:function",
        "os:system:command=false",
        "models/zoo/phantom/unet.safetensors",
        "nowhere",
        "a:b=c",
    ],
)
def test_a_model_in_a_file_is_neither_imported_nor_opened(name, loaded):
    with pytest.raises(UnregisteredError, match="neither imported nor opened"):
        recorded_model(name, open_dataset("phantom"), OURS)


def test_a_dataset_in_a_file_is_no_path(msd_folder, monkeypatch):
    root = msd_folder(2)
    monkeypatch.chdir(root.parent)
    assert load_dataset("toy", None).name == "toy"
    for name in ("toy", str(root), "./toy", "list.csv"):
        with pytest.raises(UsageError, match="unknown dataset"):
            recorded_dataset(name, None)
    assert recorded_dataset("phantom", None).name == "phantom"


def test_a_typed_class_must_be_an_attack(loaded):
    assert load_attack("own_module:Own").attack == Own()
    assert load_attack("robustvox.attacks.pgd:PGD").attack == PGD()
    with pytest.raises(UsageError, match="own_module:function to be a subclass"):
        load_attack("own_module:function")
