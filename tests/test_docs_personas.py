"""The ways of three people from an empty folder, as their pages print them: the student, the engineer, the researcher.

Every page is a program: blocks of code with a file's name are saved, lines of shell are run in their order. By default
the lines are only parsed; `-m slow` runs them, with the time that the pages promise on two cores.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from robustvox.attacks import ATTACKS
from robustvox.benchmark.cli import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
MINUTES = {"howto_network": 10, "howto_bundle": 10, "howto_attack": 5, "getting_started": 10}


@pytest.fixture
def docs(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module


def files(page: str) -> dict[str, str]:
    return dict(re.findall(r'```python title="(\S+)"\n(.*?)```', (DOCS / f"{page}.md").read_text(), re.S))


def lines(page: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("pip ")]


@pytest.mark.parametrize("page", MINUTES)
def test_what_a_page_prints_can_be_typed(page):
    commands, saved = get_command(app).commands, files(page)
    assert lines(page)
    for line in lines(page):
        words = [word for word in shlex.split(line) if word != "PYTHONPATH=."]
        if words[0] == "python":
            assert len(words) == 2, line
            assert words[1] in saved, line
            continue
        assert words[0] == "robustvox", line
        name, rest = (words[1], words[2:]) if words[1] in commands else ("run", words[1:])
        # Refuses an option that does not exist, a value that is none of the choices, and a word too many.
        commands[name].make_context(name, rest, resilient_parsing=False)


@pytest.mark.parametrize("page", MINUTES)
def test_the_code_of_a_page_is_the_file_of_the_examples(page):
    for name, code in files(page).items():
        compile(code, name, "exec")
        if (DOCS / "examples" / name).is_file():
            assert code == (DOCS / "examples" / name).read_text(), (
                f"docs/{page}.md and docs/examples/{name} differ"
            )


def test_every_file_of_the_examples_is_on_a_page():
    text = "".join(path.read_text() for path in DOCS.glob("*.md"))
    for path in (DOCS / "examples").glob("*.py"):
        assert path.name in text, f"{path.name} is on no page"


@pytest.mark.slow
@pytest.mark.parametrize("page", MINUTES)
def test_a_way_ends_in_time_and_without_a_guess(page, tmp_path):
    import robustvox.attacks

    installed = Path(robustvox.attacks.__file__).parent.parent.parent
    shim = tmp_path / "bin" / "robustvox"
    shim.parent.mkdir()
    shim.write_text(
        f"#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{shlex.quote(str(installed))} exec {sys.executable} -c "
        "'from robustvox.benchmark.__main__ import console_script; console_script()' \"$@\"\n"
    )
    shim.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, code in files(page).items():
        (folder / name).write_text(code)
    path = f"{shim.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(installed)}
    begin = time.monotonic()
    for line in lines(page):
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        # A check may fail a number: the page says so, and the command has done what it was asked.
        assert done.returncode in ((0, 1) if " check " in line else (0,)), (line, done.stdout, done.stderr)
    assert time.monotonic() - begin < 60 * MINUTES[page]
    if page == "howto_network":
        assert (folder / "drop.png").stat().st_size > 5000
    if page != "getting_started":
        assert list(folder.glob("runs/*/reports/*.html"))


@pytest.mark.parametrize("notebook", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_was_run_from_top_to_bottom(notebook, docs):
    """What it shows is from a whole run; that every cell still runs is asked by `.ci/run`, in half a minute."""
    cells = json.loads(notebook.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in shown} <= {"stream", "execute_result", "display_data"}
    assert any("text/html" in output.get("data", {}) for output in shown)
    for number, source in enumerate(docs("build_notebooks").code_of(notebook)):
        compile(source, f"{notebook.name}, cell {number}", "exec")
        for module in re.findall(r"^\s*(?:from|import) (robustvox[.\w]*)", source, re.M):
            assert module.count(".") <= 1, "export it from the face, or do not show it"
    text = "".join(line for cell in cells if cell["cell_type"] == "markdown" for line in cell["source"])
    for target in re.findall(r"\]\(([^)]+\.md)\)", text):
        assert (notebook.parent / target).is_file(), target


# --- recipes ------------------------------------------------------------------------------------


def test_the_recipes_are_the_program_and_it_runs(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(DOCS / "examples")
    recipes = importlib.import_module("recipes")
    source = (DOCS / "examples" / "recipes.py").read_text()
    page = (DOCS / "recipes.md").read_text()
    parts = dict(re.findall(r"^# \[(\w+)\]\n(.*?)(?=^# \[)", source, re.S | re.M))
    assert set(parts) == {"monai", "training", "lightning", "torchmetrics", "amp", "nifti"}
    for name, code in parts.items():
        assert f"```python\n{code.strip()}\n```" in page, (
            f"docs/recipes.md and the part {name} of recipes.py differ"
        )
    assert (
        f"```python\n{source[source.index('import numpy') : source.index('# [monai]')].strip()}\n```" in page
    )
    found = recipes.main(tmp_path)
    row = found["result"].table.loc[0]
    assert row["dice_clean"] > 0.9
    assert row["linf"] <= 8 / 255
    assert found["result"].per_case["case"].unique().tolist() == ["image"]
    assert abs(found["half"].table.loc[0, "dice_clean"] - row["dice_clean"]) < 0.1
    assert 0 < (found["one"] - found["batch"]["image"][0]).abs().max() <= 8 / 255 + 1e-6
    assert (found["one"].affine == found["batch"]["image"][0].affine).all()


@pytest.mark.slow
def test_the_recipes_for_lightning_and_torchmetrics_run(monkeypatch, tmp_path):
    lightning = pytest.importorskip("lightning")
    pytest.importorskip("torchmetrics")
    import torch

    monkeypatch.syspath_prepend(DOCS / "examples")
    recipes = importlib.import_module("recipes")
    found = recipes.main(tmp_path)
    batch = {
        "image": found["batch"]["image"].as_tensor(),
        "label": found["batch"]["label"].as_tensor().long(),
    }
    attacked = found["result"].table.loc[0, "dice_adv"]
    assert abs(recipes.robust_dice(found["network"], [batch], 2) - attacked) < 0.3
    module, loader = recipes.lightning_module(), torch.utils.data.DataLoader([batch], batch_size=None)
    trainer = lightning.Trainer(
        max_epochs=1, inference_mode=False, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    assert 0 <= float(trainer.callback_metrics["validation_robust_dice"]) <= 1
    assert module.training


# --- pages from definitions ---------------------------------------------------------------------


def test_the_page_of_commands_follows_from_their_definitions(docs):
    builder = docs("build_commands")
    assert builder.PAGE.read_text() == builder.page(), (
        "run `python docs/build_commands.py` and commit docs/commands.md"
    )


def test_every_attack_has_a_formula_and_no_other(docs):
    assert set(docs("formulas").FORMULAS) == set(ATTACKS)


def test_roles_become_links_and_a_raw_one_is_found(docs, tmp_path):
    hooks, site = docs("site_hooks"), docs("build_site")
    raw = "<p>see :class:<code>~robustvox.attacks.PGD</code> and :func:\n<code>check_volume</code></p>"
    shown = hooks.with_links(raw)
    assert shown.count("<code>") == 2
    (tmp_path / "good.html").write_text(shown + '<a href="https://arxiv.org/abs/1">x</a>')
    assert site.mistakes(tmp_path) == []
    for name, text in {
        "role": raw,
        "link": "<p>[<code>nothing</code>][robustvox.nothing]</p>",
        "formula": '<span class="arithmatex">x</span>',
        "latex": r"<math><mi>\arg</mi></math>",
        "request": '<script src="https://a.b/c.js"></script>',
    }.items():
        (tmp_path / "bad.html").write_text(text)
        (mistake,) = site.mistakes(tmp_path)
        assert mistake.startswith("bad.html: "), name


def test_the_face_shows_what_there_is():
    import robustvox.benchmark as face

    assert set(dir(face)) == set(face.__all__)
    assert {"evaluate", "Evaluation", "run_checks", "compare_models", "load_records", "score"} <= set(
        dir(face)
    )
    page = (DOCS / "api" / "benchmark.md").read_text()
    for name in face.__all__:
        home = importlib.import_module(f"robustvox.benchmark.{face._HOME[name]}")
        assert hasattr(home, name)
        assert f"[`{name}`][{home.__name__}.{name}]" in page, f"{name} is not in the reference"
