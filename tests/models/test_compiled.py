"""What a Triton kernel asks a card for, compiled without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", minversion="3.8", reason="no Triton that compiled.py was written for")
if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump").exists():
    pytest.skip("this Triton has no tools for NVIDIA's cards", allow_module_level=True)

EVERY_CARD = 48 * 1024
"""Bytes of shared memory that a program has on every card without asking for more."""

KERNELS = 5 + 3 * 2 * 2
"""Of the scan; of the attention, with mask and without, in two types."""


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


def test_every_kernel_compiles_for_two_generations_and_asks_for_no_more_than_every_card_has():
    rows = compiled()
    assert {row["card"] for row in rows} == {"sm_80", "sm_90"}
    assert len({(row["kernel"], row["card"]) for row in rows}) == 2 * KERNELS
    for row in rows:
        assert row["spilled"] == 0, row
        assert row["shared"] <= EVERY_CARD, row
        assert row["tensor_cores"] == row["kernel"].startswith("attention"), row
