# SPDX-License-Identifier: Apache-2.0
"""BENCHMARKS.md and its plot from what bench.py measured. Losses are printed as plainly as wins."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vs3r_engine.evaluation.baselines import OURS
from vs3r_engine.evaluation.bench_measuring import SAMPLES
from vs3r_engine.evaluation.tables import METRICS, Metric, markdown, marked, mean, metric

Outcome = dict[str, Any]
Value = Callable[[str, str], float | None]


def report(outcome: Outcome, picture: str | None) -> str:
    """The whole page."""
    machine = outcome["machine"]
    parts = [
        "# Benchmarks\n",
        f"Made by `{outcome['command']}` (VS3R {machine['vs3r']}"
        + (f", settings {', '.join(outcome['settings'])}" if outcome["settings"] else ", default settings")
        + f"). {machine['system']} ({machine['processor']}); {machine['ffmpeg']}; OpenCV {machine['opencv']}; "
        + f"Python {machine['python']}. Every stabilizer ran in the same run on the same clips and wrote H.264 with "
        "x264 `veryfast`, CRF 18, no sound.\n",
    ]
    if outcome.get("reused"):
        parts.append("The baselines' results and costs are those of an earlier run on this machine.\n")
    parts += [f"Skipped: {label}. {reason}\n" for label, reason in outcome["skipped"].items()]
    if "clips" in outcome:
        if picture:
            parts.append(f"![Remaining jitter of every clip, and against the view that is kept]({picture})\n")
        parts += [_against_vidstab(outcome), _ours_beside_best(outcome), _means(outcome), _failures(outcome)]
    if "speed" in outcome:
        parts.append(_speed(outcome))
    if "clips" in outcome:
        parts += [_costs(outcome), _per_clip(outcome), _definitions()]
    return "\n".join(part for part in parts if part)


def _value(outcome: Outcome, key: str) -> Value:
    return lambda clip, name: outcome["clips"][clip]["measured"].get(name, {}).get("values", {}).get(key)


def _names(outcome: Outcome) -> list[str]:
    return [name for name in outcome["stabilizers"] if any(name in clip["measured"] for clip in outcome["clips"].values())]


def _shown(outcome: Outcome) -> list[Metric]:
    return [
        m for m in METRICS if any(_value(outcome, m.key)(clip, name) is not None for clip in outcome["clips"] for name in _names(outcome))
    ]


def _against_vidstab(outcome: Outcome) -> str:
    """Ours against the better of vidstab's two settings, clip by clip."""
    clips = outcome["clips"]
    rivals = [name for name in ("vidstab", "vidstab-30") if name in _names(outcome)]
    if not rivals or OURS not in _names(outcome):
        return ""

    def count(key: str, holds: Callable[[float, float], bool]) -> str:
        value, good, lost, compared = _value(outcome, key), 0, [], 0
        for clip in clips:
            ours, theirs = value(clip, OURS), [v for v in (value(clip, name) for name in rivals) if v is not None]
            if ours is None or not theirs:
                continue
            compared += 1
            best = (max if metric(key).higher_is_better else min)(theirs)
            if holds(ours, best):
                good += 1
            else:
                lost.append(f"{clip} ({metric(key).text(ours)} against {metric(key).text(best)})")
        return f"{good} of {compared}" + (f"; not {', '.join(lost)}" if lost else "")

    def each(key: str, least: float) -> str:
        value = _value(outcome, key)
        low = [f"{clip} ({metric(key).text(value(clip, OURS))})" for clip in clips if (value(clip, OURS) or 0) < least]
        return f"{len(clips) - len(low)} of {len(clips)}" + (f"; not {', '.join(low)}" if low else "")

    rows = [
        ("Remaining jitter at most theirs", count("jitter_px", lambda a, b: a <= b)),
        ("Path acceleration at most theirs", count("acceleration_px", lambda a, b: a <= b)),
        ("Published stability at least theirs", count("stability_published", lambda a, b: a >= b)),
        ("Warping error, in the area both show, not above theirs", count("warping_common_e3", lambda a, b: a <= b)),
        ("Epipolar error at most 1.1 x theirs", count("epipolar_px2", lambda a, b: a <= 1.1 * b)),
        ("Cropping ratio at least 0.99", each("cropping", 0.99)),
        ("Sharpness at least 0.95 of the source's", each("sharpness", 0.95)),
    ]
    return "## Against vidstab\n\nOn each clip the better of its default and of `smoothing=30`, metric by metric.\n\n" + markdown(
        ("", "clips"), rows
    )


