"""A file of options is the command line, crossed; its mistakes are told by line, before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.sweep import read_sweep
from robustvox.benchmark.specs.crossing import Computing, Crossing, Writing
from robustvox.benchmark.specs.requests import RunRequest
from robustvox.benchmark.specs.spec import UsageError


def typed(**crossing) -> RunRequest:
    return RunRequest(crossing=Crossing(**crossing), computing=Computing(), writing=Writing())


@pytest.fixture
def sweep(tmp_path):
    def write(text: str):
        path = tmp_path / "sweep.yaml"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    return write


def test_lists_are_crossed_and_what_is_typed_wins(sweep) -> None:
    path = sweep(
        "model: [unet, segresnet]\nattack:\n  - fgsm\n  - pgd:eps=4/255\ndataset: [phantom, btcv]\n"
        "protocol: [robustvox-1, bmvc2024]\ncases: 2\nwait: 5\nreport: false\nseed: 3\n"
    )
    runs = read_sweep(path, typed(seed=7)).runs
    assert [(r.crossing.dataset, r.crossing.protocol) for r in runs] == [
        ("phantom", "robustvox-1"), ("phantom", "bmvc2024"), ("btcv", "robustvox-1"), ("btcv", "bmvc2024"),
    ]  # fmt: skip
    first = runs[0]
    assert first.crossing.models == ("unet", "segresnet")
    assert first.crossing.attacks == ("fgsm", "pgd:eps=4/255")
    assert (first.crossing.cases, first.crossing.seed, first.computing.wait) == ("2", 7, 5.0)
    assert first.writing.report is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: unet\ncsaes: 2\n", ":2: no option is called 'csaes'; did you mean cases?"),
        ("model: unet\nattack: [fgsm,\n  pdg]\n", ":3: unknown attack 'pdg'; did you mean pgd?"),
        ("model: unet\nattack: fgsm\nseed: many\n", ":3: expected a whole number, got 'many'"),
        ("model: unet\nattack: fgsm\nworkers: -1\n", ":3: expected at least 0"),
        ("model: unet\nuntrained: maybe\n", ":2: expected true or false"),
        ("model: unet\nwait: nan\n", ":2: expected at least 0"),
        ("? [a, b]\n: c\n", ":1: expected the name of an option, found a list"),
        ("<<: {model: unet}\n", ":1: no option is called '<<'"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", ":1: no option is called 'a'"),
        ("model: &a [*a]\n", ":1: expected one value or a list"),
        ("model: !!python/object/apply:os.system [ls]\n", ":1: expected one value or a list"),
        ("model: !own unet\n", ":1: expected one value or a list"),
        ("model: " + "[" * 3000 + "\n", ": expected YAML, found: lists within lists"),
        ("model: unet\n---\nmodel: unet\n", ":2: expected YAML, found: expected a single document"),
        ("model:\tunet\n", ":1: expected YAML"),
        ("model: unet\n# \udce9\n", ":2: expected UTF-8"),
        ("# " + "x" * 200_000, ": expected a file of options, at most 200000 bytes"),
        ("model: unet\nseed: [0, 1, 0]\n", ":2: expected every value once, got '0' again"),
        ("seed: [" + ",".join(map(str, range(1001))) + "]\n", ": expected at most 1000 runs, got 1001"),
        ("model: unet\nattack: fgsm\nquiet: yes\nverbose: on\n", ": expected --quiet or --verbose"),
        ("model: unet\nattack: fgsm\ncases: 8/255\n", ": expected --cases as a number"),
        ("model: unet\nmodel: unet\n", ":2: expected model once, it stands in line 1 too"),
        ("model: {a: 1}\n", ":1: expected one value or a list"),
        ("model:\n", ":1: expected one value or a list"),
        ("model: []\n", ":1: expected a value of model"),
        ("model: [unet\nattack: fgsm\n", ":2: expected YAML"),
        ("- unet\n", ":1: expected options"),
        ("", ":1: expected options"),
        ("attack: fgsm\nmodel: unet\nprotocol: robustvox-9\n", ":3: "),
        ("attack: fgsm\nmodel: unet\ndataset: nowhere\n", ":3: "),
        ("model: unet\nattack: fgsm\nconfig: other.yaml\n", ":3: no option is called 'config'"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(sweep, capsys, text: str, said: str) -> None:
    assert main(["--config", str(sweep(text))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"sweep.yaml{said}" in line


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_no_file_is_one_line(tmp_path, capsys, name) -> None:
    assert main(["--config", str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_line_ends_a_mark_of_bytes_and_words_of_yaml_are_read(sweep, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/her")
    text = "\ufeffmodel: &name unet\r\ncheckpoint: ~/x.pt\r\nreport: no\r\nlabel: no\r\nattack: [fgsm, *name]\r\n"
    (run,) = read_sweep(sweep(text), typed()).runs
    assert run.crossing.checkpoints == (Path("/home/her/x.pt"),)
    assert (run.writing.report, run.crossing.model_labels) == (False, ("no",))
    assert run.crossing.attacks == ("fgsm", "unet")


def test_lists_of_lists_are_refused(sweep) -> None:
    with pytest.raises(UsageError, match=":1: expected one value"):
        read_sweep(sweep("model: [[unet]]\n"), typed())


def test_a_sweep_computes_what_its_runs_compute(toy, sweep, capsys) -> None:
    checkpoint = toy.checkpoints["unet"]
    path = sweep(
        f"model: unet\ncheckpoint: {checkpoint}\nattack: gn\ndataset: {toy.folder}\nsplit: all\ncases: 2\n"
        f"out: {toy.root / 'results'}\nseed: [0, 1]\nreport: false\n"
    )
    assert main(["--config", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("gn:std=8/255: at most 2 passes a case") == 2
    assert shown.count("4 volumes, at most 4 passes, about") == 2
    assert not (toy.root / "results").exists()
    assert main(["--config", str(path)]) == 0
    assert capsys.readouterr().out.count("4 computed, 0 already recorded") == 2


@pytest.mark.parametrize(
    ("words", "found"), [("robustvox lea", "leaderboard"), ("robustvox run --mod", "--model")]
)
def test_a_shell_completes(words, found, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/robustvox"])
    monkeypatch.setenv("_ROBUSTVOX_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        main([])
    assert found in capsys.readouterr().out.split()


def test_quiet_and_verbose(toy, capsys) -> None:
    assert toy("--attack", "gn", "--quiet") == 0
    out, err = capsys.readouterr()
    assert "gn" in out
    assert "computed" not in out
    assert err == ""
    assert toy("--attack", "gn", "-v") == 0
    assert capsys.readouterr().err.count("recorded: toy") == 6
    assert toy("--attack", "gn", "-v", "-q") == 2
