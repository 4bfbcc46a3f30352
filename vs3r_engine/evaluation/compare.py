# SPDX-License-Identifier: Apache-2.0
"""`vs3r compare IN OUT`: original and result in one HTML file that opens offline, and the same data as JSON beside it.

Both videos are in one small H.264 file, one above the other, so that the two halves can never drift apart.
"""

import base64
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from vs3r_engine import __version__
from vs3r_engine.errors import MediaError
from vs3r_engine.evaluation.flow import best_flow
from vs3r_engine.evaluation.measure import measure
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.perceptual import lpips
from vs3r_engine.evaluation.reading import facts, pictures
from vs3r_engine.evaluation.tables import METRICS
from vs3r_engine.media.sidecar import sidecar_of

SCHEMA = 1
PROXY_WIDTH = 640
PROXY_MIB = 24
"""Largest video inside a page; long clips get a lower bit rate."""
_MOST_BITS_PER_S = 100_000_000
MEASURE_EVERY = 5


def compare(original: Path, result: Path, page: Path, *, with_metrics: bool = True) -> Path:
    """Write `page` (HTML) and `beside(page)`; returns the JSON's path.

    What the result's sidecar (RESULT.vs3r.json) tells is shown where there is one.
    Raises: MediaError `unreadable`, `no-video`, `bad-sidecar`, `output-suffix`, `output-is-source`, `output-unwritable`.
    """
    targets = (beside(page), page)
    if page == targets[0]:
        raise MediaError("output-suffix", f"{page} would hold both the page and its data.", "End the name in .html.")
    inputs = [path.resolve() for path in (original, result, sidecar_of(original), sidecar_of(result))]
    for target in targets:
        if target.resolve() in inputs:
            raise MediaError("output-is-source", f"{target} would be overwritten by the page or its data.", "Give -o another name.")
    with _written(page):
        page.parent.mkdir(parents=True, exist_ok=True)
    data = gathered(original, result, with_metrics=with_metrics)
    video = stacked_video(original, result, data["first_frame"])
    data["frame_count"] = video.frame_count
    data["picture"] = {"width": video.width, "height": video.height}
    for target, text in zip(targets, (json.dumps(data, indent=1), html(data, video.h264)), strict=True):
        temporary = target.with_name(target.name + ".part")
        with _written(target):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(target)
    return targets[0]


def beside(page: Path) -> Path:
    """Where the page's data goes as JSON."""
    return page.with_suffix(".json")


@contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(
            "output-unwritable", f"{target} cannot be written: {error.strerror}.", "Give -o another name, or a folder you may write to."
        ) from error


def gathered(original: Path, result: Path, *, with_metrics: bool) -> dict[str, Any]:
    """Everything the page shows but the pictures, as plain data."""
    source, made = facts(original), facts(result)
    sidecar = _sidecar(result)
    first_frame = int(sidecar.get("render_range", [0])[0])
    metrics: dict[str, Any] = {"values": {}, "input": {}, "reasons": {}, "notes": []}
    if with_metrics and not first_frame:
        network, reason = lpips()
        choice = Choice(False, MEASURE_EVERY, *best_flow(), network, reason)
        measured = measure(original, {"result": result}, choice)
        metrics = _metrics(measured["result"], measured["input"])
    elif with_metrics:
        metrics["notes"] = ["Metrics are for results of a whole clip; this one is a range."]
    return {
        "schema": SCHEMA,
        "original": original.name,
        "result": result.name,
        "size": [source.width, source.height],
        "result_size": [made.width, made.height],
        "rate": float(source.rate),
        "first_frame": first_frame,
        "metrics": metrics,
        "metric_names": {metric.key: metric.label for metric in METRICS},
        "paths": _paths(sidecar),
        "hole_percent": sidecar.get("hole_percent"),
        "moving_percent": sidecar.get("moving_percent"),
        "settings": sidecar.get("settings", {}),
        "findings": sidecar.get("findings", {}),
        "timings_s": sidecar.get("timings_s", {}),
        "versions": sidecar.get("versions", {}) | {"compare": __version__},
    }


