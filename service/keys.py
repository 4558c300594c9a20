"""Who may ask what: keys from settings and files, compared in constant time and never written anywhere."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.settings import Settings, WrongSetting

# Probes, scrapers and readers of the documentation have no keys, and the page asks for one.
PROBES = {"/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"}
PAGES = {"/", "/page.css", "/page.js", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"}
OPEN = frozenset(PROBES | PAGES)


class MissingKey(Exception):
    """No key, or one that opens nothing."""


class Forbidden(Exception):
    """A key that does not open this, or something that no key opens."""


class Keys:
    """Digests of the keys, so that none stays in memory as it is. `read` may be called again: for keys that rotate."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.read()

    def read(self) -> None:
        """Raises WrongSetting for a file that cannot be used; the keys in force stay."""
        api = digests(self.settings.api_keys, read_file("api_keys_file", self.settings.api_keys_file))
        admin = digests(self.settings.admin_keys, read_file("admin_keys_file", self.settings.admin_keys_file))
        self.api, self.admin = api, admin

    def check(self, sent: Sequence[bytes]) -> None:
        """Raises MissingKey unless one of the keys opens what clients use."""
        if self.api and not (known(sent, self.api) | known(sent, self.admin)):
            raise MissingKey("the key is not known" if any(sent) else "a key is needed: Authorization: Bearer <key>, or X-API-Key: <key>")

    def check_admin(self, sent: Sequence[bytes], without: str) -> None:
        """Raises MissingKey or Forbidden unless one of the keys opens what operators use. without: how else they get it."""
        if not self.admin:
            raise Forbidden(f"this needs an admin key, and setting admin_keys names none; {without}")
        if not known(sent, self.admin):
            if known(sent, self.api):
                raise Forbidden("this needs an admin key")
            raise MissingKey("the key is not known" if any(sent) else "an admin key is needed: Authorization: Bearer <key>, or X-API-Key: <key>")


class Guard:
    """ASGI middleware: every path but the open ones needs a key, where keys are configured. A new route is not forgotten."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.keys.api and scope["type"] == "http" and scope["path"] not in OPEN:
            self.keys.check(key_of(Headers(scope=scope)))
        await self.app(scope, receive, send)


def key_of(headers: Headers) -> tuple[bytes, bytes]:
    """What stands in either place, or nothing: beside the key there may be a gateway's own token."""
    # Latin-1 is how starlette reads headers; back in bytes they are what was sent.
    scheme, _, token = headers.get("authorization", "").encode("latin-1").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b"", headers.get("x-api-key", "").encode("latin-1")


def known(sent: Iterable[bytes], among: Sequence[bytes]) -> bool:
    """Takes as long whichever keys they are, or none: digests are equally long, and all are compared."""
    hashed = [hashlib.sha256(key).digest() for key in sent]
    return sum(hmac.compare_digest(digest, other) for digest in hashed for other in among) > 0


def digests(keys: Iterable[SecretStr], more: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(hashlib.sha256(key.encode()).digest() for key in [*(key.get_secret_value() for key in keys), *more])


def read_file(setting: str, path: Path | None) -> list[str]:
    """One key a line; blank lines and those that begin with # are none."""
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as exc:
        raise WrongSetting(f"setting {setting} is {str(path)!r}: {exc.strerror if isinstance(exc, OSError) else 'not text'}") from None
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        # An empty file would open everything.
        raise WrongSetting(f"setting {setting} is {str(path)!r}: there is no key in it")
    return keys
