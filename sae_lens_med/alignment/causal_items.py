"""From `Inputs` to the numbers that need the model: saliency (#6), ablation (#7, #8), concepts (#9), steering (#10),
and the verdict per feature.

**Items.** Those with an explanation; at most `causal_items` of them (100), because each costs hundreds of passes. Which
ones: items left out of the SAE's training text first, then the others, each in an order drawn by the seed. The same
items serve all of these metrics, so that the counts agree.

**Verdict.** The measured items are halved by the seed. On the first half features are chosen: those most often among an
item's best aligned features, and as many others with the largest first-order effect (`shared.choose_features`). On the
second half both p are made: causal (`feature_effects.causal_tests`), and mentioned (`shared.mention_p`), the latter on
all explained items outside of the first half, because it costs no pass.

How much of each: `settings.MetricSettings`.

With a folder, partial results are kept there as `causal.*.partial.jsonl`; a run that was ended goes on from them.
"""

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sae_lens_med.alignment.ablation import Ablated, AblationSettings, ablated, ablation_plan
from sae_lens_med.alignment.answer_texts import answer_texts
from sae_lens_med.alignment.causal import FeatureVerdicts, aopc, feature_verdicts
from sae_lens_med.alignment.causal_concepts import (
    Effects,
    EffectSettings,
    FeatureTests,
    causal_tests,
    effect_plan,
    effects,
    items_of_features,
)
from sae_lens_med.alignment.causal_values import (
    agreement_values,
    comprehensiveness_value,
    plausibility_values,
    steering_values,
    subset,
    sufficiency_value,
    verdict_values,
)
from sae_lens_med.alignment.saliency import Saliency, labelled, span_tokens, token_saliency
from sae_lens_med.alignment.shared import Aligned, choose_features, mention_p, rank_shared
from sae_lens_med.alignment.steering import SteeringPair, SteeringSettings, steer_pairs
from sae_lens_med.errors import DataError
from sae_lens_med.features.matched import Rates, rates
from sae_lens_med.features.vectors import STEM_PARTS, counted_tokens
from sae_lens_med.interventions.edit_runs import AnswerText, run_edits
from sae_lens_med.metrics.inputs import Inputs, Measured, stratum_labels
from sae_lens_med.records import FloatArray, IntArray, McqItem, MetricValue
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.statistics import coarsen_strata, null_z, permutation_p, stratified_permutations

if TYPE_CHECKING:
    from sae_lens_med.interventions.edits import AboveHook


CAUSAL_DRAWS = 10_000
"""Draws of a feature's causal null at least: they cost no pass, and the correction needs small p."""
LEFT_OUT = "left_out"
"""The group of items that the SAE's training text left out."""


