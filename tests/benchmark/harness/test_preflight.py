"""What a worker must have before it gets a job, and that what differs is found."""

from __future__ import annotations

import importlib
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from robustvox.attacks import GN, PGD
from robustvox.benchmark.craft.matched import Matched
from robustvox.benchmark.craft.named import NamedAttack, NamedModel
from robustvox.benchmark.harness import preflight
from robustvox.benchmark.harness.bench import Bench
from robustvox.benchmark.harness.preflight import Answer, answer, disagreement, source_sha256
from robustvox.benchmark.plan.plan import Plan
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.datasets import CaseError, open_dataset


def bench(attack=None, network=None, dataset=None) -> Bench:
    torch.manual_seed(0)
    model = NamedModel("conv", "ab" * 32, network or torch.nn.Conv3d(1, 8, 1))
    attacks = [NamedAttack("gn:std=0.1", attack or GN(std=0.1))]
    data = dataset or open_dataset("phantom")
    return Bench(Plan(data, ["val_000", "val_001"], [model], [model], attacks, PROTOCOLS["robustvox-1"]))


@pytest.fixture(scope="module")
def run() -> Answer:
    return answer(bench())


def test_a_process_that_has_the_same_agrees(run):
    assert run.case == "val_000"
    assert len(run.case_sha256) == 64
    assert run.models == (("conv", "ab" * 32),)
    assert run.code == ()  # torch and robustvox are compared by their versions
    assert disagreement(run, answer(bench(), run.case)) == ""


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"version": "0.0.9"}, "expected robustvox 0.1.0 as in this run, found 0.0.9"),
        ({"source": "f" * 64}, "found ffffffff; install the same there"),
        (
            {"packages": (("torch", "1.0"), ("monai", "1"), ("numpy", "1"), ("scipy", "1"))},
            "found 1.0; install",
        ),
        ({"case_sha256": "0" * 64}, "found 00000000; give it the same data"),
        (
            {"case_sha256": "", "problem": "the case val_000 cannot be read here: gone"},
            "cannot be read here: gone",
        ),
        (
            {"models": (("conv", "cd" * 32),)},
            "expected the models conv abababab as in this run, found conv cdcdcdcd",
        ),
        ({"attacks": ()}, "expected the attacks gn:std=0.1 as in this run, found none"),
        ({"code": (("mine", "12" * 32),)}, "expected the code no other as in this run, found mine 12121212"),
    ],
)
def test_what_differs_is_named_in_one_line(run, changes, text):
    found = disagreement(run, replace(run, **changes))
    assert text in found
    assert "\n" not in found


def test_another_accelerator_is_no_other_version(run):
    elsewhere = replace(run.place, device="cuda", accelerator="NVIDIA H200", threads=16)
    assert disagreement(run, replace(run, place=elsewhere, card="GPU-1")) == ""


def test_the_source_is_that_of_every_file(tmp_path, monkeypatch):
    root = Path(preflight.__file__).resolve().parents[2]
    for top in ("attacks", "benchmark", "datasets", "models"):
        shutil.copytree(
            root / top,
            tmp_path / top,
            ignore=lambda _, names: [n for n in names if "." in n and not n.endswith(".py")],
        )
    monkeypatch.setattr(preflight, "__file__", str(tmp_path / "benchmark" / "harness" / "preflight.py"))
    assert source_sha256() == preflight.SOURCE
    path = tmp_path / "attacks" / "pgd.py"
    path.write_text(path.read_text() + "\n# changed\n")
    assert source_sha256() != preflight.SOURCE
    # A process that loaded the code before it was changed says so, whatever lies on the disk now.
    assert (
        answer(bench(), "").problem
        == "the source of robustvox changed since this process started; start it again"
    )


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's: ``(text) -> module`` as it is at that moment."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(extra: str = ""):
        sys.modules.pop("mine_alone", None)
        importlib.invalidate_caches()
        (tmp_path / "mine_alone.py").write_text(
            "import torch\nfrom dataclasses import dataclass\nfrom robustvox.attacks import GN\n"
            "@dataclass(frozen=True, kw_only=True)\nclass Own(GN):\n    pass\n"
            f"class Net(torch.nn.Conv3d):\n    pass\n{extra}"
        )
        return importlib.import_module("mine_alone")

    yield load
    sys.modules.pop("mine_alone", None)


def test_code_of_the_user_is_compared_by_its_file(mine):
    first = mine()
    attack = answer(bench(attack=first.Own(std=0.1)))
    assert [name for name, _ in attack.code] == ["mine_alone"]
    inside = Matched(attack=first.Own(std=0.1), reference=PGD(), on="l2")
    assert answer(bench(attack=inside), "").code == attack.code
    assert answer(bench(network=first.Net(1, 8, 1)), "").code == attack.code
    changed = answer(bench(attack=mine("x = 1\n").Own(std=0.1)))
    assert "expected the code mine_alone" in disagreement(attack, changed)


def test_a_worker_without_the_data_says_so(run):
    @dataclass
    class Absent:
        inner: object

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def load(self, case):
            raise CaseError(case, "a file", "none", "copy it")

    there = answer(bench(dataset=Absent(open_dataset("phantom"))), "val_000")
    assert disagreement(run, there).startswith("the case val_000 cannot be read here: ")
    # A run whose own cases cannot be read has nothing to compare, and rows that say so.
    nobody = answer(bench(dataset=Absent(open_dataset("phantom"))))
    assert (nobody.case, nobody.case_sha256, nobody.problem) == ("", "", "")


def test_a_folder_for_volumes_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert (
        "the folder /data/results for volumes cannot be written here"
        in answer(bench(), "", Path("/data/results")).problem
    )
