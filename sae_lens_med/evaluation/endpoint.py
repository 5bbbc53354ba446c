"""A model behind an OpenAI-compatible endpoint (vLLM, SGLang, a cloud): many chats, their tries, what comes back.

One request is one chat (`BASE_URL/chat/completions`). What may pass is tried again, with waits that double or are what
the server asks for (`Retry-After`): 408, 409, 429, 5xx, no answer within the time for the *whole* reply, a reply that
is no chat completion (a proxy cut it, no choices in it). What cannot pass ends all: a refused key, an unknown model, a
redirect. What is wrong with one request alone (a prompt that is too long) is said of this one, and the others go on;
when several in a row get no reply, the rest are not asked.

Secrets: the key comes from an environment variable only, is sent to the host of `base_url` only (redirects are not
followed), never over plain http except to this machine, and stands in no message, note or file, also where a server
repeats it. What a server says is stripped of control characters.

Own code: one kind of request needs the standard library only, and the `openai` client follows redirects and takes its
address from the environment, which the rule on secrets excludes.

Out of scope: other protocols, streaming, and what the texts mean (`generation`, `alignment.labels.judges`). Loads no
torch.
"""

import json
import math
import os
import re
import threading
import time
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.escaping import plain

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Statuses after which the same request may succeed."""
OF_ONE_REQUEST = (400, 413, 422)
"""Statuses that may be about one request alone: its length, its text."""
MAX_WAIT = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
MAX_REPLY = 4_000_000
"""Bytes of a reply that are read."""
MAX_TIMEOUT, MAX_RETRIES, MAX_PARALLEL = 86_400, 100, 1_024
"""Seconds of a wait, tries after the first, and requests at a time that can be meant."""
GIVE_UP = 5
"""Requests in a row without a reply after which no more are sent."""
LOOK = 0.1
"""Seconds after which a waiting thread looks whether it should stop."""

_R = TypeVar("_R")


class Unanswered(ModelError):
    """One request got no reply; others may."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote in one chat."""

    text: str
    """With what it thought before its answer, where the server gives that apart, as `<think>...</think>`. Without
    control characters but line breaks and tabs."""
    finish: Literal["stop", "length"]
    """`length`: it was cut off."""
    prompt_tokens: int | None = None
    """As the server counts; None where it does not say."""
    generated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A model behind `base_url`/chat/completions.

    Raises `ConfigError` when it is made with a URL, a name or a number that cannot be used, or with a key that cannot
    be sent.
    """

    base_url: str
    """Up to and without `/chat/completions`: `https://api.openai.com/v1`, `http://localhost:8000/v1`."""
    model: str
    key_variable: str | None = None
    """The environment variable that holds the key; None: no key is sent."""
    timeout: float = 600.0
    """Seconds for each try, from its first byte to the last one of its reply."""
    retries: int = 4
    """Tries after the first, of a request that may succeed later."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, unless the server says how long."""
    parallel: int = 8
    """Requests at a time."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request (`reasoning_effort`, `chat_template_kwargs`, ...); None leaves a field out."""
    role: str = "endpoint"
    """What errors call it."""
    on_wait: Callable[[str], None] | None = field(default=None, compare=False)
    """Told in a sentence of each try that failed, and when the next one is."""

    def __post_init__(self) -> None:
        a = "an" if self.role[0] in "aeiou" else "a"
        try:
            parts = urlsplit(self.base_url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{a} {self.role}'s base URL is not a URL ({error}); correct it.") from error
        if parts.username or parts.password:
            raise ConfigError(
                f"{a} {self.role}'s base URL contains a password; put the key into an environment variable instead."
            )
        if parts.scheme not in ("http", "https") or not host or not _can_be_sent(self.base_url):
            raise ConfigError(
                f"{a} {self.role}'s base URL begins with http:// or https:// and a host, not {self.base_url!r}; "
                "it is ASCII without spaces."
            )
        if parts.query or parts.fragment:
            raise ConfigError(
                f"{a} {self.role}'s base URL ends before any '?' or '#'; give it up to and without /chat/completions."
            )
        if not self.model.strip():
            raise ConfigError(f"{a} {self.role} needs the name of a model.")
        whole = isinstance(self.retries, int) and isinstance(self.parallel, int)
        sound = whole and 0 <= self.retries <= MAX_RETRIES and 1 <= self.parallel <= MAX_PARALLEL
        if not sound or not (0 < self.timeout <= MAX_TIMEOUT and 0 <= self.first_wait <= MAX_TIMEOUT):
            raise ConfigError(
                f"{a} {self.role} needs timeout > 0, retries >= 0, first_wait >= 0 and parallel >= 1, and at most "
                f"{MAX_TIMEOUT:,} seconds, {MAX_RETRIES} retries and {MAX_PARALLEL:,} requests at a time."
            )
        key = self._key
        if self.key_variable is not None and key is None:
            raise ConfigError(
                f"the environment has no variable {self.key_variable} with the {self.role}'s key; set it."
            )
        if key and (not key.isascii() or not key.isprintable() or " " in key):
            raise ConfigError(
                f"the variable {self.key_variable} contains characters that cannot be in a key; set it again."
            )
        if key and parts.scheme == "http" and not is_loopback(host):
            raise ConfigError(
                f"the key in {self.key_variable} would be sent unencrypted to {host}; use https, or unset it."
            )

    @property
    def _key(self) -> str | None:
        return None if self.key_variable is None else os.environ.get(self.key_variable)

    @property
    def where(self) -> str:
        """What errors call it, with its model and address."""
        return plain(f"the {self.role} {self.model} at {self.base_url}")

    def ask(self, body: Mapping[str, Any]) -> Reply:
        """The reply to one chat. `body` holds `messages`, and what else the request says. Raises `ModelError`."""
        return self._ask(body, threading.Event())

    def ask_all(self, bodies: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Reply | Unanswered]]:
        """The replies to several chats, `parallel` at a time, each with its place in `bodies`, as they come.

        Raises `ModelError` where the rest need not be asked: the endpoint refuses, or several in a row get no reply.
        """
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self.parallel)
        silent = 0
        try:
            places = {pool.submit(self._ask_or_say, body, stopped): place for place, body in enumerate(bodies)}
            for future in as_completed(places):
                found = future.result()
                yield places.pop(future), found
                silent = silent + 1 if isinstance(found, Unanswered) else 0
                if isinstance(found, Unanswered) and silent >= GIVE_UP and places:
                    raise ModelError(f"{str(found).rstrip('.')}; {silent} requests in a row got no reply.")
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def describe(self) -> dict[str, Any] | None:
        """What the server says of the model (`BASE_URL/models`), without what changes when it is started again; None
        where it says nothing. Raises `ModelError` where nobody answers, or the key is refused."""
        status, _, raw = self._tried(self._request("models", None), threading.Event())
        if status != 200:
            return None
        try:
            listed = [each for each in json.loads(raw)["data"] if each["id"] == self.model]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        kept = ("id", "owned_by", "root", "parent", "max_model_len")
        return (
            {name: self._cleaned(listed[0][name]) for name in kept if listed[0].get(name) is not None}
            if listed
            else None
        )

    # --- one request --------------------------------------------------------------------------------------------------

    def _ask_or_say(self, body: Mapping[str, Any], stopped: threading.Event) -> Reply | Unanswered:
        try:
            return self._ask(body, stopped)
        except Unanswered as error:
            return error

    def _ask(self, body: Mapping[str, Any], stopped: threading.Event) -> Reply:
        fields = {"model": self.model, **body, **self.extra}
        sent = json.dumps({name: value for name, value in fields.items() if value is not None})
        request = self._request("chat/completions", sent.encode())

        def reply(raw: bytes) -> Reply:
            return _reply(raw, self._cleaned)

        return self._tried(request, stopped, reply)

    def _request(self, path: str, data: bytes | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.base_url.rstrip('/')}/{path}"
        return urllib.request.Request(url, data, headers, method="GET" if data is None else "POST")

    def _tried(
        self,
        request: urllib.request.Request,
        stopped: threading.Event,
        read: Callable[[bytes], _R] | None = None,
    ) -> Any:
        """What `read` makes of the reply's bytes; without `read`, status, headers and bytes of any reply but those that
        may pass, a refused key and a redirect."""
        problem, wait, raw = "", self.first_wait, b""
        for attempt in range(self.retries + 1):
            pause = wait
            try:
                status, headers, raw = _within(self.timeout, lambda: _sent(request, self.timeout), stopped)
                if status == 200 and read is not None:
                    return read(raw)
                problem = f"status {status}{self._said(raw)}" if status != 200 else ""
                if status in OF_ONE_REQUEST and read is not None:
                    raise Unanswered(f"{self.where} refused: {problem}{_advice(status, self)}")
                if status not in RETRIED:
                    if read is None and not (status in (401, 403) or 300 <= status < 400):
                        return status, headers, raw
                    raise ModelError(f"{self.where} refused: {problem}{_advice(status, self)}")
                pause = _asked_for(headers.get("Retry-After"), wait)
            except _NoChat:
                problem = (
                    f"answered with something that is not a chat completion{self._said(raw)}; check that the base URL "
                    "ends where /chat/completions begins"
                )
            except (OSError, HTTPException) as error:  # URLError and TimeoutError are OSErrors
                reason = getattr(error, "reason", None) or error
                late = f"no whole answer in {self.timeout:g} s"
                in_time = late if isinstance(reason, TimeoutError) else str(reason)
                problem = self._cleaned(in_time) or "no answer"
            pause = min(MAX_WAIT, pause)
            if attempt < self.retries and self.on_wait is not None:
                self.on_wait(f"{self.where} did not answer ({problem}); trying again in {pause:g} s.")
            if attempt < self.retries and stopped.wait(pause):
                raise _Stopped
            wait *= 2
        if problem.startswith("answered"):
            raise Unanswered(f"{self.where} {problem}.")
        raise Unanswered(
            f"{self.where} did not answer after {self.retries + 1} tries ({problem}); check that it runs, or set a "
            "longer timeout."
        )

    def _said(self, raw: bytes) -> str:
        """What an error's body says, if it is in one of the usual forms; cut short."""
        try:
            values = json.loads(raw[:20_000])
            error = values.get("error", values)
            said = error["message"] if isinstance(error, dict) else error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return ""
        return f" ({' '.join(str(self._cleaned(said)).split())[:200]})"

    def _cleaned(self, value: Any) -> Any:
        """A text without control characters and without the key, which some servers repeat; else the value itself."""
        if not isinstance(value, str):
            return value
        text = without_controls(value)
        return text.replace(key, "...") if (key := self._key) else text