def measure_plausibility(inputs: Inputs) -> Measured:
    """#6 against the premises marked in the question and, where concepts are known, against where a concept that the
    explanation names stands in the question (`alignment/plausibility_cited_*`)."""
    salient = {each.id: each for each in _saliency(inputs)}
    texts = [text for text in _texts(inputs) if text.id in salient]
    items = {item.id: item for item in inputs.items}
    kinds: list[tuple[str, str, dict[str, list[tuple[int, int]]]]] = [
        (
            "alignment/plausibility",
            "premises that the expert marked in the question",
            {text.id: labelled(items[text.id].question_spans) for text in texts},
        )
    ]
    if inputs.concepts is not None:
        matcher, ids = inputs.concepts.matcher(), inputs.concepts.concepts.ids
        number = {item.id: i for i, item in enumerate(inputs.items)}
        cited: dict[str, list[tuple[int, int]]] = {}
        for text in texts:
            named = {ids[c] for c in np.flatnonzero(inputs.concepts.explanation[number[text.id]])}
            mentions = matcher.find(items[text.id].question)
            cited[text.id] = [(m.start, m.end) for m in mentions if m.concept_id in named]
        what = "words of the question for concepts that the explanation names"
        kinds.append(("alignment/plausibility_cited", what, cited))
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for name, what, spans in kinds:
        for group, ids_in in _groups(inputs).items():
            own = [text for text in texts if text.id in ids_in]
            found, said = plausibility_values(
                [salient[text.id] for text in own],
                [span_tokens(text.char_spans, spans[text.id]) for text in own],
                draws=inputs.permutations,
                seed=inputs.seed,
                group=group,
                name=name,
                what=what,
            )
            metrics += found
            notes += said
    notes.append(
        "Plausibility: the marked premises are nearly the whole case, so they are told from the closing question only."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def measure_comprehensiveness(inputs: Inputs) -> Measured:
    """#7, and item by item in `causal_items.json`."""
    runs, notes = _ablated(inputs)
    metrics = [
        comprehensiveness_value(part, draws=inputs.permutations, seed=inputs.seed, group=group, masked=_masked(inputs))
        for group, part in _parts(inputs, runs)
    ]
    return Measured(tuple(metrics), notes, {"causal_items.json": _item_table(runs)})


def measure_sufficiency(inputs: Inputs) -> Measured:
    """#8."""
    runs, notes = _ablated(inputs)
    metrics: list[MetricValue] = []
    for group, part in _parts(inputs, runs):
        found, note = sufficiency_value(
            part, draws=inputs.permutations, seed=inputs.seed, group=group, masked=_masked(inputs)
        )
        metrics += [] if found is None else [found]
        notes += () if note is None else (note,)
    return Measured(tuple(metrics), notes)


def measure_causal_agreement(inputs: Inputs) -> Measured:
    """#9: effects of the concepts that each question names, against whether its explanation names them."""
    found, weights = concept_effects(inputs)
    if not len(found.items):
        return Measured(
            notes=("No concept of the questions has features of its own; causal agreement is not measured.",)
        )
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for group, ids in _groups(inputs).items():
        rows = np.array([name in ids for name in found.items])
        values, said = agreement_values(
            _rows(found, rows), weights[rows], draws=inputs.permutations, seed=inputs.seed, group=group
        )
        metrics += values
        notes += said
    columns = ("item", "concept", "effect", "signed", "random", "weight")
    table = [
        dict(zip(columns, (item, name, e, s, float(r.mean()), w), strict=True))
        for item, name, e, s, r, w in zip(
            found.items,
            found.names,
            found.effect.tolist(),
            found.signed.tolist(),
            found.random,
            weights.tolist(),
            strict=True,
        )
    ]
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)), {"concept_effects.json": table})


def measure_steering(inputs: Inputs) -> Measured:
    """#10, over all groups together: pairs are few."""
    from sae_lens_med.alignment.concepts import concept_features

    labels = inputs.concepts
    standing = concept_features(inputs)
    if labels is None or not standing:
        return Measured(notes=("No concept has features that stand for it; steering is not measured.",))
    matcher = labels.matcher(set(standing))
    pairs = []
    items = {item.id: item for item in inputs.items}
    for text in _texts(inputs):
        named: dict[str, list[int]] = {}
        for k, option in enumerate(items[text.id].options):
            for concept in {mention.concept_id for mention in matcher.find(option)}:
                named.setdefault(concept, []).append(k)
        pairs += [SteeringPair(text.id, c, standing[c][0], ks[0]) for c, ks in sorted(named.items()) if len(ks) == 1]
    if not pairs:
        return Measured(notes=("No option names a concept that has a feature; steering is not measured.",))
    most = inputs.settings.steering_pairs
    order = np.random.default_rng([inputs.seed, 10]).permutation(len(pairs))[:most]
    chosen = [pairs[k] for k in sorted(order.tolist())]
    settings = SteeringSettings(draws=inputs.settings.steering_draws, seed=inputs.seed)
    maximum = np.asarray(_stem_acts(inputs).max(axis=0).todense(), dtype=np.float64).ravel()
    found = steer_pairs(
        _above(inputs),
        _texts(inputs),
        chosen,
        maximum,
        settings,
        store=_store(inputs, "steering", settings.to_dict()),
        progress=_progress(inputs),
    )
    metrics = steering_values(found, settings.strengths, draws=inputs.permutations, seed=inputs.seed)
    notes = (
        ()
        if len(pairs) <= most
        else (f"Steering: {most} of {len(pairs)} pairs of item and concept, drawn by the seed.",)
    )
    return Measured(tuple(metrics), notes)


