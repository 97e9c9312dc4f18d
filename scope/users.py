"""Who a job works for: an identity provider's word, verified when the job opens (specs/grant.md §6).

    {"user_token": "eyJ…"}: an ID token (OpenID Connect Core §2), or a JWT access token, of a provider in the settings

Only claims that the settings list enter the grant, by the names that policies use; the user enters by a pseudonym. What
a model wrote, and what an orchestrator says without a token, never does.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import jwt
from msgspec import Struct
from yarl import URL

from scope.settings import IdentityProvider
from service.keystore import Random, read_private, write_private
from service.reach import GuardedResolver, Network, allows
from verifier.encoding import MAX_INT
from verifier.grant import Claim
from verifier.refused import Refused

SECRET, SECRET_BYTES = "pseudonyms.secret", 32
MAX_TOKEN, MAX_KEYS, MAX_TEXT = 1 << 14, 1 << 18, 256
SKEW = 60  # seconds that a provider's clock may run ahead
FRESH, AGAIN = 600, 30  # seconds that keys are believed, and before an unknown key has them fetched again
NOT_KEYS = (aiohttp.ClientError, TimeoutError, OSError, jwt.PyJWTError, ValueError, TypeError, AttributeError, Refused)
TIMEOUT = aiohttp.ClientTimeout(total=10, sock_connect=5)


class User(Struct, frozen=True):
    """A user as a grant names one."""

    name: str
    claims: dict[str, Claim]


class Users:
    """The identity providers that are believed. Belongs to one event loop."""

    def __init__(
        self, providers: Mapping[str, IdentityProvider], directory: Path, networks: tuple[Network, ...], random: Random
    ) -> None:
        """Take the providers; pseudonyms are made with a secret in the service's own directory."""
        self._providers = {each.issuer: each for each in providers.values()}
        self._directory = directory
        self._networks = networks
        self._random = random
        self._keys: dict[str, tuple[float, jwt.PyJWKSet]] = {}
        self._turns = {issuer: asyncio.Lock() for issuer in self._providers}

    async def verify(self, token: str, now: int) -> User:
        """Believe a token of a provider, or refuse it; `now` in microseconds.

        Raises `Refused`: unknown-issuer, bad-user-token, identity-unavailable.
        """
        provider = self._provider(token)
        claims = self._checked(token, provider, await self._key(token, provider), now // 1_000_000)
        return User(self._pseudonym(provider.issuer, claims["sub"]), _listed(provider, claims))

    def claimed(self, token: str) -> str:
        """Name the user whom a token says it is of; only its issuer must be known.

        Raises `Refused`: unknown-issuer, bad-user-token.
        """
        issuer = self._provider(token).issuer
        subject = str(jwt.decode(token, options={"verify_signature": False}).get("sub"))
        try:
            return self._pseudonym(issuer, subject)
        except UnicodeEncodeError as error:
            raise _bad("its text is not Unicode") from error

    def _provider(self, token: str) -> IdentityProvider:
        """Find whose token this says it is; nothing of it is believed yet."""
        if len(token) > MAX_TOKEN:
            raise _bad("it is too large")
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _bad("it is no JWT") from error
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            hint = "Name the provider in scope's settings: identity_providers."
            raise Refused(
                "unknown-issuer", "no identity provider of this name is believed here", field="user_token", hint=hint
            )
        return provider

    def _checked(self, token: str, provider: IdentityProvider, key: jwt.PyJWK, now: int) -> dict[str, Any]:
        """Check signature, audience and times, by our clock."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=list(provider.algorithms), audience=provider.audience, issuer=provider.issuer,
                options={
                    "require": ["iss", "sub", "aud", "iat", "exp"], "verify_exp": False, "verify_iat": False,
                    "verify_nbf": False,
                },
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise _bad("signature, issuer or audience are not right") from error
        issued, expires, subject = claims["iat"], claims["exp"], claims["sub"]
        if type(issued) is not int or type(expires) is not int or type(claims.get("nbf", 0)) is not int:
            raise _bad("its times are no whole seconds")
        if not isinstance(subject, str) or not subject:
            raise _bad("it names nobody")
        try:
            json.dumps(claims, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _bad("its text is not Unicode") from error
        if expires <= now or max(issued, claims.get("nbf", 0)) > now + SKEW or issued < now - provider.max_age_seconds:
            raise _bad("it has expired, or is too old, or is of a time to come")
        return claims

    async def _key(self, token: str, provider: IdentityProvider) -> jwt.PyJWK:
        """Find the key that a token names; an unknown one has the provider's keys fetched again, not too often."""
        try:
            name = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError) as error:
            raise _bad("it is no JWT") from error
        async with self._turns[provider.issuer]:
            fetched, keys = self._keys.get(provider.issuer, (0.0, None))
            old = time.monotonic() - fetched
            if keys is None or old > FRESH or (_named(keys, name) is None and old > AGAIN):
                keys = await self._fetch(provider)
                self._keys[provider.issuer] = time.monotonic(), keys
        found = _named(keys, name)
        if found is None:
            raise _bad("it is signed by a key that the provider does not publish")
        return found

    async def _fetch(self, provider: IdentityProvider) -> jwt.PyJWKSet:
        """Read a provider's keys: from a file of the operator's, or from where it publishes them."""
        try:
            if provider.jwks_file is not None:
                raw = (self._directory / provider.jwks_file).read_bytes()
            else:
                raw = await self._download(provider.jwks_url or "")
            return jwt.PyJWKSet.from_dict(json.loads(raw))
        except (
            aiohttp.ClientError,
            TimeoutError,
            OSError,
            jwt.PyJWTError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            why = f"the keys of {provider.issuer} cannot be had: {type(error).__name__}"
            raise Refused("identity-unavailable", why, field="user_token") from error

    async def _download(self, url: str) -> bytes:
        if not allows(url, self._networks):
            raise ValueError(url)
        connector = aiohttp.TCPConnector(resolver=GuardedResolver(aiohttp.ThreadedResolver(), self._networks))
        jar = aiohttp.DummyCookieJar()
        async with (
            aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=jar, trust_env=False) as session,
            session.get(URL(url, encoded=True), allow_redirects=False) as answer,
        ):
            content = await answer.content.read(MAX_KEYS + 1)
            if answer.status != 200 or len(content) > MAX_KEYS or not answer.content.at_eof():  # noqa: PLR2004 - OK
                raise ValueError(answer.status)
            return content

    def _pseudonym(self, issuer: str, subject: str) -> str:
        """Name a user so that only this scope can tell who it is; the same user has one name."""
        path = self._directory / SECRET
        if not path.exists():
            with suppress(FileExistsError):  # another process was first
                write_private(path, self._random(SECRET_BYTES))
        said = f"{issuer}\0{subject}".encode()
        return "user-" + hmac.new(read_private(path), said, hashlib.sha256).hexdigest()[:32]


def _named(keys: jwt.PyJWKSet, name: object) -> jwt.PyJWK | None:
    """Find a key by its name; a token that names none means the only one."""
    if name is None:
        return keys.keys[0] if len(keys.keys) == 1 else None
    return next((key for key in keys.keys if key.key_id == name), None)


def _listed(provider: IdentityProvider, claims: Mapping[str, Any]) -> dict[str, Claim]:
    """Take the claims that the settings list, by the names that policies use; what is no plain value is left out."""
    found: dict[str, Claim] = {}
    for name, claim in provider.claims.items():
        value = claims.get(claim)
        plain = isinstance(value, bool) or (isinstance(value, str) and len(value) <= MAX_TEXT)
        if plain or (isinstance(value, int) and abs(value) <= MAX_INT):
            found[name] = value  # type: ignore[assignment] # one of the three
    return found


def _bad(why: str) -> Refused:
    return Refused("bad-user-token", f"the user's token is not believed: {why}", field="user_token")
