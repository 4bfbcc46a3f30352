# SPDX-License-Identifier: Apache-2.0
"""The networks' weights on this machine: what exists (weights.toml), what is installed, fetching, verifying, importing.

A job never fetches. An installed entry is a directory with the files and `installed.json`, which appears last.
"""

import errno
import fnmatch
import functools
import hashlib
import importlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vs3r_engine.errors import DiskFull, InputError, SetupError, WeightsMissing
from vs3r_engine.methods.tensors import refuse_code

_RECORD = "installed.json"
_GIB = 1024**3
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the manifest; see weights.toml for what the fields mean."""

    name: str
    purpose: str
    files: tuple[str, ...]
    gib: float
    licence: str
    commercial: str
    repository: str = ""
    url: str = ""
    revision: str = "main"
    gated: bool = False
    sha256: dict[str, str] = field(default_factory=dict)
    prepare: str = ""

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return f"https://huggingface.co/{self.repository}" if self.repository else self.url or "import only"

    def holds(self, file: str) -> bool:
        return any(fnmatch.fnmatch(file, pattern) for pattern in self.files)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source lists it. sha256 is empty where the source does not tell."""

    path: str
    size: int
    sha256: str = ""


@functools.cache
def manifest() -> dict[str, Entry]:
    """Every entry by name, in the manifest's order."""
    tables = tomllib.loads((Path(__file__).parent / "weights.toml").read_text(encoding="utf-8"))
    return {name: Entry(name=name, **(table | {"files": tuple(table["files"])})) for name, table in tables.items()}


def entry(name: str) -> Entry:
    """Raises: InputError `unknown-weights`."""
    if name not in manifest():
        raise InputError("unknown-weights", f"There are no weights called {name!r}.", f"Known: {', '.join(manifest())}.")
    return manifest()[name]


def weights_root() -> Path:
    """Where weights are installed: $VS3R_WEIGHTS, or the user's data directory."""
    from platformdirs import user_data_path

    return Path(os.environ.get("VS3R_WEIGHTS") or user_data_path("vs3r") / "weights")


def record(name: str) -> dict[str, Any] | None:
    """What was recorded when an entry was installed, or None."""
    path = weights_root() / name / _RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def installed(*names: str) -> tuple[Entry, Path]:
    """The first of these entries that is on this machine, and its directory. Reads no weights.

    Raises: WeightsMissing `weights-missing`, which says what, how large, under which licence, and the command to get
    it; `weights-damaged` where a file is gone or has another size.
    """
    for name in names:
        known = record(name)
        if known is None:
            continue
        directory = weights_root() / name
        for file, facts in known["files"].items():
            path = directory / file
            if not path.exists() or path.stat().st_size != facts["size"]:
                raise WeightsMissing(
                    "weights-damaged",
                    f"{file} of the weights {name} is missing or cut short.",
                    f"Run `vs3r-engine weights verify {name}`, then fetch or import them again.",
                )
        return entry(name), directory
    wanted = entry(names[0])
    others = f" {' or '.join(names[1:])} would do too." if len(names) > 1 else ""
    how = (
        f"vs3r-engine weights fetch {wanted.name}" if wanted.repository or wanted.url else f"vs3r-engine weights import {wanted.name} PATH"
    )
    raise WeightsMissing(
        "weights-missing",
        f"The weights {wanted.name} are not on this machine: {wanted.gib:g} GiB from {wanted.source}, licence: {wanted.licence}.{others}",
        f"Run `{how}`.",
    )


def fetch(name: str, tell: Told = lambda text: None) -> Path:
    """Download an entry, continuing where an earlier attempt stopped, verify it, and install it. Of an installed one, what is
    not as it was installed is fetched again.

    Raises: SetupError `weights-gated`, `weights-unreachable`, `weights-unpublished`; WeightsMissing `weights-mismatch`;
    DiskFull.
    """
    wanted = entry(name)
    directory = weights_root() / name
    if not wanted.repository and not wanted.url:
        raise SetupError(
            "weights-unpublished",
            f"The weights {name} are not published anywhere this engine knows of.",
            f"When you have the files: `vs3r-engine weights import {name} PATH`.",
        )
    revision, files = _listing(wanted)
    if not files:
        raise SetupError(
            "weights-unreachable",
            f"{wanted.source} holds none of {', '.join(wanted.files)}.",
            "The repository may have changed; import the files by hand.",
        )
    known = record(name)
    if known is not None and known["revision"] == revision and all(f.path in known["files"] for f in files):
        tell(f"{name} is installed; verifying it")
        wrong = _not_as_installed(name, known)
        if not wrong:
            tell(f"{name} is as installed.")
            return directory
        for damaged, sentence in wrong.items():
            tell(sentence)
            (directory / damaged).unlink(missing_ok=True)
    missing = sum(f.size for f in files if not (directory / f.path).exists())
    _check_space(directory, missing)
    for number, file in enumerate(files, 1):
        tell(f"[{number}/{len(files)}] {file.path} ({file.size / _GIB:.2f} GiB)")
        if wanted.repository:
            _from_hub(
                functools.partial(_hub().hf_hub_download, wanted.repository, file.path, revision=revision, local_dir=directory),
                wanted,
            )
        else:
            _from_url(wanted, file.size, directory / file.path)
    return _install(wanted, revision, files, directory, tell)


