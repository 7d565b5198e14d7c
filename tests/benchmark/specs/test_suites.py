"""The suites are what they say: frozen, whole specs that the texts mean, and cases that are there."""

from __future__ import annotations

import hashlib

import pytest

from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.records.unit import data_fingerprint
from robustvox.benchmark.specs.protocols import PROTOCOLS
from robustvox.benchmark.specs.spec import CLEAN
from robustvox.benchmark.specs.suite_cases import SUITE_CASES
from robustvox.benchmark.specs.suites import EVERY_CHECK, SUITES
from robustvox.benchmark.studies.sanity import CHECKS
from robustvox.datasets import open_dataset

FROZEN = {"robustvox-1": "17b6da32389dfa9e", "bmvc2024": "9304fdbb17058bef"}
"""Hashes of the suites. Another suite is another protocol: never change one of these."""


def test_every_protocol_has_a_suite():
    assert SUITES.keys() == PROTOCOLS.keys() == FROZEN.keys()


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_frozen(name):
    suite = SUITES[name]
    said = [suite.name, suite.split, suite.n_cases, suite.seed, *((r.spec, r.control) for r in suite.rows)]
    assert hashlib.sha256(repr(said).encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize("name", SUITES)
def test_texts_mean_the_specs(name):
    for row in SUITES[name].run:
        assert load_attack(row.text, PROTOCOLS[name]).spec == row.spec
    assert SUITES[name].rows[0].spec == CLEAN
    assert len({row.spec for row in SUITES[name].rows}) == len({row.label for row in SUITES[name].rows})


def test_the_checks_are_those_there_are():
    assert set(EVERY_CHECK) == set(CHECKS)
    assert {check for suite in SUITES.values() for row in suite.rows for check in row.checks} <= set(CHECKS)


def test_the_cases_are_the_first_of_the_split():
    for dataset, cases in SUITE_CASES.items():
        assert len(cases.data) == 12, dataset
    phantom = open_dataset("phantom")
    assert tuple(SUITE_CASES["phantom"].data) == tuple(phantom.splits["validation"][:12])
    assert SUITE_CASES["phantom"].classes == tuple(phantom.class_names[1:])
    first = next(iter(SUITE_CASES["phantom"].data))
    assert data_fingerprint(phantom.load(first)) == SUITE_CASES["phantom"].data[first]


def test_the_cases_of_the_real_data(data_root):
    dataset, frozen = open_dataset("hippocampus", data_root), SUITE_CASES["hippocampus"]
    assert tuple(frozen.data) == tuple(dataset.splits["validation"][:12])
    assert {case: data_fingerprint(dataset.load(case)) for case in frozen.data} == dict(frozen.data)
