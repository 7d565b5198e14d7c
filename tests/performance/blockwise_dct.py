"""Our blockwise DCT and its inverse, with gradient, beside torch-dct (PyPI).

    pip install torch-dct scipy
    python tests/performance/blockwise_dct.py --clock cpu

torch-dct has no blocks. "per block" calls its dct_3d and idct_3d on a copy of every block in a Python loop, as
the published code of the frequency attacks does, in the kindest form: the copies are cut and put together in
one go, so that autograd does not fill a whole volume with zeros per block. "batched" gives it all blocks as one
batch, which the published code does not do. Both include cutting and putting together.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from robustvox.attacks.dct import dct, idct, merge_blocks, split_blocks

try:
    import torch_dct
    from scipy.fft import dctn
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing.name} is not installed: pip install torch-dct scipy") from None

TARGET, TOLERANCE = 10.0, 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    size = args.block
    spatial = [args.size] * 3
    volume = torch.rand(1, 1, *spatial)
    outer = torch.randn(volume.shape)

    def per_block(transform: Callable[[Tensor, str], Tensor], volume: Tensor) -> Tensor:
        blocks = split_blocks(volume, size)[0, 0]
        done = torch.stack([transform(block.clone(), "ortho") for block in blocks.unbind()])
        return merge_blocks(done[None, None], spatial)

    def batched(transform: Callable[[Tensor, str], Tensor], volume: Tensor) -> Tensor:
        blocks = split_blocks(volume, size)[0, 0]
        return merge_blocks(transform(blocks, "ortho")[None, None], spatial)

    there, back = torch_dct.dct_3d, torch_dct.idct_3d
    rivals: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "ours": (lambda v: dct(v, size), lambda c: idct(c, size)),
        "per block": (lambda v: per_block(there, v), lambda c: per_block(back, c)),
        "batched": (lambda v: batched(there, v), lambda c: batched(back, c)),
    }

    blocks = split_blocks(volume, size)[0, 0].double().numpy()
    exact = merge_blocks(torch.from_numpy(dctn(blocks, axes=(1, 2, 3), norm="ortho"))[None, None], spatial)

    forward: dict[str, list[float]] = {name: [] for name in rivals}
    gradient: dict[str, list[float]] = {name: [] for name in rivals}
    errors, gradients = {}, {}
    for repeat in range(args.repeats + 1):
        for name, (direct, inverse) in rivals.items():
            begin = clock()
            with torch.no_grad():
                restored = inverse(direct(volume))
            middle = clock()
            variable = volume.clone().requires_grad_()
            # Squared in between, so that the gradient depends on the volume and can go wrong.
            (slope,) = torch.autograd.grad(inverse(direct(variable).square()), variable, outer)
            end = clock()
            if repeat:  # the first one warms up
                forward[name].append(middle - begin)
                gradient[name].append(end - middle)
                continue
            off = (direct(volume).double() - exact).abs().max().item()
            errors[name] = off, (restored - volume).abs().max().item()
            gradients[name] = slope

    print(f"{args.size}^3, block {size}, float32, {args.threads} threads, {args.clock} time")
    for name in rivals:
        ahead, both = statistics.median(forward[name]), statistics.median(gradient[name])
        print(
            f"{name:10s} forward {ahead * 1e3:8.1f} ms ({ahead / statistics.median(forward['ours']):6.1f}x)"
            f"   with gradient {both * 1e3:8.1f} ms ({both / statistics.median(gradient['ours']):6.1f}x)"
            f"   max error: scipy {errors[name][0]:.1e}, round trip {errors[name][1]:.1e}"
        )
    apart = (gradients["ours"] - gradients["per block"]).abs().max() / gradients["ours"].abs().max()
    ratio = statistics.median(gradient["per block"]) / statistics.median(gradient["ours"])
    print(f"gradients agree to {apart:.1e} of the largest")
    print(f"per block over ours, with gradient: {ratio:.1f}, target {TARGET:.0f}")
    print(f"error against scipy: {errors['ours'][0]:.1e}, target {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
