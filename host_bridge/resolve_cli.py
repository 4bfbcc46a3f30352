# SPDX-License-Identifier: Apache-2.0
"""`vs3r resolve`: puts the menu scripts into DaVinci Resolve, stabilizes its selection from outside, tells the status."""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from host_bridge import resolve
from vs3r_engine.errors import InputError, SetupError, VS3RError

resolve_app = typer.Typer(no_args_is_help=True, help="DaVinci Resolve Studio: menu scripts, and its selection from outside.")

AsJson = Annotated[bool, typer.Option("--json", help="Write NDJSON on standard output.")]


@resolve_app.command()
def install(
    all_users: Annotated[bool, typer.Option("--all-users", help="For everybody on this machine.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the scripts out again.")] = False,
    folder: Annotated[str, typer.Option(help="Resolve's Scripts folder, where it is not in its usual place.")] = "",
) -> None:
    """Put the VS3R scripts into Resolve's menu Workspace > Scripts."""
    target = Path(folder or scripts_folder(all_users)) / "Utility" / "VS3R"
    try:
        if remove:
            for script in menu_scripts():
                (target / script.name).unlink(missing_ok=True)
            if target.is_dir() and not any(target.iterdir()):
                target.rmdir()
        else:
            target.mkdir(parents=True, exist_ok=True)
            for script in menu_scripts():
                (target / script.name).write_text(with_paths(script.read_text(encoding="utf-8")), encoding="utf-8")
    except OSError as error:
        raise SetupError(
            "scripts-not-writable", f"{target} cannot be written: {error.strerror}.", "Name Resolve's Scripts folder with --folder."
        ) from error
    print(target)


@resolve_app.command()
def stabilize(
    preset: Annotated[str, typer.Option(help="natural, glide, locked, subtle, or one of your own.")] = "natural",
    assignments: Annotated[list[str], typer.Option("--set", help="A setting, such as path.smoothness=70. Repeat for more.")] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Stabilize the clips selected in Resolve; each result is a take beside its original."""
    arguments = ["--preset", preset] + [part for assignment in assignments for part in ("--set", assignment)]
    try:
        done, failed = resolve.stabilize_selected(resolve.connect(), program(), arguments, lambda line: print(line, file=sys.stderr))
    except resolve.ResolveError as problem:
        raise as_error(problem) from problem
    print(json.dumps({"type": "result", "stabilized": done, "failed": failed}) if as_json else f"{done} stabilized, {failed} failed")
    if failed:
        raise typer.Exit(1)


@resolve_app.command()
def status(as_json: AsJson = False, folder: Annotated[str, typer.Option(help="Resolve's Scripts folder.")] = "") -> None:
    """Say whether the menu scripts are installed and current, and whether Resolve can be reached."""
    target = Path(folder or scripts_folder(False)) / "Utility" / "VS3R"
    installed = [(target / script.name).exists() for script in menu_scripts()]
    current = all(installed) and all(
        (target / script.name).read_text(encoding="utf-8") == with_paths(script.read_text(encoding="utf-8")) for script in menu_scripts()
    )
    scripts = "current" if current else "outdated" if any(installed) else "not installed"
    try:
        host = resolve.connect()
        reached = f"{host.GetProductName()} {host.GetVersionString()}"
    except resolve.ResolveError as problem:
        reached = str(problem)
    if as_json:
        print(json.dumps({"type": "result", "scripts": scripts, "folder": str(target), "resolve": reached}))
    else:
        print(f"Menu scripts: {scripts} ({target})\nResolve: {reached}")


def scripts_folder(all_users: bool) -> str:
    """Where Resolve looks for scripts on this system."""
    if sys.platform == "darwin":
        library = "/Library" if all_users else os.path.expanduser("~/Library")
        return f"{library}/Application Support/Blackmagic Design/DaVinci Resolve/Fusion/Scripts"
    if os.name == "nt":
        if all_users:
            return os.path.join(os.environ["PROGRAMDATA"], "Blackmagic Design", "DaVinci Resolve", "Fusion", "Scripts")
        return os.path.join(os.environ["APPDATA"], "Blackmagic Design", "DaVinci Resolve", "Support", "Fusion", "Scripts")
    return "/opt/resolve/Fusion/Scripts" if all_users else os.path.expanduser("~/.local/share/DaVinciResolve/Fusion/Scripts")


def menu_scripts() -> list[Path]:
    """The scripts as shipped: inside the package, or in the source tree beside it.

    Raises: SetupError `scripts-missing`.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "resolve_scripts", here.parent / "plugin" / "resolve_scripts"):
        if found := sorted(folder.glob("VS3R *.py")):
            return found
    raise SetupError("scripts-missing", "This installation has no Resolve scripts.", "Install VS3R again.")


def program() -> list[str]:
    """How to run `vs3r` from another program."""
    found = shutil.which("vs3r")
    return [found] if found else [sys.executable, "-m", "host_bridge"]


def with_paths(script: str) -> str:
    """The script with this installation's program and module."""
    script = re.sub(r"^PROGRAM = .*$", lambda _: f"PROGRAM = {program()!r}", script, flags=re.MULTILINE)
    return re.sub(r"^MODULE = .*$", lambda _: f"MODULE = {resolve.__file__!r}", script, flags=re.MULTILINE)


def as_error(problem: resolve.ResolveError) -> VS3RError:
    """The problem as one of the product's errors."""
    kind = SetupError if problem.code in ("resolve-unreachable", "vs3r-missing") else InputError
    return kind(problem.code, problem.message, problem.hint)
