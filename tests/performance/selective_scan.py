"""The selective scan beside mambapy's parallel scan, against a float64 reference, and its cost by length.

Run it alone on the machine (about two minutes; Linux):

    python tests/performance/selective_scan.py --threads 2

One run shows: forward with the gradients of u, delta, B and C at B=1, L=13824, E=64, N=16, as time and as peak extra
memory, beside mambapy (`pip install mambapy`; skipped without it); the relative errors against a token-by-token
float64 scan; seconds a token from 4k to 884,736 tokens (E=32), and the peak memory of the whole process at the end.
"""

import argparse
import gc
import multiprocessing
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from robustvox.models.mamba import selective_scan

try:
    from mambapy.pscan import pscan
except ImportError:
    pscan = None

STATE = 16
LENGTH, INNER = 13_824, 64
LENGTHS, NARROW = (4_096, 13_824, 55_296, 221_184, 884_736), 32
NAMES = ("u", "delta", "B", "C")


def make(length, inner):
    """Inputs of one sequence, in the range a trained network produces; A and D need no gradient."""
    g = torch.Generator().manual_seed(0)
    u = torch.randn(1, length, inner, generator=g)
    delta = F.softplus(torch.randn(1, length, inner, generator=g) - 3)
    A = -torch.arange(1.0, STATE + 1).repeat(inner, 1)
    B, C = torch.randn(2, 1, length, STATE, generator=g)
    u, delta, B, C = (x.requires_grad_() for x in (u, delta, B, C))
    return u, delta, A, B, C, torch.ones(inner)


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


def both_ways(function, inputs):
    """y and the gradients of u, delta, B, C."""
    u, delta, _, B, C, _ = inputs
    y = function(*inputs)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), *torch.autograd.grad(y, (u, delta, B, C), weights)


def seconds(function, inputs, repeats):
    """Best wall-clock time of forward and backward."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        both_ways(function, inputs)
        best = min(best, time.perf_counter() - start)
    return best


def memory(name):
    """A line of /proc/self/status in MiB: VmRSS now, VmHWM the highest since the last reset."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) / 1024


def extra_memory(name, threads, results):
    """Peak MiB above the inputs of one forward and backward, in a process of its own."""
    torch.set_num_threads(threads)
    function = {"robustvox": selective_scan, "mambapy": mambapy}[name]
    both_ways(function, make(64, INNER))
    inputs = make(LENGTH, INNER)
    gc.collect()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest use so far
    both_ways(function, inputs)
    results.put(memory("VmHWM") - before)


def measured_apart(name, threads):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=extra_memory, args=(name, threads, results))
    process.start()
    found = results.get()
    process.join()
    return found


def relative(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--longest", type=int, default=LENGTHS[-1])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), N={STATE}, float32, forward and gradients"
    )

    inputs = make(LENGTH, INNER)
    ours, space = (
        seconds(selective_scan, inputs, options.repeats),
        measured_apart("robustvox", options.threads),
    )
    print(f"robustvox  L={LENGTH} E={INNER}  {ours:8.3f} s  {space:8.0f} MiB extra", flush=True)
    if pscan is None:
        print("mambapy    skipped: not installed (pip install mambapy)")
    else:
        theirs = seconds(mambapy, inputs, min(options.repeats, 3))
        theirs_space = measured_apart("mambapy", options.threads)
        print(f"mambapy    L={LENGTH} E={INNER}  {theirs:8.3f} s  {theirs_space:8.0f} MiB extra")
        print(
            f"           mambapy takes {theirs / ours:.1f} x the time, {theirs_space / space:.1f} x the memory"
        )

    double = [x.detach().double().requires_grad_(x.requires_grad) for x in inputs]
    reference = both_ways(loop, double)
    for label, function in {"robustvox": selective_scan, **({"mambapy": mambapy} if pscan else {})}.items():
        pairs = zip(("y", *NAMES), both_ways(function, inputs), reference, strict=True)
        errors = "  ".join(f"{name} {relative(x, wanted):.0e}" for name, x, wanted in pairs)
        print(f"{label:10} relative error against float64, gradients after y:  {errors}", flush=True)

    del double, reference, inputs
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    for length in (n for n in LENGTHS if n <= options.longest):
        time_taken = seconds(selective_scan, make(length, NARROW), options.repeats if length < 100_000 else 2)
        print(
            f"robustvox  L={length:7d} E={NARROW}  {time_taken:8.3f} s  {1e6 * time_taken / length:6.2f} us a token  "
            f"whole process so far {memory('VmHWM') / 1024:.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
