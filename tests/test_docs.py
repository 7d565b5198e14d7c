"""The documentation follows from the code: pages of attacks, the example attack, links."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from robustvox.attacks import ATTACKS, PGD, Uniform
from robustvox.benchmark.cli import main
from robustvox.benchmark.plan.attacks import load_attack

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture
def builder(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    return importlib.import_module("build_attacks")


@pytest.fixture
def bias_field(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "examples")
    return importlib.import_module("own_attack").BiasField


# --- the public face ----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md"], ids=lambda page: page.name)
def test_code_on_a_page_imports_from_the_four_faces(page):
    found = re.findall(r"^\s*(?:from|import) (robustvox[.\w]*)", page.read_text("utf-8"), re.MULTILINE)
    inner = [module for module in found if module.count(".") > 1 and page.parent.name != "api"]
    assert not inner, "export it from the face, or do not show it"


# --- pages of attacks ---------------------------------------------------------------------------


def test_the_committed_pages_follow_from_the_docstrings(builder):
    report = builder.differences(builder.FOLDER, builder.pages())
    assert not report, f"\n{report}"


def test_a_difference_is_told_with_the_command_that_mends_it(builder, tmp_path):
    wanted = builder.pages()
    builder.write(tmp_path, wanted)
    assert builder.differences(tmp_path, wanted) == ""
    (tmp_path / "fgsm.md").unlink()
    (tmp_path / "retired.md").write_text("# Retired\n")
    page = tmp_path / "pgd.md"
    page.write_text(page.read_text().replace("Madry", "Nobody"))
    report = builder.differences(tmp_path, wanted)
    assert "fgsm.md: an attack without a page" in report
    assert "retired.md: a page without an attack" in report
    assert re.search(r"^-Nobody.*\n\+Madry", report, re.M)
    assert report.endswith("Run `python docs/build_attacks.py` and commit docs/attacks\n")
    builder.write(tmp_path, wanted)
    assert builder.differences(tmp_path, wanted) == ""


@pytest.mark.parametrize("key", ATTACKS)
def test_the_command_line_on_a_page_is_the_attack_with_its_defaults(key, builder):
    (line,) = re.findall(r"^python -m benchmark .*", builder.pages()[f"{key}.md"], re.M)
    words = shlex.split(line)
    named = load_attack(words[words.index("--attack") + 1])
    assert named.attack == ATTACKS[key]()
    assert named.spec == words[-1]
    given = {pair.split("=")[0] for pair in re.split(r"[:,](?![^(]*\))", named.spec)[1:]}
    assert given == {field.name for field in dataclasses.fields(ATTACKS[key])}


@pytest.mark.parametrize("key", ATTACKS)
def test_a_page_states_the_radius_that_objects_have(key, builder):
    stated = builder.budget(ATTACKS[key])
    radius = ATTACKS[key]().radius
    if radius is None:
        assert stated.startswith("none")
        return
    name = re.match(r"`(\w+)`", stated).group(1)
    assert ATTACKS[key](**{name: 0.125}).radius == 0.125


def test_the_example_of_a_page_is_a_program(builder):
    for name, page in builder.pages().items():
        for code in re.findall(r"```python\n(.*?)```", page, re.S):
            assert ">>>" not in code
            compile(code, name, "exec")
    (code,) = re.findall(r"```python\n(.*?)```", builder.pages()["pgd.md"], re.S)
    scope: dict = {}
    exec(code, scope)
    assert scope["adversarial"].shape == scope["images"].shape


# --- docstrings that are refused ----------------------------------------------------------------


def without(section: str) -> str:
    """PGD's docstring less one section."""
    text = PGD.__doc__
    assert re.search(rf"^    {section}:", text, re.M)
    return re.sub(rf"^    {section}:.*\n(?:        .*\n|\n(?=        ))*", "", text, flags=re.M)


def documented(docstring: str) -> type:
    return type("Undocumented", (PGD,), {"__doc__": docstring})


