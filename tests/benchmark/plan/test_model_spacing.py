"""A model that tells its spacing fails the cases of another one, and no others."""

from __future__ import annotations

import dataclasses

import pytest

from robustvox.benchmark.plan import build as running

from ..first_form import rows_in


@pytest.mark.parametrize(("spacing_mm", "code"), [((1.0, 1.0, 2.0), 0), ((1.0, 1.0, 1.5), 1)])
def test_a_case_at_another_spacing_is_a_failed_row(toy, monkeypatch, spacing_mm, code):
    load = running.load_model
    monkeypatch.setattr(
        running, "load_model", lambda *a, **k: dataclasses.replace(load(*a, **k), spacing_mm=spacing_mm)
    )
    assert toy("--attack", "fgsm") == code
    files = (toy.root / "results" / "toy" / "records").glob("*/*/*.jsonl")
    rows = [row for path in files for row in rows_in(path)]
    errors = {row["error"] for row in rows if row["kind"] == "failure"}
    assert all("expected a spacing of 1 x 1 x 1.5 mm" in e and "found 1 x 1 x 2 mm" in e for e in errors)
    assert bool(errors) == bool(code)
