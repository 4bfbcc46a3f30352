# SPDX-License-Identifier: Apache-2.0
"""Measures what bench.py made, in parallel and file by file: what is measured stays, until a file or the meaning changes."""

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
from vs3r_engine.evaluation.flow import best_flow
from vs3r_engine.evaluation.measure import Choice, Measurement, measure, warping_in_common
from vs3r_engine.evaluation.perceptual import lpips
from vs3r_engine.evaluation.reading import facts

MEANING = 4
"""Goes up when a stored measurement would no longer mean the same."""
EVERY = 5
"""All but path and inter-frame metrics look at every fifth frame, as LPIPS does in the paper: measuring takes far
longer than stabilizing otherwise."""
RIVALS = (OURS, "vidstab", "vidstab-30")
"""Whose common area is compared: ours and the baseline people use, not every baseline at once."""


def measured_clips(
    outputs: Mapping[Path, Mapping[str, Path]], store: Path, jobs: int, told: Callable[[str], None]
) -> dict[Path, dict[str, Any]]:
    """For each clip its picture, the input's own path metrics, and every result's Measurement as plain data."""
    store.mkdir(parents=True, exist_ok=True)
    results = [(clip, path) for clip, made in outputs.items() for path in (clip, *made.values())]
    # A fork of a process whose OpenCV has started threads would wait for them for ever.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _quiet) as pool:
        tasks = {pool.submit(measured_file, clip, path, store): (clip, path) for clip, path in results}
        for count, task in enumerate(as_completed(tasks), 1):
            clip, path = tasks[task]
            task.result()
            told(f"measured {count}/{len(results)}: {clip.stem}, {'input' if path == clip else path.stem}")
        found = pool.map(_clip, outputs, outputs.values(), [store] * len(outputs))
        return dict(zip(outputs, found, strict=True))


def measured_file(clip: Path, path: Path, store: Path) -> Measurement:
    """The Measurement of one result, or of the clip itself where `path` is the clip; from `store` when it is there."""
    choice = _choice()
    kept = store / f"{MEANING}-{choice.lpips is not None}-{_digest(clip)}-{_digest(path)}.json"
    if not kept.exists():
        if path == clip:
            found = measure(clip, {}, choice)["input"]
        else:
            found = measure(clip, {"result": path}, choice, with_input=False)["result"]
        temporary = kept.with_suffix(".part")
        temporary.write_text(json.dumps(asdict(found)))
        temporary.replace(kept)
    return Measurement(**json.loads(kept.read_text()))


def _clip(clip: Path, made: Mapping[str, Path], store: Path) -> dict[str, Any]:
    measured = {name: measured_file(clip, path, store) for name, path in made.items()}
    rivals = [name for name in RIVALS if name in measured and not measured[name].error]
    if OURS in rivals and len(rivals) > 1:
        common = warping_in_common({name: made[name] for name in rivals}, measured, _choice())
        measured |= {
            name: replace(measured[name], values=measured[name].values | {"warping_common_e3": value}) for name, value in common.items()
        }
    source = facts(clip)
    return {
        "picture": {"width": source.width, "height": source.height, "rate": float(source.rate)},
        "input": measured_file(clip, clip, store).values,
        "measured": {name: asdict(replace(m, registration=[])) for name, m in measured.items()},
    }


def _choice() -> Choice:
    network, reason = lpips()
    return Choice(True, EVERY, *best_flow(), network, reason, published_small=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _quiet() -> None:
    """Measuring yields to whatever else runs, one thread a process."""
    import cv2

    cv2.setNumThreads(1)
    if hasattr(os, "nice"):
        os.nice(5)
