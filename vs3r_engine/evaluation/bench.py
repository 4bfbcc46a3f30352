# SPDX-License-Identifier: Apache-2.0
"""`make bench CLIPS=folder`: every stabilizer on every clip in one run, measured, as BENCHMARKS.md and a plot.

python -m vs3r_engine.evaluation.bench CLIPS [--report BENCHMARKS.md] [--keep FOLDER] [--speed-only | --no-speed]
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from vs3r_engine import __version__
from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.evaluation.baselines import OURS, Cost, Stabilizer, run, stabilizers
from vs3r_engine.evaluation.pairs import VIDEO_SUFFIXES

MEASURES = 3
"""Version of what is measured; goes up when a stored measurement would no longer mean the same."""
SPEED_SIZES = ((1920, 1080), (854, 480))
EVERY = 3
"""Frames between those that are measured: measuring takes far longer than stabilizing otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    options = _parsed(arguments)
    # Measuring yields to whatever else runs; what is timed runs as the user would run it.
    keep = Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="vs3r-bench-"))
    try:
        clips = clips_in(Path(options.clips))
        chosen = stabilizers(options.set, options.vidstab_python)
        outcome: dict[str, Any] = (
            json.loads((keep / "outcome.json").read_text()) if (keep / "outcome.json").exists() else {}
        )
        outcome |= {
            "machine": machine(),
            "command": "make bench CLIPS=folder",
            "skipped": {s.label: s.missing for s in chosen if s.missing},
            "stabilizers": {s.name: s.label for s in chosen if not s.missing},
            "settings": list(options.set),
            "reused": bool(options.reuse),
        }
        if not options.speed_only:
            outcome |= compare(clips, chosen, keep, options.jobs, reuse=options.reuse)
        if not options.no_speed:
            outcome["speed"] = speed(
                next((c for c in clips if "720" in c.stem), clips[0]), chosen, keep, options.repeat
            )
        keep.mkdir(parents=True, exist_ok=True)
        (keep / "outcome.json").write_text(json.dumps(outcome, indent=1))
        from vs3r_engine.evaluation.bench_report import plot, report

        written = Path(options.report)
        picture = plot(outcome, written.with_suffix(".svg"))
        written.write_text(report(outcome, picture))
    except VS3RError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    finally:
        if not options.keep:
            shutil.rmtree(keep, ignore_errors=True)
    print(written)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m vs3r_engine.evaluation.bench", description="Compare with other stabilizers."
    )
    parser.add_argument("clips", help="folder with shaky clips")
    parser.add_argument("--report", default="BENCHMARKS.md", help="Markdown file to write; the plot goes beside it")
    parser.add_argument(
        "--keep", help="keep results and measurements in this folder, and use them again where nothing changed"
    )
    parser.add_argument("--set", action="append", default=[], help="a setting for VS3R, key=value; repeat for more")
    parser.add_argument(
        "--vidstab-python",
        default=os.environ.get("VIDSTAB_PYTHON"),
        help="interpreter that has the PyPI package vidstab",
    )
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="clips measured at once")
    parser.add_argument("--repeat", type=int, default=2, help="interleaved repetitions of the speed comparison")
    parser.add_argument("--reuse", action="store_true", help="with --keep: do not run baselines again that ran before")
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--no-speed", action="store_true")
    return parser.parse_args(arguments)


def clips_in(folder: Path) -> list[Path]:
    """Every video directly in `folder`, by name. Raises: MediaError `no-clips`."""
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not clips:
        raise MediaError(
            "no-clips", f"{folder} holds no video.", "Give a folder of shaky clips: make bench CLIPS=folder."
        )
    return clips


def compare(
    clips: Sequence[Path], chosen: Sequence[Stabilizer], keep: Path, jobs: int, *, reuse: bool = False
) -> dict[str, Any]:
    """Run every stabilizer on every clip, one after another on the idle machine, then measure everything.

    reuse: take baselines' results and costs that an earlier run left in `keep`.
    """
    kept = keep / "costs.json"
    earlier: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if reuse and kept.exists() else {}
    costs: dict[str, dict[str, Any]] = {}
    failures: dict[str, dict[str, str]] = {}
    for clip in clips:
        costs[clip.stem], failures[clip.stem] = {}, {}
        for stabilizer in (s for s in chosen if not s.missing):
            output = keep / clip.stem / f"{stabilizer.name}.mp4"
            known = earlier.get(clip.stem, {}).get(stabilizer.name)
            if known and output.exists() and stabilizer.name != OURS:
                costs[clip.stem][stabilizer.name] = known
                continue
            _say(f"{clip.stem}: {stabilizer.label}")
            try:
                cost = run(stabilizer, clip.resolve(), output.resolve(), (keep / "scratch").resolve())
                costs[clip.stem][stabilizer.name] = asdict(cost)
            except VS3RError as error:
                failures[clip.stem][stabilizer.name] = error.message
            kept.write_text(json.dumps(earlier | costs))
    tasks = [
        (clip, {name: keep / clip.stem / f"{name}.mp4" for name in costs[clip.stem]}, keep / "measured")
        for clip in clips
    ]
    # A fork of a process whose OpenCV has started threads would wait for them for ever.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _quiet) as pool:
        measured = dict(
            zip([clip.stem for clip in clips], pool.map(measured_clip, *zip(*tasks, strict=True)), strict=True)
        )
    return {"clips": {stem: {"costs": costs[stem], "failures": failures[stem], **measured[stem]} for stem in measured}}


