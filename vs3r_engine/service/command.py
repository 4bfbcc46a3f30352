# SPDX-License-Identifier: Apache-2.0
"""The service's part of `vs3r-engine`: serve, keys, cache."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

keys = typer.Typer(no_args_is_help=True, help="Keys for an engine that listens beyond this machine.")
cache = typer.Typer(no_args_is_help=True, help="What is kept on disk between jobs.")

KeyDirectory = Annotated[Path, typer.Argument(help="The engine's key directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON on standard output.")]


def serve(
    listen: Annotated[str | None, typer.Option(help="tcp://ADDRESS:PORT to be reachable from other machines; needs --keys.")] = None,
    key_directory: Annotated[Path | None, typer.Option("--keys", help="Directory made by `vs3r-engine keys create`.")] = None,
    tcp: Annotated[bool, typer.Option("--tcp", help="Loopback TCP even where local sockets exist.")] = False,
    idle_exit_s: Annotated[float, typer.Option("--idle-exit", min=0, help="Seconds without work after which it stops; 0 = never.")] = 900.0,
    parent: Annotated[int | None, typer.Option(help="Stop when the process of this number is gone.")] = None,
    cache_limit_gib: Annotated[float, typer.Option("--cache-limit", min=0, help="GiB kept on disk between jobs.")] = 40.0,
) -> None:
    """Serve hosts until told to stop: the engine that `vs3r` and the plug-in start by themselves."""
    from vs3r_engine.service.server import ServerOptions
    from vs3r_engine.service.server import serve as serve_hosts

    key_directory = key_directory and key_directory.absolute()
    _leave_folder()
    serve_hosts(
        ServerOptions(
            listen=listen,
            keys=key_directory,
            tcp=tcp,
            idle_exit_s=idle_exit_s,
            parent=parent,
            cache_limit_bytes=int(cache_limit_gib * 2**30),
        )
    )


def _leave_folder() -> None:
    """This process works in its own folder, so that the disk from which it was started can be ejected."""
    from vs3r_engine.service.rendezvous import make_private, runtime_directory

    for name in [name for name in os.environ if name.startswith("VS3R_") and name.endswith(("_DIR", "_WEIGHTS"))]:
        os.environ[name] = os.path.abspath(os.environ[name])
    make_private(runtime_directory())
    os.chdir(runtime_directory())


@keys.command("create")
def create_keys(directory: KeyDirectory, name: Annotated[str, typer.Option(help="server, or a host's name.")] = "server") -> None:
    """Make a key pair; the secret half stays on this machine, readable by you alone."""
    from vs3r_engine.service import auth

    print(auth.create_keys(directory, name))


@keys.command("allow")
def allow_client(
    directory: KeyDirectory,
    name: Annotated[str, typer.Argument(help="A name for that host.")],
    public_key: Annotated[Path, typer.Argument(help="The host's NAME.key.")],
) -> None:
    """Let a host connect, at once."""
    from vs3r_engine.service import auth

    auth.allow_client(directory, name, public_key)


@keys.command("revoke")
def revoke_client(directory: KeyDirectory, name: Annotated[str, typer.Argument(help="The host's name.")]) -> None:
    """Shut a host out, at once, also while it is connected."""
    from vs3r_engine.errors import InputError

    file = directory / "clients" / f"{name}.key"
    if not file.exists():
        raise InputError("unknown-key", f"No host named {name} is allowed.", f"The allowed ones lie in {file.parent}.")
    file.unlink()


@cache.command("show")
def show_cache(as_json: AsJson = False) -> None:
    """List what is kept, least recently used first."""
    from vs3r_engine.service.cache import DiskStore

    store = DiskStore()
    entries = store.entries()
    if as_json:
        print(
            json.dumps(
                {
                    "directory": str(store.root),
                    "limit_bytes": store.limit_bytes,
                    "entries": [
                        {
                            "kind": e.kind,
                            "key": e.key,
                            "size_bytes": e.size_bytes,
                            "used_unix_s": e.used_unix_s,
                            "in_use": e.in_use,
                        }
                        for e in entries
                    ],
                }
            )
        )
        return
    for kind in sorted({entry.kind for entry in entries}):
        of_kind = [entry for entry in entries if entry.kind == kind]
        print(f"{kind:10} {len(of_kind):5}  {sum(entry.size_bytes for entry in of_kind) / 2**20:10.1f} MiB")
    total_mib = sum(entry.size_bytes for entry in entries) / 2**20
    print(f"{'all':10} {len(entries):5}  {total_mib:10.1f} MiB of {store.limit_bytes / 2**30:.0f} GiB in {store.root}")


@cache.command("clear")
def clear_cache(as_json: AsJson = False) -> None:
    """Delete everything that no engine is using."""
    from vs3r_engine.service.cache import DiskStore

    freed = DiskStore().clear()
    print(json.dumps({"freed_bytes": freed}) if as_json else f"{freed / 2**20:.1f} MiB freed")
