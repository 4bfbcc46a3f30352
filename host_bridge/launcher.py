# SPDX-License-Identifier: Apache-2.0
"""Launcher: finds the engine of this user, starts one where none runs, watches it, starts it again, stops it; and runs
a job through all of that."""

import contextlib
import enum
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import psutil

from host_bridge.client import EngineClient, EngineLost, Event
from vs3r_engine import __version__
from vs3r_engine.errors import ProtocolError, SetupError
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import Launch, connection_file, is_running, launch_file, make_private, read_connection, write_private

START_S = 30.0
SILENCE_S = 6.0
"""How long an engine whose process runs may stay silent before another takes its place."""
TRY_AGAIN_S = 0.5
STOP_S = 10.0
NO_SPACE_BYTES = 65536
NEW_PROCESS_GROUP, NO_WINDOW = 0x00000200, 0x08000000
"""Of Windows: Ctrl-C is not for the engine, and neither it nor its worker has a window. Detached, every worker would open one."""
RESTARTS = 10
"""Times a job's engine may be lost before the job is given up."""


class EngineState(enum.StrEnum):
    """What is known of the engine."""

    ABSENT = "absent"
    """No engine runs, as far as is known."""
    STARTING = "starting"
    """Its process was started and does not answer yet."""
    SILENT = "silent"
    """Its process runs, and does not answer although it did once."""
    RUNNING = "running"
    """It answers."""
    LOST = "lost"
    """It answered once and does not any more."""
    REFUSED = "refused"
    """It runs and will not talk to us: another protocol, or not our token."""