@pytest.mark.parametrize(
    "section", ["Source", "Differs from the source", "Args", "Shape", "Returns", "Raises", "Example"]
)
def test_a_missing_section_is_refused_by_name(section, builder):
    with pytest.raises(builder.DocstringError, match=rf"Undocumented: section '{section}' is missing"):
        builder.describe(documented(without(section)))
    assert builder.describe(documented(PGD.__doc__)).args.keys() == builder.describe(PGD).args.keys()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "        restarts: independent random starts, >= 1.\n",
            "",
            r"'Args' and the fields .* differ in restarts",
        ),
        ("        restarts:", "        restart:", r"differ in restart, restarts"),
        (" = clamp(", " clamp(", "'formula' is missing"),
        (">>> ", "", "'Example' has no line"),
        ("    Shape:", "    Raises: never.\n    Shape:", "'Raises' is given twice"),
        (
            "    Shape: images (B, C, *spatial), labels (B, 1, *spatial), result like images.",
            "    Shape:",
            "'Shape'",
        ),
    ],
)
def test_a_broken_docstring_is_refused(old, new, message, builder):
    assert old in PGD.__doc__
    with pytest.raises(
        builder.DocstringError, match=f"Undocumented: section {message}|Undocumented: .*{message}"
    ):
        builder.describe(documented(PGD.__doc__.replace(old, new)))


