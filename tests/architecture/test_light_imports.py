# SPDX-License-Identifier: Apache-2.0
"""What starts quickly stays quick: modules hosts import pull in nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "cv2", "av", "scipy", "diffusers", "transformers", "ray")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("vs3r_engine", HEAVY),
        ("vs3r_engine.settings", HEAVY),
        ("vs3r_engine.job", HEAVY),
        ("vs3r_engine.service.protocol", HEAVY),
        ("vs3r_engine.media.edit", HEAVY),
        ("host_bridge", HEAVY),
        ("host_bridge.client", HEAVY),
        ("host_bridge.launcher", HEAVY),
        ("host_bridge.cli", HEAVY),
        ("host_bridge.timelines", HEAVY),
        ("vs3r_engine.app.cli", HEAVY),
        ("vs3r_engine.pipeline", ("torch", "diffusers", "transformers", "ray", "scipy.signal")),
    ],
)
def test_importing_it_loads_nothing_heavy(module, forbidden):
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
