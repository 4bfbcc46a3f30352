# SPDX-License-Identifier: Apache-2.0
"""The doctor tells what is right, what is off, and what to do."""

import os

import psutil

from vs3r_engine.app import doctor
from vs3r_engine.errors import VS3RError
from vs3r_engine.media import codecs
from vs3r_engine.service import rendezvous
from vs3r_engine.service.protocol import VERSION, encode


def test_a_working_installation_passes_its_trial():
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["trial"].state == "ok" and "stabilized" in findings["trial"].found
    assert {finding.state for finding in findings.values()} <= {"ok", "off"}
    assert all(
        finding.hint for finding in findings.values() if finding.state == "off" and finding.name in ("torch", "pytorch3d", "weights")
    )


def test_a_fault_is_a_line_with_its_hint_and_exit_code_3(monkeypatch, capsys):
    def broken():
        raise VS3RError("no-disk", "The disk is gone.", "Plug it in.")

    monkeypatch.setattr(doctor, "_cache", broken)
    monkeypatch.setattr(doctor, "_trial", list)
    try:
        doctor.doctor(as_json=False)
        raise AssertionError("the fault went unnoticed")
    except VS3RError as error:
        assert (error.code, error.exit_code) == ("doctor", 3)
    out = capsys.readouterr().out
    assert "WRONG" in out and "The disk is gone." in out and "Plug it in." in out


def test_an_engine_runs_where_its_process_does():
    (finding,) = doctor._engine()
    assert finding.found.startswith("none runs")
    for pid, begun_s, said in ((os.getpid(), psutil.Process().create_time(), "one of version 1.2 runs"), (os.getpid(), 1.0, "none runs")):
        connection = rendezvous.Connection(VERSION, "e", "1.2", pid, begun_s, "ipc:///r", "ipc:///c", "ipc:///e")
        rendezvous.write_private(rendezvous.connection_file(), encode(connection))
        (finding,) = doctor._engine()
        assert finding.found.startswith(said)


def test_the_encoders_examined_are_the_ones_that_write():
    (finding,) = doctor._video()
    assert set(finding.found.partition("writes ")[2].split(", ")) <= set(codecs._ENCODERS.values())