def _ours_beside_best(outcome: Outcome) -> str:
    rows = []
    for m in _shown(outcome):
        value = _value(outcome, m.key)
        means = {name: mean(value(clip, name) for clip in outcome["clips"]) for name in _names(outcome)}
        ours = means.pop(OURS, None)
        known = {name: v for name, v in means.items() if v is not None}
        if ours is None or not known or m.higher_is_better is None:
            continue
        best = (max if m.higher_is_better else min)(known, key=lambda name: known[name])
        verdicts = [
            m.better(a, b) for a, b in ((value(c, OURS), value(c, best)) for c in outcome["clips"]) if a is not None and b is not None
        ]
        rows.append(
            (
                m.label,
                m.text(ours),
                m.text(known[best]),
                outcome["stabilizers"][best],
                {1: "better", 0: "equal", -1: "**worse**"}[m.better(ours, known[best])],
                f"{verdicts.count(1)} / {verdicts.count(0)} / {verdicts.count(-1)}",
            )
        )
    header = (
        "metric, mean over clips",
        "VS3R",
        "best baseline",
        "which",
        "VS3R is",
        "clips better / within 1 % / worse",
    )
    return "## VS3R beside the best baseline of each metric\n\n" + markdown(header, rows)


def _means(outcome: Outcome) -> str:
    names = _names(outcome)
    rows = []
    for m in _shown(outcome):
        value = _value(outcome, m.key)
        texts = marked({name: mean(value(clip, name) for clip in outcome["clips"]) for name in names}, m)
        before = mean(clip["input"].get(m.key) for clip in outcome["clips"].values())
        rows.append((m.label, m.text(before), *(texts[name] for name in names)))
    header = ("mean over clips", "input", *(outcome["stabilizers"][name] for name in names))
    return "## Means\n\n" + markdown(header, rows)


def _failures(outcome: Outcome) -> str:
    lines = []
    for stem, clip in outcome["clips"].items():
        lines += [f"- {stem}, {outcome['stabilizers'].get(name, name)}: {text}" for name, text in clip["failures"].items()]
        lines += [
            f"- {stem}, {outcome['stabilizers'].get(name, name)}: {m['error']}" for name, m in clip["measured"].items() if m.get("error")
        ]
    return "## What failed\n\n" + "\n".join(lines) + "\n" if lines else ""


def _speed(outcome: Outcome) -> str:
    found = outcome["speed"]
    if "skipped" in found:
        return f"## Speed\n\n{found['skipped']}\n"
    rows = []
    for row in found["rounds"]:
        least = {name: {key: min(c[key] for c in costs) for key in ("cpu_s", "wall_s", "peak_mib")} for name, costs in row["costs"].items()}
        ours, theirs = least[OURS], least["vidstab"]
        rows.append(
            (
                f"{row['width']}x{row['height']}, {row['frames']} frames",
                f"{1000 * ours['cpu_s'] / row['frames']:.0f}",
                f"{1000 * theirs['cpu_s'] / row['frames']:.0f}",
                f"{ours['cpu_s'] / theirs['cpu_s']:.2f}",
                f"{ours['wall_s'] / theirs['wall_s']:.2f}",
                f"{ours['peak_mib']:.0f}",
                f"{theirs['peak_mib']:.0f}",
            )
        )
    header = (
        "clip",
        "VS3R, CPU ms per frame",
        "vidstab, CPU ms per frame",
        "CPU ratio",
        "wall ratio",
        "VS3R, MiB",
        "vidstab, MiB",
    )
    return (
        f"## Speed\n\nWhole processes, decoding and encoding included: {found['clip']} scaled to each size, VS3R with "
        "full-frame fill against vidstab's two passes, in turns; the least of "
        f"{len(found['rounds'][0]['costs'][OURS])} rounds each. Below 1 VS3R is faster. Memory is the largest process."
        + "\n\n"
        + markdown(header, rows)
    )


