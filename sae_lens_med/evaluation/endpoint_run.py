"""Items + a model behind an endpoint -> one result per item, as `run` does with a model that runs here.

The methods that generate: `generate`, `cot`, `self-consistency`. The prompt is the method's template, as the one user
message of a chat; the server puts it into its model's chat template. Of the template's stop strings, the protocol takes
at most `MAX_STOPS`; all of them apply to what comes back (after its thinking, where the model thinks).

Sampling: every sample of an item is a request of its own, with a seed that depends on the run's seed, the item and the
sample alone (`generation.sample_seed`); whether a server draws the same text for the same seed is up to it.

Items are answered several at a time and written as they come (`runs.partial`), so that a run goes on where it stopped.
A question that gets no reply ends nothing: the others are asked and kept, and the run then says how many are missing;
the same command asks these again. No question without a reply is counted as wrong.

The identity of the run: the model's name and what the server says of it (`Endpoint.describe`), method, template, shots,
data, seed, and the further fields of each request; address, pace and prices do not belong to it.

Loads no model and no torch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sae_lens_med import distributed
from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.evaluation.endpoint import Endpoint, Reply, Unanswered
from sae_lens_med.evaluation.generation import (
    END_OF_THINKING,
    Written,
    answer_end,
    sample_seed,
    text_result,
    vote_result,
)
from sae_lens_med.evaluation.method import GENERATING, Method, as_method
from sae_lens_med.evaluation.results import (
    KIND,
    PARTIAL,
    Evaluation,
    in_memory,
    kept_results,
    read_evaluation,
    summarised,
    write_evaluation,
)
from sae_lens_med.records import ItemResult, McqItem, require_options, require_unique_ids
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.provenance import identity, make_provenance

MAX_STOPS = 4
"""Stop strings of one request that the protocol takes."""
SEEDS = 2**31
"""Servers take seeds below this number."""
FIXED = ("model", "messages", "n", "stream")
DECIDED = ("seed", "temperature", "max_tokens", "stop")
"""Fields of a request that the method decides; `Endpoint.extra` may only leave the latter ones out (None), for servers
that refuse them."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What a million tokens cost, in any one currency, >= 0."""

    prompt: float
    generated: float

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < float("inf") and 0 <= self.generated < float("inf")):
            raise ConfigError(f"prices per million tokens must be 0 or more, got {self.prompt} and {self.generated}.")


