# SPDX-License-Identifier: Apache-2.0
"""The measured part of BENCHMARKS.md from what bench.py found. Losses are printed as plainly as wins."""

from collections.abc import Callable
from typing import Any

from vs3r_engine.evaluation.baselines import OURS
from vs3r_engine.evaluation.bench_measuring import SAMPLES
from vs3r_engine.evaluation.tables import METRICS, Metric, markdown, marked, mean, metric

VERDICTS = {1: "better", 0: "equal", -1: "**worse**"}


class Outcome:
    """What was measured, by name: methods, clips, values. `data` is what bench.py keeps as outcome.json."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.clips: dict[str, Any] = data.get("clips", {})
        self.labels: dict[str, str] = data["stabilizers"]
        self.names = [name for name in self.labels if any(name in clip["measured"] for clip in self.clips.values())]

    def value(self, key: str, clip: str, name: str) -> float | None:
        """Of a clip's result, or of the clip itself where `name` is "input"."""
        return self.clips[clip]["measured"].get(name, {}).get("values", {}).get(key)

    def mean(self, key: str, name: str) -> float | None:
        """Over the clips; None for a method that lacks one on which ours has a value, for then they do not compare."""
        values = {clip: self.value(key, clip, name) for clip in self.clips}
        lacking = any(value is None and self.value(key, clip, OURS) is not None for clip, value in values.items())
        return None if lacking else mean(values.values())

    def metrics(self) -> list[Metric]:
        """Those that have a value anywhere."""
        return [m for m in METRICS if any(self.value(m.key, clip, name) is not None for clip in self.clips for name in self.names)]

    def best(self, of: Metric, values: dict[str, float | None]) -> tuple[str, float] | None:
        """The best baseline among `values` by name, and its value."""
        known = {name: v for name, v in values.items() if name != OURS and v is not None}
        if not known or of.higher_is_better is None:
            return None
        name = (max if of.higher_is_better else min)(known, key=lambda n: known[n])
        return name, known[name]

    def verdict(self, of: Metric, values: dict[str, float | None]) -> int | None:
        """1 when ours is better than the best baseline, -1 when worse, 0 within a percent; None without one of both."""
        ours, best = values.get(OURS), self.best(of, values)
        return None if ours is None or best is None else of.better(ours, best[1])


def report(data: dict[str, Any], picture: str | None) -> str:
    """The measured part of the page."""
    outcome, machine = Outcome(data), data["machine"]
    parts = [
        f"Made by `{data['command']}` (VS3R {machine['vs3r']}"
        + (f", settings {', '.join(data['settings'])}" if data["settings"] else ", default settings")
        + f"). {machine['system']} ({machine['processor']}); {machine['ffmpeg']}; OpenCV {machine['opencv']}; "
        + f"Python {machine['python']}. Every stabilizer ran on the same clips and wrote H.264 with "
        "x264 `veryfast`, CRF 18, no sound.\n",
    ]
    if data.get("reused"):
        parts.append("The baselines' results and costs are those of an earlier run on this machine.\n")
    parts += [f"Skipped: {label}. {reason}\n" for label, reason in data["skipped"].items()]
    if outcome.clips:
        if picture:
            parts.append(f"![Remaining jitter of every clip, and against the view that is kept]({picture})\n")
        parts += [_ours_beside_best(outcome), _against_vidstab(outcome), _means(outcome), _failures(outcome)]
    if "speed" in data:
        parts.append(_speed(data["speed"]))
    if outcome.clips:
        parts += [_costs(outcome), _per_clip(outcome), _definitions()]
    return "\n".join(part for part in parts if part)


def _ours_beside_best(outcome: Outcome) -> str:
    rows = []
    for m in outcome.metrics():
        means = {name: outcome.mean(m.key, name) for name in outcome.names}
        verdict, best = outcome.verdict(m, means), outcome.best(m, means)
        if verdict is None or best is None:
            continue
        each = [outcome.verdict(m, {name: outcome.value(m.key, clip, name) for name in outcome.names}) for clip in outcome.clips]
        known = [v for v in each if v is not None]
        wins = len(known) - known.count(-1)
        rows.append(
            (
                m.label,
                m.text(means[OURS]),
                m.text(best[1]),
                outcome.labels[best[0]],
                VERDICTS[verdict],
                f"{wins} of {len(known)}",
                f"{known.count(1)} / {known.count(0)} / {known.count(-1)}",
            )
        )
    if not rows:
        return ""
    header = (
        "metric",
        "VS3R, mean",
        "best baseline, mean",
        "which",
        "VS3R is",
        "clips on which VS3R is not worse than their best baseline",
        "clips better / within 1 % / worse",
    )
    return (
        "## VS3R beside the best baseline of each metric\n\nThe last two columns compare with whichever baseline is best on that "
        "clip in that metric: five methods against one.\n\n" + markdown(header, rows)
    )


