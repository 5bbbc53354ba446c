"""Questions -> what a model makes of their options, each question once, with features of an SAE ablated or none.

    item, features to ablate -> prompt -> one score per option [n_options], nats

The score is the log-probability of the option's letter in the answer slot (`letter`), or of its text over the text's
length (`option-text`, for models that do not know letters). Features are ablated at the tokens of the question's stem.
Answers are kept as they come (`runs.partial`), so that a run that was stopped goes on behind them.

Out of scope: generated answers.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_lens_med.evaluation.method import Method
from sae_lens_med.interventions.edit_runs import answer_margin
from sae_lens_med.records import FloatArray, ItemResult, McqItem
from sae_lens_med.runs.partial import PartialResults

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae

Features = tuple[int, ...]


class Asker:
    """One model under one method.

    Args:
        model: from `load_model`.
        method: `letter` or `option-text`.
        sae: where features are ablated.
        store: where answers are kept.
        batch_tokens: of a forward pass.
        on_answers: called with how many questions were answered.
    """

    def __init__(
        self,
        model: "MedBridge",
        method: Method,
        *,
        sae: "LoadedSae | None" = None,
        store: PartialResults | None = None,
        batch_tokens: int | None = None,
        on_answers: Callable[[int], None] | None = None,
    ) -> None:
        self.model, self.method, self.sae, self.store = model, method, sae, store
        self.batch_tokens, self.on_answers = batch_tokens, on_answers
        self._known: dict[str, FloatArray] = {
            key: np.array(entry["scores"]) for key, entry in (store.done if store is not None else {}).items()
        }

    def scores(self, items: Sequence[McqItem], without: Features = ()) -> list[FloatArray]:
        """One array `[n_options]` per item, in nats."""
        key = "" if not without else f" without {','.join(map(str, without))}"
        different = {item.id: item for item in items if item.id + key not in self._known}
        if different:
            self._run(list(different.values()), without, key)
        return [self._known[item.id + key] for item in items]

    def margins(self, items: Sequence[McqItem], without: Features = ()) -> FloatArray:
        """`[n]`, nats: the score of the right option less the mean of the others'."""
        return np.array([float(margin_of(item, s)) for item, s in zip(items, self.scores(items, without), strict=True)])

    def _run(self, items: Sequence[McqItem], without: Features, key: str) -> None:
        from sae_lens_med.evaluation.methods import run_method
        from sae_lens_med.models.engine import Engine

        def keep(results: list[ItemResult]) -> None:
            entries: list[dict[str, Any]] = []
            for result in results:
                assert result.option_logprobs is not None  # both methods score options
                entries.append({"id": result.id + key, "scores": [round(v, 6) for v in result.option_logprobs]})
            if self.store is not None:
                self.store.append(entries)
            self._known |= {entry["id"]: np.array(entry["scores"]) for entry in entries}
            if self.on_answers is not None:
                self.on_answers(len(results))

        engine = Engine(self.model, self._hooks(without), batch_tokens=self.batch_tokens)
        run_method(engine, items, self.method, progress=False, on_results=keep)

    def _hooks(self, without: Features) -> list[Any]:
        if not without:
            return []
        from sae_lens_med.interventions.hooks import ablate
        from sae_lens_med.interventions.positions import in_parts

        assert self.sae is not None  # features are of one
        return list(ablate(self.sae, without, positions=in_parts("stem")))


def margin_of(item: McqItem, scores: FloatArray) -> float:
    """The score of the right option less the mean of the others', nats."""
    assert item.answer is not None  # every vignette has one
    return float(answer_margin(scores[None], np.array([item.answer]))[0])
