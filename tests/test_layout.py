"""The law of the packages holds, and every rule of it catches what it is there for."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
_SPEC = importlib.util.spec_from_file_location("robustvox_layout", Path(__file__).with_name("layout.py"))
layout = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = layout
_SPEC.loader.exec_module(layout)

Plant = Callable[..., "layout.Tree"]


@pytest.fixture(scope="module")
def repository():
    return layout.Tree(REPOSITORY)


@pytest.fixture
def plant(tmp_path) -> Plant:
    """A tree of these files; every folder is a package."""

    def grow(files: dict[str, str]):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in path.relative_to(tmp_path).parents:
                if folder.name and not (tmp_path / folder / "__init__.py").exists():
                    (tmp_path / folder / "__init__.py").touch()
        return layout.Tree(tmp_path)

    return grow


@pytest.mark.parametrize("rule", layout.RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_law(rule, repository):
    assert list(rule(repository)) == []


# --- who may import whom --------------------------------------------------------------------------

UPWARD = {
    "of a higher floor": "from ..harness import bench\n",
    "of the same floor": "from ..training import train\n",
    "inside a function": "def f():\n    from ..harness.bench import Bench\n    return Bench\n",
    "for a type": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..harness.bench import Bench\n",
    "of the module itself": "import robustvox.benchmark.harness.bench\n",
    "by name": 'import importlib\nbench = importlib.import_module("..harness.bench", __package__)\n',
    "by a computed name": 'import importlib\nget = lambda x: importlib.import_module(f"..harness.{x}", __package__)\n',
    "by a name kept elsewhere": 'import importlib\nHOME = "robustvox.benchmark.harness"\nx = importlib.import_module(HOME)\n',
    "of the package's face": "from robustvox.benchmark import evaluate\n",
    "of the face with dots": "from .. import evaluate\n",
    "of a room without a floor": "from ..attic import old\n",
}


@pytest.mark.parametrize("text", UPWARD.values(), ids=UPWARD)
def test_an_import_upwards_is_found_however_it_is_written(plant, text):
    tree = plant(
        {
            "benchmark/plan/build.py": text,
            "benchmark/harness/bench.py": "",
            "benchmark/training/train.py": "",
        }
    )
    (found,) = layout.floors(tree)
    assert found.startswith("benchmark/plan/build.py:")
    assert "benchmark.plan (floor 4) imports" in found


def test_a_room_needs_a_floor(plant):
    (found,) = layout.floors(plant({"benchmark/utils.py": ""}))
    assert "benchmark.utils has no floor" in found


def test_what_a_face_lends_counts_for_the_file_behind_it(plant):
    files = {
        "benchmark/records/__init__.py": "from .store import Store\n",
        "benchmark/records/store.py": "class Store: ...\n",
        "benchmark/craft/search.py": "from ..records import Store\n",
    }
    targets = {one.target for one in plant(files).imports if one.source == "benchmark.craft.search"}
    assert targets == {"benchmark.records", "benchmark.records.store"}


LEAVES = {
    "models/unet.py": "from robustvox.attacks import PGD\n",
    "datasets/msd.py": "def f():\n    import robustvox.benchmark.metrics\n",
    "attacks/pgd.py": "from ..models import build_model\n",
    "attacks/fgsm.py": "import numpy as np\n",
    "attacks/interop.py": 'import importlib\ntheirs = importlib.import_module("torchattacks")\n',
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_knows_only_itself(plant, name):
    (found,) = layout.leaves(plant({name: LEAVES[name]}))
    assert found.startswith(f"{name}:")


def test_attacks_may_have_torch_the_standard_library_and_what_is_asked_for_by_name(plant):
    files = {
        "attacks/pgd.py": "import math\nimport torch.nn.functional as F\nfrom .base import Attack\n",
        "attacks/base.py": "class Attack: ...\n",
        "attacks/interop_export.py": LEAVES["attacks/interop.py"],
    }
    assert list(layout.leaves(plant(files))) == []


NEVER = {
    "plan": "from ..plan.build import build_plan\n",
    "craft": "from ..craft import named\n",
    "harness": "def f():\n    from ..harness import bench\n",
    "torch": "import torch.nn\n",
    "an attack": "from robustvox.attacks import PGD\n",
    "the file of an attack": "from robustvox.attacks.pgd import PGD\n",
    "datasets": "from robustvox.datasets import open_dataset\n",
    "a whole leaf": "import robustvox.attacks\n",
}
ATTACKS = {
    "attacks/__init__.py": "from typing import TYPE_CHECKING\nfrom .catalog import CATALOG\nif TYPE_CHECKING:\n    from .pgd import PGD\n",
    "attacks/catalog.py": "from dataclasses import dataclass\nCATALOG = {}\ndef build():\n    import torch\n",
    "attacks/pgd.py": "import torch\nclass PGD: ...\n",
}


@pytest.mark.parametrize("text", NEVER.values(), ids=NEVER)
def test_show_never_computes(plant, text):
    found = list(layout.never(plant({**ATTACKS, "benchmark/show/labels.py": text})))
    assert found
    assert all(line.startswith("benchmark/show/labels.py:") for line in found)


def test_show_may_read_the_catalogues(plant):
    for text in (
        "from robustvox.attacks import CATALOG\n",
        "from robustvox.attacks.catalog import CATALOG\n",
    ):
        assert list(layout.never(plant({**ATTACKS, "benchmark/show/labels.py": text}))) == []
    heavy = {**ATTACKS, "attacks/catalog.py": "import torch\nCATALOG = {}\n"}
    (found,) = layout.never(plant({**heavy, "benchmark/show/labels.py": text}))
    assert found == "benchmark/show/labels.py:1: benchmark.show never imports attacks.catalog"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("benchmark/specs/spec.py", "import torch\n"),
        ("benchmark/specs/protocols.py", "from robustvox.datasets import Volume\n"),
        ("benchmark/metrics/scores.py", "from robustvox.models import SlidingWindow\n"),
        ("benchmark/records/unit.py", "from robustvox.attacks import CATALOG\n"),
    ],
)
def test_low_rooms_know_little(plant, name, text):
    (found,) = layout.never(plant({name: text}))
    assert found.startswith(f"{name}:1: ")


CIRCLES = {
    "two files": {"models/a.py": "from .b import x\n", "models/b.py": "from . import a\n"},
    "a face": {
        "datasets/__init__.py": "from .base import Case\n",
        "datasets/base.py": "from . import Case\n",
    },
    "in functions": {
        "attacks/a.py": "def f():\n    from .b import g\n",
        "attacks/b.py": "def g():\n    from .c import h\n",
        "attacks/c.py": "def h():\n    from .a import f\n",
    },
    "a lazy face": {
        "models/bring/__init__.py": 'import importlib\nHOME = {"x": "net"}\nget = lambda n: importlib.import_module(f".{HOME[n]}", __name__)\n',
        "models/bring/net.py": "from . import get\n",
    },
    "for types": {
        "benchmark/show/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\n",
        "benchmark/show/b.py": "from robustvox.benchmark.show.a import A\n",
    },
}


@pytest.mark.parametrize("files", CIRCLES.values(), ids=CIRCLES)
def test_a_circle_of_files_is_found_in_every_package(plant, files):
    (found,) = layout.circles(plant(files))
    first, *_, last = found.partition(": ")[2].split(" -> ")
    assert first == last
    assert set(files) <= set(found.partition(": ")[2].split(" -> "))


def test_a_face_over_its_files_is_no_circle(plant):
    files = {
        "datasets/__init__.py": "from .base import Case\nfrom .msd import MSD\n",
        "datasets/base.py": "class Case: ...\n",
        "datasets/msd.py": "from .base import Case\nclass MSD: ...\n",
    }
    assert list(layout.circles(plant(files))) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import attacks\n", "bare name"),
        ("from models import build_model\n", "bare name"),
        ("from ...attacks import PGD\n", "relatively"),
        ("from robustvox.benchmark.plan import plan\n", "absolutely"),
    ],
)
def test_imports_are_written_as_agreed(plant, text, told):
    (found,) = layout.style(plant({"benchmark/plan/build.py": text, "attacks/base.py": ""}))
    assert told in found


# --- how large things may get ---------------------------------------------------------------------


def test_a_long_file_is_found(plant):
    assert list(layout.long_files(plant({"models/a.py": "x = 1\n" * 400}))) == []
    assert list(layout.long_files(plant({"models/a.py": "x = 1\n" * 401}))) == [
        "models/a.py: 401 lines; at most 400"
    ]


def test_a_long_function_is_found_and_declarations_do_not_count(plant):
    signature = "def f(\n" + "".join(f"    a{i}: int = 0,\n" for i in range(90)) + "):\n"
    told = '    """Says.\n' + "\n    more\n" * 40 + '    """\n'
    sixty = "    x = 1\n" * 60
    assert list(layout.long_functions(plant({"datasets/a.py": signature + told + sixty}))) == []
    (found,) = layout.long_functions(plant({"datasets/a.py": signature + told + sixty + "    return x\n"}))
    assert found == "datasets/a.py:1: f has 61 lines; at most 60"
    inner = "class A:\n    async def g(self):\n        def h():\n" + "            x = 1\n" * 61
    told = list(layout.long_functions(plant({"datasets/a.py": inner})))
    assert [line.split(": ")[1].split()[0] for line in told] == ["g", "h"]


def test_a_loose_file_is_found(plant):
    files = {f"benchmark/{name}": "" for name in ("__main__.py", "evaluation.py", "py.typed")}
    assert list(layout.loose_files(plant(files))) == []
    (found,) = layout.loose_files(plant({"benchmark/notes.txt": ""}))
    assert "4 files" in found
    assert "notes.txt" in found


def test_an_eighth_floor_is_found(plant):
    files = {f"benchmark/r{i}/a.py": f"from ..r{i - 1} import a\n" for i in range(1, 7)}
    files["benchmark/r0/a.py"] = "import robustvox.models.unet\n"
    files["models/unet.py"] = ""
    assert list(layout.tower(plant({**files, "benchmark/r6/a.py": ""}))) == []
    tree = plant({**files, "benchmark/r6/a.py": "from ..r5 import a\n"})
    assert layout.storeys(tree)["benchmark.r6"] == 8
    (found,) = layout.tower(tree)
    assert found == "benchmark.r6 stands on floor 8; at most 7"


def test_floors_are_at_most_seven_with_the_leaves():
    assert len(layout.FLOORS) + 1 <= layout.MOST_FLOORS


# --- what no reading of imports can tell ----------------------------------------------------------


def test_the_tables_are_made_without_torch():
    code = (
        "import importlib, pkgutil, sys; import robustvox.benchmark.show as show\n"
        "for found in pkgutil.walk_packages(show.__path__, show.__name__ + '.'): importlib.import_module(found.name)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_device_is_assumed_and_nothing_is_unpickled(repository):
    for module, path in repository.files.items():
        assert ".cuda()" not in path.read_text(), path
        for node in ast.walk(repository.parsed[module]):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
                assert not names & {"pickle", "dill", "joblib"}, path
