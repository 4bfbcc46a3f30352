# SPDX-License-Identifier: Apache-2.0
"""The plot beside BENCHMARKS.md: remaining jitter of every clip, and against how much of the view is kept."""

from pathlib import Path
from typing import Any

from vs3r_engine.evaluation.bench_report import Outcome

_COLOURS = ("#d1495b", "#1d3557", "#457b9d", "#a8c5da", "#8d99ae", "#c9ada7")


def plot(data: dict[str, Any], target: Path) -> str | None:
    """Draw it as SVG; the file's name, or None without clips or without matplotlib."""
    outcome = Outcome(data)
    if not outcome.names:
        return None
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "vs3r"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    clips, columns = list(outcome.clips), ["input", *outcome.names]
    colour = {"input": "#dddddd"} | {name: _COLOURS[k % len(_COLOURS)] for k, name in enumerate(outcome.names)}
    label = {"input": "input"} | outcome.labels
    width = 0.8 / len(columns)
    for k, name in enumerate(columns):
        heights = [outcome.value("jitter_px", clip, name) or 0 for clip in clips]
        left.bar([i + (k + 0.5) * width - 0.4 for i in range(len(clips))], heights, width, color=colour[name], label=label[name])
    left.set_xticks(range(len(clips)), clips, rotation=30, ha="right", fontsize=8)
    left.set_yscale("log")
    left.set_ylabel("remaining jitter, px at width 640 (log): lower is better")
    for name in reversed(outcome.names):
        points = []
        for clip in clips:
            kept, jitter = outcome.value("cropping", clip, name), outcome.value("jitter_px", clip, name)
            before = outcome.value("jitter_px", clip, "input")
            if kept is not None and jitter is not None and before:
                points.append((kept, jitter / before))
        if points:
            right.scatter(*zip(*points, strict=True), color=colour[name], label=label[name], s=28, alpha=0.85)
    right.set_xlabel("cropping ratio, share of the view that is kept: right is better")
    right.set_ylabel("remaining jitter / input's jitter (log): lower is better")
    right.set_yscale("log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(columns), fontsize=8, frameon=False)
    figure.savefig(target, metadata={"Date": None})
    pyplot.close(figure)
    return target.name
