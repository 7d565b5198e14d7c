"""An allocator that keeps what is freed, and how much memory there is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from robustvox.models import host_memory
from robustvox.models.host_memory import SETTINGS, SWITCH, host_bytes, keep_freed_memory

GLIBC = host_memory._libc() is not None
needs_glibc = pytest.mark.skipif(not GLIBC, reason="not Linux with glibc")

TWICE = """
import resource
import torch
from robustvox.models import host_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{start}
print([faults() for _ in range(5)][-1])
"""
"""Pages that the system has to give for 64 MiB of numbers, after as much was freed a few times."""


def faults(start: str, **environment: str) -> int:
    clean = {
        key: value for key, value in os.environ.items() if key not in (*SETTINGS, SWITCH, "GLIBC_TUNABLES")
    }
    ran = subprocess.run(
        [sys.executable, "-c", TWICE.format(start=start)],
        capture_output=True,
        text=True,
        env=clean | environment,
        check=True,
    )
    return int(ran.stdout)


OLD = """
class Old:
    def mallopt(self, parameter, value, new=host_memory._libc()):
        return 0 if parameter == host_memory._MMAP_THRESHOLD else new.mallopt(parameter, value)

host_memory._libc = Old
"""
"""A glibc that refuses a high threshold."""


@needs_glibc
@pytest.mark.parametrize("before", ["", OLD])
def test_what_was_freed_is_not_asked_of_the_system_again(before):
    usual = faults("")
    if usual < 8:
        pytest.skip("this system counts no page faults")
    # Huge pages make both numbers small.
    assert 4 * faults(f"{before}\nassert host_memory.keep_freed_memory()") < usual


@needs_glibc
@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1"},
        {"ROBUSTVOX_KEEP_MEMORY": "0"},
        {"ROBUSTVOX_KEEP_MEMORY": "No"},
    ],
)
def test_what_the_user_settled_stays(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(host_memory, "_libc", lambda: called)
    assert not keep_freed_memory()


def test_without_glibc_nothing_happens_and_nothing_is_counted(monkeypatch):
    monkeypatch.setattr(host_memory, "_libc", lambda: None)
    assert not keep_freed_memory()
    assert host_memory._kept_bytes() == 0
    assert host_bytes() >= 0


@needs_glibc
def test_what_the_allocator_holds_free_can_be_had(monkeypatch):
    monkeypatch.setattr(host_memory, "_kept_bytes", lambda: 0)
    without = host_bytes()
    monkeypatch.setattr(host_memory, "_kept_bytes", lambda: 1 << 50)
    assert host_bytes() == pytest.approx(2 * without, rel=0.25)  # no more than is free besides
    if not hasattr(host_memory._libc(), "mallinfo2"):
        pytest.skip("a glibc before 2.33 does not tell")
    code = (
        "import torch; from robustvox.models import host_memory as h; h.keep_freed_memory(); x = torch.ones(1 << 26); "
        "before = h._kept_bytes(); del x; print(h._kept_bytes() - before); "
        "before = h._kept_bytes(); y = torch.empty(3 << 26); del y; print(h._kept_bytes() - before)"
    )
    clean = {
        key: value for key, value in os.environ.items() if key not in (*SETTINGS, SWITCH, "GLIBC_TUNABLES")
    }
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, check=True)
    touched, untouched = map(int, ran.stdout.split())
    assert touched == pytest.approx(1 << 28, rel=0.01)
    assert untouched < 640 << 20  # of 768 MiB; what libraries hold resident is not told apart


def test_the_command_line_and_its_workers_keep_it(monkeypatch, capsys):
    from robustvox.benchmark import cli
    from robustvox.benchmark.harness import processes

    called = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: called.append("command"))
    assert cli.main(["--version"]) == 0

    class EndedError(Exception):
        pass

    class Nobody:
        def recv(self):
            raise EOFError

    def leave(code):
        raise EndedError

    monkeypatch.setattr("robustvox.models.keep_freed_memory", lambda: called.append("worker"))
    monkeypatch.setattr(processes.os, "_exit", leave)
    monkeypatch.setattr(processes, "_end_with_parent", lambda: None)
    import torch

    threads = torch.get_num_threads()
    with pytest.raises(EndedError):
        processes._serve(Nobody(), {}, threads)
    assert called == ["command", "worker"]
