"""The threads of the scheduler."""

from __future__ import annotations

import _thread
import logging
import threading

import pytest

from proxy.fetch.threads import Threads


def test_run__more_work_than_threads__queued_until_a_thread_is_free() -> None:
    threads = Threads(2)
    started, finish = threading.Semaphore(0), threading.Semaphore(0)
    running: set[int] = set()

    def work() -> None:
        running.add(threading.get_ident())
        started.release()
        assert finish.acquire(timeout=10)

    for _ in range(5):
        threads.run(work)
    assert all(started.acquire(timeout=10) for _ in range(2))
    assert not started.acquire(timeout=0.02), "a third piece of work ran beside the two"
    finish.release(5)
    assert all(started.acquire(timeout=10) for _ in range(3))
    assert len(running) == 2


def test_run__work_fails__logged_and_the_next_work_runs(caplog: pytest.LogCaptureFixture) -> None:
    threads = Threads(1)
    may_fail, ended = threading.Event(), threading.Event()

    def fail() -> None:
        assert may_fail.wait(10)
        raise ValueError

    threads.run(fail)
    threads.run(ended.set)
    with caplog.at_level(logging.ERROR):
        may_fail.set()
        assert ended.wait(10)
    assert "fetch_failed" in caplog.messages


def test_run__no_thread_can_be_started__error_and_the_place_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, ended = Threads(1), threading.Event()

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as broken:
        broken.setattr(_thread, "start_new_thread", fail)
        with pytest.raises(RuntimeError):
            threads.run(lambda: None)
    threads.run(ended.set)
    assert ended.wait(10)
