# SPDX-License-Identifier: Apache-2.0
"""Work that goes on in another thread while its last results are used."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def ahead(items: Iterable[T], count: int) -> Generator[T, None, None]:
    """The same items in the same order; one other thread makes up to `count` of them before they are asked for.

    What making an item raises is raised where that item would have come. No thread exists before the first item is asked
    for, and none after the last one or after `close`, which lets the item under way be finished and closes `items`.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "ahead") as thread:
        coming = deque(thread.submit(next, iterator, _END) for _ in range(count))
        try:
            while (item := coming.popleft().result()) is not _END:
                coming.append(thread.submit(next, iterator, _END))
                yield item
        finally:
            for future in coming:
                future.cancel()
            thread.submit(getattr(iterator, "close", lambda: None)).result()
