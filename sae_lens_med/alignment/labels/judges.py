"""Judges of feature labels: a model behind an OpenAI-compatible endpoint, or one of `load_model` that needs no network.

`OpenAiJudge` sends one request per label with all its pieces and expects a JSON list of 0 and 1 back, as delphi does.
It gives hard verdicts (probabilities 0 and 1); a reply that is no such list of the right length is no verdict.

`LocalModelJudge` asks about each piece by itself, as a question with two options that it puts in both orders, and
reads the letters' log-probabilities. P(yes) is the mean over the orders, so that a liking for "A" cancels. Models of a
few hundred million parameters judge near chance: their scores say little about the labels.

Secrets: the key comes from an environment variable only, is sent to the host of `base_url` only (redirects are not
followed), never over plain http except to this machine, and stands in no message, note or file.

A try ends at its deadline, however slowly an endpoint sends what it sends. What it says in an error is other people's
text and is shown escaped.

httpx lies underneath; the `openai` client follows redirects and takes its address from the environment, which the rule
on secrets excludes.

Out of scope: other protocols; what the verdicts mean (`scores`).
"""

import asyncio
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sae_lens_med.alignment.labels.tasks import CLOSE, OPEN, Kind
from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.escaping import plain
from sae_lens_med.runs.parsing import parse_json

if TYPE_CHECKING:
    import httpx

    from sae_lens_med.models.engine import Engine

KEY_VARIABLE = "OPENAI_API_KEY"
RETRIED = (408, 409, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""
MAX_WAIT = 60.0
"""Seconds between two tries at most, whatever the server asks for."""
MAX_REPLY = 4_000_000
"""Bytes of a reply that are read."""

Asked = Sequence[tuple[str, tuple[str, ...]]]
Verdicts = tuple[float | None, ...]

_QUESTION: dict[Kind, str] = {
    "detection": "does the text contain what the label describes?",
    "fuzzing": f"are the words between {OPEN} and {CLOSE} what the label describes?",
}
_SYSTEM = (
    "You check labels of features of a language model. You get a label and numbered texts. For each text decide: "
    "{question} Reply with a JSON list only, one 1 (yes) or 0 (no) per text, in their order, for example [1, 0, 0]."
)


@dataclass(frozen=True, slots=True)
class OpenAiJudge:
    """A judge behind `base_url`/chat/completions.

    Raises `ConfigError` when it is made with a URL or a number that cannot be used, or where `key_variable` is set to
    another than the default and the environment has no such variable.
    """

    base_url: str
    """Up to and without `/chat/completions`: `https://api.openai.com/v1`, `http://localhost:8000/v1`."""
    model: str
    key_variable: str = KEY_VARIABLE
    """The environment variable that holds the key; without it no key is sent (local servers need none)."""
    timeout: float = 60.0
    """Seconds for each try, from the first byte sent to the last one read."""
    retries: int = 4
    """Tries after the first, of a request that may succeed later."""
    first_wait: float = 1.0
    """Seconds before the second try; doubled for each further one, unless the server says how long."""
    parallel: int = 4
    """Requests at a time."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request (`max_tokens`, `reasoning_effort`, ...)."""
    on_wait: Callable[[str], None] | None = field(default=None, compare=False)
    """Told in a sentence of each try that failed, and when the next one is."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"a judge's base URL begins with http:// or https:// and a host, not {self.base_url!r}.")
        if parts.username or parts.password:
            raise ConfigError(
                "a judge's base URL contains a password; put the key into an environment variable instead."
            )
        if not self.model.strip():
            raise ConfigError("a judge needs the name of a model.")
        if not (self.timeout > 0 and self.retries >= 0 and self.first_wait >= 0 and self.parallel >= 1):
            raise ConfigError("a judge needs timeout > 0, retries >= 0, first_wait >= 0 and parallel >= 1.")
        key = os.environ.get(self.key_variable)
        if key is None and self.key_variable != KEY_VARIABLE:
            raise ConfigError(f"the environment has no variable {self.key_variable} with the judge's key; set it.")
        if key and (not key.isascii() or not key.isprintable() or " " in key):
            raise ConfigError(
                f"the variable {self.key_variable} contains characters that cannot be in a key; set it again."
            )
        if key and parts.scheme == "http" and not _is_loopback(parts.hostname):
            raise ConfigError(
                f"the key in {self.key_variable} would be sent unencrypted to {parts.hostname}; use https, or unset it."
            )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def judge(self, kind: Kind, asked: Asked) -> list[Verdicts]:
        """As `scores.Judge`. Raises `ModelError` when the endpoint does not answer or refuses."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._all(kind, asked))
        with ThreadPoolExecutor(1) as pool:  # in a notebook, whose own loop runs in this thread
            return pool.submit(asyncio.run, self._all(kind, asked)).result()

    async def _all(self, kind: Kind, asked: Asked) -> list[Verdicts]:
        import httpx

        places = asyncio.Semaphore(self.parallel)
        # A proxy of the environment is for the network, not for this machine.
        local = _is_loopback(urlsplit(self.base_url).hostname or "")
        async with httpx.AsyncClient(timeout=None, trust_env=not local, follow_redirects=False) as client:

            async def one(label: str, texts: tuple[str, ...]) -> Verdicts:
                async with places:
                    return read_verdicts(await self._post(client, self._body(kind, label, texts)), len(texts))

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(label, texts)) for label, texts in asked]
            except ExceptionGroup as errors:  # the first one has ended the others
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    def _body(self, kind: Kind, label: str, texts: tuple[str, ...]) -> dict[str, Any]:
        numbered = "\n\n".join(f"Text {i}: {text}" for i, text in enumerate(texts, 1))
        return {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": _SYSTEM.format(question=_QUESTION[kind])},
                {"role": "user", "content": f"Label: {label}\n\n{numbered}"},
            ],
            **self.extra,
        }

    async def _post(self, client: "httpx.AsyncClient", body: dict[str, Any]) -> str:
        """The content of the first choice."""
        import httpx

        headers = {"Accept": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        problem, wait = "", self.first_wait
        for left in reversed(range(self.retries + 1)):
            pause = wait
            try:
                async with asyncio.timeout(self.timeout):
                    status, asked_for, raw = await _exchange(client, self._url, body, headers)
                if status == 200:
                    return _content(raw, self._where)
                said = _said(raw)
                # Some servers repeat the key that they refuse.
                problem = f"status {status}{said.replace(key, '...') if key else said}"
                if status not in RETRIED:
                    raise ModelError(f"{self._where} refused: {problem}{_advice(status, self)}")
                pause = _asked_for(asked_for, wait)
            except TimeoutError:
                problem = f"no whole answer in {self.timeout:g} s"
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = plain(error) or type(error).__name__
            if left:
                pause = min(MAX_WAIT, pause)
                if self.on_wait is not None:
                    self.on_wait(f"{self._where} did not answer ({problem}); trying again in {pause:g} s.")
                await asyncio.sleep(pause)
                wait *= 2
        raise ModelError(
            f"{self._where} did not answer after {self.retries + 1} tries ({problem}); check that it runs, or set a "
            "longer timeout."
        )

    @property
    def _url(self) -> str:
        return f"{self.base_url.rstrip('/')}/chat/completions"

    @property
    def _where(self) -> str:
        return plain(f"the judge {self.model} at {self.base_url}")


@dataclass(frozen=True, slots=True)
class LocalModelJudge:
    """A judge that is a model of `load_model`, through an `Engine` without hooks."""

    engine: "Engine"
    chat: bool = False
    """Put each question into the tokenizer's chat template."""

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.engine.model.provenance["name"])

    def judge(self, kind: Kind, asked: Asked) -> list[Verdicts]:
        """As `scores.Judge`. Raises `ModelError` where "A" and "B" are no tokens of their own."""
        from sae_lens_med.models.engine import TokenText
        from sae_lens_med.prompts.tokens import text_prompt

        prompts = [
            text_prompt("label", _local_question(kind, label, text, order), self.engine.model.text_tokenizer,
                        n_letters=2, chat=self.chat)
            for label, texts in asked
            for text in texts
            for order in (0, 1)
        ]  # fmt: skip
        rows = [TokenText(prompt.token_ids, prompt.token_parts) for prompt in prompts]
        scores = iter(self.engine.next_token_logprobs(rows, [prompt.letter_token_ids for prompt in prompts]))
        found: list[Verdicts] = []
        for _, texts in asked:
            own: list[float | None] = []
            for _text in texts:
                (yes, no), (no_first, yes_second) = next(scores), next(scores)
                # Equal letters in either order are no verdict; 0.5 is counted as wrong.
                own.append((_share(yes, no) + _share(yes_second, no_first)) / 2)
            found.append(tuple(own))
        return found


