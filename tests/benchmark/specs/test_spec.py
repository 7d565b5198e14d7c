"""Specs: what a person may write, and that the canonical form is an identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustvox.attacks import ATTACKS
from robustvox.benchmark.plan.attacks import load_attack
from robustvox.benchmark.specs.spec import (
    Spec,
    UsageError,
    canonical,
    format_value,
    match,
    normalize,
    parse_value,
)

values = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(1, 254).map(lambda n: n / 255),
    st.tuples(st.integers(1, 9), st.floats(0, 1)),
)


@given(values)
def test_formatting_parses_back_to_the_same_value(value):
    assert parse_value(format_value(value)) == value


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(str.isidentifier), values, max_size=4
    )
)
def test_canonical_specs_parse_back(parameters):
    assert dict(Spec.parse(canonical("pgd", parameters)).parameters) == parameters


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8/255", 8 / 255),
        ("20", 20),
        ("1e-3", 1e-3),
        ("true", True),
        ("None", None),
        ("(16,32)", (16, 32)),
        ("red", "red"),
        ("1/0", "1/0"),
    ],
)
def test_values_as_people_write_them(text, expected):
    assert parse_value(text) == expected
    assert type(parse_value(text)) is type(expected)


def test_intensities_read_as_fractions():
    assert format_value(8 / 255) == "8/255"
    assert format_value(2.5 / 255) == "2.5/255"
    assert format_value(0.25) == "0.25"
    assert format_value(20.0) == "20"


@pytest.mark.parametrize("name", ATTACKS)
def test_the_canonical_spec_of_an_attack_rebuilds_it(name):
    first = load_attack(name)
    again = load_attack(first.spec)
    assert again == first
    assert first.spec.startswith(name)


def test_equal_attacks_have_equal_specs():
    assert load_attack("PGD:steps=20,eps=8/255").spec == load_attack("pgd").spec
    assert load_attack("vafa:q_max=20").spec == load_attack("vafa:q_max=20.0").spec
    assert load_attack("pgd:eps=4/255").spec != load_attack("pgd").spec


def test_names_forgive_case_and_dashes():
    for written in ("Swin-UNETR", "swinunetr", "swin_unetr", "SWIN UNETR"):
        assert match(written, ["unet", "swin_unetr"], "model") == "swin_unetr"
    assert normalize("Swin-UNETR") == "swinunetr"


@pytest.mark.parametrize("text", ["pgd:=1", "pgd:eps=1,2", "pgd:1x=2"])
def test_malformed_parameters(text):
    with pytest.raises(UsageError, match="key=value"):
        Spec.parse(text)


def test_unknown_names_suggest_or_list():
    with pytest.raises(UsageError, match="did you mean unetr"):
        match("untr", ["unetr", "segresnet"], "model")
    with pytest.raises(UsageError, match="known: a, b"):
        match("zzzz", ["a", "b"], "model")


def test_a_module_path_keeps_its_colon():
    assert Spec.parse("my.pkg:Attack:eps=1/2") == Spec("my.pkg:Attack", {"eps": 0.5})