def measure_verdicts(inputs: Inputs) -> Measured:
    """The 2 x 2 of features chosen on one half of the items and tested on the other; `verdicts.csv`."""
    texts, settings = _texts(inputs), inputs.settings
    aligned, sides = _aligned(inputs), inputs.sides
    order = np.random.default_rng([inputs.seed, *b"verdict"]).permutation(len(texts))
    choosing, testing = ([texts[k] for k in sorted(half.tolist())] for half in np.array_split(order, 2))
    salient = {each.id: each for each in _saliency(inputs)}
    mentioned, others = choose_features(
        {text.id: aligned.features[text.id] for text in choosing},
        {text.id: _allowed(salient[text.id], sides.mask.kept) for text in choosing},
        settings.tested_features,
    )
    features = np.concatenate([mentioned, others])
    effort = EffectSettings(stand_ins=settings.stand_ins, items=settings.feature_items, seed=inputs.seed)
    number = {item.id: i for i, item in enumerate(inputs.items)}
    fires = {t.id: sides.pooled[[number[t.id]]].indices.astype(np.int64) for t in testing}
    wanted = items_of_features(fires, features, effort)
    if not wanted:
        return Measured(
            notes=(f"No chosen feature fires in {effort.min_items} items that were not used to choose; no verdicts.",)
        )
    sets = {name: {str(f): (f,) for f in own} for name, own in wanted.items()}
    ran, _ = run_edits(
        _above(inputs),
        [text for text in testing if text.id in sets],
        effect_plan(sets, sides.mask.kept, _rates(inputs), effort),
        store=_store(inputs, "features", {**effort.to_dict(), "sets": json_sha256(sets)}),
        progress=_progress(inputs),
        label="single features",
    )
    tests = causal_tests(effects(ran, effort), features, effort, max(inputs.permutations, CAUSAL_DRAWS))
    used = [number[text.id] for text in choosing]
    rows = np.flatnonzero(~np.isin(sides.explained, used))
    strata = coarsen_strata([stratum_labels(inputs.items[i]) for i in sides.explained[rows]])
    drawn = stratified_permutations(strata, inputs.permutations, np.random.default_rng([inputs.seed, *b"mention"]))
    p = mention_p(sides.stems[rows], sides.explanations[rows], features, drawn)
    p[np.isin(features, [f for f in features.tolist() if not _has(sides.stems, rows, f)])] = np.nan
    verdicts = feature_verdicts(p, tests.p)
    chosen = ["mentioned"] * len(mentioned) + ["effect"] * len(others)
    metrics = verdict_values(verdicts, tests)
    notes = (
        f"Verdicts: {len(features)} features chosen on {len(choosing)} items, tested on {len(testing)} others; causal "
        "means that removing the feature moves the answer more than removing matched features of the same questions.",
    )
    return Measured(tuple(metrics), notes, {"verdicts.csv": verdict_csv(features, chosen, p, tests, verdicts)})


def concept_effects(inputs: Inputs) -> tuple[Effects, FloatArray]:
    """Effects of the concepts that the questions name, and the expert's weight of each, 1 where the explanation names
    it and 0 elsewhere; made once. Empty where no concept has features."""
    return inputs.once("concept effects", lambda: _concept_effects(inputs))


