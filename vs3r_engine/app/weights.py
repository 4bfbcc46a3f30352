# SPDX-License-Identifier: Apache-2.0
"""`vs3r-engine weights`: what the networks need on this machine, fetched when a person asks, never in the middle of a
job."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from vs3r_engine.errors import WeightsMissing
from vs3r_engine.methods import weights

app = typer.Typer(no_args_is_help=True, help="List, fetch, verify, import and remove networks' weights.")

Name = Annotated[str, typer.Argument(help="Name of the weights, as `weights list` shows it.")]


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


@app.command("list")
def list_weights(as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False) -> None:
    """What exists, what is installed, and under which licence."""
    rows = []
    for entry in weights.manifest().values():
        record = weights.record(entry.name)
        rows.append(
            {
                "name": entry.name,
                "installed": record is not None,
                "gib": entry.gib,
                "purpose": entry.purpose,
                "licence": entry.licence,
                "commercial": entry.commercial,
                "gated": entry.gated,
                "source": entry.source,
                "revision": record["revision"] if record else entry.revision,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        state = "installed" if row["installed"] else "gated" if row["gated"] else "-"
        use = f"commercial use: {row['commercial']:<8}"
        print(f"{row['name']:<20} {state:<10} {row['gib']:>5g} GiB  {use} {row['purpose']}")
        print(f"{'':<20} {row['licence']}; {row['source']}")
    print(f"kept in {weights.weights_root()}", file=sys.stderr)


@app.command()
def fetch(name: Name) -> None:
    """Download weights (continues an interrupted download), verify and install them."""
    entry = weights.entry(name)
    _tell(f"{name}: {entry.gib:g} GiB, licence: {entry.licence}; commercial use: {entry.commercial}")
    print(weights.fetch(name, _tell))


@app.command("import")
def import_weights(name: Name, path: Annotated[Path, typer.Argument(exists=True, help="The file, or a directory with the files.")]) -> None:
    """Install weights from files on this machine, for machines without a network."""
    print(weights.import_files(name, path, _tell))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="One entry; all installed ones without it.")] = None,
) -> None:
    """Compare every installed file with its recorded size and sha256."""
    names = [weights.entry(name).name] if name else [n for n in weights.manifest() if weights.record(n)]
    wrong = {n: problems for n in names if (problems := weights.verify(n))}
    for n in names:
        print(f"{n}: {' '.join(wrong.get(n, ['as installed']))}")
    if wrong:
        raise WeightsMissing("weights-damaged", f"{', '.join(wrong)}: not as installed.", "Fetch or import them again.")


@app.command()
def remove(name: Name) -> None:
    """Delete weights from this machine."""
    print(f"{weights.remove(name) / 1024**3:.2f} GiB freed")


@app.command()
def prepare(name: Name) -> None:
    """Make the smaller or faster form that jobs load, once."""
    print(weights.prepare(name, _tell))
