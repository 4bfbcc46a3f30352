# SPDX-License-Identifier: Apache-2.0
"""DiskStore: analyses, finished chunks and uploads on disk. Entries appear whole or not at all, the least recently used
go first when the limit is passed, and any number of engines may share one directory."""

import contextlib
import errno
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import psutil

from vs3r_engine.errors import DiskFull, EngineFault, ResourceError, SetupError

DEFAULT_LIMIT_BYTES = 40 * 2**30
A_DAY_S = 86400
UPLOADS = "uploads"
"""The kind of what hosts put there, which has a limit of its own."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


@dataclass(frozen=True, slots=True)
class Entry:
    """One directory of the store. `used_unix_s` is when it was last found or written."""

    kind: str
    key: str
    size_bytes: int
    used_unix_s: float
    in_use: bool


class DiskStore:
    """The pipeline's Store on disk.

    Layout under `root`: KIND/KEY/ (entries and workspaces), tmp/PID@HOST+RANDOM/ (being written or deleted),
    locks/ (one writer per workspace), leases/PID@HOST/ (what living processes use; never evicted).
    The limit holds for what nobody uses: a running job may pass it, and what it leaves is trimmed afterwards.
    All of it may be deleted at any time, as people and systems clean caches: what is needed next is made again.
    """

    def __init__(self, root: Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Raises: SetupError `cache-unusable` where the directory cannot be made."""
        self.root = Path(root) if root is not None else default_root()
        self.limit_bytes = limit_bytes
        self._temporary = self.root / "tmp"
        self._locks = self.root / "locks"
        self._leases = self.root / "leases" / _owner()
        try:
            self._make_directories()
        except OSError as error:
            raise SetupError(
                "cache-unusable",
                f"The cache directory {self.root} cannot be used: {error.strerror}.",
                "Free some space, fix its permissions, or name another with VS3R_CACHE_DIR.",
            ) from error
        self._sweep()

    def find(self, kind: str, key: str) -> Path | None:
        """The directory of a complete entry, now the most recently used and kept until `release`; None without one."""
        path = self._path(kind, key)
        lease = self._lease(kind, key)
        try:
            os.utime(path)
        except FileNotFoundError:
            lease.unlink(missing_ok=True)
            return None
        return path

    @contextlib.contextmanager
    def writing(self, kind: str, key: str) -> Iterator[Path]:
        """An empty directory that becomes the entry if the block ends well and vanishes if it does not.

        Where two write the same key the first to finish wins, the other's work is dropped: equal keys, equal content.
        Raises: DiskFull `disk-full`.
        """
        path = self._path(kind, key)
        self._lease(kind, key)
        temporary = self._new_temporary()
        try:
            with _disk_full_translated(self.root):
                temporary.mkdir(mode=0o700)
                yield temporary
                path.parent.mkdir(mode=0o700, exist_ok=True)
                try:
                    temporary.rename(path)
                except OSError as error:
                    if not path.is_dir() or error.errno in OUT_OF_SPACE:
                        raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        os.utime(path)
        self.trim()

    @contextlib.contextmanager
    def workspace(self, kind: str, key: str) -> Iterator[Path]:
        """A directory that keeps its content until discarded, for one writer at a time.

        Raises: ResourceError `in-use` where another engine is working in it, DiskFull `disk-full`.
        """
        path = self._path(kind, key)
        lock = filelock.FileLock(self._locks / f"{kind}-{key}.lock", timeout=0)
        try:
            self._make_directories()
            lock.acquire()
        except filelock.Timeout as error:
            raise ResourceError(
                "in-use",
                "Another engine is working on the same range with the same settings.",
                "Wait until it is done; its result will be the same.",
            ) from error
        try:
            self._lease(kind, key)
            with _disk_full_translated(self.root):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.utime(path)
                yield path
        finally:
            lock.release()
        self.trim()

    def discard(self, kind: str, key: str) -> None:
        """There is no such entry or workspace any more."""
        self._remove(self._path(kind, key))
        (self._leases / f"{kind}+{key}").unlink(missing_ok=True)

    def release(self, but: Collection[tuple[str, str]] = ()) -> None:
        """Nothing this process found or wrote is in use any more, but for these (kind, key); the limit holds again."""
        kept = {f"{kind}+{key}" for kind, key in but}
        for lease in _children(self._leases):
            if lease.name not in kept:
                lease.unlink(missing_ok=True)
        self.trim()

    def entries(self) -> list[Entry]:
        """Everything kept, least recently used first."""
        leased = self._leased()
        found = []
        for kind in _children(self.root):
            if kind.name in ("tmp", "locks", "leases") or not kind.is_dir():
                continue
            for path in _children(kind):
                with contextlib.suppress(FileNotFoundError):
                    in_use = f"{kind.name}+{path.name}" in leased
                    found.append(Entry(kind.name, path.name, _size_bytes(path), path.stat().st_mtime, in_use))
        return sorted(found, key=lambda entry: entry.used_unix_s)

    def trim(self) -> None:
        """Least recently used entries are gone until the rest fits the limit; what a living process uses stays."""
        entries = [entry for entry in self.entries() if entry.kind != UPLOADS]
        excess = sum(entry.size_bytes for entry in entries) - self.limit_bytes
        for entry in entries:
            if excess <= 0:
                return
            if self._evict(entry):
                excess -= entry.size_bytes

    def clear(self) -> int:
        """Everything that nobody uses is gone. Returns the bytes freed."""
        freed = 0
        for entry in self.entries():
            if self._evict(entry):
                freed += entry.size_bytes
        return freed

    def _evict(self, entry: Entry) -> bool:
        """False where it stays, because somebody uses it by now: since it was listed, all others were measured."""
        if entry.in_use or f"{entry.kind}+{entry.key}" in self._leased():
            return False
        self._remove(self.root / entry.kind / entry.key)
        return True

    def _make_directories(self) -> None:
        for directory in (self.root, self._temporary, self._locks, self._leases):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, kind: str, key: str) -> Path:
        if not _NAME.fullmatch(kind) or not _NAME.fullmatch(key):
            raise EngineFault("cache-key", f"{kind}/{key} cannot name a cache entry.")
        return self.root / kind / key

    def _lease(self, kind: str, key: str) -> Path:
        lease = self._leases / f"{kind}+{key}"
        self._make_directories()
        lease.touch()
        return lease

    def _leased(self) -> set[str]:
        leased = set()
        for process in _children(self.root / "leases"):
            if _is_alive(process):
                leased |= {lease.name for lease in _children(process)}
        return leased

    def _new_temporary(self) -> Path:
        return self._temporary / f"{_owner()}+{uuid.uuid4().hex}"

    def _remove(self, path: Path) -> None:
        # Renamed first, so that nobody finds half an entry. Windows refuses while a file in it is open: then it stays.
        doomed = self._new_temporary()
        with contextlib.suppress(OSError):
            path.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self) -> None:
        """What dead processes left half-written or leased is gone."""
        for directory in (self._temporary, self.root / "leases"):
            for path in _children(directory):
                if not _is_alive(path):
                    shutil.rmtree(path, ignore_errors=True)
        for lock in _children(self._locks):
            with contextlib.suppress(OSError):
                if lock.stat().st_mtime < time.time() - A_DAY_S and not (self.root / lock.stem.replace("-", "/", 1)).exists():
                    lock.unlink()