def verdict_csv(
    features: IntArray, chosen: list[str], mentioned_p: FloatArray, tests: FeatureTests, verdicts: FeatureVerdicts
) -> str:
    """One line per feature; empty cells where nothing was tested."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["feature", "chosen_by", "verdict", "mentioned_p", "mentioned_q", "causal_p", "causal_q", "both_q"]
        + ["effect", "matched_effect", "signed_effect", "items"]
    )
    numbers = (
        mentioned_p,
        verdicts.mentioned_q,
        tests.p,
        verdicts.causal_q,
        verdicts.both_q,
        tests.effect,
        tests.random,
        tests.signed,
    )
    for k, feature in enumerate(features.tolist()):
        cells = ["" if np.isnan(each[k]) else f"{each[k]:.6g}" for each in numbers]
        writer.writerow([feature, chosen[k], verdicts.verdict[k], *cells, int(tests.n[k])])
    return out.getvalue()


# --- what several of them need ----------------------------------------------------------------------------------------


def _concept_effects(inputs: Inputs) -> tuple[Effects, FloatArray]:
    from sae_lens_med.alignment.concepts import concept_features

    labels = inputs.concepts
    settings = EffectSettings(stand_ins=inputs.settings.stand_ins, seed=inputs.seed)
    most = inputs.settings.concept_features
    standing = {} if labels is None else concept_features(inputs, most=most)
    if labels is None or not standing:
        return effects([], settings), np.zeros(0)
    number = {item.id: i for i, item in enumerate(inputs.items)}
    column = {concept: c for c, concept in enumerate(labels.concepts.ids)}
    sets: dict[str, dict[str, tuple[int, ...]]] = {}
    for text in _texts(inputs):
        named = [c for c in standing if labels.stem[number[text.id], column[c]]]
        if len(named) > 1:
            sets[text.id] = {concept: standing[concept] for concept in sorted(named)}
    ran, _ = run_edits(
        _above(inputs),
        [text for text in _texts(inputs) if text.id in sets],
        effect_plan(sets, inputs.sides.mask.kept, _rates(inputs), settings),
        store=_store(inputs, "concepts", {**settings.to_dict(), "sets": json_sha256(sets)}),
        progress=_progress(inputs),
        label="concepts",
    )
    found = effects(ran, settings)
    pairs = zip(found.items, found.names, strict=True)
    weights = np.array([float(labels.explanation[number[i], column[c]]) for i, c in pairs])
    return found, weights


def _above(inputs: Inputs) -> "AboveHook":
    from sae_lens_med.interventions.edits import AboveHook

    side = inputs.model
    if side is None:
        raise DataError("this metric needs the model of the study; give it.")
    return inputs.once("above", lambda: AboveHook(side.model, side.loaded_sae, batch_tokens=side.batch_tokens))


def _texts(inputs: Inputs) -> list[AnswerText]:
    """The measured items; see the module for which."""
    return inputs.once("answer texts", lambda: _choose_texts(inputs))


def _choose_texts(inputs: Inputs) -> list[AnswerText]:
    side = inputs.model
    if side is None:
        raise DataError("this metric needs the model of the study; give it.")
    explained = inputs.sides.explained
    order = np.random.default_rng([inputs.seed, *b"causal items"]).permutation(explained)
    left_out = inputs.all_groups.get(LEFT_OUT, np.zeros(len(inputs.items), dtype=bool))
    order = order[np.argsort(~left_out[order], kind="stable")]
    chosen = np.sort(order[: inputs.settings.causal_items])
    items = [inputs.items[i] for i in chosen]
    shots = _shots(inputs)
    expected = list(getattr(inputs.features, "manifest", {}).get("settings", {}).get("shots", []))
    if expected != [shot.id for shot in shots]:
        raise DataError(
            f"the study's features were collected after {len(expected)} solved examples, and {len(shots)} were given "
            "for the causal metrics; give the same ones."
        )
    return answer_texts(items, inputs.features, side.model.text_tokenizer, shots=shots)


def _aligned(inputs: Inputs) -> Aligned:
    sides = inputs.sides
    ids = [inputs.items[i].id for i in sides.explained]
    return inputs.once(
        "aligned features",
        lambda: rank_shared(ids, sides.explained, sides.stems, sides.explanations, sides.mask.kept),
    )


def _saliency(inputs: Inputs) -> list[Saliency]:
    path = None if inputs.folder is None else inputs.folder / "causal.saliency.partial.jsonl"
    return inputs.once(
        "saliency",
        lambda: token_saliency(
            _above(inputs),
            _texts(inputs),
            _aligned(inputs).features,
            path=path,
            identity=_identity(inputs),
            progress=_progress(inputs),
        ),
    )


def _ablated(inputs: Inputs) -> tuple[Ablated, tuple[str, ...]]:
    return inputs.once("ablated", lambda: _run_ablation(inputs))


def _run_ablation(inputs: Inputs) -> tuple[Ablated, tuple[str, ...]]:
    settings = AblationSettings(
        sizes=inputs.settings.causal_sizes,
        sets=inputs.settings.causal_sets,
        seed=inputs.seed,
    )
    above, texts, aligned = _above(inputs), _texts(inputs), _aligned(inputs)
    ran, skipped = run_edits(
        above,
        texts,
        ablation_plan(aligned.features, aligned.kept, _rates(inputs), settings),
        store=_store(inputs, "ablation", settings.to_dict()),
        progress=_progress(inputs),
    )
    notes = [
        f"Ablation: {len(ran)} of {len(inputs.sides.explained)} explained items; items left out of the SAE's "
        "training text come first, the rest is drawn by the seed."
    ]
    for reason in sorted(set(skipped.values())):
        notes.append(f"Ablation: {sum(r == reason for r in skipped.values())} items are not measured: {reason}.")
    return ablated(ran, {item.id: item.answer for item in inputs.items}, settings), tuple(notes)


def _parts(inputs: Inputs, runs: Ablated) -> list[tuple[str, Ablated]]:
    parts = []
    for group, ids in _groups(inputs).items():
        rows = np.flatnonzero([name in ids for name in runs.ids])
        if len(rows) > 1:
            parts.append((group, subset(runs, rows)))
    return parts


def _groups(inputs: Inputs) -> dict[str, set[str]]:
    return {group: {inputs.items[i].id for i in np.flatnonzero(chosen)} for group, chosen in inputs.all_groups.items()}


def _item_table(runs: Ablated) -> list[dict[str, Any]]:
    """#7 item by item: value, mean of its random sets, z and p among them."""
    own, random = aopc(runs.whole, runs.without), aopc(runs.whole, runs.random)
    rows = []
    for i, name in enumerate(runs.ids):
        z = null_z(float(own[i]), random[:, i])
        rows.append(
            {
                "id": name,
                "comprehensiveness": float(own[i]),
                "random_mean": float(random[:, i].mean()),
                "z": z,
                "p": permutation_p(float(own[i]), random[:, i]),
                "features": int(runs.n_features[i]),
                "match_fold": float(runs.fold[i]),
            }
        )
    return rows


