# SPDX-License-Identifier: Apache-2.0
"""Puts VS3R.ofx.bundle where hosts look for it, checks it, takes it away again. Standard library only.

python3 installers/install_plugin.py install BUNDLE            for you; set OFX_PLUGIN_PATH as it says
sudo python3 installers/install_plugin.py install BUNDLE --all-users
python3 installers/install_plugin.py verify | uninstall        the same place
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

MANIFEST = Path(__file__).with_name("manifest.json")
RECEIPT = "VS3R.ofx.bundle.json"
"""Lies beside the installed bundle: its files and their SHA-256."""


def plugin_folder(all_users: bool, platform: str = sys.platform) -> Path:
    """Where hosts of this system look for plug-ins, or where one user's may lie."""
    places = json.loads(MANIFEST.read_text())["plugin"]["all_users" if all_users else "one_user"]
    return Path(os.path.expanduser(os.path.expandvars(places["linux" if platform.startswith("linux") else platform])))


def checksums(bundle: Path) -> dict[str, str]:
    """SHA-256 of every file, by its path inside the bundle."""
    return {
        file.relative_to(bundle).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(bundle.rglob("*"))
        if file.is_file()
    }


def install(bundle: Path, folder: Path) -> Path:
    """The bundle lies in `folder`, whole or not at all, readable by everybody; an older one is replaced.

    Raises: ValueError for what is no bundle, OSError.
    """
    name = json.loads(MANIFEST.read_text())["plugin"]["bundle"]
    if bundle.name != name or not list(bundle.glob("Contents/*/VS3R.ofx")):
        raise ValueError(f"{bundle} is no {name}. Build it: cmake -S plugin -B build && cmake --build build")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with tempfile.TemporaryDirectory(dir=folder, prefix="@vs3r-") as aside:  # hosts pass over names that begin with @
        copy, old = Path(aside) / name, Path(aside) / "old"
        shutil.copytree(bundle, copy)
        for path in (copy, *copy.rglob("*")):
            path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
        if os.path.lexists(target):
            target.rename(old)
        try:
            copy.rename(target)
        except BaseException:
            if os.path.lexists(old):
                old.rename(target)
            raise
    (folder / RECEIPT).write_text(json.dumps(checksums(target), indent=1) + "\n")
    return target


def problems(folder: Path) -> list[str]:
    """What is wrong with the plug-in installed there; empty where nothing is."""
    receipt = folder / RECEIPT
    if not receipt.exists():
        return [f"The plug-in is not installed in {folder}."]
    try:
        wanted = dict(json.loads(receipt.read_text()))
    except (ValueError, TypeError):
        return [f"{receipt} is damaged. Install the plug-in again."]
    found = checksums(folder / "VS3R.ofx.bundle")
    return [f"{name} is {'missing' if name not in found else 'changed'}." for name in wanted if found.get(name) != wanted[name]] + [
        f"{name} does not belong there." for name in found if name not in wanted
    ]


def uninstall(folder: Path) -> None:
    """Nothing of ours is left in `folder`; everybody else's plug-ins are. Raises: OSError, and it can be tried again."""
    bundle = folder / "VS3R.ofx.bundle"
    if bundle.is_symlink():
        bundle.unlink()
    elif bundle.exists():
        shutil.rmtree(bundle)
    (folder / RECEIPT).unlink(missing_ok=True)


def refuse_foreign(bundle: Path, platform: str = sys.platform) -> None:
    """Raises: ValueError where no host of this system could load it."""
    name = json.loads(MANIFEST.read_text())["plugin"]["architecture"]["linux" if platform.startswith("linux") else platform]
    if list(bundle.glob("Contents/*/VS3R.ofx")) and not (bundle / "Contents" / name / "VS3R.ofx").exists():
        raise ValueError(f"{bundle} was built for another system: it has no {name} in it. Build it here.")


def _absolute(path: str) -> Path:
    """Hosts look for it from another folder, and the bundle's name may be given as a dot."""
    return Path(os.path.abspath(path))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("install", "verify", "uninstall"))
    parser.add_argument("bundle", type=_absolute, nargs="?")
    parser.add_argument("--prefix", type=_absolute, help="the plug-in folder, where it is another than the usual one")
    parser.add_argument("--all-users", action="store_true", help="the folder that every host searches; needs an administrator")
    given = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name that the pipe's encoding lacks
    folder = given.prefix or plugin_folder(given.all_users)
    try:
        if given.verb == "install":
            if given.bundle is None:
                parser.error("install needs the bundle")
            if given.prefix is None:
                refuse_foreign(given.bundle)
            if given.all_users:
                os.umask(0o022)
            print(install(given.bundle, folder))
            if not given.all_users:
                print(f"Hosts find it with OFX_PLUGIN_PATH={folder}", file=sys.stderr)
        elif given.verb == "verify":
            wrong = problems(folder)
            print("\n".join(wrong) if wrong else f"{folder / 'VS3R.ofx.bundle'} is as it was installed.")
            return 1 if wrong else 0
        else:
            uninstall(folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
