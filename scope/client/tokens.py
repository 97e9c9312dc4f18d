"""Tokens: how they are asked for, and what one says to somebody who holds it."""

from typing import Annotated, Any

import jwt
import msgspec
from msgspec import Meta, Struct

from scope.client.message import Kid, Message
from verifier.grant import Token
from verifier.refused import Refused

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name of RFC 8693
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a name of RFC 8693


class IssuedToken(Message, frozen=True, kw_only=True):
    """RFC 6749 §5.1. `expires_in` in seconds; never print `access_token`."""

    access_token: str
    token_type: str
    expires_in: int
    issued_token_type: str | None = None


def claims_of(token: str) -> Token:
    """Read what a token says, without believing it. Raises `Refused` bad-token."""
    try:
        said: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return msgspec.convert(said, Token)
    except (jwt.PyJWTError, msgspec.ValidationError) as error:
        raise Refused("bad-token", "this is no token that scope issued", hint="Get a new one.") from error


class TokenHeader(Struct, frozen=True):
    """What a token says of its signature; whether it is good, its readers find out."""

    alg: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+/-]{1,64}\Z")]
    typ: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+/-]{1,64}\Z")]
    kid: Kid


def header_of(token: str) -> TokenHeader:
    """Read a token's header, without believing it. Raises `Refused` bad-token."""
    try:
        return msgspec.convert(jwt.get_unverified_header(token), TokenHeader)
    except (jwt.PyJWTError, msgspec.ValidationError) as error:
        raise Refused("bad-token", "this is no token that scope issued", hint="Get a new one.") from error
