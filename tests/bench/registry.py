"""How fast the registry serves documents by digest, and whether that depends on how many it has.

Requests go out many at a time on one connection (HTTP/1.1 pipelining), so that the client has little to do;
the bare Litestar handler is asked in the same way, in turns.
"""

import hashlib
import socket
import sqlite3
import time
from collections.abc import Callable
from statistics import median as middle
from urllib.parse import urlsplit

from tests.bench.bare import DOCUMENT
from tests.bench.installation import Caller, Installation
from tests.bench.measure import Row, interleave, median, medians

PART = "registry"
ROUNDS, REQUESTS, AT_ONCE = 9, 2000, 50
MANY, FETCHED = 100_000, 200
MILLISECONDS = 1000
RATIO = 0.6


def rows(house: Installation) -> list[Row]:
    """Measure 304s and bodies beside the bare handler, then the time of one fetch among few and among many."""
    house.begin_bare()
    ours, bare = house.url("controls"), house.url("handler")
    digest = house.policy
    timed = {
        "304, registry": _load(ours, digest, known=True), "304, bare Litestar": _load(bare, digest, known=True),
        "body, registry": _load(ours, digest, known=False), "body, bare Litestar": _load(bare, digest, known=False),
    }  # fmt: skip
    interleave(timed, 1)
    samples = interleave(timed, ROUNDS)
    found = []
    for what, least in (("304", 5000), ("body", 3000)):
        mine, theirs = (medians(samples[f"{what}, {each}"]) for each in ("registry", "bare Litestar"))
        ratio = middle(other / own for own, other in zip(mine, theirs, strict=True))
        rate = REQUESTS / median(samples[f"{what}, registry"])
        beside = f"{ratio:.2f} of the bare handler's {REQUESTS / median(samples[f'{what}, bare Litestar']):,.0f}"
        target = f">= {least:,} a second, or 0.60 of the bare handler"
        found.append(
            Row(PART, f"answers with {what}, a second", rate, "/s", beside, target, rate >= least or ratio >= 0.6)
        )
    return [*found, _many(house)]


def _many(house: Installation) -> Row:
    """Compare the first fetch of a document among a hundred and among a hundred thousand."""
    path = house.installation / "controls" / "controls.db"
    caller = Caller(house.url("controls"))
    _insert(path, 0, 100 + ROUNDS * FETCHED)
    few = [_fetch(caller, 100 + number * FETCHED) for number in range(ROUNDS)]
    _insert(path, 100 + ROUNDS * FETCHED, MANY)
    start = MANY - ROUNDS * FETCHED
    many = [_fetch(caller, start + number * FETCHED) for number in range(ROUNDS)]
    before, after = (median(each) * MILLISECONDS for each in (few, many))
    beside = f"{after / before:.2f} of {before:.2f} ms among {100 + ROUNDS * FETCHED:,}"
    return Row(PART, f"first fetch among {MANY:,}, p50", after, "ms", beside, "<= 1.20", after <= 1.2 * before)


def _fetch(caller: Caller, start: int) -> list[float]:
    """Fetch documents that nobody has asked for before."""
    times = []
    for number in range(start, start + FETCHED):
        began = time.perf_counter()
        caller.get(f"/policies/{_digest(number)}")
        times.append(time.perf_counter() - began)
    return times


def _insert(path: object, start: int, end: int) -> None:
    """Put rows of made-up policies into the registry's own file."""
    with sqlite3.connect(str(path), timeout=60) as db:
        db.executemany(
            "INSERT INTO policies"
            " (digest, issuer, name, serial, valid_from, valid_until, envelope, published_at, published_by)"
            " VALUES (?, 'bench', ?, 1, 0, 1, ?, 0, 'bench')",
            ((_digest(number), f"policy-{number}", DOCUMENT) for number in range(start, end)),
        )


def _digest(number: int) -> str:
    return "sha256:" + hashlib.sha256(str(number).encode()).hexdigest()


def _load(url: str, digest: str, *, known: bool) -> Callable[[], list[float]]:
    """Send requests, so many at once; the seconds that all of them took."""
    host, _, port = urlsplit(url).netloc.partition(":")
    tag = f'If-None-Match: "{digest}"\r\n' if known else ""
    request = f"GET /policies/{digest} HTTP/1.1\r\nHost: {host}\r\n{tag}\r\n".encode()
    status = b"HTTP/1.1 304" if known else b"HTTP/1.1 200"

    def run() -> list[float]:
        with socket.create_connection((host, int(port))) as connection:
            began = time.perf_counter()
            for _ in range(REQUESTS // AT_ONCE):
                connection.sendall(request * AT_ONCE)
                _read(connection, status)
            return [time.perf_counter() - began]

    return run


def _read(connection: socket.socket, status: bytes) -> None:
    """Read as many answers as were asked for, whole: each of the status that it must have, each as long as it says."""
    content = b""
    for _ in range(AT_ONCE):
        while (end := content.find(b"\r\n\r\n")) < 0:
            content += _more(connection)
        head = content[:end].lower()
        if not content.startswith(status):
            raise RuntimeError(f"answered {content[:60]!r}")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        whole = end + 4 + (0 if status.endswith(b"304") else length)
        while len(content) < whole:
            content += _more(connection)
        content = content[whole:]


def _more(connection: socket.socket) -> bytes:
    piece = connection.recv(1 << 20)
    if not piece:
        raise RuntimeError("the server closed the connection")
    return piece
