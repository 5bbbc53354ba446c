"""The causal metrics on a model whose answer is computed by known features: what is planted is found, and no more."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sae_lens_med.alignment.ablation import AblationSettings, ablated, ablation_plan
from sae_lens_med.alignment.align import align
from sae_lens_med.alignment.causal_agreement import CAUSAL_AGREEMENT, agreement_values
from sae_lens_med.alignment.causal_items import CausalItems, aligned_features, answer_texts
from sae_lens_med.alignment.comprehensiveness import COMPREHENSIVENESS, comprehensiveness_value
from sae_lens_med.alignment.effects import EffectSettings, beside_stand_ins, effects, removal_plan
from sae_lens_med.alignment.feature_tests import causal_tests, choose_features, items_of_features, mention_p
from sae_lens_med.alignment.feature_verdicts import VERDICTS, feature_verdicts, verdict_values
from sae_lens_med.alignment.plausibility import PLAUSIBILITY
from sae_lens_med.alignment.saliency import token_saliency
from sae_lens_med.alignment.span_gate import SpanGate, span_of
from sae_lens_med.alignment.steering import STEERING, SteeringPair, SteeringSettings, steer_pairs, steering_values
from sae_lens_med.alignment.sufficiency import SUFFICIENCY, sufficiency_value
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import Concept, ConceptSet
from sae_lens_med.errors import DataError
from sae_lens_med.evaluation.run import evaluate
from sae_lens_med.features.collect import collect
from sae_lens_med.features.stand_ins import drives, stand_ins
from sae_lens_med.features.store import load_features
from sae_lens_med.features.vectors import STEM_PARTS, counted_tokens, max_pool
from sae_lens_med.interventions.edit_runs import Planned, margin, run_edits
from sae_lens_med.interventions.edits import AboveHook, Only, Splice, Without
from sae_lens_med.metrics.inputs import Inputs, ModelSide, label_concepts, pool_features, stratum_labels
from sae_lens_med.metrics.settings import MetricSettings
from sae_lens_med.records import Span
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.statistics import coarsen_strata, stratified_permutations
from tests.known_model import (
    D_SAE,
    HIDDEN_CAUSAL,
    MENTIONED_CAUSAL,
    MENTIONED_UNUSED,
    N_NOISE,
    NOISE,
    SYMBOLS,
    known_items,
    known_model,
    known_sae,
    letter_of,
)

N = 80
BATCH = 8192
EVERY = (*MENTIONED_CAUSAL, *HIDDEN_CAUSAL)
METRICS = (PLAUSIBILITY, COMPREHENSIVENESS, SUFFICIENCY, CAUSAL_AGREEMENT, STEERING, VERDICTS)


class Case:
    """Items, their features, and the model that answers them."""

    def __init__(self, folder: Path, causal: tuple[int, ...]) -> None:
        self.model, self.sae, self.items = known_model(causal), known_sae(), known_items(N)
        self.features = load_features(collect(self.model, self.sae, self.items, output=folder, progress=False))
        acts = self.features.acts
        self.pooled = pool_features(self.features)
        self.aligned = aligned_features([item.id for item in self.items], self.pooled.stems, self.pooled.explanations)
        self.drive = drives(acts)
        self.position = {item.id: i for i, item in enumerate(self.items)}
        self.texts = answer_texts(self.items, self.features, self.model.text_tokenizer)
        self.above = AboveHook(self.model, self.sae, batch_tokens=BATCH)
        self.gold = {item.id: item.answer for item in self.items}

    def ablated(self, **settings):
        chosen = AblationSettings(**{"sizes": (1, 2), "sets": 39, **settings})
        texts = self.texts[:40]
        ids = [text.id for text in texts]
        own = [self.aligned[name][: chosen.sizes[-1]] for name in ids]
        drawn = stand_ins(self.drive[:40], own, chosen.sizes, chosen.sets, np.random.default_rng(0))
        ran, skipped = run_edits(self.above, texts, ablation_plan(ids, drawn, chosen), progress=False)
        assert not skipped
        return ablated(ran, self.gold, ids, drawn, chosen)

    @property
    def span(self):
        plan = Planned((Only(()), Splice()))
        ran, _ = run_edits(self.above, self.texts, lambda text, hooked: plan, progress=False)
        gold = [(each, answer) for each in ran if (answer := self.gold[each.id]) is not None]
        margins = np.array([[margin(r.whole, g), *margin(r.logits, g)] for r, g in gold])
        return span_of(margins[:, [0, 2]] - margins[:, [1]], 0)


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    return Case(tmp_path_factory.mktemp("known"), EVERY)


@pytest.fixture(scope="module")
def hidden_case(tmp_path_factory) -> Case:
    """Here the named features move nothing; the answer comes from features that no explanation names."""
    return Case(tmp_path_factory.mktemp("hidden"), HIDDEN_CAUSAL)


def test_the_model_answers_by_its_features_and_every_symbol_is_a_feature(case: Case) -> None:
    sizes = np.diff(max_pool(case.features.acts, STEM_PARTS).indptr)
    assert (sizes == 6 + N_NOISE).all()  # 1 + 3 named, 1 hidden, 1 distractor, noise
    ran, _ = run_edits(case.above, case.texts, lambda text, hooked: _nothing(), progress=False)
    assert [r.predicted for r in ran] == [item.answer for item in case.items]


def test_aligned_features_are_those_that_align_lists(case: Case) -> None:
    listed = align(case.features, case.items, permutations=1, top_features=100).item_features
    for entry in listed:
        assert [use["feature"] for use in entry["shared"]] == case.aligned[entry["id"]].tolist()


def test_comprehensiveness_and_sufficiency_find_the_named_features_that_the_answer_rests_on(case: Case) -> None:
    runs, span = case.ablated(), case.span
    assert span.open and span.n == N
    drop = comprehensiveness_value(runs, span, seed=0)
    assert drop.value > 0.01 and drop.p == 1 / 40 and drop.extra["z"] > 5
    assert drop.null_interval is not None and drop.null_interval[1] < drop.value
    assert runs.unmatched is None and drop.extra["matched_ratio_max"] == pytest.approx(1)  # all fire as strongly
    assert drop.extra["span_low"] == span.interval[0]  # type: ignore[index]  # it is open
    kept = sufficiency_value(runs, span, seed=0)
    assert kept is not None and kept.p == 1 / 40
    # The gold letter has one named and one hidden feature, another one has the distractor: the margin is 2 - 1/3 of
    # what one feature gives, and the named one alone gives 1. It is the rarest of the shared ones, so that it is among
    # the first two.
    assert kept.value == pytest.approx(0.6, abs=0.05)
    assert kept.extra["margin_none"] == pytest.approx(0, abs=1e-5)


def test_named_features_that_move_nothing_are_not_called_causal(hidden_case: Case) -> None:
    runs, span = hidden_case.ablated(), hidden_case.span
    drop = comprehensiveness_value(runs, span, seed=0)
    assert drop.value == pytest.approx(0, abs=1e-6) and drop.p is not None and drop.p > 0.5
    kept = sufficiency_value(runs, span, seed=0)
    assert kept is not None and kept.value == pytest.approx(0, abs=1e-5) and kept.p is not None and kept.p > 0.5


def test_a_model_that_no_feature_moves_has_no_causal_number(tmp_path: Path) -> None:
    inputs = _inputs(Case(tmp_path / "features", ()), tmp_path)
    for metric in METRICS:
        if metric is not PLAUSIBILITY:
            found = metric.measure(inputs)
            assert not found.metrics and any("which is not told from 0; no causal" in n for n in found.notes), (
                metric.name
            )
    assert inputs.view(SpanGate).by_group["all"].mean == pytest.approx(0, abs=1e-6)


TESTED = np.array([*range(24), *NOISE[:4]])


def _verdicts(case: Case):
    settings = EffectSettings(items=15)
    stems = max_pool(case.features.acts, STEM_PARTS)
    fires = {item.id: stems[[i]].indices.astype(np.int64) for i, item in enumerate(case.items)}
    wanted = items_of_features(fires, np.arange(D_SAE), settings)  # the rest of the noise are comparators
    removals = {name: {str(f): ((f,),) for f in own} for name, own in wanted.items()}
    ran, _ = run_edits(case.above, case.texts, removal_plan(removals), progress=False)
    found = effects(ran, 0)
    drive = np.array([case.drive[case.position[i], int(f)] for i, f in zip(found.items, found.names, strict=True)])
    tests = causal_tests(found, drive, TESTED)
    strata = coarsen_strata([stratum_labels(item) for item in case.items])
    drawn = stratified_permutations(strata, 2000, np.random.default_rng(0))
    p = mention_p(case.pooled.stems, case.pooled.explanations, TESTED, drawn)
    return feature_verdicts(p, tests.p), tests


def test_the_verdict_of_every_planted_feature_is_right(case: Case) -> None:
    verdicts, tests = _verdicts(case)
    assert {verdicts.verdict[f] for f in MENTIONED_CAUSAL} == {"shared_reasoning"}
    assert {verdicts.verdict[f] for f in HIDDEN_CAUSAL} == {"hidden_driver"}
    assert {verdicts.verdict[f] for f in MENTIONED_UNUSED} == {"present_unused"}
    assert verdicts.verdict[24:].count("neither") >= 3  # FDR 5 %
    assert tests.comparators == len(NOISE) - 4
    assert (tests.effect[list(MENTIONED_UNUSED)] < 1e-5).all() and (tests.effect[list(EVERY)] > 0.1).all()
    [value] = verdict_values(verdicts, tests, ["mentioned"] * len(TESTED), case.span)
    assert value.value == 8 / len(TESTED) and value.extra["n_hidden_driver"] == 8


def test_in_the_other_model_no_named_feature_is_called_causal(hidden_case: Case) -> None:
    verdicts, _ = _verdicts(hidden_case)
    assert verdicts.counts["shared_reasoning"] == 0
    assert {verdicts.verdict[f] for f in (*MENTIONED_CAUSAL, *MENTIONED_UNUSED)} == {"present_unused"}


def test_saliency_lies_on_the_tokens_of_the_causal_features(case: Case) -> None:
    texts = case.texts[:10]
    salient = token_saliency(case.above, texts, case.aligned, progress=False)
    acts = case.features.acts
    for text, item, each in zip(texts, case.items, salient, strict=False):
        assert each.answer == item.answer
        at = counted_tokens(acts, STEM_PARTS) & (acts.token_item == int(item.id[-3:]))
        rows = acts.acts[np.flatnonzero(at)].toarray()
        told = np.intersect1d(case.aligned[item.id], MENTIONED_CAUSAL)  # without the distractor
        named = rows[:, told].any(axis=1)
        causal = rows[:, list(EVERY)].any(axis=1)
        assert len(each.tokens["aligned"]) == text.chosen.sum() == len(rows)
        assert (each.tokens["aligned"][named] > 0.1).all() and np.abs(each.tokens["aligned"][~named]).max() < 1e-6
        assert (np.abs(each.tokens["all"][causal]) > 0.1).all() and np.abs(each.tokens["all"][~causal]).max() < 1e-6
        # Layer 1 reads c / sqrt(9 + c²), at c = 1: the slope is 9/10 of the value, and little else bends.
        assert each.effects[np.isin(each.features, EVERY)].sum() == pytest.approx(0.9 * each.margin, rel=0.01)
    chosen, others = choose_features(
        case.aligned, {each.id: (each.features, np.abs(each.effects)) for each in salient}, D_SAE
    )
    assert not set(HIDDEN_CAUSAL) & set(chosen.tolist())
    seen = {int(f) for each in salient for f in each.features[np.abs(each.effects) > 0.1]} & set(HIDDEN_CAUSAL)
    assert set(others[: len(seen)].tolist()) == seen


def test_concepts_that_the_expert_weighs_agree_with_effects_only_where_they_move_the_answer(
    case: Case, hidden_case: Case
) -> None:
    settings = EffectSettings(stand_ins=8)

    def agreement(of: Case) -> float | None:
        pooled = max_pool(of.features.acts, STEM_PARTS).toarray()
        sets = {
            item.id: {str(f): (f,) for f in (*MENTIONED_CAUSAL, *NOISE[:4]) if row[f]}
            for item, row in zip(of.items, pooled, strict=True)
        }
        removals, alone = beside_stand_ins(sets, of.drive, of.position, settings)
        assert alone == 0
        ran, _ = run_edits(of.above, of.texts, removal_plan(removals), progress=False)
        found = effects(ran, settings.stand_ins)
        told = {item.id: (item.explanation or "").split() for item in of.items}
        # A feature of the first kind is told where it speaks for the answer, noise by chance.
        pairs = zip(found.items, found.names, strict=True)
        weights = np.array([float(SYMBOLS[int(name)] in told[item]) for item, name in pairs])
        [value], notes = agreement_values(found, weights, of.span, draws=500, seed=0)
        assert not notes
        return value.p

    p, other = agreement(case), agreement(hidden_case)
    assert p == 1 / 501 and other is not None and other > 0.1


def test_steering_a_feature_that_the_answer_reads_is_specific(case: Case, hidden_case: Case) -> None:
    def specificity(of: Case):
        pairs = [
            SteeringPair(item.id, str(f), f, letter_of(f))
            for k, item in enumerate(of.items[:12])
            for f in MENTIONED_CAUSAL[k % 8 : k % 8 + 1]
        ]
        settings = SteeringSettings(draws=5)
        found = steer_pairs(of.above, of.texts, pairs, np.ones(D_SAE), settings, progress=False)
        [value] = steering_values(found, settings.strengths, of.span, draws=500, seed=0)
        return value

    value, other = specificity(case), specificity(hidden_case)
    assert value.value > 0 and value.p is not None and value.p < 0.05
    assert value.extra["shift_at_10"] > value.extra["shift_at_5"] > 0 and value.extra["shift_at_-5"] > 0
    assert other.extra["shift"] == pytest.approx(0, abs=0.02) and other.p is not None and other.p > 0.2


def test_a_run_that_was_ended_goes_on_and_gives_the_same(case: Case, tmp_path: Path) -> None:
    settings = AblationSettings(sizes=(1, 2), sets=3)
    ids = [text.id for text in case.texts]
    drawn = stand_ins(case.drive, [case.aligned[i][:2] for i in ids], (1, 2), 3, np.random.default_rng(0))
    plan = ablation_plan(ids, drawn, settings)
    texts, path = case.texts[:6], tmp_path / "runs.jsonl"
    planned: list[str] = []

    def stopping(text, hooked):
        if len(planned) == 2:
            raise KeyboardInterrupt
        planned.append(text.id)
        return plan(text, hooked)

    def counting(text, hooked):
        planned.append(text.id)
        return plan(text, hooked)

    whole, _ = run_edits(case.above, texts, plan, progress=False)
    with pytest.raises(KeyboardInterrupt):
        run_edits(case.above, texts, stopping, store=PartialResults(path, {"a": 1}), progress=False)
    again, _ = run_edits(case.above, texts, counting, store=PartialResults(path, {"a": 1}), progress=False)
    assert planned == [text.id for text in texts]  # each once
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        assert one.id == other.id and one.about == other.about


def test_every_causal_metric_of_a_study_from_its_inputs(case: Case, hidden_case: Case, tmp_path: Path) -> None:
    measured, files = {}, {}
    for name, of in (("known", case), ("hidden", hidden_case)):
        inputs = _inputs(of, tmp_path / name)
        for metric in METRICS:
            found = metric.measure(inputs)
            assert found.metrics or (name == "hidden" and found.notes), (metric.name, found.notes)
            for value in found.metrics:
                assert metric.owns(value.name)
                measured[name, value.name, value.variant, value.group] = value
            files |= {(name, file): content for file, content in found.files.items()}
            for file, content in found.files.items():
                assert json.dumps(content, allow_nan=False) if file.endswith(".json") else isinstance(content, str)

    def p(name: str, metric: str, variant: str = "sae", group: str = "all") -> float:
        key = name, f"alignment/{metric}", variant, group
        if key not in measured:
            assert (name, metric) == ("hidden", "causal_agreement_excess")  # no concept moves any answer there
            return 1.0
        value = measured[key]
        assert value.p is not None
        return value.p

    for metric in (
        "comprehensiveness",
        "sufficiency",
        "plausibility_auprc",
        "causal_agreement_excess",
    ):
        assert p("known", metric) < 0.05 < p("hidden", metric), metric
    assert p("known", "steering_specificity") < 0.1 < p("hidden", "steering_specificity")  # four concepts
    assert p("known", "comprehensiveness", group="left_out") < 0.05
    assert measured["hidden", "alignment/verdict_shared_reasoning", "sae", "all"].value == 0
    for name, moving in (("known", EVERY), ("hidden", HIDDEN_CAUSAL)):
        # Some 45 comparators are too few for the correction: what is looked at is the p of each feature.
        rows = list(csv.DictReader(io.StringIO(files[name, "verdicts.csv"])))
        ranked = {int(row["feature"]): float(row["causal_p"]) for row in rows if row["causal_p"]}
        assert max(p for f, p in ranked.items() if f in moving) < min(p for f, p in ranked.items() if f not in moving)
        assert len(set(ranked) & set(MENTIONED_CAUSAL)) >= 3 and len(set(ranked) & set(MENTIONED_UNUSED)) >= 3
    assert measured["known", "alignment/comprehensiveness", "sae", "left_out"].n == 21
    assert measured["known", "alignment/comprehensiveness", "sae", "all"].n == 80
    # The whole is there, and a second run has nothing to do.
    before = {path.name: path.read_bytes() for path in (tmp_path / "known").iterdir()}
    assert len(before) == 6
    again = _inputs(case, tmp_path / "known")
    COMPREHENSIVENESS.measure(again)
    assert again.view(CausalItems).above.tokens_run == 0
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "known").iterdir()}


def test_a_group_of_which_no_item_is_run_has_no_value(case: Case, tmp_path: Path) -> None:
    inputs = _inputs(case, tmp_path)
    left_out = inputs.groups["left_out"]
    few = replace(inputs.settings, causal_items=int(left_out.sum()))
    inputs = replace(inputs, groups={"left_out": left_out, "trained_on": ~left_out}, settings=few)
    for metric in METRICS:
        found = metric.measure(inputs)
        if metric is VERDICTS:  # of which half is tested, on which hardly a feature fires five times
            assert "fewer than the 19 that a test needs" in found.notes[0]
            continue
        assert "all" in {value.group for value in found.metrics}, metric.name
        assert "trained_on" not in {value.group for value in found.metrics}, metric.name


def test_causal_metrics_of_a_study_with_shots_need_them(case: Case, tmp_path: Path) -> None:
    manifest = {**case.features.manifest, "settings": {**case.features.manifest["settings"], "shots": ["x"]}}
    inputs = replace(_inputs(case, tmp_path), features=replace(case.features, manifest=manifest))
    with pytest.raises(DataError, match="after 1 solved examples, and 0 were given"):
        COMPREHENSIVENESS.measure(inputs)


def _inputs(case: Case, folder: Path) -> Inputs:
    """A study of the case: concepts for the first kind, of which four are what an option says, and for noise."""
    said = dict(zip((0, 2, 4, 6), case.items[0].options, strict=True))
    concepts = ConceptSet(
        tuple(
            Concept(f"c{f}", "sign", (SYMBOLS[f], said[f]) if f in said else (SYMBOLS[f],))
            for f in (*MENTIONED_CAUSAL, *NOISE)
            if SYMBOLS[f].isalnum()
        ),
        "test",
    )
    # The expert marks the first kind.
    items = tuple(
        replace(
            item,
            question_spans=tuple(
                Span(k, k + 1, "premise")
                for k, c in enumerate(item.question)
                if c in SYMBOLS and SYMBOLS.index(c) in MENTIONED_CAUSAL
            ),
        )
        for item in case.items
    )
    left_out = np.zeros(N, dtype=bool)
    left_out[::4] = True
    left_out[1] = True
    return Inputs(
        items=items,
        features=case.features,
        results=evaluate(case.model, case.items, progress=False).results,
        groups={"left_out": left_out},
        permutations=500,
        concepts=label_concepts(items, case.features.texts, ConceptMatcher(concepts)),
        open_model=lambda: ModelSide(case.model, case.sae, batch_tokens=BATCH, progress=False),
        folder=folder,
        settings=MetricSettings(
            causal_items=80,
            causal_sizes=(1, 2),
            causal_sets=20,
            tested_features=12,
            # The next ones are of the same letter: a concept's features are found by what goes along with it.
            concept_features=1,
            steering_pairs=24,
            steering_draws=8,
        ),
    )


def test_prompts_that_are_not_those_of_the_features_are_refused(case: Case) -> None:
    other = [replace(case.items[0], question="F G H")]
    with pytest.raises(DataError, match="which are not the 35"):
        answer_texts(other, case.features, case.model.text_tokenizer)


def _nothing() -> Planned:
    return Planned((Without(()),))