def read_verdicts(reply: str, n: int) -> Verdicts:
    """n verdicts from a judge's text: its last JSON list of 0, 1, true and false, if it has n of them; else no verdict.

    A list that thinks aloud first, or stands in a code block, is read; one of another length is not: nobody knows
    which pieces its verdicts are of.
    """
    for match in reversed(re.findall(r"\[[^\[\]]*\]", reply)):
        try:
            values = parse_json(match)
        except ValueError:
            continue
        if len(values) == n and all(isinstance(v, int) and v in (0, 1) for v in values):
            return tuple(float(v) for v in values)
    return (None,) * n


def _local_question(kind: Kind, label: str, text: str, order: int) -> str:
    first, second = ("Yes", "No") if order == 0 else ("No", "Yes")
    question = _QUESTION[kind]
    return (
        f"Label: {label}\nText: {text}\nQuestion: {question[0].upper()}{question[1:]}\nA. {first}\nB. {second}\nAnswer:"
    )


def _share(a: float, b: float) -> float:
    """exp(a) / (exp(a) + exp(b))."""
    return 0.5 * (1.0 + math.tanh((a - b) / 2))


async def _exchange(
    client: "httpx.AsyncClient", url: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[int, str | None, bytes]:
    """Status, what `Retry-After` says, and the reply, cut at `MAX_REPLY`."""
    async with client.stream("POST", url, json=body, headers=headers) as response:
        raw = bytearray()
        async for piece in response.aiter_bytes():
            raw += piece
            if len(raw) > MAX_REPLY:
                break
        return response.status_code, response.headers.get("Retry-After"), bytes(raw[:MAX_REPLY])


def _content(raw: bytes, where: str) -> str:
    try:
        content = parse_json(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ModelError(
            f"{where} answered with something that is not a chat completion; check that the base URL ends where "
            "/chat/completions begins."
        ) from None
    return content if isinstance(content, str) else ""


def _said(raw: bytes) -> str:
    """What an error's body says, if it is in the usual form; cut short."""
    try:
        said = parse_json(raw)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" ({plain(' '.join(str(said).split())[:200])})"


def _advice(status: int, judge: OpenAiJudge) -> str:
    if status in (401, 403):
        return f"; check the key in the environment variable {judge.key_variable}."
    if status == 404:
        return "; check the base URL and the model's name."
    if 300 <= status < 400:
        return "; the base URL has moved; use the new one."
    return "."


def _asked_for(header: str | None, otherwise: float) -> float:
    try:
        seconds = float(header) if header is not None else otherwise
    except ValueError:
        return otherwise
    return seconds if 0 <= seconds < math.inf else otherwise


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or re.fullmatch(r"127(?:\.\d{1,3}){3}", host) is not None
