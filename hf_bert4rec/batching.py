"""
Requests that wait are answered together: a queue in front of the one thread that holds the model.

While the thread works on a batch the next one gathers, so that nobody waits for a batch to fill: an idle model takes a
request at once, a busy one takes all that came meanwhile.

*Source:* none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class QueueFull(Exception):
    """More waits than may wait."""


class BatchQueue:
    r"""
    Answers lists of queries, those of several callers in one call of the model. Use it with `async with`.

    Args:
        answer (`Callable`): Takes a list of queries and returns as many answers; called in one thread, never twice at a time.
        max_batch_size (`int`): Queries of a batch. A longer list of one caller is a batch of its own.
        max_waiting (`int`): Queries that may wait for the thread.
        on_batch (`Callable`, *optional*): Told the number of queries of each batch before it is answered.

    Example:
        >>> async def ask():
        ...     async with BatchQueue(lambda numbers: [2 * number for number in numbers], 8, 100) as queue:
        ...         return await asyncio.gather(queue.submit([1, 2]), queue.submit([3]))
        >>> asyncio.run(ask())
        [[2, 4], [6]]
    """

    def __init__(
        self,
        answer: Callable[[list[Any]], list[Any]],
        max_batch_size: int,
        max_waiting: int,
        on_batch: Callable[[int], None] | None = None,
    ):
        self.answer, self.on_batch = answer, on_batch
        self.max_batch_size, self.max_waiting = max_batch_size, max_waiting
        self.num_waiting = 0
        self._waiting: deque[tuple[Sequence[Any], asyncio.Future]] = deque()

    async def __aenter__(self) -> BatchQueue:
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._worker.cancel()
        await asyncio.wait([self._worker])
        self._thread.shutdown()

    async def submit(self, queries: Sequence[Any]) -> list[Any]:
        r"""
        The answers to these queries, in their order.

        Raises:
            QueueFull: If they would make more than `max_waiting` wait.
        """
        if not queries:
            return []
        if self.num_waiting + len(queries) > self.max_waiting:
            raise QueueFull
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((queries, future))
        self.num_waiting += len(queries)
        self._arrived.set()
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            together = [query for queries, _ in batch for query in queries]
            if self.on_batch is not None and together:
                self.on_batch(len(together))
            try:
                answers = iter(await loop.run_in_executor(self._thread, self.answer, together))
                for queries, future in batch:
                    own = [next(answers) for _ in queries]
                    if not future.done():  # its caller may have gone
                        future.set_result(own)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next_batch(self) -> list[tuple[Sequence[Any], asyncio.Future]]:
        batch: list[tuple[Sequence[Any], asyncio.Future]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0][0]) <= self.max_batch_size):
            queries, future = self._waiting.popleft()
            self.num_waiting -= len(queries)
            if not future.done():
                batch.append((queries, future))
                size += len(queries)
        if not self._waiting:
            self._arrived.clear()
        return batch
