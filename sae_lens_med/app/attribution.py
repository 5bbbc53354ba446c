"""The optional part `attribution` of an index: what each case's features do to its answer, to first order.

Per case, F the log odds of the model's own answer against the other letters, at the logits that the model gave
(`log p/(1 - p)`, p the softmax over the letters); c_tf the activation of feature f at counted stem token t, d_f its
decoder row, s_t the scale of SAEs that normalise each token (else 1):

    attribution_f = sum_t c_tf s_t d_f · dF/dx_t        signed: positive supports the answer

One forward and one backward pass of the layers above the hook a case. Kept are the `KEPT` features with the largest, of
those that `align` compares. First order: what the log odds would lose without the feature if they were linear in it.

Every case is written as it comes, so that an interruption costs one.

Out of scope: what really happens when a feature is switched off (#16), tokens of options.
"""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from sae_lens_med.alignment.causal_items import answer_texts
from sae_lens_med.app.index import begin
from sae_lens_med.app.index_files import FEATURES, PARTIAL, PARTS
from sae_lens_med.errors import StudyError
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.records import BoolArray
from sae_lens_med.runs.arrays import ArrayFile
from sae_lens_med.runs.files import atomic_path
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.written import hashes

if TYPE_CHECKING:
    from sae_lens_med.interventions.edit_runs import AnswerText
    from sae_lens_med.interventions.edits import AboveHook

NAME = "attribution"
KEPT = 64
"""Features of a case."""


def attribute(study: Path, side: ModelSide) -> bool:
    """Make the part where it is missing; return whether it was made. The part `features` must be there.

    Args:
        study: folder of the study.
        side: its model and SAE, opened (`study.opened.OpenedModel`).

    Raises `StudyError` as `index.begin`, and `DataError` where the model's prompts are not those of the features.
    """
    from sae_lens_med.interventions.edits import AboveHook  # torch

    part, items, run = begin(study)
    if "features" not in run.parts:
        raise StudyError(f"{run.path} holds no index yet; make it first.")
    if NAME in run.parts:
        return False
    start = perf_counter()
    kept = compared_features(run.path)
    above = AboveHook(side.model, side.loaded_sae, batch_tokens=side.batch_tokens)
    identity = {**run.kind.identity(run.values), "sae": side.loaded_sae.identity, "kept": KEPT}
    store = PartialResults(run.path / PARTIAL[NAME], identity)
    with progress_bar(side.progress) as bar:
        task = bar.add_task(NAME, total=len(items), completed=len(store.done))
        for number, item in enumerate(items):
            if item.id in store.done:
                continue
            texts = answer_texts([item], part.item(number), side.model.text_tokenizer, shots=side.shots)
            found = _case(above, texts[0], kept) if texts else {"features": None, "effects": None}
            store.append([{"id": item.id, **found}])
            bar.advance(task)
    rows = [store.done[item.id] for item in items]
    lengths = [len(row["features"] or ()) for row in rows]
    arrays = {
        "measured": np.array([row["features"] is not None for row in rows]),
        "indptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "features": np.array([f for row in rows for f in row["features"] or ()], dtype=np.int32),
        "effects": np.array([e for row in rows for e in row["effects"] or ()], dtype=np.float32),
    }
    with atomic_path(run.path / PARTS[NAME][0]) as temporary:
        save_file(arrays, temporary)
    run.finish(NAME, perf_counter() - start, files=hashes(run.path, PARTS[NAME]))
    store.remove()
    return True


def compared_features(folder: Path) -> BoolArray:
    """`[F]`, what `align` compares, from the index in `folder`."""
    file = ArrayFile.open(folder / FEATURES)
    return ~(file.read("dense") | file.read("script"))


def _case(above: "AboveHook", text: "AnswerText", kept: BoolArray) -> dict[str, Any]:
    hooked = above.read(text.token_ids, text.chosen)
    logits, _, _ = above.logits(hooked, [], text.letters)
    gradient = above.gradient(hooked, text.letters, log_odds_factors(logits))
    effects = np.asarray(above.attribution(hooked, gradient).sum(axis=0), dtype=np.float64).ravel()
    effects[~kept] = 0
    strongest = np.argsort(-np.abs(effects), kind="stable")[:KEPT]
    strongest = strongest[effects[strongest] != 0]
    return {"features": strongest.tolist(), "effects": effects[strongest].round(9).tolist()}


def log_odds_factors(logits: Any) -> list[float]:
    """Derivative of the log odds of the largest of `logits` `[n]` by each of them: 1 for it, and for the others minus
    their shares of what is left; together 0."""
    values = np.asarray(logits, dtype=np.float64)
    best = int(values.argmax())
    others = np.exp(values - np.delete(values, best).max())
    others[best] = 0
    factors = -others / others.sum()
    factors[best] = 1
    return factors.tolist()
