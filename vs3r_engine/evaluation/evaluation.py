# SPDX-License-Identifier: Apache-2.0
"""Folders of results against a folder of originals: in parallel, resumable, in bounded memory; as CSV, JSON, Markdown.

Every finished pair is one line of evaluation.jsonl at once; a later run measures only what is new or has changed.
"""

import csv
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from vs3r_engine.errors import MediaError, VS3RError
from vs3r_engine.evaluation.pairs import Pair, Pairing
from vs3r_engine.evaluation.tables import METRICS, PUBLISHED_COLUMNS, markdown, mean, metric

SCHEMA = 2
TASKS_PER_PROCESS = 100
"""A worker is replaced after so many pairs, so that nothing a decoder leaks adds up."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measured pair. label: of the folder of results. key: changes when the files or what is measured change."""

    label: str
    name: str
    category: str
    key: str
    values: dict[str, float | None]
    reasons: dict[str, str]
    notes: list[str]
    flow: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What to measure of every pair: see measure.Choice."""

    published: bool = True
    every: int = 1
    quick: bool = False


Measuring = Callable[[Pair, Asked], dict[str, Any]]
"""values, reasons, notes, flow and error of one pair's Measurement; a module's function, for it runs elsewhere."""


def measured_pair(pair: Pair, asked: Asked) -> dict[str, Any]:
    """The Measurement of one pair as a Row wants it; what cannot be read is its `error`."""
    import cv2

    from vs3r_engine.evaluation.flow import best_flow
    from vs3r_engine.evaluation.measure import measure
    from vs3r_engine.evaluation.measurement import Choice
    from vs3r_engine.evaluation.perceptual import lpips

    cv2.setNumThreads(1)
    network, reason = lpips()
    choice = Choice(asked.published, asked.every, *best_flow(), network, reason, asked.quick)
    try:
        found = measure(pair.original, {"result": pair.result}, choice)["result"]
    except VS3RError as error:
        return failure(str(error))
    return {name: getattr(found, name) for name in ("values", "reasons", "notes", "flow", "error")}


def failure(reason: str) -> dict[str, Any]:
    """What stands for the Measurement of a pair that could not be measured."""
    return {"values": {}, "reasons": {}, "notes": [], "flow": "", "error": reason}


def evaluate(
    pairings: Sequence[Pairing],
    folder: Path,
    asked: Asked,
    *,
    jobs: int,
    measuring: Measuring = measured_pair,
    told: Callable[[int, int, Row], None] | None = None,
) -> list[Row]:
    """Measure every pair and keep the rows in folder/evaluation.jsonl; the rows of all pairs, in order.

    told: called with (done, total, row) as rows become known. Raises: MediaError `output-unwritable`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError("output-unwritable", f"The folder {folder} cannot be made: {error.strerror}.", "Name another with -o.") from error
    log = folder / "evaluation.jsonl"
    known = {(row.label, row.name, row.key): row for row in _rows(log)}
    tasks = [(pairing.label, pair, _key(pair, asked)) for pairing in pairings for pair in pairing.pairs]
    rows = {(label, pair.name): known[label, pair.name, key] for label, pair, key in tasks if (label, pair.name, key) in known}
    waiting = [task for task in tasks if (task[0], task[1].name) not in rows]
    done = len(rows)
    with log.open("a", encoding="utf-8") as kept:
        for (label, pair, key), found in _in_parallel(waiting, asked, jobs, measuring):
            row = Row(label, pair.name, pair.category, key, **found)
            kept.write(json.dumps(asdict(row)) + "\n")
            kept.flush()
            rows[label, pair.name] = row
            done += 1
            if told:
                told(done, len(tasks), row)
    return [rows[label, pair.name] for label, pair, _ in tasks]


def _in_parallel(
    tasks: Sequence[tuple[str, Pair, str]], asked: Asked, jobs: int, measuring: Measuring
) -> Iterator[tuple[tuple[str, Pair, str], dict]]:
    """Results as they come; never more than a few tasks are handed out. A file that kills its process is an error."""
    left = list(reversed(tasks))
    suspects: list[tuple[str, Pair, str]] = []
    while left:
        running: dict[Future, tuple[str, Pair, str]] = {}
        with _pool(jobs) as pool:
            try:
                while left or running:
                    while left and len(running) < 2 * jobs:
                        task = left.pop()
                        running[pool.submit(measuring, task[1], asked)] = task
                    finished, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in finished:
                        found = future.result()
                        yield running.pop(future), found
            except BrokenProcessPool:
                suspects += running.values()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    for task in suspects:
        with _pool(1) as pool:
            try:
                yield task, pool.submit(measuring, task[1], asked).result()
            except BrokenProcessPool:
                yield task, failure("Measuring it ended its process. [crashed]")


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=TASKS_PER_PROCESS)


def _key(pair: Pair, asked: Asked) -> str:
    stamps = [f"{s.st_size}-{s.st_mtime_ns}" for s in (os.stat(pair.original), os.stat(pair.result))]
    return "/".join([str(SCHEMA), *stamps, f"{asked.published}-{asked.every}-{asked.quick}"])


