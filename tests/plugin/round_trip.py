# SPDX-License-Identifier: Apache-2.0
"""What the plug-in and the wire add to a frame: `python -m tests.plugin.round_trip VS3R.ofx` prints one JSON object.

One 1080p float frame at a time: the engine makes it (for the Python client), then the plug-in renders the same one,
which the engine now has in memory. Ratios of CPU-bound times; run it on a quiet machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from host_bridge.client import EngineClient, StabilizedFrame
from tests.fakes.engine_process import wait_until
from tests.plugin.ofx_host import OK, Arguments, Host, Instance
from tests.synthetic import make_clip
from vs3r_engine.service import protocol as p
from vs3r_engine.service.rendezvous import connection_file, read_connection

FRAMES, WIDTH, HEIGHT = 12, 1920, 1080
SETTINGS = p.SettingsChoice("natural", {"path.smoothness": 50.0, "path.strength": 100.0, "frame.framing": "full", "fill.quality": "final"})


def measured(library: Path, root: Path) -> dict[str, float]:
    """engine_s: a frame made and sent to the client; again_s: sent once more; plugin_s: the render action. The best of
    several frames: whatever else the machine does only adds."""
    clip = make_clip("regular", frames=FRAMES)
    for index in range(FRAMES):
        rgb = cv2.resize(np.clip(clip.frame(index).to_rgb(), 0, 1), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(root / f"in_{index:04d}.png"), np.clip(rgb[..., ::-1] * 65535, 0, 65535).astype(np.uint16))
    path = str(root / f"in_[0000-{FRAMES - 1:04d}].png")
    source = np.zeros((HEIGHT, WIDTH, 4), np.float32)
    times: dict[str, list[float]] = {"engine_s": [], "again_s": [], "plugin_s": []}
    with (
        EngineClient(read_connection(connection_file(root / "run")), "round-trip") as client,
        Host(library, "resolve") as host,
    ):
        instance = Instance(host)
        instance.connect(lambda at: source, (0, FRAMES - 1), path=path)

        act, act_s = host.act, []

        def timed(*arguments: Any) -> int:
            begun_s = time.monotonic()
            status = act(*arguments)
            act_s.append(time.monotonic() - begun_s)
            return status

        host.act = timed  # type: ignore[method-assign]

        def ask(index: int) -> float:
            begun_s = time.monotonic()
            while not isinstance(
                client.frame(p.FrameRequest(p.Source(path=path), index, SETTINGS, "float32", wait_s=10.0, prefetch=0)),
                StabilizedFrame,
            ):
                pass
            return time.monotonic() - begun_s

        ask(0)
        for index in range(1, FRAMES):
            times["engine_s"].append(ask(index))
        for index in range(1, FRAMES):
            times["again_s"].append(ask(index))
            status, _ = instance.render(Arguments(index, source_frame=index))
            times["plugin_s"].append(act_s[-1])
            assert status == OK, instance.messages
    found = {name: min(values) for name, values in times.items()}
    return {**found, "plugin_over_engine": found["plugin_s"] / (found["engine_s"] - found["again_s"])}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vs3r-") as folder:
        root = Path(folder)
        os.environ |= {
            "VS3R_RUNTIME_DIR": str(root / "run"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "XDG_STATE_HOME": str(root / "state"),
        }
        engine = subprocess.Popen([sys.executable, "-m", "vs3r_engine.app.cli", "serve"])
        try:
            wait_until(lambda: read_connection(connection_file(root / "run")), 30)
            print(json.dumps({name: round(value, 4) for name, value in measured(Path(sys.argv[1]), root).items()}))
        finally:
            engine.terminate()
            engine.wait(15)


if __name__ == "__main__":
    main()