def import_files(name: str, source: Path, tell: Told = lambda text: None) -> Path:
    """Install an entry from a file or directory on this machine, as a copy. For machines without a network.

    An entry of one file takes it under any name of its kind. Raises: InputError `weights-not-found`, `weights-incomplete`;
    WeightsMissing `weights-mismatch`, `weights-unsafe`; DiskFull.
    """
    wanted = entry(name)
    if source.is_file():
        only = wanted.files[0]
        is_named = len(wanted.files) == 1 and "*" not in only and source.suffix == Path(only).suffix
        found = {only: source} if is_named else {source.name: source} if wanted.holds(source.name) else {}
    else:
        found = {
            str(p.relative_to(source)): p for p in sorted(source.rglob("*")) if p.is_file() and wanted.holds(str(p.relative_to(source)))
        }
    if not found:
        raise InputError("weights-not-found", f"{source} holds none of {', '.join(wanted.files)}.", f"Get them from {wanted.source}.")
    if missing := _missing_parts(wanted, found):
        raise InputError(
            "weights-incomplete", f"{source} lacks {', '.join(missing)}.", f"Get all of it from {wanted.source}, then import it again."
        )
    for path in found.values():
        refuse_code(path)
    directory = weights_root() / name
    new = {file: path for file, path in found.items() if path.resolve() != (directory / file).resolve()}
    _check_space(directory, sum(path.stat().st_size for path in new.values()))
    for file, path in new.items():
        tell(file)
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / file)
    return _install(
        wanted,
        f"imported from {source.name}",
        [RemoteFile(f, p.stat().st_size) for f, p in found.items()],
        directory,
        tell,
    )


def _missing_parts(wanted: Entry, found: dict[str, Path]) -> list[str]:
    """What of a published entry is not among the files found: whole folders, and files that an index lists."""
    listed: set[str] = set()
    for file, path in found.items():
        if file.endswith(".safetensors.index.json"):
            shards = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
            listed |= {str(Path(file).with_name(shard)) for shard in shards}
    folders = [pattern for pattern in wanted.files if pattern.endswith("/*") and wanted.repository]
    return [f for f in folders if not any(fnmatch.fnmatch(file, f) for file in found)] + sorted(listed - found.keys())


def verify(name: str) -> list[str]:
    """What is wrong with an installed entry, as sentences; empty when every file has its recorded size and sha256."""
    known = record(name)
    return [f"{name} is not installed."] if known is None else list(_not_as_installed(name, known).values())


def _not_as_installed(name: str, known: dict[str, Any]) -> dict[str, str]:
    """Sentences by file."""
    wrong = {}
    for file, facts in known["files"].items():
        path = weights_root() / name / file
        if not path.exists():
            wrong[file] = f"{file} is missing."
        elif path.stat().st_size != facts["size"]:
            wrong[file] = f"{file} has {path.stat().st_size} bytes, not {facts['size']}."
        elif sha256_of(path) != facts["sha256"]:
            wrong[file] = f"{file} has another content than when it was installed."
    return wrong


def remove(name: str) -> int:
    """Delete an entry's files; returns the bytes freed."""
    directory = weights_root() / entry(name).name
    freed = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
    shutil.rmtree(directory, ignore_errors=True)
    return freed


def prepare(name: str, tell: Told = lambda text: None) -> Path:
    """Run an entry's preparation (a smaller or faster form of it, made once); returns what it made."""
    wanted, directory = installed(name)
    if not wanted.prepare:
        raise InputError("nothing-to-prepare", f"The weights {name} are used as they are.")
    module, _, function = wanted.prepare.partition(":")
    return getattr(importlib.import_module(module), function)(directory, tell)


def random_seed(source: str) -> tuple[int, bool] | None:
    """(seed, is small) of the test-only weight source "random:SEED" or "random:SEED:small"; None for any other source.

    Raises: InputError `bad-weights`.
    """
    kind, _, rest = source.partition(":")
    if kind != "random":
        return None
    seed, _, size = rest.partition(":")
    if not seed.isdigit() or size not in ("", "small"):
        raise InputError(
            "bad-weights",
            f"{source!r} is not a weight source.",
            "Write installed, the name of an entry, or (tests only) random:SEED.",
        )
    return int(seed), size == "small"


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _install(wanted: Entry, revision: str, files: list[RemoteFile], directory: Path, tell: Told) -> Path:
    facts = {}
    for file in files:
        path = directory / file.path
        tell(f"verifying {file.path}")
        actual = sha256_of(path)
        for expected in (file.sha256, wanted.sha256.get(file.path, "")):
            if expected and not actual.startswith(expected):
                path.unlink()
                raise WeightsMissing(
                    "weights-mismatch",
                    f"{file.path} of {wanted.name} is not the file its source describes; it was removed.",
                    "Fetch it again; if that repeats, do not use that source.",
                )
        try:
            refuse_code(path)
        except WeightsMissing:
            path.unlink()
            raise
        facts[file.path] = {"size": path.stat().st_size, "sha256": actual}
    written = {
        "name": wanted.name,
        "source": wanted.source,
        "revision": revision,
        "licence": wanted.licence,
        "commercial": wanted.commercial,
        "files": facts,
    }
    partial = directory / f"{_RECORD}.partial"
    partial.write_text(json.dumps(written, indent=1), encoding="utf-8")
    partial.replace(directory / _RECORD)
    return directory


