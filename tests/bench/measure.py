"""Measuring on a machine that others use too: several rounds, everything in each, medians."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

MICROSECONDS = 1e6
BLOCK = bytes(400)


class Row(Struct, frozen=True):
    """A line of the table. `target` says what has to hold, `holds` whether it did."""

    part: str
    what: str
    value: float
    unit: str
    beside: str = ""
    target: str = ""
    holds: bool | None = None


Samples = dict[str, list[list[float]]]


def interleave(timed: Mapping[str, Callable[[], list[float]]], rounds: int) -> Samples:
    """Run everything once a round, each round beginning with another; return the times of each, by round."""
    names = list(timed)
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            samples[name].append(timed[name]())
    return samples


def once(work: Callable[[], object]) -> list[float]:
    """Time one piece of work in seconds of this process: what other processes do meanwhile does not count."""
    began = time.process_time()
    work()
    return [time.process_time() - began]


def repeated(work: Callable[[], object], times: int) -> Callable[[], list[float]]:
    """Time short work many times over; one figure a round, in microseconds of this process for one."""

    def run() -> list[float]:
        began = time.process_time()
        for _ in range(times):
            work()
        return [(time.process_time() - began) / times * MICROSECONDS]

    return run


def median(rounds: Sequence[Sequence[float]]) -> float:
    """Return the median of all samples."""
    return statistics.median(sample for each in rounds for sample in each)


def medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each round."""
    return [statistics.median(each) for each in rounds]


def percentile(rounds: Sequence[Sequence[float]], percent: int) -> float:
    """Return a percentile of all samples."""
    return statistics.quantiles((sample for each in rounds for sample in each), n=100)[percent - 1]


def flushes(path: Path, count: int) -> Callable[[], list[float]]:
    """Append 400 bytes to a file and flush them, 1 ms apart: what a durable receipt costs on this disk at least."""

    def run() -> list[float]:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return [_flush(descriptor) for _ in range(count)]
        finally:
            os.close(descriptor)

    return run


def _flush(descriptor: int) -> float:
    time.sleep(0.001)
    began = time.perf_counter()
    os.write(descriptor, BLOCK)
    os.fdatasync(descriptor)
    return time.perf_counter() - began
