"""Lazy import, the catalog, docstrings and their examples."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil
import subprocess
import sys
import textwrap

import pytest

import robustvox.attacks as package
from robustvox.attacks import ATTACKS, CATALOG, Attack

MODULES = sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_attacks_need_torch_and_the_standard_library_only():
    out = run(
        """
        import sys, warnings
        warnings.simplefilter("ignore")
        BLOCKED = {"monai", "nibabel", "pandas", "scipy", "numpy", "einops", "torchattacks", "rich", "typer"}
        class Blocker:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in BLOCKED:
                    raise ModuleNotFoundError(f"{name} is blocked", name=name)
        sys.meta_path.insert(0, Blocker())
        try:
            import numpy
        except ModuleNotFoundError:
            print("blocker works")
        from robustvox.attacks import ATTACKS, PGD, VAFA
        import torch
        model = torch.nn.Conv3d(1, 2, 1)
        images, labels = torch.rand(1, 1, 4, 5, 6), torch.ones(1, 1, 4, 5, 6, dtype=torch.int64)
        for key, cls in ATTACKS.items():
            assert cls()(model, images, labels).shape == images.shape
        print(BLOCKED & set(sys.modules), len(ATTACKS))
        """
    )
    assert out.split("\n")[:2] == ["blocker works", f"set() {len(ATTACKS)}"]


def test_catalog_does_not_import_torch():
    out = run(
        "import sys; from robustvox.attacks import CATALOG; print(len(CATALOG), 'torch' in sys.modules)"
    )
    assert out.split() == [str(len(CATALOG)), "False"]


def test_catalog_and_registry_agree():
    assert type(ATTACKS) is dict
    assert list(ATTACKS) == [key for key, entry in CATALOG.items() if not entry.compatibility]
    assert package.ATTACKS is ATTACKS
    assert {"gn", "uniform", "fgsm", "bim", "pgd", "cospgd", "vafa"} <= set(ATTACKS)
    for key, cls in ATTACKS.items():
        entry = CATALOG[key]
        assert cls.__name__ == entry.kind
        assert cls.__module__ == f"robustvox.attacks.{entry.module}"
        assert key == key.lower() == entry.kind.lower()
        assert entry.summary
        assert "\n" not in entry.summary
        assert isinstance(getattr(cls(), entry.budget), float | int)


def test_every_public_name_resolves():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'PDG'"):
        package.PDG  # noqa: B018


@pytest.mark.parametrize("key", sorted(ATTACKS))
def test_docstrings_say_all_of_it(key):
    cls = ATTACKS[key]
    text = inspect.getdoc(cls) or ""
    for part in ("Source:", "Differs from the source:", "Args:", "Shape:", "Returns:", "Raises:", "Example:"):
        assert part in text, part
    for field in dataclasses.fields(cls):
        assert f"    {field.name}: " in text, field.name
    assert issubclass(cls, Attack)
