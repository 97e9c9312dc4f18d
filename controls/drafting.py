"""Drafts as authors write them, in YAML, JSON or TOML, and where in the file each field stands (specs/drafts.md).

A draft says what it looks like: what YAML would turn into something else (`no`, `1.10`, `2026-01-01`, anchors, tags) is
an error with its line, not a surprise.
"""

import re
import tomllib
from collections.abc import Callable
from typing import Any

import yaml
from msgspec import Struct

from verifier.draft import read_draft
from verifier.policy import MAX_POLICY
from verifier.refused import Refused

MAX_DEPTH = 32
Place = tuple[int, int]  # line and column, from 1
_integer = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_part = re.compile(r"\.?([^.\[\]]+)|\[([0-9]+)\]")
_header = re.compile(r"\s*(\[{1,2})\s*([^\]]+?)\s*\]{1,2}\s*(?:#.*)?")
_key = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")


class Draft(Struct, frozen=True):
    """A draft: its value, and the place of every field, by path like `allowed_tools[0].server`."""

    name: str
    value: dict[str, Any]
    places: dict[str, Place]

    def at(self, field: str) -> str:
        """Say where a field stands: `crm.yaml:12:5`; of one that is not written, where what would hold it stands."""
        line, column = self.places.get("", (1, 1))
        path = ""
        for found in _part.finditer(field):
            path += found[0] if path else found[0].lstrip(".")
            line, column = self.places.get(path, (line, column))
        return f"{self.name}:{line}:{column}"

    def pointed(self, refused: Refused) -> Refused:
        """Make a refusal that points at file, line, column and field."""
        field = f" {refused.field}:" if refused.field else ""
        return Refused(refused.code, f"{self.at(refused.field)}:{field} {refused.why}", hint=refused.hint)


def read(name: str, raw: bytes) -> Draft:
    """Read a draft by its file's suffix: .yaml, .yml, .toml, else JSON.

    Raises `Refused`: too-large, not-yaml, not-toml, not-json, not-canonical (a key twice), wrong-type, bad-value.
    """
    if len(raw) > MAX_POLICY:
        raise Refused("too-large", f"{name}: a draft has at most {MAX_POLICY} bytes")
    readers: dict[str, Callable[[str, bytes], Draft]] = {"yaml": _yaml, "yml": _yaml, "toml": _toml}
    draft = readers.get(name.rpartition(".")[2].lower(), _json)(name, raw)
    if not isinstance(draft.value, dict):
        raise Refused("wrong-type", f"{name}:1:1: a draft is one object")
    return draft


def _json(name: str, raw: bytes) -> Draft:
    """Read JSON strictly; its places are those of the same text as YAML, which JSON is."""
    try:
        value = read_draft(raw)
    except Refused as refused:
        raise Refused(refused.code, f"{name}: {refused.why}", hint=refused.hint, field=refused.field) from refused
    try:
        places = _Builder(name, lenient=True).build(raw.replace(b"\t", b" ").decode()).places
    except (Refused, UnicodeDecodeError):
        places = {}
    return Draft(name, value, places)


def _yaml(name: str, raw: bytes) -> Draft:
    try:
        return _Builder(name).build(raw.decode())
    except UnicodeDecodeError as error:
        raise Refused("not-utf8", f"{name}: not UTF-8") from error


