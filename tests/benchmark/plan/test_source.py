"""Nothing stale: what somebody brought is known by its source, and edited code is computed anew."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from robustvox.attacks import PGD
from robustvox.benchmark.cli import main
from robustvox.benchmark.craft.crafting import noise_generator
from robustvox.benchmark.plan import source
from robustvox.benchmark.plan.attacks import load_attack, recorded_attack
from robustvox.benchmark.plan.source import source_of
from robustvox.benchmark.records import load_records
from robustvox.benchmark.specs.spec import UsageError

ATTACK = """
from dataclasses import dataclass
from robustvox.attacks import Attack
from .helping import SIGN

@dataclass(frozen=True, kw_only=True)
class Shift(Attack):
    amount: float = 8 / 255

    @property
    def radius(self):
        return self.amount

    def perturb(self, task):
        return (task.images + SIGN * self.amount).clamp(0, 1)
"""

FACTORY = """
import torch

class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, classes, 1)

    def forward(self, images):
        return self.layer(images) * SCALE + torch.tensor([OFFSET, 0.0, 0.0]).view(1, 3, 1, 1, 1)

def make(num_classes):
    torch.manual_seed(0)
    return Net(num_classes)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of somebody's own that is imported afresh at every command, as in a process of its own."""
    folder = tmp_path / "project" / "mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "helping.py").write_text("SIGN = 1\n")
    (folder / "attacks.py").write_text(ATTACK)
    (folder / "models.py").write_text("SCALE, OFFSET = 1.0, 0.0\n" + FACTORY)
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    source._files.cache_clear()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    forget()


def test_an_edited_attack_is_computed_anew(toy, project, capsys):
    """One sign, in a module that the attack imports."""
    command = ("--attack", "mine.attacks:Shift", "--cases", "case_000")
    assert toy(*command) == 0
    before = toy.table()
    capsys.readouterr()
    forget()
    assert toy(*command) == 0
    assert "0 computed, 2 already recorded" in capsys.readouterr().out
    edit(project / "helping.py", "SIGN = 1", "SIGN = -1")
    assert toy(*command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 computed, 1 already recorded" in out
    assert "mine.attacks:Shift:amount=8/255: its code changed since rows of it were recorded" in out
    after = toy.table()
    assert len(after) == len(before) + 1
    assert len(set(after["dice_adv"])) == 2


def test_an_edited_factory_is_computed_anew(toy, project, capsys):
    """One constant that stands in no weight."""
    command = [
        "--model",
        "mine.models:make",
        "--attack",
        "fgsm",
        "--dataset",
        str(toy.folder),
        "--split",
        "all",
    ]
    command += ["--cases", "case_000", "--out", str(toy.root / "results"), "--no-report"]
    assert main(command) == 0
    capsys.readouterr()
    edit(project / "models.py", "OFFSET = 1.0, 0.0", "OFFSET = 1.0, 9.0")
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "2 computed, 0 already recorded" in out
    assert "mine.models:make: its code or its weights changed since rows of it were recorded" in out
    costs = load_records(toy.root / "results" / "toy" / "records").costs
    assert costs["surrogate_sha256"].nunique() == 2


def test_the_hash_is_of_the_project_s_own_modules_and_no_path(project, tmp_path):
    kind = type(load_attack("mine.attacks:Shift").attack)
    here = source_of(kind)
    assert set(source._files("mine.attacks")) == {"mine", "mine.attacks", "mine.helping"}
    assert here.startswith("sha-")
    assert source_of(PGD) == ""
    # Line ends are the checkout's, and where the project lies is nobody's business.
    text = (project / "attacks.py").read_bytes()
    (project / "attacks.py").write_bytes(text.replace(b"\n", b"\r\n"))
    moved = project.parent.rename(tmp_path / "elsewhere")
    sys.path.insert(0, str(moved))
    forget()
    try:
        assert source_of(type(load_attack("mine.attacks:Shift").attack)) == here
    finally:
        sys.path.remove(str(moved))


def test_a_record_of_other_code_is_not_taken_for_this_one(project):
    spec = load_attack("mine.attacks:Shift").spec
    assert recorded_attack(spec).spec == spec
    edit(project / "helping.py", "SIGN = 1", "SIGN = -1")
    load_attack("mine.attacks:Shift")  # whoever trusts it types it
    with pytest.raises(UsageError, match="its code is another one"):
        recorded_attack(spec)


def test_noise_does_not_depend_on_a_comment():
    plain = noise_generator(0, "d", "c", "mine:A:steps=2").initial_seed()
    assert noise_generator(0, "d", "c", "mine:A:source=sha-0123456789ab,steps=2").initial_seed() == plain
    assert noise_generator(0, "d", "c", "mine:A:steps=3").initial_seed() != plain


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("class Bad(PGD):\n    def __init__(self, strength=1.0):\n        super().__init__()\n", "a constructor in Bad"),
        ("class Bad(PGD):\n    strength: float = 1.0\n", "strength in Bad"),
    ],
)  # fmt: skip
def test_parameters_that_are_no_fields_are_refused(project, body, found):
    (project / "bad.py").write_text(f"from robustvox.attacks import PGD\n{body}")
    forget()
    with pytest.raises(UsageError, match=f"found {found}.*put @dataclass"):
        load_attack("mine.bad:Bad")


def test_a_subclass_that_adds_no_parameter_needs_no_decorator(project):
    (project / "plain.py").write_text("from robustvox.attacks import PGD\nclass Plain(PGD):\n    pass\n")
    forget()
    assert "steps=3" in load_attack("mine.plain:Plain:steps=3").spec


def test_a_dataset_class_of_somebody_s_own_is_part_of_the_data(project, msd_folder):
    from robustvox.benchmark.plan.source import case_fingerprint
    from robustvox.benchmark.records.unit import data_fingerprint
    from robustvox.datasets import open_dataset

    (project / "data.py").write_text("class Mine:\n    FACTOR = 1\n")
    forget()
    volume = open_dataset(str(msd_folder(1))).load("case_000")
    first = case_fingerprint(importlib.import_module("mine.data").Mine(), volume)
    edit(project / "data.py", "FACTOR = 1", "FACTOR = 2")
    assert case_fingerprint(importlib.import_module("mine.data").Mine(), volume) != first
    ours = open_dataset(str(msd_folder(1)))
    assert case_fingerprint(ours, volume) == data_fingerprint(volume)
