# SPDX-License-Identifier: Apache-2.0
"""`make bench CLIPS=folder`: every stabilizer on every clip in one run, measured, into BENCHMARKS.md and a plot.

python -m vs3r_engine.evaluation.bench CLIPS [--report BENCHMARKS.md] [--keep FOLDER] [--speed-only | --no-speed]
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vs3r_engine import __version__
from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.evaluation.baselines import OURS, Cost, Stabilizer, run, stabilizers
from vs3r_engine.evaluation.bench_measuring import measured_clips
from vs3r_engine.evaluation.bench_page import placed
from vs3r_engine.evaluation.bench_report import report
from vs3r_engine.evaluation.pairs import VIDEO_SUFFIXES

MAKER = "make bench"
SPEED_SIZES = ((1920, 1080), (854, 480))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code."""
    options = _parsed(arguments)
    keep = Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="vs3r-bench-"))
    page = Path(options.report)
    try:
        placed("", page, MAKER)  # A page that cannot be written is refused before hours of work, not after.
        clips = clips_in(Path(options.clips))
        chosen = stabilizers(options.set, options.vidstab_python)
        outcome: dict[str, Any] = json.loads((keep / "outcome.json").read_text()) if (keep / "outcome.json").exists() else {}
        outcome |= {
            "machine": machine(),
            "command": "make bench CLIPS=folder",
            "skipped": {s.label: s.missing for s in chosen if s.missing},
            "stabilizers": {s.name: s.label for s in chosen if not s.missing},
            "settings": list(options.set),
            "reused": options.reuse != "none",
        }
        if not options.speed_only:
            outcome |= compare(clips, chosen, keep, options.jobs, options.reuse)
        if not options.no_speed:
            outcome["speed"] = speed(clips, chosen, keep, options.repeat)
        keep.mkdir(parents=True, exist_ok=True)
        (keep / "outcome.json").write_text(json.dumps(outcome, indent=1))
        if "clips" not in outcome:  # the page's measurements of clips are not to be lost for a look at the speed
            print(report(outcome, None))
            return 0
        from vs3r_engine.evaluation.bench_plot import plot

        page.write_text(placed(report(outcome, plot(outcome, page.with_suffix(".svg"))), page, MAKER), encoding="utf-8")
    except VS3RError as error:
        print(str(error), file=sys.stderr)
        return error.exit_code
    finally:
        if not options.keep:
            shutil.rmtree(keep, ignore_errors=True)
    print(page)
    return 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vs3r_engine.evaluation.bench", description="Compare with other stabilizers.")
    parser.add_argument("clips", help="folder with shaky clips")
    parser.add_argument("--report", default="BENCHMARKS.md", help="Markdown page whose measured part is replaced; the plot goes beside it")
    parser.add_argument("--keep", help="keep results and measurements in this folder, and use them again where nothing changed")
    parser.add_argument("--set", action="append", default=[], help="a setting for VS3R, key=value; repeat for more")
    parser.add_argument(
        "--vidstab-python",
        default=os.environ.get("VIDSTAB_PYTHON"),
        help="interpreter that has the PyPI package vidstab",
    )
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="clips measured at once")
    parser.add_argument("--repeat", type=int, default=2, help="interleaved repetitions of the speed comparison")
    parser.add_argument(
        "--reuse",
        choices=("none", "baselines", "all"),
        default="none",
        help="with --keep: take what an earlier run left instead of running it again; all goes on after an interruption",
    )
    parser.add_argument(
        "--speed-only", action="store_true", help="no clips are compared; where --keep has no comparison either, speed is only printed"
    )
    parser.add_argument("--no-speed", action="store_true")
    return parser.parse_args(arguments)


def clips_in(folder: Path) -> list[Path]:
    """Every video directly in `folder`, by name. Raises: MediaError `no-clips`."""
    clips = sorted(path for path in folder.glob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    if not clips:
        raise MediaError("no-clips", f"{folder} holds no video.", "Give a folder of shaky clips: make bench CLIPS=folder.")
    return clips


def compare(clips: Sequence[Path], chosen: Sequence[Stabilizer], keep: Path, jobs: int, reuse: str) -> dict[str, Any]:
    """Run every stabilizer on every clip, one after another, then measure everything.

    reuse: "baselines" or "all" take results and costs that an earlier run left in `keep`; "none" runs everything.
    """
    keep.mkdir(parents=True, exist_ok=True)
    kept = keep / "costs.json"
    earlier: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    failures: dict[str, dict[str, str]] = {}
    outputs: dict[Path, dict[str, Path]] = {}
    for clip in clips:
        outputs[clip], failures[clip.stem] = {}, {}
        costs = earlier.setdefault(clip.stem, {})
        for stabilizer in (s for s in chosen if not s.missing):
            name, output = stabilizer.name, keep / clip.stem / f"{stabilizer.name}.mp4"
            outputs[clip][name] = output
            if reuse != "none" and name in costs and output.exists() and (reuse == "all" or name != OURS):
                continue
            _say(f"{clip.stem}: {stabilizer.label}")
            costs.pop(name, None)
            try:
                costs[name] = asdict(run(stabilizer, clip.resolve(), output.resolve(), (keep / "scratch").resolve()))
            except VS3RError as error:
                failures[clip.stem][name] = error.message
                del outputs[clip][name]
            kept.write_text(json.dumps(earlier))
    measured = measured_clips(outputs, keep / "measured", jobs, _say)
    return {"clips": {clip.stem: {"costs": earlier[clip.stem], "failures": failures[clip.stem], **measured[clip]} for clip in clips}}


def speed(clips: Sequence[Path], chosen: Sequence[Stabilizer], keep: Path, repeats: int) -> dict[str, Any]:
    """Cost of ours and of vidstab's two passes at each size, in turns: both meet the same machine. Each size is that of the
    clip nearest to it, and of those the longest, scaled."""
    from vs3r_engine.evaluation.reading import facts, pictures

    ffmpeg = shutil.which("ffmpeg")
    rivals = [s for s in chosen if s.name in (OURS, "vidstab") and not s.missing]
    if ffmpeg is None or len(rivals) < 2:
        return {"skipped": "ffmpeg with vidstab is not installed, so there is nothing to compare the speed with."}
    scratch = (keep / "scratch").resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    rounds = []
    for width, height in SPEED_SIZES:
        clip = min(clips, key=lambda c: (abs(facts(c).height - height), -(facts(c).frame_count or 0)))
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
                costs[stabilizer.name].append(run(stabilizer, source, scratch / f"{stabilizer.name}_{height}.mp4", scratch))
        rounds.append(
            {
                "clip": clip.stem,
                "width": width,
                "height": height,
                "frames": frames,
                "costs": {n: [asdict(c) for c in cs] for n, cs in costs.items()},
            }
        )
        source.unlink()
    return {"rounds": rounds}


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import cv2
    import psutil

    memory_gib = psutil.virtual_memory().total / 2**30
    ffmpeg = shutil.which("ffmpeg")
    said = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=False).stdout.splitlines() if ffmpeg else []
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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
