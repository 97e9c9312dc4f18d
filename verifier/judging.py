"""Judging many bundles: each by itself, over the cores there are, in the order in which they were given."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from verifier.audit import verify
from verifier.bundle import MAX_BYTES, Reader
from verifier.checkpoint import PROOF, Checkpoint, Proof
from verifier.encoding import unb64
from verifier.keys import Pin
from verifier.progress import Meter
from verifier.refused import Refused
from verifier.report import Report
from verifier.sources import Source, opened, unread

if TYPE_CHECKING:
    from verifier.timeline import Recorder, Timeline

# Less than this is judged sooner than processes are started.
FEW, LITTLE = 16, 1 << 22
_IN_A_WORKER = (signal.signal, (signal.SIGINT, signal.SIG_DFL))


Half = tuple[str, bytes]


class Asked(Struct, frozen=True, kw_only=True):
    """How to judge; `keys`: newer key lists, one envelope a line; `timeline`: record also what happened when.

    `kept`: what clients hold, name and content; of several bundles each is asked for what is of its own job (`assign`).
    """

    pin: Pin
    at: int | None = None
    keys: bytes | None = None
    kept: tuple[Half, ...] = ()
    max_bytes: int = MAX_BYTES
    timeline: bool = False


class Judged(Struct, kw_only=True):
    """One bundle's outcome, or why it could not be read at all."""

    name: str
    report: Report | None = None
    timeline: "Timeline | None" = None
    unread: str = ""


def judge(source: Source, asked: Asked, meter: Meter | None = None) -> Judged:
    """Judge one bundle."""
    recorder = _recorder() if asked.timeline else None
    watches = [each for each in (recorder and recorder.see, meter and meter.see) if each]
    try:
        with opened(source, asked.max_bytes, *watches) as stream:
            report = verify(stream, asked.pin, asked.at, keys=asked.keys, kept=asked.kept, max_bytes=asked.max_bytes)
    except OSError as error:
        return Judged(name=source.name, unread=unread(source.name, error).why)
    return Judged(name=source.name, report=report, timeline=recorder.finish() if recorder else None)


def _recorder() -> "Recorder":
    from verifier.timeline import Recorder  # noqa: PLC0415 - only a page needs it

    return Recorder()


def judge_all(sources: list[Source], asked: Asked, jobs: int, meter: Meter) -> Iterator[Judged]:
    """Judge all, in order; in processes where that is worth starting them.

    Raises `Refused` worker-died when a process was ended from outside: what it judged is not known.
    """
    files = [source for source in sources if source.path is not None]
    wanted = assign(sources, asked)
    small = len(files) <= FEW and sum(source.size for source in files) <= LITTLE
    if jobs == 1 or len(files) == 1 or small:
        for source, own in zip(sources, wanted, strict=True):
            yield judge(source, own, meter)
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
        pairs = list(zip(sources, wanted, strict=True))
        waiting = [(source, own, pool.submit(judge, source, own) if source.path else None) for source, own in pairs]
        for source, own, outcome in waiting:
            yield outcome.result() if outcome else judge(source, own)
            meter.add(source.size)
    except BrokenExecutor as error:
        raise Refused(
            "worker-died",
            "a process of the verifier was ended from outside, so not every bundle was judged",
            hint="Look whether memory ran out; try again with --jobs 1.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def assign(sources: list[Source], asked: Asked) -> list[Asked]:
    """Give each of several bundles what clients kept of its job, and what is of no bundle's job to every one."""
    if len(sources) == 1 or not asked.kept:
        return [asked] * len(sources)
    jobs = [_job(source, asked.max_bytes) for source in sources]
    here = {job for job in jobs if job is not None}
    homes = [(half, home if (home := _job_of(half)) in here else None) for half in asked.kept]
    return [replace(asked, kept=tuple(half for half, home in homes if home in {job, None})) for job in jobs]


def _job(source: Source, limit: int) -> str | None:
    """Read which job a bundle says it is of; nothing hangs on it but what it is asked for."""
    if source.path is None:
        return None
    try:
        with opened(source, limit) as stream:
            header = json.loads(Reader(stream, limit).line() or b"{}")["header"]
        return str(header["job"])
    except (OSError, Refused, ValueError, LookupError, TypeError, RecursionError):
        return None


def _job_of(half: Half) -> str | None:
    """Read which job a kept proof says it is of: its tree's origin ends in the job and the lane."""
    text = half[1].decode(errors="replace")
    try:
        proof = Proof.parse(text if text.startswith(PROOF) else unb64(text.strip()).decode(errors="replace"))
        return Checkpoint.parse(proof.note).origin.split("/")[-2]
    except (Refused, LookupError):
        return None


def usable_cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
