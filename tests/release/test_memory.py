# SPDX-License-Identifier: Apache-2.0
"""Memory is bounded by windows, never by the clip: a long clip needs no more than a short one."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.release


def peak_mib(source, output, cache) -> float:
    """Largest resident size of a whole `vs3r-engine stabilize`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vs3r_engine.app.cli", "stabilize", str(source), "-o", str(output)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


@pytest.mark.timeout(7200)
def test_a_clip_ten_times_as_long_needs_no_more_memory(tmp_path):
    """3000 frames of 1080p within 10 % of 300, and under 700 MB: about a quarter of an hour on two cores."""
    import itertools

    import av

    from tests.synthetic import make_clip, video_frame

    scene = make_clip("regular", frames=60, width=1920, height=1080, seed=1)
    pictures = [video_frame(frame) for frame in scene.frames]
    peaks = []
    for frames in (300, 3000):
        path = tmp_path / f"{frames}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", 30, options={"preset": "ultrafast", "crf": "20"})
            stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
            there_and_back = itertools.cycle([*range(60), *range(58, 0, -1)])
            for pts in range(frames):
                picture = pictures[next(there_and_back)]
                picture.pts = pts
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        peaks.append(peak_mib(path, tmp_path / f"out{frames}.mp4", tmp_path / "cache"))
    print(f"peak MiB of 300 and 3000 frames: {peaks[0]:.0f}, {peaks[1]:.0f}")
    assert peaks[1] < 1.1 * peaks[0] and peaks[1] < 700, peaks