def _against_vidstab(outcome: Outcome) -> str:
    """Ours against the better of vidstab's two settings, clip by clip."""
    rivals = [name for name in ("vidstab", "vidstab-30") if name in outcome.names]
    if not rivals or OURS not in outcome.names:
        return ""

    def count(key: str, holds: Callable[[float, float], bool]) -> str:
        good, lost, compared = 0, [], 0
        for clip in outcome.clips:
            ours, best = outcome.value(key, clip, OURS), outcome.best(metric(key), {n: outcome.value(key, clip, n) for n in rivals})
            if ours is None or best is None:
                continue
            compared += 1
            if holds(ours, best[1]):
                good += 1
            else:
                lost.append(f"{clip} ({metric(key).text(ours)} against {metric(key).text(best[1])})")
        return f"{good} of {compared}" + (f"; not {', '.join(lost)}" if lost else "")

    def each(key: str, least: float) -> str:
        values = {clip: value for clip in outcome.clips if (value := outcome.value(key, clip, OURS)) is not None}
        low = [f"{clip} ({metric(key).text(value)})" for clip, value in values.items() if value < least]
        return f"{len(values) - len(low)} of {len(values)}" + (f"; not {', '.join(low)}" if low else "")

    rows = [
        ("Remaining jitter at most theirs", count("jitter_px", lambda a, b: a <= b)),
        ("Path acceleration at most theirs", count("acceleration_px", lambda a, b: a <= b)),
        ("Stability at least theirs", count("stability", lambda a, b: a >= b)),
        ("Published stability at least theirs", count("stability_published", lambda a, b: a >= b)),
        ("Warping error, in the area both show, not above theirs", count("warping_common_e3", lambda a, b: a <= b)),
        ("The same, all as soft as the softest, not above theirs", count("warping_equal_e3", lambda a, b: a <= b)),
        ("Epipolar error, in the area both show, at most 1.1 x theirs", count("epipolar_common_px2", lambda a, b: a <= 1.1 * b)),
        ("Epipolar error at most 1.1 x theirs", count("epipolar_px2", lambda a, b: a <= 1.1 * b)),
        ("Cropping ratio at least 0.99", each("cropping", 0.99)),
        ("Sharpness at least 0.95 of the source's", each("sharpness", 0.95)),
    ]
    return "## Against vidstab\n\nOn each clip the better of its default and of `smoothing=30`, metric by metric.\n\n" + markdown(
        ("", "clips"), rows
    )


def _means(outcome: Outcome) -> str:
    rows = []
    for m in outcome.metrics():
        texts = marked({name: outcome.mean(m.key, name) for name in outcome.names}, m)
        rows.append((m.label, m.text(outcome.mean(m.key, "input")), *(texts[name] for name in outcome.names)))
    for label, of in (("CPU time against vidstab's two passes ↓", _cpu_ratio), ("Largest process, MiB ↓", _peak_mib)):
        numbers = {name: mean(of(clip["costs"], name) for clip in outcome.clips.values()) for name in outcome.names}
        texts = marked(numbers, Metric("", label, False, 0 if of is _peak_mib else 2))
        rows.append((label, "", *(texts[name] for name in outcome.names)))
    header = ("mean over clips", "input", *(outcome.labels[name] for name in outcome.names))
    return "## Means\n\n" + markdown(header, rows)


def _cpu_ratio(costs: dict[str, Any], name: str) -> float | None:
    return costs[name]["cpu_s"] / costs["vidstab"]["cpu_s"] if name in costs and "vidstab" in costs else None


def _peak_mib(costs: dict[str, Any], name: str) -> float | None:
    return costs[name]["peak_mib"] if name in costs else None


def _failures(outcome: Outcome) -> str:
    lines = []
    for stem, clip in outcome.clips.items():
        lines += [f"- {stem}, {outcome.labels.get(name, name)}: {text}" for name, text in clip["failures"].items()]
        lines += [f"- {stem}, {outcome.labels.get(name, name)}: {m['error']}" for name, m in clip["measured"].items() if m.get("error")]
    return "## What failed\n\n" + "\n".join(lines) + "\n" if lines else ""


