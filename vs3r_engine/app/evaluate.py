# SPDX-License-Identifier: Apache-2.0
"""`vs3r-engine evaluate` and `vs3r-engine compare`: results measured against their originals, and shown beside them."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    originals: Annotated[Path, typer.Argument(help="Folder of the original clips (NUS layout or any).")],
    results: Annotated[list[Path] | None, typer.Argument(help="Folders of results, paired by relative path.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the tables.")] = Path("evaluation"),
    jobs: Annotated[int, typer.Option(min=0, help="Clips measured at once; 0 = one for each core.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Measure every n-th frame, to be quicker.")] = 1,
    published: Annotated[bool, typer.Option(help="Also as the paper's own code measures.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="The published measures from pictures 640 wide, in the same pass.")] = False,
    paper: Annotated[bool, typer.Option("--paper", help="Print the paper's rows beside.")] = False,
    without: Annotated[list[str] | None, typer.Option(help="Stabilize without hybrid-mask or completion, and measure.")] = None,
    baseline: Annotated[bool, typer.Option("--baseline", help="Stabilize without hybrid mask and completion, and measure.")] = False,
    ablation: Annotated[bool, typer.Option("--ablation", help="All four rows of the paper's Table 2.")] = False,
    settings: Annotated[list[str] | None, typer.Option("--set", help="A setting for the variants, key=value.")] = None,
) -> None:
    """Measure results against their originals: results.csv, results.json and results.md.

    Run again, it measures only what is new. Files without a partner and unreadable files are listed, not fatal.
    """
    from vs3r_engine.errors import SettingsError
    from vs3r_engine.evaluation.ablation import stabilized, variant_label, variants
    from vs3r_engine.evaluation.evaluation import Asked, Row, write_tables
    from vs3r_engine.evaluation.evaluation import evaluate as measure_all
    from vs3r_engine.evaluation.pairs import paired

    chosen = variants(without or [], baseline=baseline, all_rows=ablation)
    if not results and not chosen:
        raise SettingsError("nothing-to-evaluate", "There is no folder of results.", "Name one, or ask for --ablation.")
    pairings = [paired(originals, folder, label) for folder, label in _labelled(results or [])]
    for left_out in chosen:
        folder = output / "variants" / variant_label(left_out).replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        for name, reason in stabilized(originals, folder, left_out, settings or [], _say).items():
            _say(f"{variant_label(left_out)}: {name} failed: {reason}")
        pairings.append(paired(originals, folder, variant_label(left_out)))

    def told(done: int, total: int, row: Row) -> None:
        _say(f"{done}/{total} {row.label}: {row.name}" + (f": {row.error}" if row.error else ""))

    rows = measure_all(pairings, output, Asked(published, every, quick), jobs=jobs or os.cpu_count() or 1, told=told)
    for pairing in pairings:
        for name in pairing.missing:
            _say(f"{pairing.label}: no result for {name}")
        for name in pairing.extra:
            _say(f"{pairing.label}: no original for {name}")
    for path in write_tables(rows, pairings, output, paper=paper):
        print(path)


def compare(
    original: Annotated[Path, typer.Argument(help="The clip as it was filmed.")],
    result: Annotated[Path, typer.Argument(help="The stabilized clip.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HTML file; default RESULT.compare.html.")] = None,
    metrics: Annotated[bool, typer.Option(help="Measure too; that takes longer than the page.")] = True,
    overwrite: Annotated[bool, typer.Option("-f", "--force", help="Overwrite the page.")] = False,
) -> None:
    """Write one HTML file that shows both clips beside each other, offline, and the same data as JSON."""
    from vs3r_engine.errors import MediaError
    from vs3r_engine.evaluation.compare import beside
    from vs3r_engine.evaluation.compare import compare as write_page

    usual = result.name + ".compare.html"
    page = output or result.with_name(usual)
    if page.is_dir():
        page = page / usual
    for target in (page, beside(page)):
        if target.exists() and not overwrite:
            raise MediaError("output-exists", f"{target} exists already.", "Add -f to overwrite it, or name another with -o.")
    write_page(original, result, page, with_metrics=metrics)
    print(page)


def _labelled(folders: list[Path]) -> list[tuple[Path, str]]:
    """Every folder with a label of its own: its name, or its whole path where names repeat."""
    names = [folder.resolve().name for folder in folders]
    return [(folder, name if names.count(name) == 1 else str(folder)) for folder, name in zip(folders, names, strict=True)]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
