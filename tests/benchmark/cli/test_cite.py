"""Citations: every registry entry has one, the BibTeX is well formed, and a run's sources are found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from robustvox.attacks import CATALOG as ATTACK_CATALOG
from robustvox.benchmark.cli import main
from robustvox.benchmark.cli.commands.cite import (
    ALWAYS,
    ATTACKS,
    BIBLIOGRAPHY,
    DATASETS,
    DEFENCES,
    MODELS,
    STUDIES,
    bibtex,
    entries,
    studied,
    used,
)
from robustvox.benchmark.specs.spec import UsageError
from robustvox.datasets import CATALOG as DATASET_CATALOG
from robustvox.models import CATALOG as MODEL_CATALOG

REPOSITORY = Path(__file__).resolve().parents[3]
README = (REPOSITORY / "README.md").read_text()


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{(\S+),$", text, re.M)


@pytest.mark.parametrize(
    ("table", "catalog"), [(ATTACKS, ATTACK_CATALOG), (MODELS, MODEL_CATALOG), (DATASETS, DATASET_CATALOG)]
)
def test_every_registry_entry_has_a_source(table, catalog):
    assert set(catalog) <= set(table)
    assert all(table.values())
    assert {key for found in table.values() for key in found} <= set(entries())


def test_a_defended_model_cites_its_defence_and_a_control_needs_none():
    defended = keys(bibtex(["unet@trades", "unet@noise"], [], []))
    assert {"zhang2019trades", "kerfoot2018left"} <= set(defended)
    assert set(defended) - set(keys(bibtex(["unet"], [], []))) == {"zhang2019trades"}


def test_no_entry_is_without_use_and_none_is_lost():
    used_keys = {
        *ALWAYS,
        *(k for t in (ATTACKS, MODELS, DEFENCES, DATASETS, STUDIES) for found in t.values() for k in found),
    }
    assert used_keys == set(entries())
    assert len(entries()) == BIBLIOGRAPHY.read_text().count("\n@")


@pytest.mark.parametrize("key", entries())
def test_entries_are_well_formed(key):
    entry = entries()[key]
    assert entry.count("{") == entry.count("}")
    fields = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", entry, re.M))
    assert {"title", "author", "year"} <= set(fields)
    assert entry.count("\n") == len(fields) + 2, "one field per line, nothing else"
    assert 2015 <= int(fields["year"]) <= 2026
    if "eprint" in fields:
        assert re.fullmatch(r"\d{4}\.\d{5}|1\d{3}\.\d{4}", fields["eprint"])
        assert fields["archiveprefix"] == "arXiv"
        # Never cited before it was there.
        assert int(fields["year"]) >= 2000 + int(fields["eprint"][:2])


def test_arxiv_numbers_are_those_of_the_code():
    for model, entry in MODEL_CATALOG.items():
        number = re.search(r"\d{4}\.\d{5}", entry.source)
        if number:
            assert any(number.group() in entries()[key] for key in MODELS[model]), model
    cited = {
        n for name in ATTACKS for key in ATTACKS[name] for n in re.findall(r"\d{4}\.\d{5}", entries()[key])
    }
    text = "".join(path.read_text() for path in (REPOSITORY / "attacks").glob("*.py"))
    assert cited <= set(re.findall(r"\d{4}\.\d{5}", text))


def test_names_and_specs_and_a_matched_attack():
    text = bibtex(["unet:size=small"], ["vafa:q_max=20@l2~0.02=pgd:eps=8/255"], ["MSD-Task04"])
    assert keys(text) == [
        *ALWAYS, "hanif2023frequency", "madry2018towards", "kerfoot2018left", "antonelli2022medical",
    ]  # fmt: skip
    assert keys(bibtex([], ["torchattacks:MIFGSM,eps=8/255"], [])) == [*ALWAYS, "kim2020torchattacks"]


def test_somebody_elses_model_is_named_and_a_typing_error_is_not():
    text = bibtex(["my.nets:Net"], [], ["./data"])
    assert "% no entry for model my.nets:Net" in text
    assert "% no entry for dataset ./data" in text
    with pytest.raises(UsageError, match="unet"):
        bibtex(["unte"], [], [])


def test_everything_in_the_committed_results(capsys):
    models, attacks, datasets = used(REPOSITORY / "results")
    assert "unet" in models
    assert any(spec.startswith("vafa:") for spec in attacks)
    assert {"phantom", "hippocampus"} <= set(datasets)
    assert main(["cite", "--out", str(REPOSITORY / "results")]) == 0
    found = keys(capsys.readouterr().out)
    assert len(found) == len(set(found))
    assert {"robustvox", "hanif2023frequency", "antonelli2022medical", "kerfoot2018left"} <= set(found)


def test_without_records_it_says_so(tmp_path, capsys):
    assert main(["cite", "--out", str(tmp_path)]) == 2
    assert "expected a folder of records" in capsys.readouterr().err


def test_the_readme_and_the_citation_file_agree_with_the_entry():
    assert entries()["robustvox"].replace("{3D}", "3D") in README
    title = re.search(r"title += \{(.*)\},", entries()["robustvox"]).group(1).replace("{3D}", "3D")
    cff = (REPOSITORY / "CITATION.cff").read_text()
    assert title in cff
    version = re.search(r'^version = "(.*)"', (REPOSITORY / "pyproject.toml").read_text(), re.M).group(1)
    assert f"version: {version}\n" in cff


def test_a_study_is_cited_by_name_and_where_it_has_results(tmp_path, capsys):
    assert main(["cite", "--study", "steal"]) == 0
    assert keys(capsys.readouterr().out) == [*ALWAYS, *STUDIES["steal"]]
    assert studied(tmp_path) == []
    folder = tmp_path / "hippocampus" / "stealing" / "unet-edge-6"
    folder.mkdir(parents=True)
    (folder / "function_cases.csv.gz").touch()
    assert studied(tmp_path) == ["steal"]
    assert main(["cite", "--study", "stale"]) == 2
    assert "steal" in capsys.readouterr().err