def without_controls(text: str) -> str:
    """The text without control characters but line breaks and tabs (also none that turn the writing's direction), and
    with U+FFFD for half a surrogate pair, which no file can hold."""
    kept = (
        "\ufffd" if unicodedata.category(character) == "Cs" else character
        for character in text
        if character in "\n\t"
        or not (
            unicodedata.category(character) == "Cc"
            or "\u202a" <= character <= "\u202e"
            or "\u2066" <= character <= "\u2069"
        )
    )
    return "".join(kept)


def _can_be_sent(url: str) -> bool:
    """Whether a request can begin with this URL: ASCII without spaces and controls, with a host of short labels."""
    labels = (urlsplit(url).hostname or "").removesuffix(".").split(".")
    return url.isascii() and url.isprintable() and " " not in url and all(0 < len(label) < 64 for label in labels)


def is_loopback(host: str) -> bool:
    """Whether a host's name is this machine."""
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None


class _NoChat(Exception):
    """A reply with status 200 that is no chat completion."""


class _Stopped(Exception):
    """Nobody waits for the reply any more."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would carry the key to another host."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def _sent(request: urllib.request.Request, timeout: float) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of the reply, whatever its status."""
    end = time.monotonic() + timeout
    # A proxy of the environment is for the network, not for this machine.
    local = is_loopback(urlsplit(request.full_url).hostname or "")
    opener = urllib.request.build_opener(_NoRedirect, *([urllib.request.ProxyHandler({})] if local else []))
    try:
        response: Any = opener.open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        pieces, length = [], 0
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_REPLY:
                raise HTTPException(f"its reply is longer than {MAX_REPLY:,} bytes")
            if time.monotonic() > end:
                raise TimeoutError
        return int(response.status), response.headers, b"".join(pieces)


