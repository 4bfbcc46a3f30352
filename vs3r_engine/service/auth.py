# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the engine: a token for this user's programs on this machine, CURVE keys and an allow-list beyond it.

Nothing here decides by address. Every secret is readable by the user alone.
"""

import contextlib
import os
import secrets
import stat
import sys
from pathlib import Path

import zmq
import zmq.auth
from zmq.utils import z85

from vs3r_engine.errors import SetupError
from vs3r_engine.service.protocol import USERNAME
from vs3r_engine.service.rendezvous import make_private, write_private
from vs3r_engine.service.zap import Gatekeeper

KEY_NAME = "server"
ZAP_DOMAIN = "vs3r"


class TokenAuthority:
    """One random token; whoever has it is the user. Sets up the context's ZAP handler on `start`."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self._keeper: Gatekeeper | None = None

    def start(self, context: zmq.Context) -> None:
        self._keeper = Gatekeeper(context, ZAP_DOMAIN, b"PLAIN", self.user)
        self._keeper.start()

    def guard(self, socket: zmq.Socket) -> None:
        """To be called before `socket` is bound."""
        socket.plain_server = True
        socket.zap_domain = ZAP_DOMAIN.encode()

    def admits(self, part: zmq.Frame) -> bool:
        """Whether the sender of a received message may still talk. A token is never revoked while its engine runs."""
        return True

    def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def user(self, credentials: list[bytes]) -> str | None:
        """Whose name and password these are."""
        is_user = len(credentials) == 2 and credentials[0] == USERNAME.encode()
        return USERNAME if is_user and secrets.compare_digest(credentials[1], self.token.encode()) else None


class KeyAuthority:
    """CURVE: the server's key pair, and the public keys in `clients/NAME.key` that may connect.

    The allow-list is read again whenever one of its files changed, so that a deleted or replaced key is refused at once.
    """

    token = ""

    def __init__(self, directory: Path) -> None:
        """Raises: SetupError `keys-required`, `keys-exposed`, `key-unreadable`."""
        secret_file = directory / f"{KEY_NAME}.key_secret"
        if not secret_file.is_file():
            raise SetupError(
                "keys-required",
                f"There is no server key in {directory}.",
                f"Run `vs3r-engine keys create {directory}`, then `vs3r-engine keys allow {directory} NAME NAME.key`.",
            )
        _refuse_exposed(directory, 0o700)
        _refuse_exposed(secret_file, 0o600)
        try:
            self.public_key, self._secret_key = load_key(secret_file)
        except (OSError, ValueError) as error:
            raise SetupError("key-unreadable", f"{secret_file} is not a secret key: {error}", "Delete it and create another.") from error
        self._clients = directory / "clients"
        self._read_at: list[tuple[str, int, int]] | None = None
        self._allowed: dict[bytes, str] = {}
        self._keeper: Gatekeeper | None = None

    def start(self, context: zmq.Context) -> None:
        self._keeper = Gatekeeper(context, ZAP_DOMAIN, b"CURVE", self.user)
        self._keeper.start()

    def guard(self, socket: zmq.Socket) -> None:
        socket.curve_server = True
        socket.curve_secretkey, socket.curve_publickey = self._secret_key, self.public_key
        socket.zap_domain = ZAP_DOMAIN.encode()

    def admits(self, part: zmq.Frame) -> bool:
        try:
            return str(part.get("User-Id")).encode() in self._clients_now()
        except zmq.ZMQError:
            return False

    def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def user(self, credentials: list[bytes]) -> str | None:
        """The peer's public key in Z85, where it is allowed."""
        key = z85.encode(credentials[0])
        return key.decode() if key in self._clients_now() else None

    def _clients_now(self) -> dict[bytes, str]:
        try:
            with os.scandir(self._clients) as files:
                changed = sorted((file.name, file.stat().st_mtime_ns, file.inode()) for file in files)
        except OSError:
            return {}  # who cannot be looked up is not allowed
        if changed != self._read_at:
            allowed = {}
            for file in self._clients.glob("*.key"):
                with contextlib.suppress(OSError, ValueError):
                    allowed[load_key(file)[0]] = file.stem
            self._allowed, self._read_at = allowed, changed
        return self._allowed


Authority = TokenAuthority | KeyAuthority


def create_keys(directory: Path, name: str = KEY_NAME) -> Path:
    """A new key pair NAME.key and NAME.key_secret in `directory` (0700); returns the public one's path.

    The secret is never readable by others, not even for a moment. Raises: SetupError `keys-exist`, `directory-unusable`.
    """
    make_private(directory)
    if name == KEY_NAME:
        make_private(directory / "clients")
    public_file, secret_file = directory / f"{name}.key", directory / f"{name}.key_secret"
    if secret_file.exists():
        raise SetupError("keys-exist", f"{secret_file} exists already.", "Delete it first if it shall no longer be used.")
    public, secret = zmq.curve_keypair()
    lines = f'metadata\ncurve\n    public-key = "{public.decode()}"\n'
    _write_secret(secret_file, f'{lines}    secret-key = "{secret.decode()}"\n')
    public_file.write_text(lines)
    return public_file


def allow_client(directory: Path, name: str, public_file: Path) -> None:
    """The holder of that key may connect, and the one who had that name before may not.

    Raises: SetupError `key-unreadable`, `keys-required` where there is no such directory.
    """
    try:
        public, secret = load_key(public_file)
    except (OSError, ValueError) as error:
        raise SetupError("key-unreadable", f"{public_file} is not a public key: {error}", "Give the client's NAME.key.") from error
    if secret is not None:
        raise SetupError(
            "key-unreadable",
            f"{public_file} holds a secret key.",
            "Give NAME.key; the secret never leaves its machine.",
        )
    if not (directory / "clients").is_dir():
        raise SetupError("keys-required", f"{directory} is no engine's key directory.", f"Run `vs3r-engine keys create {directory}` first.")
    write_private(directory / "clients" / f"{name}.key", f'metadata\ncurve\n    public-key = "{public.decode()}"\n'.encode())


def load_key(file: Path) -> tuple[bytes, bytes | None]:
    """(public key, secret key or None), in Z85. Raises: OSError, ValueError."""
    return zmq.auth.load_certificate(file)


def _write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)


def _refuse_exposed(path: Path, mode: int) -> None:
    if sys.platform != "win32" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise SetupError("keys-exposed", f"Others can read {path}.", f"Run `chmod {mode:o} {path}`.")
