"""What a Triton kernel asks a card for, compiled without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

EVERY_CARD = 48 * 1024
"""Bytes of shared memory that a program has on every card without asking for more."""

KERNELS = 5 + 3 * 2 * 2
"""Of the scan; of the attention, with mask and without, in two types."""


@pytest.fixture(scope="module")
def compiled() -> list[dict]:
    surroundings = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("compiled.py"), "80", "90"],
        env=surroundings,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def test_every_kernel_compiles_for_two_generations(compiled):
    assert {row["card"] for row in compiled} == {"sm_80", "sm_90"}
    assert len({(row["kernel"], row["card"]) for row in compiled}) == 2 * KERNELS


def test_no_kernel_spills_or_asks_for_more_than_every_card_has(compiled):
    for row in compiled:
        assert row["spilled"] == 0, row
        assert row["shared"] <= EVERY_CARD, row


def test_attention_runs_on_tensor_cores_and_the_scan_does_not(compiled):
    for row in compiled:
        assert row["tensor_cores"] == row["kernel"].startswith("attention"), row
