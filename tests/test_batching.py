"""One thread answers what waits: in order, together, no more than may wait, and an error stays in its batch."""

import asyncio
import threading

import pytest

from hf_bert4rec.batching import BatchQueue, QueueFull


class Doubler:
    """Doubles numbers; holds the first batch until it is let go, so that others gather behind it."""

    def __init__(self):
        self.batches, self.let_go = [], threading.Event()

    def __call__(self, numbers):
        self.batches.append(numbers)
        assert self.let_go.wait(10)
        if 13 in numbers:
            raise ValueError("thirteen")
        return [2 * number for number in numbers]


def run(ask, max_batch_size=4, max_waiting=100, **options):
    """`ask(queue, doubler)` within a queue; what it returns, and the batches that were made."""

    async def main():
        doubler = Doubler()
        async with BatchQueue(doubler, max_batch_size, max_waiting, **options) as queue:
            return await ask(queue, doubler), doubler.batches

    return asyncio.run(asyncio.wait_for(main(), 20))


async def behind_the_first(queue, doubler, *lists):
    """Tasks that submit these lists while the thread is busy with the number 0; then it is let go."""
    first = asyncio.create_task(queue.submit([0]))
    while not doubler.batches:
        await asyncio.sleep(0.001)
    tasks = [asyncio.create_task(queue.submit(numbers)) for numbers in lists]
    await asyncio.sleep(0.01)
    doubler.let_go.set()
    await first
    return tasks


def test_what_comes_while_the_thread_is_busy_is_answered_in_one_batch():
    async def ask(queue, doubler):
        return [await task for task in await behind_the_first(queue, doubler, [1], [2, 3], [4])]

    assert run(ask) == ([[2], [4, 6], [8]], [[0], [1, 2, 3, 4]])


def test_a_batch_has_at_most_its_size_and_a_longer_list_is_one_of_its_own():
    sizes = []

    async def ask(queue, doubler):
        return [await task for task in await behind_the_first(queue, doubler, [1, 2, 3], [4, 5], [6] * 6, [7])]

    answers, batches = run(ask, on_batch=sizes.append)
    assert answers == [[2, 4, 6], [8, 10], [12] * 6, [14]]
    assert batches == [[0], [1, 2, 3], [4, 5], [6] * 6, [7]]
    assert sizes == [1, 3, 2, 6, 1]


def test_more_than_may_wait_is_refused_at_once_and_the_rest_is_answered():
    async def ask(queue, doubler):
        tasks = await behind_the_first(queue, doubler, [1, 2], [3, 4], [5])
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.num_waiting == 0
        return found

    answers, batches = run(ask, max_waiting=3)
    assert answers[0] == [2, 4]
    assert isinstance(answers[1], QueueFull)
    assert answers[2] == [10]
    assert batches == [[0], [1, 2, 5]]


def test_an_error_reaches_those_of_its_batch_and_the_next_batch_is_answered():
    async def ask(queue, doubler):
        tasks = await behind_the_first(queue, doubler, [1], [13], [4, 5, 6])
        return await asyncio.gather(*tasks, return_exceptions=True)

    (one, thirteen, after), _ = run(ask)
    assert [str(error) for error in (one, thirteen)] == ["thirteen", "thirteen"]
    assert after == [8, 10, 12]


def test_a_caller_that_has_gone_costs_nothing():
    async def ask(queue, doubler):
        doubler_busy = asyncio.create_task(queue.submit([0]))
        while not doubler.batches:
            await asyncio.sleep(0.001)
        gone, stays = asyncio.create_task(queue.submit([1])), asyncio.create_task(queue.submit([2]))
        await asyncio.sleep(0.01)
        gone.cancel()
        doubler.let_go.set()
        await doubler_busy
        return await stays

    assert run(ask) == ([4], [[0], [2]])


def test_nothing_is_answered_without_the_thread():
    async def ask(queue, _):
        return await queue.submit([])

    assert run(ask) == ([], [])


def test_the_end_of_the_queue_ends_its_thread():
    async def main():
        async with BatchQueue(lambda numbers: numbers, 4, 10) as queue:
            await queue.submit([1])

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("model")]


@pytest.mark.parametrize("count", [1, 50])
def test_answers_belong_to_their_questions(count):
    async def ask(queue, doubler):
        doubler.let_go.set()
        return await asyncio.gather(*(queue.submit([100 + number, -number]) for number in range(count)))

    answers, batches = run(ask, max_batch_size=7)
    assert answers == [[200 + 2 * number, -2 * number] for number in range(count)]
    assert max(map(len, batches)) <= 7