class Launcher:
    """One user's engine, seen from a host. `state` is the last thing known.

    endpoint_file: the connection file of a particular engine that is never started from here; None = the user's own.
    command: the program that serves.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        endpoint_file: Path | None = None,
        command: Sequence[str] | None = None,
        name: str = "vs3r",
    ) -> None:
        self._file = endpoint_file or connection_file(directory)
        self._is_ours = endpoint_file is None
        self._command = list(command or [sys.executable, "-P", "-m", "vs3r_engine.app.cli", "serve"])
        self._name = name
        self.state = EngineState.ABSENT

    def find(self) -> EngineClient | None:
        """A client of the engine that runs, or None; a file of our own that a crash spoiled, which the next engine writes anew, is none.

        Raises: ProtocolError `protocol-version`, `not-allowed`; `connection-file` where the file is not ours.
        """
        try:
            connection = read_connection(self._file)
            if connection is None or (connection.server_key is None and not is_running(connection)):
                self.state = EngineState.ABSENT
                return None
            client = EngineClient(connection, self._name)
            try:
                client.hello()
            except BaseException:
                client.close()
                raise
        except EngineLost:
            self.state = EngineState.SILENT
            return None
        except ProtocolError as error:
            if error.code == "connection-file" and self._is_ours:
                self.state = EngineState.ABSENT
                return None
            self.state = EngineState.REFUSED
            raise
        self.state = EngineState.RUNNING
        return client

    def ensure(self) -> EngineClient:
        """A client of the engine, started first where none runs.

        Raises: SetupError `engine-not-started` (with what it said), `directory-unusable`, `engine-absent` for one that is not
        ours to start.
        """
        client = self.find()
        until_s = time.monotonic() + SILENCE_S
        while client is None and self.state is EngineState.SILENT and time.monotonic() < until_s:
            client = self.find()
        if client is not None:
            return client
        if not self._is_ours:
            raise SetupError(
                "engine-absent",
                f"The engine of {self._file} does not answer.",
                "Start it there, or leave --engine out.",
            )
        self._end_silent()
        errors = self._file.with_name(f"start-{os.getpid()}.log")
        process = self._start(errors)
        try:
            until_s = time.monotonic() + START_S
            while time.monotonic() < until_s:
                client = self.find()
                if client is not None:
                    return client
                if process.poll() is not None:
                    if b"[already-running]" not in errors.read_bytes():
                        break
                    # Another launcher's is on its way up, or one that ends is not gone yet.
                    time.sleep(TRY_AGAIN_S)
                    process = self._start(errors)
                time.sleep(0.02)
            said = " ".join(errors.read_text(errors="replace").strip().splitlines()[-3:])
            if not said and shutil.disk_usage(errors.parent).free < NO_SPACE_BYTES:
                said = f"The disk of {errors.parent} is full."  # so that it could not even say so
        finally:
            _remove_errors(errors)
        self.state = EngineState.ABSENT
        raise SetupError(
            "engine-not-started",
            f"The engine did not start: {said or 'it does not answer.'}",
            "`vs3r doctor` examines the installation; `vs3r engine logs` shows the log.",
        )

    def stop(self) -> bool:
        """No engine runs any more, not even one of ours that speaks another protocol. False where none ran."""
        try:
            client = self.find()
        except ProtocolError:
            connection = read_connection(self._file, of_any_protocol=True) if self._is_ours else None
            if connection is None or connection.server_key is not None:
                raise
            if is_running(connection):
                with contextlib.suppress(psutil.Error):
                    psutil.Process(connection.pid).terminate()
        else:
            if client is None:
                return self._end_silent()
            with client:
                connection = client.connection
                client.shutdown()
        if connection.server_key is None:
            until_s = time.monotonic() + STOP_S
            while is_running(connection) and time.monotonic() < until_s:
                time.sleep(0.02)
            if is_running(connection):
                with contextlib.suppress(psutil.Error):
                    psutil.Process(connection.pid).kill()
        self.state = EngineState.ABSENT
        return True

    def run(self, job: p.Stabilize | p.Analyze) -> Iterator[Event]:
        """Run a job to its end, through engines that die: the last event is its final state.

        A lost engine is started again and the job continues from its finished chunks. Closing the generator ends
        the session, and with it the job unless it is detached.

        Raises: EngineLost when engines keep dying; the engine's errors.
        """
        if job.job_id is None:
            job = msgspec.structs.replace(job, job_id=p.new_job_id())
        assert job.job_id is not None
        losses = 0
        while True:
            with self.ensure() as client:
                if (version := client.connection.version) != __version__:
                    yield Event("engine", text=f"The engine that runs is {version}, this is {__version__}: `vs3r engine stop` ends it.")
                try:
                    client.submit(job)
                    yield from client.follow(job.job_id)
                    return
                except EngineLost:
                    losses += 1
                    self.state = EngineState.LOST
                    if losses > RESTARTS or not self._is_ours:
                        raise
            yield Event("engine", text="The engine was lost; it is started again and the job continues.")

    def _end_silent(self) -> bool:
        """An engine of ours on this machine that does not answer is no more. False where there is none."""
        if self.state is not EngineState.SILENT or not self._is_ours:
            return False
        connection = read_connection(self._file)
        is_here = connection is not None and connection.server_key is None and is_running(connection)
        if not is_here:
            return False
        assert connection is not None
        with contextlib.suppress(psutil.Error):
            psutil.Process(connection.pid).kill()
        self.state = EngineState.ABSENT
        return True

    def _start(self, errors: Path) -> subprocess.Popen:
        """The engine's process, outliving this one unless tied to it."""
        self.state = EngineState.STARTING
        make_private(errors.parent)
        environment = {**os.environ, "VS3R_RUNTIME_DIR": str(self._file.parent)}
        apart = {"creationflags": NEW_PROCESS_GROUP | NO_WINDOW} if sys.platform == "win32" else {"start_new_session": True}
        with errors.open("wb") as stream:
            try:
                process: subprocess.Popen = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stream,
                    env=environment,
                    **apart,
                )  # type: ignore[call-overload]
            except OSError as error:
                raise SetupError(
                    "engine-not-started", f"{self._command[0]} cannot be run: {error.strerror}.", "Install VS3R again."
                ) from error
        # Somebody has to be told of its end, or it stays as a zombie for as long as this process lives.
        threading.Thread(target=process.wait, name="engine-end", daemon=True).start()
        return process


def _remove_errors(file: Path) -> None:
    """What an engine said while it started is gone. Windows keeps it while that engine runs; a later launcher takes it away."""
    for each in {file, *file.parent.glob("start-*.log")}:
        with contextlib.suppress(OSError, ValueError):
            if each == file or not psutil.pid_exists(int(each.stem.removeprefix("start-"))):
                each.unlink()


def write_launch_file() -> None:
    """Other hosts know how to start an engine, whatever lies in the folder they run in. Written only where it would change."""
    content = p.encode(Launch([sys.executable, "-P", "-m", "host_bridge", "engine", "start"]))
    file = launch_file()
    if not file.exists() or file.read_bytes() != content:
        write_private(file, content)
