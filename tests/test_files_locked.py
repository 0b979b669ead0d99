"""A file's lock: one process at a time, with POSIX's calls and on the path that Windows takes."""

import errno
import fcntl
import importlib
import os
import signal
import time
import types
from multiprocessing import get_context

import pytest

from zsbir import files
from zsbir.files import locked


def windows(give_up):
    """Python's `msvcrt`, as far as it is used, by means of POSIX: it locks bytes, waits a while and then fails."""

    def locking(handle, mode, size):
        assert os.lseek(handle, 0, os.SEEK_CUR) == 0, "msvcrt locks from the current position"
        if mode == "unlock":
            return fcntl.lockf(handle, fcntl.LOCK_UN, size)
        for _ in range(give_up):
            try:
                return fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, size)
            except OSError:
                time.sleep(0.001)
        raise OSError(errno.EDEADLK, "Resource deadlock avoided")

    return types.SimpleNamespace(locking=locking, LK_LOCK="lock", LK_UNLCK="unlock")


@pytest.fixture(params=["posix", "windows"])
def system(request, monkeypatch):
    if request.param == "windows":
        fake = windows(give_up=3)

        def find(name):
            if name == "fcntl":
                raise ImportError(name)
            return fake if name == "msvcrt" else importlib.import_module(name)

        monkeypatch.setattr(files, "importlib", types.SimpleNamespace(import_module=find))
    return request.param


def count_up(lock, counter, times):
    for _ in range(times):
        with locked(lock):
            value = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(value + 1))


def hold(lock, told):
    with locked(lock):
        told.write_text("held")
        time.sleep(60)


def test_one_process_at_a_time(system, tmp_path):
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    processes = [get_context("fork").Process(target=count_up, args=(lock, counter, 40)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert counter.read_text() == "120"


def test_lock_of_a_killed_process_is_free(system, tmp_path):
    lock, told = tmp_path / "lock", tmp_path / "told"
    process = get_context("fork").Process(target=hold, args=(lock, told))
    process.start()
    deadline = time.monotonic() + 30
    while not told.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with locked(lock):
        pass


def test_lock_is_given_back_after_an_error(system, tmp_path):
    with pytest.raises(ValueError, match="mine"), locked(tmp_path / "lock"):
        raise ValueError("mine")
    process = get_context("fork").Process(target=hold, args=(tmp_path / "lock", tmp_path / "told"))
    process.start()
    deadline = time.monotonic() + 30
    while not (tmp_path / "told").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert (tmp_path / "told").exists()
    process.kill()
    process.join()
