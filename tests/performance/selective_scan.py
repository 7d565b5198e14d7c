"""Time the selective scan against other pure-PyTorch scans, and check that it is linear in the length.

Run it alone on the machine:

    python tests/performance/selective_scan.py
    python tests/performance/selective_scan.py --longest 884736 --threads 2

The comparison with mambapy's parallel scan needs `pip install mambapy`; without it that line is skipped.
"""

import argparse
import resource
import time

import torch
import torch.nn.functional as F

from robustvox.models.mamba import selective_scan

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

INNER, STATE = 64, 16


def make(length):
    """Inputs of one sequence, in the range a trained network produces."""
    g = torch.Generator().manual_seed(0)
    u = torch.randn(1, length, INNER, generator=g)
    delta = F.softplus(torch.randn(1, length, INNER, generator=g) - 3)
    A = -torch.arange(1.0, STATE + 1).repeat(INNER, 1)
    B, C = torch.randn(2, 1, length, STATE, generator=g)
    return [x.requires_grad_() for x in (u, delta, A, B, C, torch.ones(INNER))]


def loop(u, delta, A, B, C, D):
    """One token at a time: the plainest correct scan."""
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs = []
    for t in range(u.shape[1]):
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, dim=1)


def mambapy(u, delta, A, B, C, D):
    """mambapy's scan with the discretization its own block uses: every state is materialized."""
    decay = torch.exp(delta[..., None] * A)
    states = pscan(decay, (delta * u)[..., None] * B[:, :, None])
    return (states @ C[..., None]).squeeze(-1) + D * u


def measure(function, inputs, repeats):
    """Best wall-clock seconds of (forward, forward and backward), and the output."""
    best = [float("inf")] * 2
    for _ in range(repeats):
        start = time.perf_counter()
        y = function(*inputs)
        middle = time.perf_counter()
        torch.autograd.grad(y, inputs, torch.ones_like(y))
        end = time.perf_counter()
        best = [min(best[0], middle - start), min(best[1], end - start)]
    return best, y.detach()


def row(name, length, times, note=""):
    forward, both = (1e3 * t for t in times)
    print(f"{name:16} L={length:7d}  forward {forward:9.1f} ms  both {both:9.1f} ms  {note}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--longest", type=int, default=221184)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} thread(s), B=1, E={INNER}, N={STATE}, float32")

    for length in (1024, 13824):
        inputs = make(length)
        ours, y = measure(selective_scan, inputs, options.repeats)
        row("robustvox", length, ours)
        others = {"loop": loop} if length <= 1024 else {}
        if pscan is None:
            print("mambapy          skipped: not installed (pip install mambapy)")
        else:
            others["mambapy pscan"] = mambapy
        for name, function in others.items():
            theirs, other = measure(function, inputs, min(options.repeats, 3))
            error = ((y - other).norm() / other.norm()).item()
            row(name, length, theirs, f"{theirs[1] / ours[1]:.1f} x ours, relative difference {error:.0e}")

    print("linearity:")
    length = 3456
    while length <= options.longest:
        times, _ = measure(selective_scan, make(length), max(1, options.repeats if length < 100_000 else 2))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        row(
            "robustvox",
            length,
            times,
            f"{1e6 * times[1] / length:.2f} us a token, peak so far {peak:.2f} GiB",
        )
        length *= 4


if __name__ == "__main__":
    main()
