# SPDX-License-Identifier: Apache-2.0
"""Looking at files without waiting for them: a share that is gone holds up a thread of its own, and nobody else."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

AT_ONCE = 256
"""Files that are looked at at the same time: more than a timeline has on a share that is gone. Past that, others wait."""


@dataclass(frozen=True, slots=True)
class _Asked:
    look: Callable[[], str]
    until_s: float
    seen: Callable[[str], None]
    unseen: Callable[[], None]


class Glances:
    """Everything but `look` itself happens on the server's thread."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        """post: runs a task on the server's thread."""
        self._post = post
        self._asked: dict[str, list[_Asked]] = {}
        self._looking: set[str] = set()

    def at(self, name: str, look: Callable[[], str], wait_s: float, seen: Callable[[str], None], unseen: Callable[[], None]) -> None:
        """`seen` is told what `look` returned; where that takes longer than `wait_s`, which may be infinite, `unseen` is called instead.

        Who asks of a `name` that is being looked at is told what that look finds.
        """
        self._asked.setdefault(name, []).append(_Asked(look, time.monotonic() + wait_s, seen, unseen))
        self._begin()

    def next_deadline_s(self) -> float | None:
        return min((asked.until_s for waiting in self._asked.values() for asked in waiting), default=None)

    def give_up_late(self) -> None:
        """Who has waited long enough is told."""
        now = time.monotonic()
        for name, waiting in list(self._asked.items()):
            late = [asked for asked in waiting if asked.until_s <= now]
            self._asked[name] = [asked for asked in waiting if asked.until_s > now]
            if not self._asked[name]:
                del self._asked[name]
            for asked in late:
                asked.unseen()

    def _begin(self) -> None:
        for name, waiting in self._asked.items():
            if name not in self._looking and len(self._looking) < AT_ONCE:
                self._looking.add(name)
                threading.Thread(target=self._look, args=(name, waiting[0].look), name="glance", daemon=True).start()

    def _look(self, name: str, look: Callable[[], str]) -> None:
        found = look()
        self._post(lambda: self._seen(name, found))

    def _seen(self, name: str, found: str) -> None:
        self._looking.discard(name)
        for asked in self._asked.pop(name, []):
            asked.seen(found)
        self._begin()