def html(data: dict[str, Any], h264: bytes) -> str:
    """The page: template, plotting library, data and video in one text."""
    parts = {
        "TITLE": _escaped(f"{data['original']} → {data['result']}"),
        "UPLOT_CSS": _asset("uplot-1.6.32.min.css"),
        "CSS": _asset("compare.css"),
        "UPLOT_JS": _asset("uplot-1.6.32.iife.min.js"),
        "JS": _asset("compare.js"),
        "DATA": json.dumps(data).replace("<", "\\u003c"),
        "VIDEO": base64.b64encode(h264).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("compare.html"))


class StackedVideo:
    """An H.264 MP4 whose upper half is the original and whose lower half is the result, each width x height."""

    def __init__(self, h264: bytes, width: int, height: int, frame_count: int) -> None:
        self.h264, self.width, self.height, self.frame_count = h264, width, height, frame_count


def stacked_video(original: Path, result: Path, first_frame: int) -> StackedVideo:
    """Small, at most PROXY_MIB, seekable to every frame. Raises: MediaError `unreadable`."""
    source = facts(original)
    shown_width = round(source.width * source.pixel_aspect)
    width = min(PROXY_WIDTH, shown_width) // 2 * 2
    height = max(2, round(source.height * width / shown_width / 2) * 2)
    buffer = io.BytesIO()
    count = 0
    with av.open(buffer, "w", format="mp4") as container:
        rate = source.rate.limit_denominator(100000)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, 2 * height, "yuv420p"
        duration_s = (source.frame_count or 3000) / float(source.rate)
        ceiling = min(max(150_000, int(PROXY_MIB * 0.9 * 2**23 / duration_s)), _MOST_BITS_PER_S)
        stream.options = {
            "crf": "23",
            "preset": "veryfast",
            "g": "30",
            "maxrate": str(ceiling),
            "bufsize": str(ceiling),
        }
        # sRGB-like pictures for a browser: BT.709 throughout.
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = 1
        context.color_range = 1
        for count, (before, after) in enumerate(_pairs(original, result, first_frame), 1):
            both: Any = np.vstack([cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in (before, after)])
            frame = av.VideoFrame.from_ndarray(both, format="bgr24").reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = count - 1, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if not count:
        raise MediaError("unreadable", f"{result} has no frame to compare with {original}.", "Check that both files are complete.")
    return StackedVideo(buffer.getvalue(), width, height, count)


def _pairs(original: Path, result: Path, first_frame: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    before = pictures(original)
    for _ in range(first_frame):
        next(before, None)
    yield from zip(before, pictures(result), strict=False)


def _sidecar(result: Path) -> dict[str, Any]:
    path = sidecar_of(result)
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MediaError("bad-sidecar", f"{path} cannot be read: {error}", "Delete it, or stabilize again.") from error
    return found if isinstance(found, dict) else {}


def _metrics(measurement: Measurement, original: Measurement) -> dict[str, Any]:
    if measurement.error:
        return {"values": {}, "input": {}, "reasons": {}, "notes": [measurement.error]}
    return {
        "values": measurement.values,
        "input": original.values,
        "reasons": measurement.reasons,
        "notes": measurement.notes,
    }


def _paths(sidecar: dict[str, Any]) -> dict[str, dict[str, list[float]]] | None:
    """Yaw, pitch, roll in degrees and x, y, z in scene units of both paths, as the first measured camera sees them."""
    if not all("world_from_camera" in sidecar.get(name, {}) for name in ("measured", "smoothed")):
        return None
    from scipy.spatial.transform import Rotation

    cameras = {name: np.asarray(sidecar[name]["world_from_camera"], float)[:, :3] for name in ("measured", "smoothed")}
    first = cameras["measured"][0]
    paths = {}
    for name, camera in cameras.items():
        turned = Rotation.from_matrix(first[:, :3].T @ camera[:, :, :3]).as_euler("YXZ", degrees=True)
        moved = (camera[:, :, 3] - first[:, 3]) @ first[:, :3]
        columns = np.hstack([np.degrees(np.unwrap(np.radians(turned), axis=0)), moved]).T
        paths[name] = dict(zip(("yaw", "pitch", "roll", "x", "y", "z"), np.round(columns, 5).tolist(), strict=True))
    return paths


def _asset(name: str) -> str:
    return (resources.files("vs3r_engine.evaluation") / "assets" / name).read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    """For HTML; what a file name holds that is no text becomes a question mark."""
    return text.encode(errors="replace").decode().replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
