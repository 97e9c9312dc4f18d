"""Texts and patterns for the solver: globs and the one grammar of conditions as regular languages.

Exact but for lengths (a host of 254 characters) and for labels that stand for something else (`xn--`): what those turn
into is *missing*, which `Value.unreadable` stands for (values.py).
"""

import re
from collections.abc import Iterable
from functools import reduce
from typing import Any

import z3

from verifier.grammar import host_port_pattern

Term = Any  # z3 has no types of its own

_escape = re.compile(r"[^ -\[\]-~]")  # all but printable ASCII, and the backslash that begins an escape
_escaped = re.compile(r"\\u\{([0-9a-fA-F]+)\}")


def all_of(terms: Iterable[Term]) -> Term:
    """All of them; true of none."""
    return z3.And(z3.BoolVal(True), *terms)


def any_of(terms: Iterable[Term]) -> Term:
    """One of them at least; false of none."""
    return z3.Or(z3.BoolVal(False), *terms)


def literal(text: str) -> Term:
    """Write a text as the solver's constant."""
    return z3.StringVal(_escape.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text))


def text_of(value: Term) -> str:
    """Read the solver's constant as a text."""
    return _escaped.sub(lambda found: chr(int(found[1], 16)), value.as_string())


def anything() -> Term:
    """Every text."""
    return z3.Full(z3.ReSort(z3.StringSort()))


def exactly(text: str) -> Term:
    """One text alone."""
    return z3.Re(literal(text))


def one_of(languages: Iterable[Term]) -> Term:
    """What any of several languages holds; nothing at all of none."""
    every = list(languages)
    if not every:
        return z3.Empty(z3.ReSort(z3.StringSort()))
    return every[0] if len(every) == 1 else z3.Union(*every)


def sequence(*parts: Term) -> Term:
    """One language after the other."""
    return reduce(z3.Concat, parts)


def glob(pattern: str) -> Term:
    """What a glob matches: `*` is any run of characters."""
    first, *rest = pattern.split("*")
    parts = [exactly(first)] if first or not rest else []
    for part in rest:
        parts += [anything(), *([exactly(part)] if part else [])]
    return sequence(*parts)


def globs(patterns: Iterable[str]) -> Term:
    """What one of several globs matches."""
    return one_of(map(glob, patterns))


def characters(spans: Iterable[str]) -> Term:
    """One character out of spans like `az`, or of single ones."""
    return one_of(z3.Range(span[0], span[-1]) for span in spans)


SAFE = ("az", "AZ", "09", "_", ".", ":", "/", "-")


def safe_text() -> Term:
    """Names of tools, agents and models: harmless characters."""
    return z3.Plus(characters(SAFE))


def name() -> Term:
    """Names of servers and providers."""
    return sequence(characters(("az", "AZ", "09")), z3.Star(characters(("az", "AZ", "09", "_", ".", "-"))))


def printable() -> Term:
    """Texts that read well in a counterexample: no capitals, for hosts have both."""
    return z3.Star(characters((" @", "[~")))


def _label(first: Iterable[str]) -> Term:
    letters = ("az", "AZ", "09")
    return sequence(characters(first), z3.Option(sequence(z3.Star(characters((*letters, "-"))), characters(letters))))


def _below_host() -> Term:
    return z3.Plus(sequence(_label(("az", "AZ", "09")), exactly(".")))


def _host() -> Term:
    return sequence(_below_host(), _label(("az", "AZ")))


def _host_like(pattern: str) -> Term:
    """Hosts under a policy's pattern, in letters of either size."""
    tail = sequence(*(characters(sorted({each, each.upper()})) for each in pattern.removeprefix("*.")))
    return sequence(_below_host(), tail) if pattern.startswith("*.") else tail


def _url(host: Term, port: Term) -> Term:
    rest = z3.Star(characters((*"!#$%&'()*+,-./", "09", *":;=?@", "AZ", "[", "]", "_", "az", "~")))
    scheme = one_of((exactly("http://"), exactly("https://")))
    return sequence(scheme, host, port, z3.Option(sequence(exactly("/"), rest)))


def any_port() -> Term:
    """`:1` to `:65535`, or what looks like it."""
    return sequence(exactly(":"), characters(("19",)), z3.Loop(characters(("09",)), 0, 4))


def url(port: int | None = -1) -> Term:
    """URLs that the grammar reads: with any port or none (-1), with this port, without one (None)."""
    return _url(_host(), _ports(port))


def url_under(pattern: str) -> Term:
    """URLs whose host is under a pattern of a policy, whatever the port."""
    return _url(_host_like(pattern), _ports(-1))


def _ports(port: int | None) -> Term:
    if port is None:
        return exactly("")
    return z3.Option(any_port()) if port < 0 else exactly(f":{port}")


def stated(patterns: Iterable[str]) -> list[tuple[str, int | None]]:
    """Read a policy's hosts, each with the port that it states."""
    return [each for each in map(host_port_pattern, patterns) if each is not None]


def _email(domain: Term) -> Term:
    atom = z3.Plus(characters(("az", "AZ", "09", "_", "'", "+", "-")))
    return sequence(atom, z3.Star(sequence(exactly("."), atom)), exactly("@"), domain)


def email() -> Term:
    """E-mail addresses that the grammar reads."""
    return _email(_host())


def email_under(pattern: str) -> Term:
    """E-mail addresses whose domain is under a pattern of a policy."""
    return _email(_host_like(pattern))


def path() -> Term:
    """Absolute paths that the grammar reads."""
    inner = (" $", "&-", ".", "0[", "]~")
    component = one_of(
        (
            characters(("!$", "&-", "0[", "]~")),
            sequence(
                characters(("!$", "&-", ".", "0[", "]~")),
                z3.Star(characters(inner)),
                characters(("!$", "&-", "0[", "]~")),
            ),
        )
    )
    return one_of((exactly("/"), z3.Plus(sequence(exactly("/"), component))))


def below(top: str) -> Term:
    """Paths that are `top` or below it, if they are paths."""
    return anything() if top == "/" else sequence(exactly(top), z3.Option(sequence(exactly("/"), anything())))