def test_a_class_without_docstring_is_refused(builder):
    with pytest.raises(builder.DocstringError, match="Undocumented: section 'Source'"):
        builder.describe(documented(""))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Then x' = x + eps * u, with u ~ U(-1, 1).", "Then `x' = x + eps * u`, with `u ~ U(-1, 1)`."),
        ("A loss L = mean_j w_j * CE_j of (K = 3) maps", "A loss `L = mean_j w_j * CE_j` of (`K = 3`) maps"),
        ("Per block ||d||_2 <= r * q_max with r < 1.", "Per block `||d||_2 <= r * q_max` with `r < 1`."),
        ("[lo, hi] = [max(x - eps, 0), 1] holds", "`[lo, hi] = [max(x - eps, 0), 1]` holds"),
        ("steps, >= 0; see `PGD` or q_min * 2", "steps, >= 0; see [`PGD`](pgd.md) or `q_min` \\* 2"),
        ("labels (B, 1, *spatial), a|b", "labels `(B, 1, *spatial)`, a&#124;b"),
        ("arXiv 1706.06083.", "[arXiv 1706.06083](https://arxiv.org/abs/1706.06083)."),
    ],
)
def test_sentences_become_markdown(text, shown, builder):
    assert builder.markup(text) == shown


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_links_lead_to_pages_and_headings(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        assert page.is_file(), f"{path.name} links to {target}"
        assert page.is_relative_to(DOCS), f"{path.name} leaves docs/ with {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
            assert anchor in {h.lower().replace(" ", "-") for h in headings}, target


# --- the example attack -------------------------------------------------------------------------


def test_the_page_shows_the_example_file():
    code = (DOCS / "examples" / "own_attack.py").read_text()
    assert len(code.splitlines()) < 40
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own_attack.md").read_text(), re.S)
    assert blocks[0] == code, "docs/own_attack.md must show docs/examples/own_attack.py as it is"


def test_the_checks_on_the_page_run(bias_field):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "own_attack.md").read_text(), re.S)
    assert blocks[1].count("assert") == 3
    exec(blocks[1], {})


@pytest.mark.parametrize("spatial", [(7, 6, 5), (11, 6), (1, 13, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_example_keeps_the_contract(spatial, dtype, bias_field):
    conv = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[len(spatial)](2, 3, 1).to(dtype)
    model = torch.nn.Sequential(conv, torch.nn.Tanh())
    images = torch.rand(3, 2, *spatial, dtype=dtype)
    images.flatten()[::3] = 1.0
    labels = torch.randint(3, (3, 1, *spatial))
    for eps in (1 / 255, 0.1, 1.0):
        attack = bias_field(eps=eps, steps=6, order=3)
        adversarial = attack(model, images, labels)
        assert (adversarial.double() - images.double()).abs().max().item() <= eps
        assert not torch.equal(adversarial, images)
        assert torch.equal(adversarial, attack(model, images, labels))
    assert torch.equal(bias_field(eps=0.0)(model, images, labels), images)
    if dtype == torch.float64:
        alone = [attack(model, images[[i]], labels[[i]]) for i in range(3)]
        assert torch.equal(adversarial, torch.cat(alone))


def test_the_example_is_a_smooth_gain(bias_field):
    model = torch.nn.Conv3d(1, 3, 3, padding=1).double()
    images = torch.rand(1, 1, 12, 11, 10, dtype=torch.float64) * 0.8 + 0.1
    adversarial = bias_field(order=2, eps=0.05)(model, images, model(images).argmax(1, keepdim=True))
    gain = adversarial / images - 1
    # Independent of the code: the field behind the gain is spanned by the first two waves of every axis.
    field = torch.atanh(gain / 0.05)[0, 0]
    for axis, size in enumerate(field.shape):
        wave = torch.cos(torch.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size)
        basis = torch.stack([torch.ones_like(wave), wave], 1)
        field = field.movedim(axis, 0)
        flat = field.reshape(size, -1)
        fitted = basis @ torch.linalg.lstsq(basis, flat).solution
        assert torch.allclose(fitted, flat, atol=1e-6)
        field = field.movedim(0, axis)
    assert gain.abs().max() > 0.01


@pytest.mark.parametrize("bad", [{"eps": 8}, {"order": 0}, {"steps": -1}])
def test_the_example_refuses_bad_parameters(bad, bias_field):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        bias_field(**bad)


class Threshold(torch.nn.Module):
    """Foreground where the mean of 27 voxels is above 0.5: noise averages out, a gain does not."""

    def forward(self, images):
        score = 40 * (torch.nn.functional.avg_pool3d(images, 3, 1, 1, count_include_pad=False) - 0.5)
        return torch.cat([-score, score], 1)


def test_the_example_beats_noise_and_follows_targets(bias_field):
    ramp = torch.linspace(0.44, 0.62, 12).expand(2, 1, 12, 12, 12)
    model, images = Threshold(), ramp.contiguous()
    labels = (images > 0.5).long()

    def dice(volume, reference):
        predicted = model(volume).argmax(1, keepdim=True)
        return (2 * (predicted * reference).sum() / (predicted + reference).sum()).item()

    noisy = dice(Uniform(eps=0.1)(model, images, labels), labels)
    attacked = dice(bias_field()(model, images, labels), labels)
    assert noisy > 0.95
    assert attacked < noisy - 0.2
    targets = labels.clone()
    targets[:, :, :6] = 0
    moved = bias_field()(model, images, labels, targets=targets)
    assert dice(moved, targets) > dice(images, targets) + 0.05


def test_the_example_runs_from_the_command_line(bias_field, tmp_path, capsys):
    arguments = ["--model", "unet", "--attack", "own_attack:BiasField:steps=1"]
    assert main(["--no-report", *arguments, "--cases", "1", "--out", str(tmp_path)]) == 0
    assert "own_attack:BiasField" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "phantom" / "white_box.csv").set_index("attack")
    (spec,) = table.index
    assert re.fullmatch(r"own_attack:BiasField:eps=0\.1,order=4,source=sha-[0-9a-f]{12},steps=1", spec)
    mine = table.loc[spec]
    assert (mine["forwards"], mine["backwards"]) == (2, 1)
    assert 0.01 < mine["linf"] <= 0.1
    assert mine["dice_adv"] < mine["dice_clean"]


def test_the_example_runs_by_the_name_of_an_entry_point(bias_field, tmp_path, monkeypatch):
    toml = (DOCS / "own_attack.md").read_text()
    assert '[project.entry-points."robustvox.attacks"]\nbias_field = "own_attack:BiasField"\n' in toml
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[robustvox.attacks]\nbias_field = own_attack:BiasField\n")
    monkeypatch.syspath_prepend(tmp_path)
    named = load_attack("bias_field:eps=0.05")
    assert named.attack == bias_field(eps=0.05)
    assert re.fullmatch(r"bias_field:eps=0\.05,order=4,source=sha-[0-9a-f]{12},steps=20", named.spec)


def test_the_tables_of_marks_follow_from_the_committed_rows(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    builder = importlib.import_module("build_marking")
    rows = builder.read_cases(builder.ROWS)
    tables = builder.markdown(builder.summarize(rows))
    assert (builder.ROWS.parent / "marking.md").read_text() == tables
    text = builder.PAGE.read_text()
    assert builder.page(text, tables) == text
    marked = rows[rows["view"] == "marked"]
    assert (marked[marked["mark"] == "field outside"]["label_changed"] == 0).all()
    unlocked = rows[rows["view"] == "authorised"]
    assert (unlocked["dice"] == unlocked["dice_clean"]).all()


def test_the_tables_of_robust_networks_follow_from_the_committed_rows(monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    builder = importlib.import_module("build_robust_training")
    text = builder.PAGE.read_text()
    assert builder.page(text) == text
    shown = builder.means(builder.load_records(builder.RECORDS).scores)
    assert set(builder.MODELS) <= set(shown["target"])


# --- the example of a network from somebody's package -------------------------------------------


@pytest.fixture
def brain_extraction(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "examples")
    return importlib.import_module("brain_extraction")


class Tissue(torch.nn.Module):
    """Stands in for a network of the package: brain where the standardized image is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([0.5 - x[:, 0], x[:, 0] - 0.449], 1).mul(9.0).softmax(1)


def test_the_brain_example_prepares_as_the_tool_does(brain_extraction, monkeypatch, tmp_path):
    """Against the tool's own arithmetic, written out in float64: quantiles, clamp, standardize, nearest-exact."""
    folder = tmp_path / "deepbet"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the package itself is never run')")
    (tmp_path / "data" / "models").mkdir(parents=True)
    torch.jit.script(Tissue()).save(str(tmp_path / "data" / "models" / "bbox_model.pt"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deepbet", raising=False)
    monkeypatch.setattr(brain_extraction, "SIDE", 16)
    network = brain_extraction.deepbet()
    shape = (20, 17, 31)
    raw = np.random.default_rng(0).gamma(2.0, 300.0, shape)
    low, high = np.quantile(raw, [0.005, 0.995])
    places = [np.floor((np.arange(16) + 0.5) * side / 16).astype(int) for side in shape]
    small = np.clip((raw[np.ix_(*places)] - low) / (high - low), 0, 1)
    small = 0.226 * (small - small.mean()) / small.std(ddof=1) + 0.449
    expected = 1 / (1 + np.exp(9 * (0.949 - 2 * small)))
    back = [np.floor((np.arange(side) + 0.5) * 16 / side).astype(int) for side in shape]
    image = torch.from_numpy(np.clip((raw - low) / (high - low), 0, 1))[None, None].requires_grad_()
    logits = network(image)
    np.testing.assert_allclose(logits.softmax(1)[0, 1].detach(), expected[np.ix_(*back)], atol=1e-9)
    (gradient,) = torch.autograd.grad(logits.square().sum(), image)
    assert (gradient != 0).any()


def test_the_brain_example_says_what_to_install(brain_extraction, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install .robustvox\[brain\]"):
        brain_extraction.deepbet()


def test_the_brain_example_finds_a_ball_where_the_package_is_installed(brain_extraction):
    """deepbet's own network (MIT): a bright ball with a grain is a brain to it, the air around it is not."""
    if importlib.util.find_spec("deepbet") is None:
        pytest.skip('no deepbet: pip install "robustvox[brain]"')
    axes = np.meshgrid(*[np.arange(side) - side / 2 for side in (96, 110, 90)], indexing="ij")
    inside = sum((axis / half) ** 2 for axis, half in zip(axes, (35, 42, 33), strict=True)) < 1
    grain = np.random.default_rng(0).normal(0.7, 0.08, inside.shape)
    image = torch.from_numpy(np.where(inside, grain, 0).clip(0, 1).astype(np.float32))[None, None]
    with torch.no_grad():
        found = brain_extraction.deepbet().eval()(image).argmax(1)[0].numpy() == 1
    assert 2 * (found & inside).sum() / (found.sum() + inside.sum()) > 0.8