def _speed(found: dict[str, Any]) -> str:
    if "skipped" in found:
        return f"## Speed\n\n{found['skipped']}\n"
    rows = []
    for row in found["rounds"]:
        least = {name: {key: min(c[key] for c in costs) for key in ("cpu_s", "wall_s", "peak_mib")} for name, costs in row["costs"].items()}
        ours, theirs = least[OURS], least["vidstab"]
        rows.append(
            (
                f"{row['clip']} at {row['width']}x{row['height']}, {row['frames']} frames",
                f"{1000 * ours['cpu_s'] / row['frames']:.0f}",
                f"{1000 * theirs['cpu_s'] / row['frames']:.0f}",
                f"{ours['cpu_s'] / theirs['cpu_s']:.2f}",
                f"{ours['wall_s'] / theirs['wall_s']:.2f}",
                f"{ours['peak_mib']:.0f}",
                f"{theirs['peak_mib']:.0f}",
            )
        )
    header = ("clip", "VS3R, CPU ms per frame", "vidstab, CPU ms per frame", "CPU ratio", "wall ratio", "VS3R, MiB", "vidstab, MiB")
    return (
        f"## Speed\n\nWhole processes, decoding and encoding included: the longest of the clips nearest in size, scaled to it, VS3R with "
        "full-frame fill against vidstab's two passes, in turns; the least of "
        f"{len(found['rounds'][0]['costs'][OURS])} rounds each. Below 1 VS3R is faster. Memory is the largest process."
        + "\n\n"
        + markdown(header, rows)
    )


def _costs(outcome: Outcome) -> str:
    rows = []
    for stem, clip in outcome.clips.items():
        costs = clip["costs"]
        if "vidstab" not in costs:
            continue
        cells = []
        for name in outcome.names:
            cpu, peak = _cpu_ratio(costs, name), _peak_mib(costs, name)
            cells.append("–" if cpu is None else f"{cpu:.2f} / {costs[name]['wall_s'] / costs['vidstab']['wall_s']:.2f} / {peak:.0f}")
        rows.append((stem, f"{costs['vidstab']['cpu_s']:.1f}", *cells))
    if not rows:
        return ""
    header = ("clip", "vidstab, CPU s", *(outcome.labels[name] for name in outcome.names))
    return "## Cost of every clip\n\nCPU time and wall time as ratios to vidstab's two passes / largest process, MiB.\n\n" + markdown(
        header, rows
    )


def _per_clip(outcome: Outcome) -> str:
    parts = ["## Clip by clip\n"]
    for m in outcome.metrics():
        rows = []
        by_row = {stem: {n: outcome.value(m.key, stem, n) for n in ("input", *outcome.names)} for stem in outcome.clips}
        by_row["mean"] = {n: outcome.mean(m.key, n) for n in ("input", *outcome.names)}
        for row, values in by_row.items():
            before = m.text(values.pop("input"))
            texts, verdict = marked(values, m), outcome.verdict(m, values)
            rows.append((row, before, *(texts[name] for name in outcome.names), "–" if verdict is None else VERDICTS[verdict]))
        header = ("clip", "input", *(outcome.labels[name] for name in outcome.names), "VS3R against the best baseline")
        parts.append(f"### {m.label}\n\n" + markdown(header, rows))
    return "\n".join(parts)


def _definitions() -> str:
    return (
        "## What the numbers mean\n\n"
        "The exact definitions are the docstrings of `vs3r_engine/evaluation/metrics.py`. Pixels are those of a "
        "picture 640 wide. Remaining jitter is the RMS of the picture's path above 0.5 Hz, path acceleration the mean "
        "length of its second difference. What is called published is what the paper's own evaluation code computes, "
        "faults included, on pictures of that width and with the homographies of the path's tracks. All but the path's "
        f"metrics look at about {SAMPLES} frames of a clip, evenly spread, and the frame before each: the epipolar errors, "
        "the published one above all, are rough numbers then: wrong matches rule them. "
        "The area all show is what VS3R and both vidstab settings show of the current frame, and the epipolar error in it is that of "
        "every frame. Warping error and PSNR favour soft pictures, so read them with the sharpness, and the "
        "warping error there with the one after it, for which every "
        "picture is blurred until its gradients have the energy of the softest result's."
        " Bold is best; better and worse are by more than one "
        "percent; – means there is no such value, "
        "as the flicker of filled areas where nothing is filled, LPIPS without its backbone's weights, or a mean over fewer clips "
        "than VS3R's. The input is measured as if it were a result: its own epipolar and warping errors are what its noise, its "
        "moving objects and the measuring leave of perfect pictures. Some "
        "baselines repeat old picture at their borders: that counts as filled, not as empty.\n"
    )
