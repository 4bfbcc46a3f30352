# SPDX-License-Identifier: Apache-2.0
"""A real editing engine, MLT's `melt`, plays the edit before and after: same length, untouched clips identical."""

import os
import shutil
import subprocess
from fractions import Fraction

import numpy as np
import opentimelineio as otio
import pytest
from opentimelineio.opentime import RationalTime, TimeRange

from tests.bridge.numbered_media import number_of, pictures, write_movie
from tests.bridge.test_timelines_frames import run_command
from tests.fakes.local_engine import LocalEngine

MELT = shutil.which("melt")


def span(start, duration):
    return TimeRange(RationalTime(start, 25), RationalTime(duration, 25))


def played(timeline_path: str, folder) -> list[np.ndarray]:
    """Every picture that melt shows of an OTIO file, as RGB."""
    name = os.path.splitext(os.path.basename(timeline_path))[0]
    otio.adapters.write_to_file(otio.adapters.read_from_file(timeline_path), str(folder / f"{name}.mlt"))
    command = [
        MELT,
        "-silent",
        "-profile",
        "atsc_720p_25",
        str(folder / f"{name}.mlt"),
        "-consumer",
        f"avformat:{folder / name}.mkv",
        "vcodec=ffv1",
        "an=1",
        "real_time=-1",
        "width=160",
        "height=96",
        "progressive=1",
    ]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "SDL_VIDEODRIVER": "dummy", "QT_QPA_PLATFORM": "offscreen"},
    )
    return pictures(str(folder / f"{name}.mkv"))


@pytest.mark.skipif(MELT is None, reason="the program melt (MLT) is not installed; apt-get install melt brings it")
@pytest.mark.skipif("mlt_xml" not in otio.adapters.available_adapter_names(), reason="otio-mlt-adapter is not installed")
def test_melt_plays_the_stabilized_edit_frame_for_frame(tmp_path):
    chosen, other = (write_movie(tmp_path / name, count, Fraction(25)) for name, count in (("chosen.mov", 120), ("other.mov", 60)))

    def shot(name, path, start, duration, length):
        return otio.schema.Clip(
            name=name, media_reference=otio.schema.ExternalReference(path, span(0, length)), source_range=span(start, duration)
        )

    timeline = otio.schema.Timeline(name="cut")
    timeline.tracks.append(
        otio.schema.Track(
            name="V1",
            children=[
                shot("one", chosen, 30, 12, 120),
                shot("two", other, 5, 10, 60),
                otio.schema.Gap(source_range=span(0, 4)),
                shot("three", chosen, 70, 9, 120),
                shot("four", other, 40, 6, 60),
            ],
        )
    )
    otio.adapters.write_to_file(timeline, str(tmp_path / "before.otio"))
    result = run_command(
        LocalEngine(tmp_path / "store"),
        str(tmp_path / "before.otio"),
        "-o",
        str(tmp_path / "after.otio"),
        "--for",
        "kdenlive",
        "--clips",
        "one",
        "--clips",
        "three",
        "--handles",
        "6",
    )
    assert result.exit_code == 0, result.output

    before, after = played(str(tmp_path / "before.otio"), tmp_path), played(str(tmp_path / "after.otio"), tmp_path)
    assert len(before) == len(after) == 12 + 10 + 4 + 9 + 6
    numbers = [number_of(image) for index, image in enumerate(after) if not 22 <= index < 26]
    assert numbers == [*range(30, 42), *range(5, 15), *range(70, 79), *range(40, 46)], "the stabilized clips show the frames they did"
    for index in [*range(12, 26), *range(35, 41)]:
        assert np.array_equal(before[index], after[index]), f"frame {index} of an untouched clip changed"
    assert any(not np.array_equal(before[index], after[index]) for index in range(12)), "the stabilized media is what melt played"