def default_root() -> Path:
    """$VS3R_CACHE_DIR, else the user's cache directory."""
    return Path(os.environ.get("VS3R_CACHE_DIR") or platformdirs.user_cache_dir("vs3r", appauthor=False)) / "store"


def _owner() -> str:
    """This process among all that may share a store, also from other machines and containers."""
    return f"{os.getpid()}@{re.sub('[^A-Za-z0-9.-]', '-', platform.node())}"


def _is_alive(path: Path) -> bool:
    """Whether the process that `path` is named after runs. Of another machine's nobody knows: it does for a day after its last change."""
    pid, _, host = path.name.partition("+")[0].partition("@")
    if not pid.isdigit():
        return False
    if host == _owner().partition("@")[2]:
        return psutil.pid_exists(int(pid))
    try:
        return path.stat().st_mtime > time.time() - A_DAY_S
    except OSError:
        return False


def _children(directory: Path) -> list[Path]:
    """What is in it; nothing where there is no such directory, or no more."""
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _disk_full_translated(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise DiskFull(
            "disk-full",
            f"The disk of {error.filename or root} is full.",
            "Free some space, run `vs3r cache clear`, or name another cache with VS3R_CACHE_DIR.",
        ) from error


def _size_bytes(directory: Path) -> int:
    """Bytes of all files under `directory`; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total
