"""Which tokens of the question move the answer through which features: what #6 and the choice of features of #16 read.

Per item, F the margin of an option over the mean of the others, g_t its gradient at the SAE's hook, c_tf the activation
of feature f at counted stem token t, d_f its decoder row and s_t the scale of SAEs that normalise each token (else 1):

    attribution_tf = c_tf s_t d_f · g_t           first-order effect of the feature at the token; error term kept
    all_t          = sum over all features of attribution_tf                the metric
    aligned_t      = sum over the aligned features of attribution_tf        companion
    activation_t   = sum over the aligned features of c_tf |d_f|            control: where they fire, whatever they do
    residual_t     = x_t · g_t                                              control: no SAE

One gradient serves all features, because the decoder is linear. The option is the model's own answer: a token is
salient when it supports what the model says. Cost per item: one pass of the whole model, one forward and one backward
pass of the layers above the hook.

Out of scope: comparing it with the expert's spans (`plausibility`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sae_lens_med.errors import ConfigError
from sae_lens_med.interventions.edit_runs import AnswerText
from sae_lens_med.records import FloatArray, IntArray
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook


VARIANTS = ("all", "aligned", "activation", "residual")
"""The saliencies of an item; the first is the metric."""
TOP_FEATURES = 200
"""Features of an item whose first-order effect is kept, those with the largest."""


@dataclass(frozen=True, slots=True, eq=False)
class Saliency:
    """Of one item's m counted stem tokens."""

    id: str
    tokens: dict[str, FloatArray]
    """Name of `VARIANTS` -> `[m]`; positive supports the option."""
    features: IntArray
    """Up to `TOP_FEATURES` features with the largest first-order effect on the margin, either way."""
    effects: FloatArray
    """Of each of them: `sum_t attribution_tf`; to first order what the margin loses without the feature."""
    answer: int
    """The option whose margin it is about."""
    margin: float


def token_saliency(
    above: "AboveHook",
    texts: Sequence[AnswerText],
    aligned: Mapping[str, IntArray],
    *,
    top: int = 20,
    answer: Literal["predicted", "gold"] = "predicted",
    path: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Saliency]:
    """Saliency of every item, in the order of `texts`.

    Args:
        above: model and SAE.
        texts: the items' prompts.
        aligned: item id -> aligned features, best first.
        top: how many of them count.
        answer: whose margin: the model's own answer, or the right one (items without one are left out).
        path: file of partial results, with `identity` of the run in it.
        progress: show a bar on stderr.
    """
    if answer not in ("predicted", "gold"):
        raise ConfigError(f"saliency is about the predicted or the gold option, not {answer!r}.")
    store = None if path is None else PartialResults(path, {**(identity or {}), "top": top, "answer": answer})
    found = {} if store is None else {name: _read(entry) for name, entry in store.done.items()}
    texts = [text for text in texts if answer == "predicted" or text.gold is not None]
    with progress_bar(progress) as bar:
        task = bar.add_task("saliency", total=len(texts), completed=sum(text.id in found for text in texts))
        for text in texts:
            if text.id in found:
                continue
            entry = _item(above, text, aligned.get(text.id, np.zeros(0, np.int64))[:top], answer)
            found[text.id] = _read(entry)
            if store is not None:
                store.append([entry])
            bar.advance(task)
    return [found[text.id] for text in texts]


def _item(above: "AboveHook", text: AnswerText, aligned: IntArray, answer: str) -> dict[str, Any]:
    hooked = above.read(text.token_ids, text.chosen)
    whole, _, _ = above.logits(hooked, [], text.letters)
    option = int(whole.argmax()) if answer == "predicted" or text.gold is None else text.gold
    n = len(text.letters)
    factors = [1.0 if k == option else -1 / (n - 1) for k in range(n)]
    gradient = above.gradient(hooked, text.letters, factors)
    attribution = above.attribution(hooked, gradient)
    lengths = above.decoder_lengths()
    tokens = {
        "aligned": attribution[:, aligned].sum(axis=1),
        "all": attribution.sum(axis=1),
        "activation": hooked.active[:, aligned] @ lengths[aligned],
        "residual": above.residual_dot(hooked, gradient),
    }
    effects = np.asarray(attribution.sum(axis=0), dtype=np.float64).ravel()
    strongest = np.argsort(-np.abs(effects), kind="stable")[:TOP_FEATURES]
    strongest = strongest[effects[strongest] != 0]
    return {
        "id": text.id,
        "tokens": {name: np.asarray(v, dtype=np.float64).ravel().round(9).tolist() for name, v in tokens.items()},
        "features": strongest.tolist(),
        "effects": effects[strongest].round(9).tolist(),
        "answer": option,
        "margin": float(np.dot(factors, whole).round(6)),
    }


def _read(entry: Mapping[str, Any]) -> Saliency:
    return Saliency(
        entry["id"],
        {name: np.array(values) for name, values in entry["tokens"].items()},
        np.array(entry["features"], dtype=np.int64),
        np.array(entry["effects"], dtype=np.float64),
        int(entry["answer"]),
        float(entry["margin"]),
    )
