"""Work on many items side by side, answers in order."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

MOST_WORKERS = 4
"""Threads."""


def in_order(work: Callable[[Item], Answer], items: Sequence[Item]) -> Iterator[tuple[Item, Answer]]:
    """Items in order with what came of each; some are worked on ahead by threads, as many as there are processors."""
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Item, Future[Answer]]] = deque()
        for item in items:
            ahead.append((item, pool.submit(work, item)))
            if len(ahead) > 2 * workers:
                one, future = ahead.popleft()
                yield one, future.result()
        for one, future in ahead:
            yield one, future.result()
