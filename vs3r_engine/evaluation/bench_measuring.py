# SPDX-License-Identifier: Apache-2.0
"""Measures what bench.py made, clip by clip in parallel: what is measured stays, until a file or the meaning changes."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vs3r_engine.evaluation.baselines import OURS
from vs3r_engine.evaluation.common_area import epipolar_in_common, warping_in_common
from vs3r_engine.evaluation.flow import best_flow
from vs3r_engine.evaluation.measure import measure
from vs3r_engine.evaluation.measurement import Choice, Measurement
from vs3r_engine.evaluation.perceptual import lpips
from vs3r_engine.evaluation.reading import facts, pictures

MEANING = 6
"""Goes up when a stored measurement would no longer mean the same."""
SAMPLES = 20
"""All but the path's metrics look at about so many frames of a clip, evenly spread, and at the frame before each:
measuring takes far longer than stabilizing otherwise."""
RIVALS = ("input", OURS, "vidstab", "vidstab-30")
"""Whose common area is compared: the clip, ours and the baseline people use, not every baseline at once."""


def measured_clips(
    outputs: Mapping[Path, Mapping[str, Path]], store: Path, jobs: int, told: Callable[[str], None]
) -> dict[Path, dict[str, Any]]:
    """What `measured_clip` finds of each clip."""
    store.mkdir(parents=True, exist_ok=True)
    found = {}
    # A fork of a process whose OpenCV has started threads would wait for them for ever.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _quiet) as pool:
        tasks = {pool.submit(measured_clip, clip, made, store): clip for clip, made in outputs.items()}
        for count, task in enumerate(as_completed(tasks), 1):
            clip = tasks[task]
            found[clip] = task.result()
            told(f"measured {count}/{len(outputs)}: {clip.stem}")
    return {clip: found[clip] for clip in outputs}


def measured_clip(clip: Path, made: Mapping[str, Path], store: Path) -> dict[str, Any]:
    """The clip's picture, and the Measurement of each result as plain data; from `store` what is there.

    The clip itself is measured as if it were a result, "input": what shakes or is noisy in it is not a result's fault.
    """
    source = facts(clip)
    choice = _choice(clip, source.frame_count)
    files = {"input": clip, **made}
    stores = {name: _stored(store, choice, clip, path) for name, path in files.items()}
    missing = {name: path for name, path in files.items() if not stores[name].exists()}
    if missing:
        for name, measurement in measure(clip, missing, choice, with_input=False).items():
            _keep(stores[name], asdict(measurement))
    measured = {name: Measurement(**json.loads(kept.read_text())) for name, kept in stores.items()}
    rivals = {name: files[name] for name in RIVALS if name in measured and not measured[name].error}
    if {OURS, "vidstab"} <= set(rivals):
        kept = _stored(store, choice, clip, *rivals.values()).with_suffix(".common.json")
        if not kept.exists():
            epipolar = epipolar_in_common(clip, {name: path for name, path in rivals.items() if name != "input"}, choice)
            found = warping_in_common(rivals, measured, choice)
            _keep(kept, {name: values | {"epipolar_common_px2": epipolar.get(name)} for name, values in found.items()})
        for name, values in json.loads(kept.read_text()).items():
            measured[name] = replace(measured[name], values=measured[name].values | values)
    return {
        "picture": {"width": source.width, "height": source.height, "rate": float(source.rate)},
        "measured": {name: asdict(replace(m, registration=[])) for name, m in measured.items()},
    }


def _choice(clip: Path, known_frames: int | None) -> Choice:
    frames = known_frames or sum(1 for _ in pictures(clip))
    network, reason = lpips()
    return Choice(True, max(1, round(frames / SAMPLES)), *best_flow(), network, reason, quick=True)


def _stored(store: Path, choice: Choice, *files: Path) -> Path:
    """Where the measurement of these files is kept."""
    how = [str(MEANING), choice.flow_name.split()[0], str(choice.lpips is not None)]
    return store / ("-".join([*how, *map(_digest, files)]) + ".json")


def _keep(target: Path, data: Any) -> None:
    temporary = target.with_suffix(f".{os.getpid()}.part")
    temporary.write_text(json.dumps(data))
    temporary.replace(target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _quiet() -> None:
    """Measuring yields to whatever else runs, one thread a process."""
    import cv2

    cv2.setNumThreads(1)
    if hasattr(os, "nice"):
        os.nice(5)
