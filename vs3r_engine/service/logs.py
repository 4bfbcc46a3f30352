# SPDX-License-Identifier: Apache-2.0
"""The engine's log: one JSON object a line, with the job's id on every line, in a file that rotates."""

import json
import logging
import logging.handlers
import os
import time
from functools import partial
from pathlib import Path

import platformdirs

from vs3r_engine.errors import SetupError

FILE_BYTES = 4 << 20
FILES = 5


def log_file() -> Path:
    """Where the engine writes its log: $VS3R_LOG_DIR, else the user's log directory."""
    return Path(os.environ.get("VS3R_LOG_DIR") or platformdirs.user_log_dir("vs3r", appauthor=False)) / "engine.log"


class JsonLines(logging.Formatter):
    """A record as {"time", "level", "engine", "job", "message"}; `job` is "-" where a line belongs to none."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self._engine = engine

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        return json.dumps(
            {
                "time": moment,
                "level": record.levelname.lower(),
                "engine": self._engine,
                "job": getattr(record, "job_id", "-"),
                "message": message,
            },
            ensure_ascii=False,
        )


class PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only the user can read."""

    def _open(self):
        opener = partial(os.open, mode=0o600)
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=opener)


def engine_log(engine: str, file: Path) -> logging.Logger:
    """The logger of this engine, writing to `file` (0600). Raises: SetupError `log-unusable`."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = PrivateFile(file, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
    except OSError as error:
        raise SetupError(
            "log-unusable",
            f"The log {file} cannot be written: {error.strerror}.",
            "Free some space, fix its permissions, or name another folder with VS3R_LOG_DIR.",
        ) from error
    handler.setFormatter(JsonLines(engine))
    logger = logging.getLogger("vs3r.engine")
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