def _within(seconds: float, work: Callable[[], _R], stopped: threading.Event) -> _R:
    """What `work` returns or raises; `TimeoutError` where it takes longer, `_Stopped` where nobody waits any more.

    A socket's own timeout is for each read: a server that sends a byte now and then would hold it for ever. The thread
    is left to itself when it is late, and keeps no process from ending.
    """
    done: list[_R] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work())
        except BaseException as error:  # handed to the caller
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    end = time.monotonic() + seconds
    while thread.is_alive():
        if stopped.is_set():
            raise _Stopped
        if (left := end - time.monotonic()) <= 0:
            raise TimeoutError
        thread.join(min(left, LOOK))
    if failed:
        raise failed[0]
    return done[0]


def _reply(raw: bytes, cleaned: Callable[[Any], Any]) -> Reply:
    try:
        values = json.loads(raw)
        choice = values["choices"][0]
        message = choice["message"]
        content, thought = message.get("content"), message.get("reasoning_content") or message.get("reasoning")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise _NoChat from None
    if isinstance(content, list):  # parts of a text
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    text = next((each for each in (content, message.get("refusal")) if isinstance(each, str) and each), "")
    if isinstance(thought, str) and thought.strip():
        end = f"\n</think>\n\n{text}" if text else ""
        text = f"<think>\n{thought.strip()}{end}"
    usage = values.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        cleaned(text),
        "length" if choice.get("finish_reason") == "length" else "stop",
        _count(counts.get("prompt_tokens")),
        _count(counts.get("completion_tokens")),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _advice(status: int, endpoint: Endpoint) -> str:
    if status in (401, 403):
        if endpoint.key_variable is None:
            return "; name the environment variable that holds its key."
        return f"; check the key in the environment variable {endpoint.key_variable}."
    if status == 404:
        return "; check the base URL and the model's name."
    if 300 <= status < 400:
        return "; the base URL has moved; use the new one."
    return "."


def _asked_for(header: str | None, otherwise: float) -> float:
    """Seconds that a server asks to wait: a number, or a date."""
    if header is None:
        return otherwise
    try:
        seconds = float(header)
    except ValueError:
        try:
            at = parsedate_to_datetime(header)
        except ValueError:
            return otherwise
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
        return max(0.0, seconds)
    return seconds if 0 <= seconds < math.inf else otherwise