def measured_clip(clip: Path, results: dict[str, Path], store: Path) -> dict[str, Any]:
    """Measurements of all results of one clip; those of unchanged files come from `store`."""
    from vs3r_engine.evaluation.flow import best_flow
    from vs3r_engine.evaluation.measure import Choice, Measurement, measure, warping_in_common
    from vs3r_engine.evaluation.perceptual import lpips
    from vs3r_engine.evaluation.reading import facts

    network, reason = lpips()
    choice = Choice(True, EVERY, *best_flow(), network, reason)
    store.mkdir(parents=True, exist_ok=True)
    kept = {
        name: store / f"{MEASURES}-{bool(network)}-{_digest(clip)}-{_digest(path)}.json"
        for name, path in results.items()
    }
    missing = {name: path for name, path in results.items() if not kept[name].exists()}
    own = store / f"{MEASURES}-{_digest(clip)}.json"
    if missing or not own.exists():
        found = measure(clip, missing, choice)
        own.write_text(json.dumps(asdict(found.pop("input"))))
        for name, measurement in found.items():
            kept[name].write_text(json.dumps(asdict(measurement)))
    measured = {name: Measurement(**json.loads(path.read_text())) for name, path in kept.items()}
    # The area both show: of ours and the baseline people use, not of every baseline at once.
    rivals = [name for name in (OURS, "vidstab", "vidstab-30") if name in measured and not measured[name].error]
    if OURS in rivals and len(rivals) > 1:
        common = warping_in_common({name: results[name] for name in rivals}, measured, choice)
        measured |= {
            name: replace(measured[name], values=measured[name].values | {"warping_common_e3": value})
            for name, value in common.items()
        }
    source = facts(clip)
    _say(f"{clip.stem}: measured")
    return {
        "picture": {"width": source.width, "height": source.height, "rate": float(source.rate)},
        "input": json.loads(own.read_text())["values"],
        "measured": {name: asdict(replace(m, registration=[])) for name, m in measured.items()},
    }


def speed(clip: Path, chosen: Sequence[Stabilizer], keep: Path, repeats: int) -> dict[str, Any]:
    """Cost of ours and of vidstab's two passes on one clip at each size, in turns: both meet the same machine."""
    from vs3r_engine.evaluation.reading import facts, pictures

    ffmpeg = shutil.which("ffmpeg")
    rivals = [s for s in chosen if s.name in (OURS, "vidstab") and not s.missing]
    if ffmpeg is None or len(rivals) < 2:
        return {"skipped": "ffmpeg with vidstab is not installed, so there is nothing to compare the speed with."}
    scratch = (keep / "scratch").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    rounds = []
    for width, height in SPEED_SIZES:
        source = scratch / f"speed_{height}.mp4"
        scale = f"scale={width}:{height}:flags=lanczos,setsar=1"
        subprocess.run(
            [
                ffmpeg,
                "-nostats",
                "-loglevel",
                "error",
                "-y",
                "-i",
                str(clip),
                "-vf",
                scale,
                "-an",
                "-c:v",
                "libx264",
                "-preset",
                "veryfast",
                "-crf",
                "14",
                "-pix_fmt",
                "yuv420p",
                str(source),
            ],
            check=True,
        )
        frames = facts(source).frame_count or sum(1 for _ in pictures(source))
        costs: dict[str, list[Cost]] = {s.name: [] for s in rivals}
        for repeat in range(repeats):
            for stabilizer in rivals if repeat % 2 == 0 else reversed(rivals):
                _say(f"speed at {height} lines: {stabilizer.label}, round {repeat + 1}")
                costs[stabilizer.name].append(
                    run(stabilizer, source, scratch / f"{stabilizer.name}_{height}.mp4", scratch)
                )
        rounds.append(
            {
                "width": width,
                "height": height,
                "frames": frames,
                "costs": {n: [asdict(c) for c in cs] for n, cs in costs.items()},
            }
        )
        source.unlink()
    return {"clip": clip.stem, "rounds": rounds}


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import cv2
    import psutil

    memory_gib = psutil.virtual_memory().total / 2**30
    ffmpeg = shutil.which("ffmpeg")
    said = (
        subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=False).stdout.splitlines()
        if ffmpeg
        else []
    )
    return {
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB",
        "processor": _processor(),
        "vs3r": __version__,
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "ffmpeg": said[0].split(" Copyright")[0] if said else "not installed",
    }


def _processor() -> str:
    try:
        lines: Iterable[str] = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or "unknown",
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _quiet() -> None:
    import cv2

    cv2.setNumThreads(1)
    os.nice(5)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
