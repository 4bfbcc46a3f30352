# SPDX-License-Identifier: Apache-2.0
"""Every error the product raises on purpose.

VS3RError(code, message, hint)
├── InputError      the user can fix the input
│   ├── MediaError      the file: missing, truncated, not a video, unsupported
│   ├── RangeError      frames that do not exist, or an empty range
│   └── SettingsError   an unknown setting or a value outside its range
├── SetupError      the installation is incomplete
│   ├── WeightsMissing  a network's weights are not on this machine
│   ├── DeviceError     the asked device cannot be used
│   └── ProtocolError   engine and host do not speak the same protocol, or are not allowed to
├── ResourceError   the machine ran out
│   ├── OutOfMemory
│   └── DiskFull
├── Cancelled       the user asked
└── EngineFault     our bug: keep the log
"""


class VS3RError(Exception):
    """Base of all. `code` is stable and kebab-case, `message` says what happened to what, `hint` the next action."""

    exit_code = 1

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(code, message, hint)
        self.code, self.message, self.hint = code, message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint} [{self.code}]" if self.hint else f"{self.message} [{self.code}]"


class InputError(VS3RError):
    """The user can fix the input."""

    exit_code = 4


class MediaError(InputError):
    """A media file cannot be read or written as asked."""


class RangeError(InputError):
    """A frame range is empty or reaches past its media."""


class SettingsError(InputError):
    """A setting does not exist or its value is outside its range."""

    exit_code = 2


class SetupError(VS3RError):
    """Something has to be installed or configured first."""

    exit_code = 3


class WeightsMissing(SetupError):
    """A network's weights are not on this machine."""


class DeviceError(SetupError):
    """The asked device cannot be used."""


class ProtocolError(SetupError):
    """Engine and host cannot talk: version, token, key or message."""


class ResourceError(VS3RError):
    """The machine ran out of something."""

    exit_code = 5


class OutOfMemory(ResourceError):
    """Main or device memory ran out."""


class DiskFull(ResourceError):
    """A disk ran out of space."""


class Cancelled(VS3RError):
    """The user asked to stop."""

    exit_code = 130

    def __init__(self, message: str = "Cancelled.", hint: str = "") -> None:
        super().__init__("cancelled", message, hint)


def was_interrupted(end: BaseException | None) -> bool:
    """Whether Ctrl-C lies behind this end of a program, whatever a library made of it on the way."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None


class EngineFault(VS3RError):
    """Our bug. Keep the log."""