def _stem_acts(inputs: Inputs) -> Any:
    acts = inputs.features.acts
    return acts.acts[np.flatnonzero(counted_tokens(acts, STEM_PARTS))]


def _rates(inputs: Inputs) -> Rates:
    return inputs.once("rates", lambda: rates(_stem_acts(inputs)))


def _allowed(each: Saliency, kept: npt.NDArray[np.bool_]) -> tuple[IntArray, FloatArray]:
    chosen = kept[each.features]
    return each.features[chosen], np.abs(each.effects[chosen])


def _has(stems: Any, rows: IntArray, feature: int) -> bool:
    return bool(stems[rows][:, [feature]].nnz)


def _rows(found: Effects, chosen: npt.NDArray[np.bool_]) -> Effects:
    at = np.flatnonzero(chosen)
    return Effects(
        tuple(found.items[i] for i in at),
        tuple(found.names[i] for i in at),
        found.effect[at],
        found.signed[at],
        found.random[at],
    )


def _masked(inputs: Inputs) -> dict[str, int]:
    return dict(inputs.sides.mask.counts)


def _progress(inputs: Inputs) -> bool:
    return inputs.model is not None and inputs.model.progress


def _shots(inputs: Inputs) -> Sequence[McqItem]:
    """The solved examples before every question of the study."""
    return getattr(inputs.model, "shots", ())


def _identity(inputs: Inputs) -> dict[str, Any]:
    side = inputs.model
    assert side is not None  # who asks has opened it
    return {
        "model": dict(side.model.provenance),
        "sae": side.loaded_sae.sha256,
        "items": json_sha256([item.to_dict() for item in inputs.items]),
        "shots": [shot.id for shot in _shots(inputs)],
    }


def _store(inputs: Inputs, name: str, settings: dict[str, Any]) -> PartialResults | None:
    if inputs.folder is None:
        return None
    return PartialResults(inputs.folder / f"causal.{name}.partial.jsonl", {**_identity(inputs), **settings})
