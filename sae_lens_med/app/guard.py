"""ASGI layers around the pages: who may ask, who may write, and what every answer carries.

- **Host**: a request for a name that is not this server's gets 400, so that no foreign name can be made to point here.
- **Reading** elsewhere than on loopback: a token, given once in the address, then in a cookie (`HttpOnly`,
  `SameSite=Strict`); compared in constant time. Without it: 401 and no data, but for the style sheet and scripts.
- **Writing**: JSON only, from a page of this server (`Origin`, or `Sec-Fetch-Site` where a browser sends none), with
  the token of this process, which only its pages know; of a stated length, at most `MOST_BYTES` (413).
- **HEAD** is answered as GET is, without the body.
- **Headers** on every answer, errors and files too: a policy under which nothing but this server's own files runs or is
  loaded, no sniffing, no referrer, no embedding.

Out of scope: several users with rights of their own, and encryption: put a proxy with TLS before it.
"""

import secrets
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sae_lens_med.app.settings import Settings

COOKIE = "llmxai"
WRITE_TOKEN = "x-llmxai-token"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
STATIC = "/static/"
"""Where the files of the interface lie, which dress a refusal, too."""
MOST_BYTES = 8 * 2**20
"""Of what is written: an edited question with 26 options is less than half of it."""
_SAFE = ("GET", "HEAD", "OPTIONS")
Refuse = Callable[[Scope, int, str], Response]
"""Status and key of the reason -> the page that says so."""


class Guard:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, settings: Settings, refuse: Refuse) -> None:
        """`refuse` makes the page of a refusal."""
        self.app, self.settings, self.refuse = app, settings, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        only_head = scope["method"] == "HEAD"

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            elif only_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        if only_head:
            scope = {**scope, "method": "GET"}
        answer = self._refusal(scope) or self.app
        await answer(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.settings.may_be_called(host.rpartition(":")[0] if _has_port(host) else host):
            return self.refuse(scope, 400, "refused.host")
        may_read = not self.settings.token or scope["path"].startswith(STATIC)
        if not may_read and (answer := self._unknown(scope, headers)) is not None:
            return answer
        if scope["method"] not in _SAFE and (reason := self._foreign(headers, host)):
            return self.refuse(scope, 403, reason)
        if _is_large(headers):
            return self.refuse(scope, 413, "refused.large")
        return None

    def _unknown(self, scope: Scope, headers: Headers) -> Response | None:
        """A redirect that drops the token from the address, or 401; None for a reader with the cookie."""
        token = self.settings.token.encode()
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = next((value for name, value in query if name == "token"), None)
        if given is not None and secrets.compare_digest(given.encode(), token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            answer = RedirectResponse(scope["path"] + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(COOKIE, self.settings.token, httponly=True, samesite="strict")
            return answer
        if secrets.compare_digest(_cookie(headers).encode(), token):
            return None
        return self.refuse(scope, 401, "refused.token")

    def _foreign(self, headers: Headers, host: str) -> str:
        """Why a write is refused; empty where it is not."""
        origin = headers.get("origin")
        if not (_is_own(origin, host) or (origin is None and headers.get("sec-fetch-site") == "same-origin")):
            return "refused.origin"
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return "refused.json"
        if not secrets.compare_digest(headers.get(WRITE_TOKEN, "").encode(), self.settings.write_token.encode()):
            return "refused.write"
        return ""


def is_foreign(headers: Headers) -> bool:
    """Whether a page of another server asks; what asks without a browser is not foreign."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    return (origin is not None and not _is_own(origin, headers.get("host", ""))) or site in ("cross-site", "same-site")


def _is_own(origin: str | None, host: str) -> bool:
    return origin in (f"http://{host}", f"https://{host}")


def _is_large(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not (length.isascii() and length.isdigit() and int(length) <= MOST_BYTES)


def _has_port(host: str) -> bool:
    """An address of IPv6 stands in brackets where a port follows."""
    return ":" in host and (host.count(":") == 1 or "]:" in host)


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value
