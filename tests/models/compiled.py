"""Compile every Triton kernel for cards that need not be there, and say what each asks a card for, as JSON.

Run by ``test_compiled.py`` in a process without Triton's interpreter:

    python tests/models/compiled.py 80 90
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from robustvox.models import swin_attention_triton as attention
from robustvox.models.mamba import scan_triton as scan

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True)
class Kernel:
    """A kernel as a network launches it: constants, options and the types of its arguments."""

    name: str
    function: Any
    constants: dict[str, Any]
    options: dict[str, int]
    tensors: dict[str, str]
    """Of all arguments that are tensors; the others are whole numbers."""

    sixteens: tuple[str, ...] = ()
    """Whole numbers that Triton may take for multiples of 16."""


def attentions(products: str, of: str) -> Iterator[Kernel]:
    """Of a window of swin_unetr: heads of 16 channels."""
    wide = dict.fromkeys(("bias", "mask", "logs", "along"), "*fp32")
    tensors = {**wide, **dict.fromkeys(("qkv", "out", "g", "gqkv"), f"*{of}")}
    for name in ("_mix", "_query_gradients", "_key_gradients"):
        for masked in (False, True):
            constants = {
                "SCALE": 0.25, "B": attention.OWN, "S": attention.STEP, "DP": 16, "F": tl.float32, "MASKED": masked, "P": products,
            }  # fmt: skip
            options = {"num_warps": 4, "num_stages": 2}
            what = f"attention{name} {products} {of} {'masked' if masked else 'plain'}"
            yield Kernel(what, getattr(attention, name), constants, options, tensors, ("C", "D"))


def scans() -> Iterator[Kernel]:
    """Of 16 states, chunks of 64 tokens."""
    for name in ("_chunk_states", "_chunk_outputs", "_chunk_adjoints", "_chunk_gradients", "_carry"):
        function = getattr(scan, name)
        known = {
            "Q": 64,
            "BE": 16,
            "NP": 16,
            "F": tl.float32,
            "RATES": False,
            "REV": True,
            "U": scan._UNROLLED,
        }
        constants = {key: value for key, value in known.items() if key in function.arg_names}
        numbers = {"L", "K", "E", "N", "PE", "first", "rows"}
        tensors = {key: "*fp32" for key in function.arg_names if key not in constants.keys() | numbers}
        yield Kernel(f"scan{name}", function, constants, {"num_warps": 1}, tensors)


def asked(kernel: Kernel, capability: int) -> dict[str, Any]:
    """Shared memory in bytes, registers, and bytes spilled per thread."""
    names = kernel.function.arg_names
    types = {
        name: "constexpr" if name in kernel.constants else kernel.tensors.get(name, "i32") for name in names
    }
    constants = {(names.index(name),): value for name, value in kernel.constants.items()}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name in (*kernel.tensors, *kernel.sixteens)
        if name in names
    }
    made = triton.compile(
        ASTSource(kernel.function, types, constants, aligned),
        target=GPUTarget("cuda", capability, 32),
        options=kernel.options,
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK):(\d+)", said)}
    return {
        "kernel": kernel.name,
        "card": f"sm_{capability}",
        "shared": made.metadata.shared,
        "registers": usage["REG"],
        "spilled": usage["STACK"],
        "tensor_cores": "mma" in made.asm["ptx"],
    }


def main() -> None:
    rows = []
    for card in (int(text) for text in sys.argv[1:]):
        products = "tf32x3" if card >= 80 else "ieee"
        types = ("fp32", "bf16") if card >= 80 else ("fp32",)
        kernels = [*scans(), *(kernel for of in types for kernel in attentions(products, of))]
        rows += [asked(kernel, card) for kernel in kernels]
    json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
