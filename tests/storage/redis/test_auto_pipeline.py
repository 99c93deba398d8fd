"""AutoPipeline: the requests that share a batch, and batches that fail or are late."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Semaphore

import pytest

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.auto_pipeline import MAX_BATCH, MAX_RUNNING, AutoPipeline, PipelineStats


class Batches:
    """Replaces Redis: answers each number with its negative, once `answers` is set."""

    def __init__(self) -> None:
        self.sent: list[list[int]] = []
        self.arrived = Semaphore(0)
        self.answers = Event()
        self.fault: BaseException | None = None

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sent.append(list(batch))
        self.arrived.release()
        assert self.answers.wait(10)
        if self.fault:
            raise self.fault
        return [-number for number in batch]


@pytest.fixture
def batches() -> Batches:
    return Batches()


@pytest.fixture
def pipeline(batches: Batches) -> AutoPipeline[int, int]:
    return AutoPipeline(batches, max_wait=10, on_timeout=pytest.fail)


def run(batches: Batches, pipeline: AutoPipeline[int, int], waiting: int) -> list[Future[int]]:
    """Fill every batch in flight with one request, run `waiting` more requests, and then answer all."""
    with ThreadPoolExecutor(MAX_RUNNING + waiting) as threads:
        running = [threads.submit(pipeline.run, number) for number in range(MAX_RUNNING)]
        for _ in range(MAX_RUNNING):
            assert batches.arrived.acquire(timeout=10)
        running += [threads.submit(pipeline.run, MAX_RUNNING + number) for number in range(waiting)]
        while pipeline.stats().waiting < waiting:
            pass
        batches.answers.set()
    return running


def test_run__a_batch_may_be_sent__sent_alone_at_once(batches: Batches, pipeline: AutoPipeline[int, int]) -> None:
    running = run(batches, pipeline, 0)
    assert [future.result() for future in running] == [-number for number in range(MAX_RUNNING)]
    assert sorted(batches.sent) == [[number] for number in range(MAX_RUNNING)]


def test_run__all_batches_in_flight__shares_the_next_and_gets_its_own_response(
    batches: Batches, pipeline: AutoPipeline[int, int]
) -> None:
    running = run(batches, pipeline, 20)
    assert [future.result() for future in running] == [-number for number in range(MAX_RUNNING + 20)]
    assert sorted(map(len, batches.sent)) == [1] * MAX_RUNNING + [20]


def test_run__more_wait_than_a_batch_holds__two_batches(batches: Batches, pipeline: AutoPipeline[int, int]) -> None:
    running = run(batches, pipeline, MAX_BATCH + 1)
    assert [future.result() for future in running] == [-number for number in range(MAX_RUNNING + MAX_BATCH + 1)]
    assert sorted(map(len, batches.sent)) == [1] * (MAX_RUNNING + 1) + [MAX_BATCH]


def test_run__batch_fails__its_requests_fail_and_the_next_is_sent(
    batches: Batches, pipeline: AutoPipeline[int, int]
) -> None:
    batches.fault = RedisUnavailable()
    running = run(batches, pipeline, 3)
    assert all(isinstance(future.exception(), RedisUnavailable) for future in running)
    batches.fault = None
    assert run(batches, pipeline, 0)[0].result() == 0
    assert pipeline.stats() == PipelineStats(0, 0)


def test_run__sender_is_stopped__the_others_go_on(batches: Batches, pipeline: AutoPipeline[int, int]) -> None:
    batches.fault = SystemExit()
    running = run(batches, pipeline, 2)
    assert [type(future.exception()) for future in running[: MAX_RUNNING + 1]] == [SystemExit] * (MAX_RUNNING + 1)
    assert isinstance(running[-1].exception(), RedisUnavailable)  # its request was in the stopped sender's batch
    assert pipeline.stats() == PipelineStats(0, 0)


def test_run__no_turn_in_time__fails_and_is_never_sent(batches: Batches) -> None:
    timeouts: list[None] = []
    pipeline = AutoPipeline(batches, max_wait=0.01, on_timeout=lambda: timeouts.append(None))
    with ThreadPoolExecutor(MAX_RUNNING) as threads:
        running = [threads.submit(pipeline.run, number) for number in range(MAX_RUNNING)]
        for _ in range(MAX_RUNNING):
            assert batches.arrived.acquire(timeout=10)
        with pytest.raises(RedisUnavailable):
            pipeline.run(9)
        assert len(timeouts) == 1
        batches.answers.set()
    assert [future.result() for future in running] == [-number for number in range(MAX_RUNNING)]
    assert [9] not in batches.sent
    assert pipeline.run(10) == -10
