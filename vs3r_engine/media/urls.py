# SPDX-License-Identifier: Apache-2.0
"""The path that an OTIO `target_url` means, and a path written as one. Windows' drives and shares on every system: edits travel."""

import os
import re
from urllib.parse import quote, unquote, urlsplit

from vs3r_engine.errors import MediaError

_DRIVE = re.compile(r"^/?[A-Za-z][:|][/\\]")
_DRIVE_AS_HOST = re.compile(r"(?i)^file://(?=[A-Z](:|%3A|\|)[/\\])")
"""file://C:/a.mov, where three slashes belong."""
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


def path_of_url(url: str, base_dir: str = "") -> str:
    """The path meant by an OTIO `target_url`: a file: URL, or a bare path; relative ones count from `base_dir`.

    Windows drives and UNC shares come out with backslashes, on every system. A relative reference is percent-decoded
    only when no file has its literal name.

    Raises: MediaError `no-media` for an empty one, `remote-media` for http and other schemes.
    """
    if not url:
        raise MediaError("no-media", "The media reference names no file.", "Relink the clip in the editor and export again.")
    if _DRIVE.match(url):
        return url.lstrip("/").replace("|", ":", 1).replace("/", "\\")
    if url.startswith(("\\\\", "//")):
        return url.replace("/", "\\")
    if url[:5].lower() == "file:":
        parts = urlsplit(_DRIVE_AS_HOST.sub("file:///", url).replace("#", "%23").replace("?", "%3F"))
        path = unquote(parts.path)
        if _DRIVE.match(path):
            return path.lstrip("/").replace("|", ":", 1).replace("/", "\\")
        if parts.netloc and parts.netloc.lower() != "localhost":
            return f"\\\\{unquote(parts.netloc)}{path}".replace("/", "\\")
        if path.startswith("//"):
            return path.replace("/", "\\")
        return path if path.startswith("/") else os.path.normpath(os.path.join(base_dir, path))
    if _SCHEME.match(url):
        raise MediaError("remote-media", f"The media {url} is not a file.", "Download it and relink the clip.")
    literal = os.path.normpath(os.path.join(base_dir, url))
    decoded = os.path.normpath(os.path.join(base_dir, unquote(url)))
    return decoded if decoded != literal and os.path.exists(decoded) and not os.path.exists(literal) else literal


def url_of_path(path: str, like: str = "file:///", base_dir: str = "") -> str:
    """`path` written the way `like` is: as a file: URL, as a bare absolute path, or relative to `base_dir`.

    An editor that wrote one form reads that form. A file on another drive than base_dir stays absolute.
    """
    if like[:5].lower() == "file:":
        plain = path.replace("\\", "/")
        if _DRIVE.match(path):
            return "file:///" + quote(plain, safe="/:")
        if plain.startswith("//"):
            return "file:" + quote(plain)
        return "file://" + quote(os.path.abspath(path))
    if _is_absolute(like) or _DRIVE.match(path) or path.startswith("\\\\"):
        return path if _is_absolute(path) else os.path.abspath(path)
    return os.path.relpath(os.path.abspath(path), os.path.abspath(base_dir or ".")).replace(os.sep, "/")


def _is_absolute(path: str) -> bool:
    return path.startswith(("/", "\\\\")) or bool(_DRIVE.match(path))
