"""One writer per folder: who has it, since when, and what is left of an owner that died."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest

from robustvox.benchmark.records import lock as locks
from robustvox.benchmark.records.lock import FolderLock, Owner, read_owner
from robustvox.benchmark.records.unit import RecordsError

HOLD = """
import sys, time
from pathlib import Path
from robustvox.benchmark.records import lock as locks
if sys.argv[2] == "soft":
    locks.FolderLock._take = locks.FolderLock._take_by_name
lock = locks.FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["flock", "soft"])
def kind(request, monkeypatch):
    """With the system's locks, and on a file system that has none."""
    if request.param == "soft":
        monkeypatch.setattr(FolderLock, "_take", FolderLock._take_by_name)
    return request.param


@pytest.fixture
def owner(tmp_path, kind):
    """Another process that has the lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_run_is_told_whose_it_is_and_how_old(tmp_path, owner):
    with pytest.raises(RecordsError) as raised:
        FolderLock(tmp_path).acquire()
    text = str(raised.value)
    assert f"another run is writing here: process {owner.pid} on {socket.gethostname()} since" in text
    assert "(0 min)" in text
    assert "\n" not in text


def test_a_dead_owner_holds_nothing(tmp_path, owner):
    owner.kill()
    owner.wait()
    assert (tmp_path / locks.NAME).exists()  # what it left
    lock = FolderLock(tmp_path)
    lock.acquire()
    found = read_owner(tmp_path / locks.NAME)
    assert found is not None
    assert found.pid == os.getpid()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_waiting_says_for_whom_and_goes_on_when_it_is_free(tmp_path, owner):
    told: list[str] = []
    threading.Timer(0.3, owner.kill).start()
    lock = FolderLock(tmp_path)
    threading.Thread(target=owner.wait).start()
    lock.acquire(60.0, told.append)
    lock.release()
    assert len(told) == 1
    assert f"waiting up to 60 s for another run to leave {tmp_path}: process {owner.pid}" in told[0]


def test_two_objects_of_one_process_exclude_each_other(tmp_path, kind):
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.acquire()
    with pytest.raises(RecordsError):
        second.acquire()
    first.release()
    second.acquire()
    assert (first.held, second.held) == (False, True)
    second.release()


def test_without_locks_of_the_system_age_decides_about_other_machines(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderLock, "_take", FolderLock._take_by_name)
    path = tmp_path / locks.NAME
    path.write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": time.time() - 7200}))
    with pytest.raises(RecordsError, match=r"process 1 on elsewhere since .* \(2 h\)"):
        FolderLock(tmp_path).acquire()
    os.utime(path, (time.time() - locks.STALE_S - 1,) * 2)  # nobody touched it
    lock = FolderLock(tmp_path)
    lock.acquire()
    lock.release()


def test_an_owner_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(FolderLock, "_take", FolderLock._take_by_name)
    monkeypatch.setattr(locks, "BEAT_S", 0.02)
    lock = FolderLock(tmp_path)
    lock.acquire()
    os.utime(lock.path, (0, 0))
    end = time.monotonic() + 20
    while lock.path.stat().st_mtime < 1 and time.monotonic() < end:
        time.sleep(0.02)
    assert lock.path.stat().st_mtime > 1
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1, "host": "a", "since": null}'])
def test_a_damaged_lock_file_names_nobody(tmp_path, text):
    path = tmp_path / locks.NAME
    path.write_text(text)
    assert read_owner(path) is None
    lock = FolderLock(tmp_path)
    lock.acquire()  # the system's lock is free, whatever the file says
    lock.release()


def test_an_owner_reads_well():
    assert str(Owner(7, "node3", time.time() - 600)).endswith("(10 min)")
