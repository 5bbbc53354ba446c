"""Judges of feature labels: a model behind an OpenAI-compatible endpoint, or one of `load_model` that needs no network.

`OpenAiJudge` sends one request per label with all its pieces and expects a JSON list of 0 and 1 back, as delphi does.
It gives hard verdicts (probabilities 0 and 1); a reply that is no such list of the right length is no verdict.

`LocalModelJudge` asks about each piece by itself, as a question with two options that it puts in both orders, and
reads the letters' log-probabilities. P(yes) is the mean over the orders, so that a liking for "A" cancels. Models of a
few hundred million parameters judge near chance: their scores say little about the labels.

Out of scope: how an endpoint is asked, and what is kept secret (`evaluation.endpoint`); what the verdicts mean
(`scores`).
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sae_lens_med.alignment.labels.tasks import CLOSE, OPEN, Kind
from sae_lens_med.evaluation.endpoint import Endpoint, Unanswered
from sae_lens_med.runs.parsing import parse_json

if TYPE_CHECKING:
    from sae_lens_med.models.engine import Engine

KEY_VARIABLE = "OPENAI_API_KEY"

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
        self.endpoint()

    def endpoint(self) -> Endpoint:
        """Where it is asked."""
        return Endpoint(
            self.base_url,
            self.model,
            key_variable=None if self.key_variable == KEY_VARIABLE not in os.environ else self.key_variable,
            timeout=self.timeout,
            retries=self.retries,
            first_wait=self.first_wait,
            parallel=self.parallel,
            extra=self.extra,
            role="judge",
            on_wait=self.on_wait,
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def judge(self, kind: Kind, asked: Asked) -> list[Verdicts]:
        """As `scores.Judge`. Raises `ModelError` when the endpoint does not answer or refuses."""
        found: dict[int, Verdicts] = {}
        for place, reply in self.endpoint().ask_all([_chat(kind, label, texts) for label, texts in asked]):
            if isinstance(reply, Unanswered):
                raise reply
            found[place] = read_verdicts(reply.text, len(asked[place][1]))
        return [found[place] for place in range(len(asked))]


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


def _chat(kind: Kind, label: str, texts: tuple[str, ...]) -> dict[str, Any]:
    numbered = "\n\n".join(f"Text {i}: {text}" for i, text in enumerate(texts, 1))
    return {
        "temperature": 0,
        "messages": [
            {"role": "system", "content": _SYSTEM.format(question=_QUESTION[kind])},
            {"role": "user", "content": f"Label: {label}\n\n{numbered}"},
        ],
    }


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
