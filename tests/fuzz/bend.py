"""How bytes are bent that were in form: by characters, by members of the JSON, by lines of a bundle."""

import json
import random
from collections.abc import Callable

WORDS = [
    b"null",
    b"true",
    b"-0",
    b"1.5",
    b"1e999",
    b"1e99999999999999999999",
    b"9" * 400,
    b"NaN",
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xff"',
    b"\xef\xbb\xbf",
    b'{"a":1,"a":1}',
    b"[" * 40,
    b"]" * 40,
    b"[" * 3000,
    b'"' + b'\\"' * 500,
    b"\n",
    b"\0",
    b"\x1b[0m",
    b'"QR=="',
    b'"sha256:"',
    b',"x":1',
    "—".encode(),
    "é".encode(),
    b"9007199254740992",
    b"-1",
    b"18446744073709551616",
]


def bend(raw: bytes, dice: random.Random) -> bytes:
    """Change bytes in one to three ways: cut, flip, insert, double, swap, overwrite, wrap, spell base64 otherwise."""
    for _ in range(dice.randint(1, 3)):
        at, to = sorted((dice.randint(0, len(raw)), dice.randint(0, len(raw))))
        to = min(to, at + dice.choice([1, 4, 30, len(raw)]))
        raw = dice.choice(BENDS)(raw, at, to, dice)
    return raw


def member(raw: bytes, at: int, _: int, dice: random.Random) -> bytes:
    """Replace, double or drop a value of the parsed document, and encode it canonically again."""
    try:
        whole = json.loads(raw)
    except (ValueError, RecursionError):
        return raw[:at]
    place, name, steps = whole, None, 0
    while isinstance(place, dict | list) and place and steps < dice.randint(1, 5):
        parent, name = place, dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
        place, steps = parent[name], steps + 1
    if name is None:
        return raw + b"x"
    odd = dice.choice(
        [
            None,
            True,
            -1,
            0,
            2**53,
            2**70,
            1.5,
            "",
            "a b",
            "*",
            "\0",
            [],
            {},
            [place, place],
            {"a": place},
            "drop",
            [[[[]]]],
        ]
    )
    if odd == "drop":
        del parent[name]
    else:
        parent[name] = odd
    return json.dumps(whole, sort_keys=dice.random() < 0.9, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


BENDS: list[Callable[[bytes, int, int, random.Random], bytes]] = [
    lambda raw, at, _to, _dice: raw[:at],
    lambda raw, at, to, _dice: raw[:at] + raw[to:],
    lambda raw, at, to, _dice: raw[:to] + raw[at:],
    lambda raw, at, _to, dice: raw[:at] + dice.choice(WORDS) + raw[at:],
    lambda raw, at, to, dice: raw[:at] + dice.choice(WORDS) + raw[to:],
    lambda raw, at, _to, dice: raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :],
    lambda raw, at, _to, dice: (
        raw[:at] + bytes(each ^ (1 << dice.randrange(8)) for each in raw[at : at + 1]) + raw[at + 1 :]
    ),
    lambda raw, _at, _to, dice: dice.choice(WORDS) + raw + dice.choice(WORDS),
    lambda raw, _at, _to, dice: raw * dice.choice([2, 2, 2, 50]),
    lambda raw, _at, _to, _dice: b'{"a":' * 40 + raw + b"}" * 40,
    lambda raw, _at, _to, dice: raw.replace(b'"', dice.choice([b"'", b'\\"', b'" ', b""]), dice.randint(1, 3)),
    lambda raw, _at, _to, dice: raw.replace(b"==", dice.choice([b"=", b"", b"===", b"\\u003d\\u003d"]), 1),
    member,
    member,
    member,
    member,
]
