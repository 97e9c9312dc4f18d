"""Judging many bundles: each by itself, over the cores there are, in the order in which they were given."""

import os
import signal
import sys
from collections.abc import Iterator

from msgspec import Struct

from verifier.audit import verify
from verifier.bundle import MAX_BYTES
from verifier.keys import Pin
from verifier.progress import Meter
from verifier.refused import Refused
from verifier.report import Report
from verifier.sources import Source, opened, unread
from verifier.timeline import Recorder, Timeline

# Less than this is judged sooner than processes are started.
FEW, LITTLE = 16, 1 << 22
_IN_A_WORKER = (signal.signal, (signal.SIGINT, signal.SIG_DFL))


class Asked(Struct, frozen=True, kw_only=True):
    """How to judge; `timeline`: record also what happened when."""

    pin: Pin
    at: int | None = None
    max_bytes: int = MAX_BYTES
    timeline: bool = False


class Judged(Struct, kw_only=True):
    """One bundle's outcome, or why it could not be read at all."""

    name: str
    report: Report | None = None
    timeline: Timeline | None = None
    unread: str = ""


def judge(source: Source, asked: Asked, meter: Meter | None = None) -> Judged:
    """Judge one bundle."""
    recorder = Recorder() if asked.timeline else None
    watches = [each for each in (recorder and recorder.see, meter and meter.see) if each]
    try:
        with opened(source, asked.max_bytes, *watches) as stream:
            report = verify(stream, asked.pin, asked.at, max_bytes=asked.max_bytes)
    except OSError as error:
        return Judged(name=source.name, unread=unread(source.name, error).why)
    return Judged(name=source.name, report=report, timeline=recorder.finish() if recorder else None)


def judge_all(sources: list[Source], asked: Asked, jobs: int, meter: Meter) -> Iterator[Judged]:
    """Judge all, in order; in processes where that is worth starting them.

    Raises `Refused` worker-died when a process was ended from outside: what it judged is not known.
    """
    files = [source for source in sources if source.path is not None]
    small = len(files) <= FEW and sum(source.size for source in files) <= LITTLE
    if jobs == 1 or len(files) == 1 or small:
        for source in sources:
            yield judge(source, asked, meter)
        return
    from concurrent.futures import BrokenExecutor, ProcessPoolExecutor  # noqa: PLC0415 - slow to load
    from multiprocessing import get_context  # noqa: PLC0415

    start, arguments = _IN_A_WORKER
    pool = ProcessPoolExecutor(
        min(jobs, len(files)),
        mp_context=get_context("fork" if sys.platform == "linux" else None),
        initializer=start,
        initargs=arguments,
    )
    try:
        waiting = [(source, pool.submit(judge, source, asked) if source.path else None) for source in sources]
        for source, outcome in waiting:
            yield outcome.result() if outcome else judge(source, asked)
            meter.add(source.size)
    except BrokenExecutor as error:
        raise Refused(
            "worker-died",
            "a process of the verifier was ended from outside, so not every bundle was judged",
            hint="Look whether memory ran out; try again with --jobs 1.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
