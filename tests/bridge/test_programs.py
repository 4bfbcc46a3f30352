# SPDX-License-Identifier: Apache-2.0
"""What `vs3r`, `vs3r-engine`, `vs3r.py` and the installer have in common."""

import importlib
import os
import subprocess
import sys

import pytest
import typer

from tests.fakes.engine_process import ROOT


def test_the_other_programs_tell_such_names_too(tmp_path):
    bundle = tmp_path / "VS3R.ofx.bundle"
    (bundle / "Contents" / "any").mkdir(parents=True)
    (bundle / "Contents" / "any" / "VS3R.ofx").touch()
    demo = (
        "import sys, vs3r; vs3r.ROOT = vs3r.Path('.'); vs3r.ensure_installed = print; vs3r.finished = lambda *_, **__: (0, '日本');"
        "sys.exit(vs3r.main())"
    )
    for words in (
        ["-m", "vs3r_engine.app.cli", "keys", "create", "日本"],
        ["-c", demo, "demo", "clip.mov"],
        [str(ROOT / "installers" / "install_plugin.py"), "install", str(bundle), "--prefix", "日本"],
    ):
        environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
        assert done.returncode == 0 and b"\\u65e5\\u672c" in done.stdout, (words, done.stderr)


@pytest.mark.parametrize("module", ["host_bridge.cli", "vs3r_engine.app.cli"])
def test_ctrl_c_wherever_it_comes_is_answered_and_an_exit_code_is_passed_on(module, capsys):
    program, app = importlib.import_module(module), typer.Typer()

    @app.command()
    def stop(code: int) -> None:
        if code == 0:
            raise KeyboardInterrupt
        raise typer.Exit(code)

    assert program.run(lambda: app(["0"])) == 130 and capsys.readouterr().err.startswith("Stopped.")
    assert program.run(lambda: app(["130"])) == 130 and capsys.readouterr().err == "", "another program's, which has told it"
    assert program.run(lambda: app(["3"])) == 3
