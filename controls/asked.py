"""How requests to the registry are written: parameters with their form, and bodies as a client wrote them."""

from typing import Annotated, Any, TypeVar, get_args

from litestar import Request
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from controls.exports import Runtime
from controls.publish import Registry
from service.clients import Caller
from verifier.encoding import MAX_INT, Digest, Name, SafeText, parse, reject_duplicates

MAX_BODY = 1 << 14
MAX_PAGE = 100

T = TypeVar("T")
Ask = Request[Any, Any, Any]
By = NamedDependency[Caller]
Here = NamedDependency[Registry]
DIGEST, NAME, SAFE_TEXT = (get_args(kind)[1].pattern for kind in (Digest, Name, SafeText))
At = Annotated[str, PathParameter(pattern=DIGEST)]
Named = Annotated[str, PathParameter(pattern=NAME)]
OfName = Annotated[str | None, QueryParameter(pattern=NAME)]
OfKey = Annotated[str | None, QueryParameter(pattern=r"^[0-9a-f]{32}\Z")]
OfIssuer = Annotated[str | None, QueryParameter(pattern=SAFE_TEXT)]
Before = Annotated[int | None, QueryParameter(ge=1, le=MAX_INT)]
Wider = Annotated[bool, QueryParameter()]
For = Annotated[Runtime, QueryParameter(name="for")]
Position = Annotated[int, QueryParameter(ge=0, le=MAX_INT)]
Page = Annotated[int, QueryParameter(ge=1, le=MAX_PAGE)]


def read(body: bytes, kind: type[T]) -> T:
    """Read a JSON body as a client wrote it, duplicate keys refused."""
    value = parse(body, kind, limit=MAX_BODY)
    reject_duplicates(body)
    return value