def evaluate_endpoint(
    endpoint: Endpoint,
    items: LoadedItems | Sequence[McqItem],
    method: Method | str,
    *,
    shots: Sequence[McqItem] = (),
    output: Path | str | None = None,
    prices: Prices | None = None,
    permutations: int = 2000,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """The answers of the model behind `endpoint` to `items`, their accuracy, and what they cost (`Evaluation.usage`).

    Args:
        endpoint: where the model is, and how patiently it is asked.
        items: from `load_items`, or any items; without the shots.
        method: `generate`, `cot` or `self-consistency`, or a `Method` of one of these names.
        shots: solved examples put before every question.
        output: a new or empty folder, or that of the same run, which then goes on; None: nothing is written.
        prices: for `cost`.
        permutations: of every null.
        seed: of sampling and permutations.
        progress: show a bar on stderr.

    Raises `ConfigError` for a method that needs log-probabilities, or fields of `endpoint.extra` that the method
    decides; `ModelError` when the endpoint refuses, or some questions got no reply; `DataError` for open questions, two
    items of one id, or a template that does not fit; `StudyError` for a folder that holds something else.
    """
    method = replace(require_generates(method), chat=True)
    for name, value in endpoint.extra.items():
        if name in FIXED or (name in DECIDED and value is not None):
            raise ConfigError(
                f"the field {name!r} of a request is decided by the method; leave it out of the further fields"
                f"{'' if name in FIXED else ', or set it to null to send none'}."
            )
    data = items if isinstance(items, LoadedItems) else in_memory(items)
    require_options(data.items, "accuracy")
    require_unique_ids(data.items, "evaluation")
    asked = [_asked(item, method, shots) for item in data.items]
    with distributed.initialised() as me:
        if me.world_size > 1:
            raise ConfigError("an endpoint is asked by one process, several questions at a time; start one process.")
        served = _served(endpoint, output)
        settings = {
            **method.settings([item.language for item in data.items]),
            "shots": [shot.id for shot in shots],
            "permutations": permutations,
            "request": dict(endpoint.extra),
            "endpoint": {"base_url": endpoint.base_url, "parallel": endpoint.parallel, "timeout": endpoint.timeout},
        }
        model = {"name": endpoint.model, "source": "endpoint", "served": served}
        provenance = make_provenance(model, None, data, settings, seed)
        run = partial = None
        done: dict[str, ItemResult] = {}
        if output is not None:
            run = RunFolder(Path(output), KIND, {"provenance": provenance.to_dict()})
            finished, kept = kept_results(run)
            if finished:
                return read_evaluation(run.path)
            run.hold()
            partial = PartialResults(run.path / PARTIAL, identity(provenance))
            done = partial.records(ItemResult) | kept
        problems: list[Unanswered] = []
        todo = [each for each in asked if each.item.id not in done]
        with progress_bar(progress and bool(todo)) as bar:
            task = bar.add_task("answers", total=len(todo))
            for found in _answers(endpoint, todo, method, seed):
                bar.advance(task)
                if isinstance(found, Unanswered):
                    problems.append(found)
                    continue
                done[found.id] = found
                if partial is not None:
                    partial.append([found])
        if problems:
            kept = "the others are kept: the same command asks these again" if partial else "ask again"
            raise ModelError(
                f"{len(problems)} of {len(data.items)} questions got no reply ({str(problems[0]).rstrip('.')}); {kept}."
            )
        results = [done[item.id] for item in data.items]
        usage = _usage(results, prices)
        if run is None or partial is None:
            return summarised(None, data.items, results, provenance, method, "model", usage)
        found = summarised(run.path, data.items, results, provenance, method, "model", usage)
        write_evaluation(run, found, data.items)
        partial.remove()
        return read_evaluation(run.path)


def _served(endpoint: Endpoint, output: Path | str | None) -> dict[str, Any] | None:
    """What the server says of the model; of a finished evaluation, which asks nothing any more, what it said."""
    if output is None or not (Path(output) / KIND.manifest).is_file():
        return endpoint.describe()
    return read_evaluation(Path(output)).provenance.model.get("served")


def require_generates(method: Method | str) -> Method:
    """The method, which must be one that only needs text. Raises `ConfigError`."""
    method = as_method(method)
    if method.name not in GENERATING:
        raise ConfigError(
            f"the method {method.name} needs log-probabilities of options, which an endpoint does not give; use "
            f"{', '.join(GENERATING[:-1])} or {GENERATING[-1]} (--method)."
        )
    return method


@dataclass(frozen=True, slots=True)
class _Asked:
    item: McqItem
    text: str
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A text up to its first stop string."""

    text: str
    finish: str


def _asked(item: McqItem, method: Method, shots: Sequence[McqItem]) -> _Asked:
    template = method.templates().of(item)
    return _Asked(item, template.render(item, shots).text, template.stop if method.stop is None else method.stop)


def _answers(
    endpoint: Endpoint, asked: Sequence[_Asked], method: Method, seed: int
) -> Iterator[ItemResult | Unanswered]:
    """A result for each item as its last reply comes, or the first reason why it has none."""
    n = method.n_samples if method.name == "self-consistency" else 1
    bodies = [_body(each, method, seed, k) for each in asked for k in range(n)]
    found: list[dict[int, Reply | Unanswered]] = [{} for _ in asked]
    for place, reply in endpoint.ask_all(bodies):
        which, k = divmod(place, n)
        found[which][k] = reply
        if len(found[which]) == n:
            yield _result(asked[which], [found[which][i] for i in range(n)], method)
            found[which] = {}


def _body(asked: _Asked, method: Method, seed: int, k: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": asked.text}],
        "max_tokens": method.most_tokens,
        "temperature": 0.0,
    }
    if method.name == "self-consistency":
        body |= {
            "temperature": method.sampling_temperature,
            "seed": sample_seed(seed, asked.item.id, k) % SEEDS,
        }
    if method.enable_thinking:
        # vLLM and SGLang hand this to the chat template. A thought may contain a stop string, an answer may not.
        body["chat_template_kwargs"] = {"enable_thinking": True}
    elif asked.stop:
        # Short ones come first in a text; the long ones are mostly special tokens, at which the server stops anyway.
        body["stop"] = sorted(asked.stop, key=len)[:MAX_STOPS]
    return body


def _result(asked: _Asked, replies: Sequence[Reply | Unanswered], method: Method) -> ItemResult | Unanswered:
    written: list[Written] = []
    for reply in replies:
        if isinstance(reply, Unanswered):
            return reply
        written.append(_cut(reply, asked.stop))
    voted = method.name == "self-consistency"
    result = vote_result(asked.item, written) if voted else text_result(asked.item, written[0])
    counts = [(r.prompt_tokens, r.generated_tokens) for r in replies if isinstance(r, Reply)]
    prompt = [a for a, b in counts if a is not None and b is not None]
    if len(prompt) < len(counts):
        return result
    return replace(result, tokens={"prompt": sum(prompt), "generated": sum(b for _, b in counts if b is not None)})


def _cut(reply: Reply, stop: Sequence[str]) -> Written:
    if END_OF_THINKING in reply.text or reply.text.lstrip().startswith("<think>"):
        end = answer_end(reply.text, stop)
    else:
        end = min((at for at in map(reply.text.find, stop) if at >= 0), default=None)
    return _Cut(reply.text, reply.finish) if end is None else _Cut(reply.text[:end], "stop")


def _usage(results: Sequence[ItemResult], prices: Prices | None) -> dict[str, Any]:
    counted = [result.tokens for result in results if result.tokens]
    usage: dict[str, Any] = {
        "prompt_tokens": sum(each["prompt"] for each in counted),
        "generated_tokens": sum(each["generated"] for each in counted),
        "not_counted": len(results) - len(counted),
    }
    if prices is not None:
        cost = usage["prompt_tokens"] * prices.prompt + usage["generated_tokens"] * prices.generated
        usage |= {"price_per_million": {"prompt": prices.prompt, "generated": prices.generated}, "cost": cost / 1e6}
    return usage


def described_usage(usage: Mapping[str, Any]) -> str:
    """One sentence for a terminal."""
    said = f"Tokens: {usage['prompt_tokens']:,} of prompts, {usage['generated_tokens']:,} generated"
    if usage["not_counted"]:
        said += f", without {usage['not_counted']} questions whose tokens the endpoint did not count"
    return f"{said}; cost: {usage['cost']:.4f}." if "cost" in usage else f"{said}."
