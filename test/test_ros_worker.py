"""The thread that always takes the newest item."""

import threading

import pytest

pytest.importorskip("rclpy", reason="cvloc_ros.ros needs ROS 2")

from cvloc_ros.ros.worker import NewestWorker


class Bench:
    """A worker whose items wait until they are let through."""

    def __init__(self):
        self.done, self.errors, self.dropped = [], [], 0
        self.started, self.gate = threading.Semaphore(0), threading.Semaphore(0)
        self.finished = threading.Semaphore(0)
        self.worker = NewestWorker(self.process, on_drop=self.drop, on_error=self.fail)

    def process(self, item):
        self.started.release()
        assert self.gate.acquire(timeout=5)
        if item == "bad":
            raise ValueError(item)
        self.done.append(item)
        self.finished.release()

    def drop(self):
        self.dropped += 1

    def fail(self, error):
        self.errors.append(error)
        self.finished.release()

    def let_through(self, count=1):
        self.gate.release(count)
        for _ in range(count):
            assert self.finished.acquire(timeout=5)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.gate.release(10)
    bench.worker.stop()


def test_newest_replaces_what_waits(bench):
    bench.worker.put(1)
    assert bench.started.acquire(timeout=5)  # 1 is under way
    for item in (2, 3, 4):
        bench.worker.put(item)
    bench.let_through(2)
    assert bench.done == [1, 4] and bench.dropped == 2


def test_cleared_item_is_not_done(bench):
    bench.worker.put(1)
    assert bench.started.acquire(timeout=5)
    bench.worker.put(2)
    bench.worker.clear()
    bench.worker.put(3)
    bench.let_through(2)
    assert bench.done == [1, 3] and bench.dropped == 0


def test_when_there_is_time_for_something_else(bench):
    """While nothing waits, and not while the thread is to end."""
    assert bench.worker.has_time
    bench.worker.put(1)
    assert bench.started.acquire(timeout=5)
    assert bench.worker.has_time
    bench.worker.put(2)
    assert not bench.worker.has_time
    bench.worker.clear()
    assert bench.worker.has_time
    stopping = threading.Thread(target=bench.worker.stop)
    stopping.start()
    while bench.worker.has_time:
        assert stopping.is_alive()
    bench.let_through()
    stopping.join()


def test_error_is_handed_on_and_the_thread_lives(bench):
    bench.worker.put("bad")
    bench.let_through()
    bench.worker.put(2)
    bench.let_through()
    assert [str(error) for error in bench.errors] == ["bad"] and bench.done == [2]


def test_stop_waits_for_what_is_under_way(bench):
    bench.worker.put(1)
    assert bench.started.acquire(timeout=5)
    threading.Timer(0.1, bench.gate.release).start()
    bench.worker.stop()
    assert bench.done == [1]