def _rows(log: Path) -> Iterator[Row]:
    """Rows of an earlier run; a line that was cut off by an interruption does not count."""
    if not log.exists():
        return
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield Row(**json.loads(line))
            except (ValueError, TypeError):
                continue


def write_tables(rows: Sequence[Row], pairings: Sequence[Pairing], folder: Path, *, paper: bool) -> list[Path]:
    """results.csv (a line per pair), results.json (everything) and results.md (as the paper's Table 1)."""
    keys = [m.key for m in METRICS if any(m.key in row.values for row in rows)]
    table = folder / "results.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "category", "clip", *keys, "notes", "error"])
        for row in rows:
            writer.writerow(
                [
                    row.label,
                    row.category,
                    row.name,
                    *("" if row.values.get(k) is None else row.values[k] for k in keys),
                    "; ".join(row.notes),
                    row.error or "",
                ]
            )
    everything = folder / "results.json"
    missing = {p.label: {"missing": p.missing, "extra": p.extra} for p in pairings}
    means = {label: {category or "all": _means(rows, label, category) for category in ("", *_categories(rows))} for label in _labels(rows)}
    everything.write_text(json.dumps({"schema": SCHEMA, "rows": [asdict(r) for r in rows], "means": means, "unpaired": missing}, indent=1))
    page = folder / "results.md"
    page.write_text(report(rows, pairings, paper=paper), encoding="utf-8")
    return [table, everything, page]


def report(rows: Sequence[Row], pairings: Sequence[Pairing], *, paper: bool) -> str:
    """Markdown: the total and every category in the layout of the paper's Table 1, all metrics, and what is missing."""
    parts = ["# Evaluation\n"]
    published = _paper_rows() if paper else []
    if any("cropping_published" in row.values for row in rows):
        for category in ("", *_categories(rows)):
            header = (
                _title(category),
                *(metric(key).label.replace(" (published)", "") for key in PUBLISHED_COLUMNS),
                "clips",
            )
            lines = [
                (
                    label,
                    *(metric(k).text(_means(rows, label, category).get(k)) for k in PUBLISHED_COLUMNS),
                    str(_count(rows, label, category)),
                )
                for label in _labels(rows)
            ]
            lines += [
                (f"*{method}, paper's Table {number}*", *values, "")
                for number, method, where, values in published
                if where == (_plain(category) or "all")
            ]
            parts.append(f"## {_title(category)}\n\n" + markdown(header, lines))
    others = [m for m in METRICS if m.key not in PUBLISHED_COLUMNS and any(row.values.get(m.key) is not None for row in rows)]
    header = ("mean of all clips", *_labels(rows))
    parts.append(
        "## Corrected and further metrics\n\n"
        + markdown(
            header,
            [(m.label, *(m.text(_means(rows, label, "").get(m.key)) for label in _labels(rows))) for m in others],
        )
    )
    reasons = sorted({f"{metric(key).label}: {reason}" for row in rows for key, reason in row.reasons.items() if key == "lpips"})
    parts += [f"- {reason}" for reason in reasons]
    parts += [f"- Dense flow: {flow}" for flow in sorted({row.flow for row in rows if row.flow})]
    trouble = [f"- {row.label}, {row.name}: {row.error}" for row in rows if row.error]
    trouble += [f"- {row.label}, {row.name}: {'; '.join(row.notes)}" for row in rows if row.notes]
    trouble += [f"- {p.label}: no result for {name}" for p in pairings for name in p.missing]
    trouble += [f"- {p.label}: no original for {name}" for p in pairings for name in p.extra]
    if trouble:
        parts.append("\n## Left out or remarked on\n\n" + "\n".join(trouble))
    return "\n".join(parts) + "\n"


def _labels(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row.label for row in rows))


def _categories(rows: Iterable[Row]) -> list[str]:
    return sorted({row.category for row in rows if row.category})


def _title(category: str) -> str:
    return category or "All categories"


def _plain(category: str) -> str:
    """A NUS folder's name as the paper's tables call it."""
    return {"quickrotation": "rotation", "quick_rotation": "rotation"}.get(category.lower(), category.lower())


def _of(rows: Iterable[Row], label: str, category: str) -> list[Row]:
    return [row for row in rows if row.label == label and not row.error and category in ("", row.category)]


def _count(rows: Iterable[Row], label: str, category: str) -> int:
    return len(_of(rows, label, category))


def _means(rows: Iterable[Row], label: str, category: str) -> dict[str, float | None]:
    """By metric; the total is the mean of the categories' means where there are categories, as in the paper."""
    inside = _of(rows, label, category)
    categories = _categories(inside)
    if not category and categories:
        each = [_means(inside, label, name) for name in categories]
        return {m.key: mean(values.get(m.key) for values in each) for m in METRICS}
    return {m.key: mean(row.values.get(m.key) for row in inside) for m in METRICS}


def _paper_rows() -> list[tuple[str, str, str, list[str]]]:
    """(table, method, category, values in the order of PUBLISHED_COLUMNS) as printed in the paper."""
    text = (resources.files("vs3r_engine.evaluation") / "assets" / "paper_tables.csv").read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines()[1:])
    return [(row[0], row[1], row[2], row[3:]) for row in rows]
