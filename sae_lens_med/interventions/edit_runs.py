"""Question prompts with the tokens that count -> edits of each -> logits of the option letters.

What every causal metric does: for each item a plan names edits of the activation at the SAE's hook
(`interventions.edits`), and all of them are run on the item's prompt. Results are kept item by item (`runs.partial`),
so that a run that is killed loses one item and goes on where it was.

Passes of unequal shape round differently. A logit that an edit moves by less than `AboveHook.resolution` counts as not
moved: ranks of rounding errors are not ranks of effects.

Edits act at the counted stem tokens (special tokens and activation sinks left out): there the aligned features were
found, and there random features are matched. An edit that a plan names twice is run once.

Out of scope: several processes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.errors import DataError
from sae_lens_med.records import BoolArray, FloatArray, IntArray
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook, Edit, HookedText


DIGITS = 6
"""Decimals of the logits in the file."""


@dataclass(frozen=True, slots=True, eq=False)
class AnswerText:
    """A question as the model answers it."""

    id: str
    token_ids: tuple[int, ...]
    letters: tuple[int, ...]
    """The token of each option letter."""
    gold: int | None
    """Index of the right option."""
    chosen: BoolArray
    """`[n]`, the counted stem tokens; m of them."""
    char_spans: IntArray
    """`[m, 2]`, the characters of `McqItem.question` that each of them covers."""


@dataclass(frozen=True, slots=True)
class Planned:
    """What to run on one item."""

    edits: "tuple[Edit, ...]"
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON values that the results are read with: which features, which sets."""


@dataclass(frozen=True, slots=True, eq=False)
class EditResult:
    """What the edits of one item gave."""

    id: str
    whole: FloatArray
    """`[L]`, logits of the option letters without an edit."""
    logits: FloatArray
    """`[E, L]`, with each edit, in the order of the plan."""
    size: FloatArray
    """`[E]`, the length of what each edit adds to the activation."""
    about: Mapping[str, Any]

    @property
    def predicted(self) -> int:
        """The option that the model holds likeliest; of equals the first."""
        return int(self.whole.argmax())


Plan = Callable[[AnswerText, "HookedText"], "Planned | str"]
"""Edits of an item, or one sentence that says why it has none."""


def run_edits(
    above: "AboveHook",
    texts: Sequence[AnswerText],
    plan: Plan,
    *,
    store: PartialResults | None = None,
    progress: bool = True,
    label: str = "ablation",
) -> tuple[list[EditResult], dict[str, str]]:
    """Run the plan of every item.

    Args:
        above: model and SAE.
        texts: the items' prompts.
        plan: called once for each item that the store does not hold; must depend on the item alone.
        store: where results are kept as they come.
        progress: show a bar on stderr.
        label: of the bar.

    Returns the results in the order of `texts`, and why items have none, by id.
    """
    done = dict(store.done) if store is not None else {}
    with progress_bar(progress) as bar:
        task = bar.add_task(label, total=len(texts), completed=sum(text.id in done for text in texts))
        for text in texts:
            if text.id in done:
                continue
            hooked = above.read(text.token_ids, text.chosen)
            planned = plan(text, hooked)
            if isinstance(planned, str):
                entry: dict[str, Any] = {"id": text.id, "skipped": planned}
            else:
                different = list(dict.fromkeys(planned.edits))
                place = {edit: k for k, edit in enumerate(different)}
                whole, logits, size = above.logits(hooked, different, text.letters)
                entry = {
                    "id": text.id,
                    "whole": whole.round(DIGITS).tolist(),
                    "logits": logits.round(DIGITS).tolist(),
                    "size": size.round(DIGITS).tolist(),
                    "edits": [place[edit] for edit in planned.edits],
                    "about": dict(planned.about),
                }
            # Through JSON, so that a resumed run has the numbers of one without interruption.
            entry = json.loads(json.dumps(entry, allow_nan=False))
            if store is not None:
                store.append([entry])
            done[text.id] = entry
            bar.advance(task)
    results, skipped = [], {}
    for text in texts:
        entry = done[text.id]
        if "skipped" in entry:
            skipped[text.id] = entry["skipped"]
            continue
        rows = np.array(entry["edits"], dtype=np.int64)
        whole = np.array(entry["whole"])
        logits = np.array(entry["logits"]).reshape(-1, len(whole))[rows]
        results.append(
            EditResult(
                text.id,
                whole,
                np.where(np.abs(logits - whole) < above.resolution, whole, logits),
                np.array(entry["size"])[rows],
                entry["about"],
            )
        )
    return results, skipped


def answer_margin(logits: FloatArray, answer: IntArray) -> FloatArray:
    """`[n]`: the logit of option `answer[i]` less the mean of the other options', from `[..., n, options]`; F of #8.

    Raises `DataError` for fewer than two options or an answer that is not one of them.
    """
    values, chosen = np.asarray(logits, np.float64), np.asarray(answer)
    options = values.shape[-1]
    if options < 2 or chosen.shape != values.shape[-2:-1] or ((chosen < 0) | (chosen >= options)).any():
        raise DataError(f"margins need two or more options and an answer among them; got logits of {values.shape}.")
    own = np.take_along_axis(values, np.broadcast_to(chosen, values.shape[:-1])[..., None], axis=-1)[..., 0]
    return own - (values.sum(axis=-1) - own) / (options - 1)


def margin(logits: FloatArray, answer: int) -> FloatArray:
    """`[...]`: `answer_margin` of option `answer` of one item, from `[..., L]`."""
    return answer_margin(logits[..., None, :], np.array([answer]))[..., 0]


def probability(logits: FloatArray, answer: int) -> FloatArray:
    """`[...]` in [0, 1]: of option `answer` among the options, from logits `[..., L]`."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e[..., answer] / e.sum(axis=-1)


def item_rng(seed: int, item_id: str, purpose: str) -> np.random.Generator:
    """A generator that depends on the item, not on which items run before it."""
    return np.random.default_rng([seed, *purpose.encode(), *item_id.encode()])