def _check_space(directory: Path, needed: int) -> None:
    place = directory
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed * 1.05:
        raise DiskFull(
            "disk-full",
            f"{needed / _GIB:.1f} GiB of weights do not fit: {free / _GIB:.1f} GiB are free in {place}.",
            "Free some space, or point VS3R_WEIGHTS at another disk.",
        )
    directory.mkdir(parents=True, exist_ok=True)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise SetupError("hub-missing", "Fetching weights needs huggingface_hub.", 'Install it with `pip install "vs3r[deep]"`.') from error
    return huggingface_hub


def _listing(wanted: Entry) -> tuple[str, list[RemoteFile]]:
    """The exact revision meant, and the entry's files there."""
    if wanted.url:
        with _opened(wanted, "HEAD") as answer:
            size = int(answer.headers.get("Content-Length") or 0)
        return wanted.url, [RemoteFile(wanted.files[0], size)]
    info = _from_hub(lambda: _hub().HfApi().model_info(wanted.repository, revision=wanted.revision, files_metadata=True), wanted)
    files = [RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else "") for s in info.siblings if wanted.holds(s.rfilename)]
    safe = {Path(f.path).stem for f in files if f.path.endswith(".safetensors")}
    # The same tensors as safetensors and as a pickle: the pickle is not wanted.
    return info.sha, [f for f in files if f.path.endswith(".safetensors") or not (f.path.endswith((".pt", ".bin")) and safe)]


def _from_hub(ask: Callable[[], Any], wanted: Entry) -> Any:
    _hub()
    errors = importlib.import_module("huggingface_hub.errors")
    try:
        return ask()
    except errors.GatedRepoError as error:
        raise SetupError(
            "weights-gated",
            f"{wanted.source} opens only to people its owner has admitted (licence: {wanted.licence}).",
            f"Ask for access there, then log in with `hf auth login` (or set HF_TOKEN) and fetch {wanted.name} again.",
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise SetupError(
            "weights-unreachable",
            f"{wanted.source} does not hold what the manifest names: {type(error).__name__}.",
            f"Import the files by hand: `vs3r-engine weights import {wanted.name} PATH`.",
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _disk_filled() from error
        raise SetupError(
            "weights-unreachable",
            f"{wanted.source} cannot be reached: {type(error).__name__}.",
            f"Try again later (what arrived is kept), or import the files: `vs3r-engine weights import {wanted.name} PATH`.",
        ) from error


def _opened(wanted: Entry, method: str = "GET", start: int = 0) -> Any:
    """What its address answers, from byte `start` on where the server can do so. Raises: SetupError `weights-unreachable`."""
    import urllib.request  # not above: every job would wait for it

    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        return urllib.request.urlopen(urllib.request.Request(wanted.url, headers=headers, method=method), timeout=60)
    except OSError as error:
        raise SetupError(
            "weights-unreachable",
            f"{wanted.source} cannot be reached: {error}.",
            f"Import the file instead: `vs3r-engine weights import {wanted.name} PATH`.",
        ) from error


def _from_url(wanted: Entry, size: int, path: Path) -> None:
    """Download to `path`, continuing a partial one. size: 0 where the source does not tell.

    Raises: SetupError `weights-unreachable`, also where the connection breaks; what arrived is kept. DiskFull.
    """
    from http.client import HTTPException

    partial = path.with_name(path.name + ".partial")
    start = partial.stat().st_size if partial.exists() else 0
    if size and start >= size:
        # Whole and not yet under its name, or of another file.
        partial.unlink(missing_ok=True)
        start = 0
    with _opened(wanted, start=start) as answer:
        continued = start > 0 and getattr(answer, "status", 200) == 206
        with partial.open("ab" if continued else "wb") as stream:
            try:
                for block in _blocks(answer):
                    stream.write(block)
            except (OSError, HTTPException) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise _disk_filled() from error
                raise _broken_off(wanted, f"{type(error).__name__}") from error
    if partial.stat().st_size < size:
        raise _broken_off(wanted, f"{partial.stat().st_size} of {size} bytes arrived")
    partial.replace(path)


def _broken_off(wanted: Entry, why: str) -> SetupError:
    return SetupError(
        "weights-unreachable",
        f"The download from {wanted.source} broke off: {why}.",
        f"Run `vs3r-engine weights fetch {wanted.name}` again: it goes on where it stopped.",
    )


def _disk_filled() -> DiskFull:
    return DiskFull("disk-full", "The disk became full while fetching weights.", "What arrived is kept; fetch again to continue.")


def _blocks(answer: Any) -> Iterator[bytes]:
    while block := answer.read(1 << 20):
        yield block