def _costs(outcome: Outcome) -> str:
    names = _names(outcome)
    rows = []
    for stem, clip in outcome["clips"].items():
        basis = clip["costs"].get("vidstab")
        if basis is None:
            continue

        def text(name: str, costs: dict[str, Any] = clip["costs"], basis: dict[str, float] = basis) -> str:
            if name not in costs:
                return "–"
            cost = costs[name]
            cpu, wall = cost["cpu_s"] / basis["cpu_s"], cost["wall_s"] / basis["wall_s"]
            return f"{cpu:.2f} / {wall:.2f} / {cost['peak_mib']:.0f}"

        rows.append((stem, f"{basis['cpu_s']:.1f}", *(text(name) for name in names)))
    if not rows:
        return ""
    header = ("clip", "vidstab, CPU s", *(outcome["stabilizers"][name] for name in names))
    return "## Cost of every clip\n\nCPU time and wall time as ratios to vidstab's two passes / largest process, MiB.\n\n" + markdown(
        header, rows
    )


def _per_clip(outcome: Outcome) -> str:
    names, parts = _names(outcome), ["## Clip by clip\n"]
    for m in _shown(outcome):
        value = _value(outcome, m.key)
        rows = []
        for stem, clip in outcome["clips"].items():
            texts = marked({name: value(stem, name) for name in names}, m)
            rows.append((stem, m.text(clip["input"].get(m.key)), *(texts[name] for name in names)))
        texts = marked({name: mean(value(stem, name) for stem in outcome["clips"]) for name in names}, m)
        rows.append(
            (
                "mean",
                m.text(mean(c["input"].get(m.key) for c in outcome["clips"].values())),
                *(texts[name] for name in names),
            )
        )
        parts.append(f"### {m.label}\n\n" + markdown(("clip", "input", *(outcome["stabilizers"][name] for name in names)), rows))
    return "\n".join(parts)


def _definitions() -> str:
    return (
        "## What the numbers mean\n\n"
        "The exact definitions are the docstrings of `vs3r_engine/evaluation/metrics.py`. Pixels are those of a "
        "picture 640 wide. Remaining jitter is the RMS of the picture's path above 0.5 Hz, path acceleration the mean "
        "length of its second difference. What is called published is what the paper's own evaluation code computes, "
        "faults included, on pictures of that width and with the homographies of the path's tracks. All but the path's "
        f"metrics look at about {SAMPLES} frames of a clip, evenly spread, and the frame before each: the published epipolar "
        "error, which wrong matches rule, is a rough number then. "
        "Warping error in the area all show is over what VS3R and both vidstab settings show of the current frame; it "
        "and PSNR favour soft pictures, so read them with the sharpness. Bold is best; – means there is no such value, "
        "as the flicker of filled areas where nothing is filled, or LPIPS without its backbone's weights. Some "
        "baselines repeat old picture at their borders: that counts as filled, not as empty.\n"
    )


def plot(outcome: Outcome, target: Path) -> str | None:
    """Draw remaining jitter against kept picture, clip by clip; the file's name, or None without matplotlib."""
    if "clips" not in outcome:
        return None
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vs3r"
    from matplotlib import pyplot

    names = _names(outcome)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.6), constrained_layout=True)
    colours = ["#d1495b", "#1d3557", "#457b9d", "#a8c5da", "#8d99ae", "#c9ada7"]
    clips = list(outcome["clips"])
    width = 0.8 / (len(names) + 1)
    for k, name in enumerate(["input", *names]):
        value = _value(outcome, "jitter_px")
        heights = [outcome["clips"][c]["input"].get("jitter_px") if name == "input" else value(c, name) for c in clips]
        left.bar(
            [i + (k - len(names) / 2) * width for i in range(len(clips))],
            [h or 0 for h in heights],
            width,
            color="#dddddd" if name == "input" else colours[(k - 1) % len(colours)],
            label="input" if name == "input" else outcome["stabilizers"][name],
        )
    left.set_xticks(range(len(clips)), clips, rotation=30, ha="right", fontsize=8)
    left.set_yscale("log")
    left.set_ylabel("remaining jitter, px at width 640 (log)")
    left.legend(fontsize=7)
    for k, name in enumerate(names):
        points = [
            (
                _value(outcome, "cropping")(c, name),
                _value(outcome, "jitter_px")(c, name),
                outcome["clips"][c]["input"].get("jitter_px"),
            )
            for c in clips
        ]
        known = [(a, b / before) for a, b, before in points if a is not None and b is not None and before]
        right.scatter(
            [a for a, _ in known],
            [b for _, b in known],
            color=colours[k % len(colours)],
            label=outcome["stabilizers"][name],
            s=28,
        )
    right.set_xlabel("cropping ratio: share of the view that is kept")
    right.set_ylabel("remaining jitter / input's jitter")
    right.legend(fontsize=7)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return target.name
