"""The settings of a service: one frozen struct, from `settings.toml` and `TALLY_<SERVICE>_*`.

A setting that is unknown, missing or of the wrong form stops the start with a sentence: a service that guesses is a
service that was configured by nobody.
"""

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from verifier.encoding import Url
from verifier.refused import Refused

MAX_SETTINGS = 1 << 18
DAY = 86_400_000_000  # microseconds

Listen = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:\[\]-]{1,100}:[0-9]{1,5}\Z")]
Database = Annotated[str, Meta(pattern=r"^(sqlite|postgresql://[^\s]{1,500})\Z")]
RetentionDays = Annotated[int, Meta(ge=1, le=36_500)] | None  # None: for ever
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every service is told. A service adds its own fields in a subclass.

    `issuer` is the service's base URL and the owner of its keys; `database` is `sqlite` (one file in the service's own
    directory) or a `postgresql://` URL. `directory` is where the settings lie, and all that the process may write.
    `writes_per_minute` bounds what one client may change.
    """

    name: str
    directory: Path
    issuer: Url
    listen: Listen
    controls_url: Url
    scope_url: Url
    receipts_url: Url
    database: Database = "sqlite"
    writes_per_minute: Annotated[int, Meta(ge=1, le=10_000_000)] = 600
    max_body: Annotated[int, Meta(ge=1024, le=1 << 26)] = 1 << 22
    tls_certificate: FileName | None = None
    tls_key: FileName | None = None

    @property
    def engine_url(self) -> str:
        """The address of the database as SQLAlchemy's asynchronous engine wants it."""
        if self.database == "sqlite":
            return f"sqlite+aiosqlite:///{self.directory / self.name}.db"
        return "postgresql+asyncpg://" + self.database.removeprefix("postgresql://")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to bind."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


S = TypeVar("S", bound=Settings)


def load(kind: type[S], name: str, path: Path, environment: Mapping[str, str]) -> S:
    """Read a service's settings; `TALLY_<NAME>_<SETTING>` overrides the file.

    Raises `Refused` with bad-settings, whose sentence names the setting and never its value.
    """
    read = _decode(kind, name, path, _given(name, path, environment))
    _check_bind(read)
    return read


def common(name: str, path: Path, environment: Mapping[str, str]) -> Settings:
    """Read the part that every service has, for whoever starts one; the rest is for the service to check."""
    given = {key: value for key, value in _given(name, path, environment).items() if key in Settings.__struct_fields__}
    return _decode(Settings, name, path, given)


def _given(name: str, path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    given = {**_from_file(path), **_from_environment(f"TALLY_{name.upper()}_", environment)}
    for fixed in ("name", "directory"):
        if fixed in given:
            raise _bad(f"{fixed} is not a setting: it follows from where the file lies")
    return given


def _decode(kind: type[S], name: str, path: Path, given: Mapping[str, Any]) -> S:
    placed = {**given, "name": name, "directory": path.parent.absolute()}
    try:
        return msgspec.convert(placed, kind, strict=False, dec_hook=_path)
    except msgspec.ValidationError as error:
        raise _bad(str(error)) from error


def _path(kind: type[Any], value: Any) -> Any:
    """Let a path through that is one already: only `directory` is, and no file sets it."""
    if isinstance(value, kind):
        return value
    raise ValueError(f"not a {kind.__name__}")


def _from_file(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _bad(f"{path.name} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_SETTINGS:
        raise _bad(f"{path.name} is larger than {MAX_SETTINGS} bytes")
    try:
        return tomllib.loads(raw.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _bad(f"{path.name} is not TOML") from error


def _from_environment(prefix: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Take the variables of one service; a list or a table is written as JSON."""
    found: dict[str, Any] = {}
    for variable, text in environment.items():
        if variable.startswith(prefix):
            try:
                read = msgspec.json.decode(text) if text.startswith(("[", "{")) else text
                found[variable.removeprefix(prefix).lower()] = read
            except msgspec.DecodeError as error:
                raise _bad(f"{variable} is not JSON") from error
    return found


def _check_bind(settings: Settings) -> None:
    """Credentials cross this socket: beyond loopback they need TLS, whose two files come together."""
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise _bad("tls_certificate and tls_key are set together or not at all")
    host, port = settings.address
    if port > 65535:  # noqa: PLR2004 - the largest port
        raise _bad("listen names no port")
    if settings.tls_certificate is None and not is_loopback(host):
        raise _bad("listen is not a loopback address, and there is no TLS (tls_certificate, tls_key)")


def is_loopback(host: str) -> bool:
    """Tell whether a literal address is this machine's own; a name could point anywhere tomorrow."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bad(why: str) -> Refused:
    return Refused("bad-settings", why, hint="Compare settings.toml and TALLY_* with specs/operating.md.")
