# SPDX-License-Identifier: Apache-2.0
"""Where engine and hosts find each other: the connection file, the launch file, and the directories they are in
(PROTOCOL.md, section 1). Imports nothing heavy."""

import contextlib
import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import psutil
from msgspec import Meta, Struct

from vs3r_engine.errors import ProtocolError, SetupError
from vs3r_engine.service.protocol import USERNAME, VERSION, decode, major

BUSY_S = 1.0
"""How long a file may be in another program's hands on Windows."""
_T = TypeVar("_T")


class Connection(Struct, frozen=True, omit_defaults=True):
    """The connection file. Beyond this machine `server_key` and the host's own key pair replace the token."""

    protocol: str
    engine: str
    version: str
    pid: int
    started_unix_s: float
    request: str
    control: str
    events: str
    username: str = USERNAME
    token: str = ""
    server_key: str | None = None
    public_key: str | None = None
    secret_key: str | None = None
    boot_unix_s: float | None = None


class Launch(Struct, frozen=True):
    """The launch file: the program that starts an engine."""

    program: Annotated[list[str], Meta(min_length=1)]


def runtime_directory() -> Path:
    """Where the connection file lives; see PROTOCOL.md section 1."""
    if named := os.environ.get("VS3R_RUNTIME_DIR"):
        return Path(named)
    if sys.platform in ("win32", "darwin"):
        return _application_directory() / "run"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return Path(runtime) / "vs3r" if runtime else Path.home() / ".cache" / "vs3r" / "run"


def configuration_directory() -> Path:
    """Where the launch file and the user's presets live; see PROTOCOL.md section 1."""
    if named := os.environ.get("VS3R_CONFIG_DIR"):
        return Path(named)
    if sys.platform in ("win32", "darwin"):
        return _application_directory()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "vs3r"


def _application_directory() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "vs3r"
    return Path.home() / "Library" / "Application Support" / "vs3r"


def connection_file(directory: Path | None = None) -> Path:
    return (directory or runtime_directory()) / "engine.json"


def launch_file() -> Path:
    return configuration_directory() / "launch.json"


def read_connection(path: Path, *, of_any_protocol: bool = False) -> Connection | None:
    """What the connection file says; None where there is none.

    Raises: ProtocolError `protocol-version`, `connection-file` for one that is none; SetupError `directory-unusable`.
    """
    try:
        connection = decode(patiently(path.read_bytes), Connection, f"The connection file {path}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path.parent, error.strerror) from error
    except ProtocolError as error:
        raise ProtocolError("connection-file", f"The connection file {path} cannot be read: {error}", "Delete it.") from error
    if major(connection.protocol) != major(VERSION) and not of_any_protocol:
        raise ProtocolError(
            "protocol-version",
            f"The running engine speaks protocol {connection.protocol}, this host {VERSION}.",
            "`vs3r engine stop` ends it.",
        )
    return connection


def is_running(connection: Connection) -> bool:
    """Whether the process that wrote the connection file still runs: the same number, started at the same time."""
    try:
        process = psutil.Process(connection.pid)
        later_s = process.create_time() - connection.started_unix_s
        # Linux reckons both from the boot, and the boot from a clock that may have been set since.
        clock_set_s = 0.0 if connection.boot_unix_s is None else psutil.boot_time() - connection.boot_unix_s
        return min(abs(later_s), abs(later_s - clock_set_s)) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def make_private(directory: Path) -> None:
    """`directory` exists and only the user can enter it (0700).

    Raises: SetupError `directory-unusable`, also for one that everybody writes to: shutting the others out of /tmp would break it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_everybodys = sys.platform != "win32" and bool(directory.stat().st_mode & stat.S_IWOTH)
        if not is_everybodys:
            directory.chmod(0o700)
    except OSError as error:
        raise _unusable(directory, error.strerror) from error
    if is_everybodys:
        raise _unusable(directory, "everybody can write to it")


def write_private(path: Path, data: bytes) -> None:
    """`path` holds `data`, appeared whole, and only the user can read it (0600, its directory 0700).

    Raises: SetupError `directory-unusable`.
    """
    make_private(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
        patiently(lambda: temporary.replace(path))
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _unusable(path.parent, error.strerror) from error


def patiently(act: Callable[[], _T]) -> _T:
    """What `act` returns. On Windows a file cannot be replaced or removed while somebody reads it, nor read while it is replaced."""
    until_s = time.monotonic() + BUSY_S
    while True:
        try:
            return act()
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until_s:
                raise
        time.sleep(0.01)


def _unusable(directory: Path, why: str | None) -> SetupError:
    return SetupError(
        "directory-unusable",
        f"The directory {directory} cannot be used: {why}.",
        "Fix its permissions or name another: VS3R_RUNTIME_DIR says where the connection file goes, VS3R_CONFIG_DIR the launch file.",
    )
