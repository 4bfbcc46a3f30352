# SPDX-License-Identifier: Apache-2.0
"""The store on disk: whole entries or none, a size cap, and two engines at once."""

import errno
import os
import platform
import shutil
import subprocess
import sys
import time

import pytest

from vs3r_engine.errors import DiskFull, EngineFault, ResourceError
from vs3r_engine.service.cache import DiskStore


def fill(store: DiskStore, key: str, size: int, used_unix_s: float | None = None) -> None:
    with store.writing("analysis", key) as directory:
        (directory / "data").write_bytes(bytes(size))
    if used_unix_s is not None:
        os.utime(store.root / "analysis" / key, (used_unix_s, used_unix_s))


def test_an_entry_is_found_once_its_block_ended_well(tmp_path):
    store = DiskStore(tmp_path)
    with store.writing("analysis", "a") as directory:
        (directory / "data").write_text("x")
        assert store.find("analysis", "a") is None
    assert (store.find("analysis", "a") / "data").read_text() == "x"


def test_a_block_that_fails_leaves_nothing(tmp_path):
    store = DiskStore(tmp_path)
    with pytest.raises(ValueError), store.writing("analysis", "a") as directory:
        (directory / "data").write_text("x")
        raise ValueError
    assert store.find("analysis", "a") is None
    assert not list((tmp_path / "tmp").iterdir())


def test_two_writers_of_one_key_leave_one_whole_entry(tmp_path):
    one, other = DiskStore(tmp_path), DiskStore(tmp_path)
    with one.writing("analysis", "a") as first, other.writing("analysis", "a") as second:
        (first / "data").write_text("same")
        (second / "data").write_text("same")
    assert (one.find("analysis", "a") / "data").read_text() == "same"
    assert not list((tmp_path / "tmp").iterdir())


def test_a_workspace_keeps_its_content_and_admits_one_writer(tmp_path):
    store = DiskStore(tmp_path)
    with store.workspace("chunks", "job") as directory:
        (directory / "0.part").write_text("kept")
        other = (
            "from pathlib import Path; from vs3r_engine.service.cache import DiskStore; import sys\n"
            "with DiskStore(Path(sys.argv[1])).workspace('chunks', 'job'): pass"
        )
        taken = subprocess.run([sys.executable, "-c", other, str(tmp_path)], capture_output=True, text=True)
        assert "in-use" in taken.stderr
    with store.workspace("chunks", "job") as directory:
        assert (directory / "0.part").read_text() == "kept"
    store.discard("chunks", "job")
    assert not (tmp_path / "chunks" / "job").exists()


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path):
    with (
        DiskStore(tmp_path).workspace("chunks", "job"),
        pytest.raises(ResourceError, match="in-use"),
        DiskStore(tmp_path).workspace("chunks", "job"),
    ):
        pass


def test_the_least_recently_used_entries_go_first_when_the_limit_is_passed(tmp_path):
    store = DiskStore(tmp_path, limit_bytes=2500)
    now = time.time()
    for age, key in enumerate(("new", "middle", "old")):
        fill(store, key, 1000, now - 100 * age)
    store.find("analysis", "old")
    store.release()
    assert [entry.key for entry in store.entries()] == ["new", "old"]


def test_uploads_push_no_analysis_out(tmp_path):
    store = DiskStore(tmp_path, limit_bytes=1500)
    fill(store, "a", 1000)
    with store.writing("uploads", "u") as directory:
        (directory / "0.raw").write_bytes(bytes(4000))
    store.release()
    assert {entry.kind for entry in store.entries()} == {"analysis", "uploads"}


def test_what_a_living_process_uses_is_never_evicted(tmp_path):
    store = DiskStore(tmp_path, limit_bytes=10**6)
    fill(store, "mine", 1000)
    other = DiskStore(tmp_path, limit_bytes=0)
    other.trim()
    assert store.find("analysis", "mine") is not None
    store.release()
    other.trim()
    assert store.find("analysis", "mine") is None


def test_a_new_engine_sweeps_up_after_a_dead_one(tmp_path):
    code = (
        "from pathlib import Path; from vs3r_engine.service.cache import DiskStore; import os, sys\n"
        "store = DiskStore(Path(sys.argv[1]))\n"
        "with store.writing('analysis', 'a') as d: (d / 'data').write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    store = DiskStore(tmp_path)
    assert not list((tmp_path / "tmp").iterdir())
    assert store.find("analysis", "a") is None
    assert [path.name for path in (tmp_path / "leases").iterdir()] == [f"{os.getpid()}@{platform.node()}"]


def test_another_machine_that_shares_the_directory_keeps_what_it_uses(tmp_path, monkeypatch):
    """A process of its number may or may not run here; what it left for more than a day is swept."""
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)  # no process here has it
    other = DiskStore(tmp_path)
    with other.writing("analysis", "theirs") as directory:
        (directory / "data").write_text("half")
        monkeypatch.undo()
        store = DiskStore(tmp_path, limit_bytes=0)
        assert (directory / "data").exists()
    store.trim()
    assert store.clear() == 0 and store.find("analysis", "theirs") is not None
    store.release()
    for left in (tmp_path / "leases").iterdir():
        os.utime(left, (time.time() - 90000,) * 2)
    DiskStore(tmp_path, limit_bytes=0).trim()
    assert store.find("analysis", "theirs") is None


def test_what_was_taken_into_use_while_others_were_measured_is_not_evicted(tmp_path, monkeypatch):
    store = DiskStore(tmp_path)
    fill(store, "a", 1000)
    store.release()
    cleaner = DiskStore(tmp_path)
    listed = cleaner.entries()
    assert not listed[0].in_use
    store.find("analysis", "a")
    monkeypatch.setattr(cleaner, "entries", lambda: listed)
    assert cleaner.clear() == 0
    assert store.find("analysis", "a") is not None


def test_a_store_that_was_deleted_whole_goes_on(tmp_path):
    store = DiskStore(tmp_path / "store")
    fill(store, "a", 1000)

    def delete():
        shutil.rmtree(tmp_path / "store")

    delete()
    store.release()
    assert store.entries() == [] and store.clear() == 0
    assert store.find("analysis", "a") is None
    delete()
    fill(store, "a", 1000)
    assert store.find("analysis", "a") is not None
    delete()
    with store.workspace("chunks", "job") as directory:
        (directory / "0.part").write_text("kept")
    delete()
    store.discard("chunks", "job")


def test_a_full_disk_is_an_error_with_a_hint_and_leaves_nothing(tmp_path):
    store = DiskStore(tmp_path)
    with pytest.raises(DiskFull) as caught, store.writing("analysis", "a") as directory:
        (directory / "data").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(directory / "data"))
    assert caught.value.code == "disk-full" and "vs3r cache clear" in caught.value.hint
    assert store.find("analysis", "a") is None and not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("key", ["", "..", "../x", "a/b", ".hidden", "x" * 300, "a\0b"])
def test_a_key_cannot_leave_the_store(tmp_path, key):
    with pytest.raises(EngineFault, match="cache-key"):
        DiskStore(tmp_path).find("analysis", key)


def test_clear_frees_what_nobody_uses(tmp_path):
    store = DiskStore(tmp_path)
    fill(store, "a", 1000)
    assert store.clear() == 0
    store.release()
    assert store.clear() == 1000
    assert store.entries() == []
