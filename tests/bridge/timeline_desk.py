# SPDX-License-Identifier: Apache-2.0
"""A folder with movies and timelines, an engine that renders nothing, and the command `vs3r timeline`."""

import contextlib
import json
from pathlib import Path

import opentimelineio as otio
import pytest
import typer
from opentimelineio.opentime import RationalTime, TimeRange
from typer.testing import CliRunner

from host_bridge.timeline_cli import timeline_command
from host_bridge.timelines.walk import video_clips
from tests.fakes.timeline_engine import TimelineEngine
from vs3r_engine.errors import VS3RError

needs_adapters = pytest.mark.skipif(
    not {"fcp_xml", "cmx_3600", "fcpx_xml", "AAF"} <= set(otio.adapters.available_adapter_names()),
    reason="the packages of the extra `timelines` are not installed",
)


def span(start, duration, rate=24.0) -> TimeRange:
    return TimeRange(RationalTime(start, rate), RationalTime(duration, rate))


def shot(url, start, duration, name="shot", first=0, rate=24.0, **more) -> otio.schema.Clip:
    return otio.schema.Clip(
        name=name,
        media_reference=otio.schema.ExternalReference(target_url=url, available_range=span(first, 1000, rate)),
        source_range=span(first + start, duration, rate),
        **more,
    )


class Desk:
    """A folder with two movies, an engine, and the command."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.engine = folder, TimelineEngine()
        self.engine_files: list[Path | None] = []
        self.a, self.b = self.engine.add(str(folder / "a.mov"), start_timecode="01:00:00:00"), self.engine.add(str(folder / "b c.mov"))

    def write(self, *children, name="cut.otio", **more) -> str:
        timeline = otio.schema.Timeline(name="cut", **more)
        timeline.tracks.append(otio.schema.Track(name="Video 1", children=list(children)))
        otio.adapters.write_to_file(timeline, str(self.folder / name))
        return str(self.folder / name)

    def run(self, *arguments: str):
        app = typer.Typer()
        app.command()(timeline_command(self._opened))
        return CliRunner().invoke(app, [*map(str, arguments)])

    def _opened(self, engine_file):
        self.engine_files.append(engine_file)
        return contextlib.nullcontext(self.engine)

    def ok(self, *arguments: str) -> list[dict]:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, (result.output, result.exception)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def refused(self, *arguments: str) -> VS3RError:
        before = sorted(self.folder.rglob("*"))
        result = self.run(*arguments)
        assert isinstance(result.exception, VS3RError), (result.output, result.exception)
        assert sorted(self.folder.rglob("*")) == before, "nothing is written"
        assert not self.engine.submitted, "nothing runs"
        return result.exception

    def read(self, name: str):
        return otio.adapters.read_from_file(str(self.folder / name))

    def clips(self, name: str) -> list[otio.schema.Clip]:
        return [place.clip for place in video_clips(self.read(name))]
