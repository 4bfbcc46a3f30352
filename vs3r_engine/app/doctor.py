# SPDX-License-Identifier: Apache-2.0
"""`vs3r doctor`: one line per thing that has to be right, what was found, and the command that mends it."""

import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from vs3r_engine import __version__
from vs3r_engine.errors import SetupError, VS3RError

LEAST_FREE_GIB = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One examined thing. state: "ok", "off" (not there and not needed for the default) or "wrong"."""

    name: str
    state: str
    found: str
    hint: str = ""


def examine() -> Iterator[Finding]:
    """Every finding, the required ones first; the last one stabilizes a clip of a second."""
    yield Finding(
        "vs3r",
        "ok",
        f"{__version__} on Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    )
    for check in (_video, _tracking, _kernels, _cache, _engine, _torch, _pytorch3d, _weights, _diffusion, _trial):
        try:
            found = check()
        except VS3RError as error:
            found = [Finding(check.__name__.strip("_"), "wrong", error.message, error.hint)]
        yield from found


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Write JSON on standard output.")] = False) -> None:
    """Examine the installation. Exit code 3 when something the default needs is wrong."""
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            mark = {"ok": "ok   ", "off": "off  ", "wrong": "WRONG"}[finding.state]
            print(f"{mark} {finding.name:12} {finding.found}")
            if finding.hint:
                print(f"      {'':12} {finding.hint}")
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    if wrong := [finding.name for finding in findings if finding.state == "wrong"]:
        raise SetupError("doctor", f"Not in order: {', '.join(wrong)}.", "The lines above say what to do.")


def _video() -> list[Finding]:
    import av

    encoders = [name for name in ("libx264", "libx265", "prores_aw", "dnxhd", "ffv1", "exr") if _can_encode(name)]
    return [Finding("video", "ok", f"PyAV {av.__version__}; writes {', '.join(encoders)}")]


def _can_encode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def _tracking() -> list[Finding]:
    import cv2

    has_guided = hasattr(cv2, "ximgproc")
    return [
        Finding(
            "tracking",
            "ok" if has_guided else "wrong",
            f"OpenCV {cv2.__version__}{'' if has_guided else ' without its contrib modules'}",
            "" if has_guided else f"{sys.executable} -m pip install --force-reinstall opencv-contrib-python-headless",
        )
    ]


def _kernels() -> list[Finding]:
    from vs3r_engine import native

    if native.is_available:
        return [Finding("kernels", "ok", f"compiled, {native.LIBRARY}")]
    return [
        Finding(
            "kernels",
            "off",
            "not compiled for this machine: warping and filling run in numpy, about twice as slow",
            f"Install a C compiler, then {sys.executable} -m pip install --force-reinstall --no-deps vs3r, or run hatch_build.py.",
        )
    ]


def _cache() -> list[Finding]:
    from vs3r_engine.service.cache import DiskStore

    root = DiskStore().root
    free_gib = shutil.disk_usage(root).free / 2**30
    is_enough = free_gib >= LEAST_FREE_GIB
    return [
        Finding(
            "cache",
            "ok" if is_enough else "wrong",
            f"{root}, {free_gib:.0f} GiB free",
            "" if is_enough else "Free some space, or run `vs3r cache clear`.",
        )
    ]


def _engine() -> list[Finding]:
    from vs3r_engine.service import rendezvous

    file = rendezvous.connection_file()
    connection = rendezvous.read_connection(file)
    if connection is None or (connection.server_key is None and not rendezvous.is_running(connection)):
        return [Finding("engine", "ok", "none runs; one is started when needed")]
    return [Finding("engine", "ok", f"one of version {connection.version} runs; {file} says where")]


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [
            Finding(
                "torch", "off", "not installed: vggt4d, splat and video diffusion need it", f"{sys.executable} -m pip install 'vs3r[deep]'"
            )
        ]
    import torch

    from vs3r_engine.methods.devices import choose_device

    device = choose_device("auto")
    return [Finding("torch", "ok", f"{torch.__version__}; networks run on {device.name} ({device.reason}), {device.free_gib:.0f} GiB free")]


def _pytorch3d() -> list[Finding]:
    from vs3r_engine.methods.pytorch3d_build import build_steps, fault

    if importlib.util.find_spec("pytorch3d") is None or importlib.util.find_spec("torch") is None:
        return [Finding("pytorch3d", "off", "not installed: the renderer `splat` does the same", build_steps())]
    import torch

    problem = fault()
    if problem:
        return [Finding("pytorch3d", "wrong", f"installed, but torch {torch.__version__} cannot load it: {problem}", build_steps())]
    return [Finding("pytorch3d", "ok", f"{importlib.import_module('pytorch3d').__version__}, with torch {torch.__version__}")]


def _weights() -> list[Finding]:
    from vs3r_engine.methods import weights

    entries = weights.manifest()
    installed = [name for name in entries if weights.record(name) is not None]
    return [
        Finding(
            "weights",
            "ok" if installed else "off",
            f"{len(installed)} of {len(entries)} installed{': ' + ', '.join(installed) if installed else ''}",
            "" if installed else "`vs3r-engine weights list` says what there is, its size and its licence.",
        )
    ]


def _diffusion() -> list[Finding]:
    if importlib.util.find_spec("diffusers") is None:
        return [Finding("diffusion", "off", "not installed: vace and dvdm need it", f"{sys.executable} -m pip install 'vs3r[diffusion]'")]
    from vs3r_engine.methods.diffusion.outlook import outlook
    from vs3r_engine.settings import Settings

    return [
        Finding(name, "ok" if state == "ready" else "off", where if state == "ready" else state)
        for name, (state, where) in outlook(Settings()).items()
    ]


def _trial() -> list[Finding]:
    from vs3r_engine import pipeline
    from vs3r_engine.app.demo import render_demo_clip
    from vs3r_engine.service.cache import DiskStore
    from vs3r_engine.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder) / "clip.mp4", Path(folder) / "out.mp4"
        render_demo_clip(clip, frames=30)
        started_s = time.monotonic()
        for _ in pipeline.stabilize(pipeline.plan(str(clip), str(output), Settings()), DiskStore(Path(folder) / "cache")):
            pass
        return [Finding("trial", "ok", f"a clip of one second was stabilized in {time.monotonic() - started_s:.1f} s")]