class _Builder:
    """Builds values from YAML's events, one by one, and notes where each begins."""

    def __init__(self, name: str, *, lenient: bool = False) -> None:
        self._name, self._lenient = name, lenient
        self._places: dict[str, Place] = {}

    def build(self, text: str) -> Draft:
        try:
            events = [each for each in yaml.parse(text, Loader=yaml.SafeLoader) if not isinstance(each, _FRAME)]
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self._refuse("not-yaml", place, getattr(error, "problem", None) or "not YAML") from error
        except RecursionError as error:
            raise self._refuse("too-deep", (1, 1), f"nested deeper than {MAX_DEPTH} levels") from error
        if not events:
            raise self._refuse("wrong-type", (1, 1), "the file is empty")
        self._events = iter(events)
        value = self._value(next(self._events), "", 0)
        if (extra := next(self._events, None)) is not None:
            raise self._refuse("wrong-type", _place(extra), "a second document in one file")
        return Draft(self._name, value, self._places)

    def _value(self, event: Any, path: str, depth: int) -> Any:
        self._places[path] = place = _place(event)
        if depth > MAX_DEPTH:
            raise self._refuse("too-deep", place, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._refuse("bad-value", place, "anchors and aliases are not read: write it out")
        if getattr(event, "tag", None) is not None:
            raise self._refuse("bad-value", place, "tags are not read")
        if isinstance(event, yaml.SequenceStartEvent):
            found: list[Any] = []
            while not isinstance(each := next(self._events), yaml.SequenceEndEvent):
                found.append(self._value(each, f"{path}[{len(found)}]", depth + 1))
            return found
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        return self._scalar(event, place)

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(key := next(self._events), yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.value == "<<":
                raise self._refuse("bad-value", _place(key), "a key is a plain name; nothing is merged")
            if key.value in found:
                raise self._refuse("not-canonical", _place(key), f"the key {key.value!r} stands here a second time")
            inner = f"{path}.{key.value}" if path else key.value
            found[key.value] = self._value(next(self._events), inner, depth + 1)
            self._places[inner] = _place(key)
        return found

    def _scalar(self, event: Any, place: Place) -> Any:
        """Read a scalar: quoted a text; plain true, false, an integer, or a text that can be nothing else."""
        text: str = event.value
        if any("\ud800" <= each <= "\udfff" for each in text):
            raise self._refuse("bad-value", place, "half a character")
        if event.style is not None or self._lenient:
            return text
        if text in {"true", "false"}:
            return text == "true"
        if _integer.fullmatch(text):
            return int(text)
        kind = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], [])
        named = [tag.rpartition(":")[2] for tag, pattern in (*kind, *_ANY) if pattern.match(text)]
        if not named:
            return text
        hint = "Leave it out." if "null" in named else "Put it in quotes."
        said = {"bool": "true or false", "null": "nothing at all", "timestamp": "a date"}.get(named[0], f"a {named[0]}")
        raise self._refuse("bad-value", place, f"{text!r} would be read as {said}", hint)

    def _refuse(self, code: str, place: Place, why: str, hint: str = "") -> Refused:
        return Refused(code, f"{self._name}:{place[0]}:{place[1]}: {why}", hint=hint)


_FRAME = (yaml.StreamStartEvent, yaml.StreamEndEvent, yaml.DocumentStartEvent, yaml.DocumentEndEvent)
_ANY = yaml.SafeLoader.yaml_implicit_resolvers.get(None, [])


def _place(event: Any) -> Place:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _toml(name: str, raw: bytes) -> Draft:
    try:
        text = raw.decode()
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line ([0-9]+), column ([0-9]+)\)", str(error))
        where = f"{found[1]}:{found[2]}" if found else "1:1"
        raise Refused("not-toml", f"{name}:{where}: {str(error).partition(' (at ')[0]}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise Refused("not-toml", f"{name}: not TOML in UTF-8") from error
    places = _toml_places(text)
    _plain(name, value, "", places)
    return Draft(name, value, places)


def _plain(name: str, value: Any, path: str, places: dict[str, Place]) -> None:
    """Let through what a policy can hold: no dates, no floats."""
    if isinstance(value, dict):
        for key, each in value.items():
            _plain(name, each, f"{path}.{key}" if path else key, places)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            _plain(name, each, f"{path}[{place}]", places)
    elif not isinstance(value, str | int | bool):
        at = Draft(name, {}, places).at(path)
        raise Refused("bad-value", f"{at}: {path}: {value!s} is no text and no integer", hint="Put it in quotes.")


def _toml_places(text: str) -> dict[str, Place]:
    """Find where tables and keys begin; inside an inline table or a list, where that begins."""
    places: dict[str, Place] = {"": (1, 1)}
    counts: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _header.fullmatch(line):
            table = _table(found[2], counts, several=found[1] == "[[")
            places.setdefault(table, (number, line.index("[") + 1))
        elif found := _key.match(line):
            key = found[1].replace('"', "").replace("'", "")
            places.setdefault(f"{table}.{key}" if table else key, (number, found.start(1) + 1))
    return places


def _table(name: str, counts: dict[str, int], *, several: bool) -> str:
    """Name a table by path: each `[[name]]` is the next of its list, and what follows lies in the last one."""
    path = ""
    parts = [part.strip().strip("\"'") for part in name.split(".")]
    for place, part in enumerate(parts):
        path = f"{path}.{part}" if path else part
        if several and place == len(parts) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = f"{path}[{counts[path]}]"
    return path
