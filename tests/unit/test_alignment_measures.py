"""From `Inputs` to values: the numbers of the array metrics on studies made by hand, against independent sources."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from sae_lens_med.alignment.align import align
from sae_lens_med.alignment.baselines import bm25
from sae_lens_med.alignment.concept_features import concept_features
from sae_lens_med.alignment.concepts import measure_concepts
from sae_lens_med.alignment.coverage import measure_coverage
from sae_lens_med.alignment.difference import measure_difference
from sae_lens_med.alignment.monosemanticity import measure_monosemanticity
from sae_lens_med.alignment.overlap import measure_overlap
from sae_lens_med.alignment.retrieval import measure_retrieval
from sae_lens_med.alignment.rsa import measure_rsa
from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import Concept, ConceptSet
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.metrics.inputs import Inputs, label_concepts, length_strata
from sae_lens_med.metrics.metric import Measured
from sae_lens_med.records import McqItem, MetricValue
from tests.synthetic_study import CONCEPTS, synthetic

MATCHER = ConceptMatcher(ConceptSet(tuple(Concept(name, "test", (name,)) for name in CONCEPTS), "by hand"))


def inputs(permutations: int = 199, controls: Any = None, groups: Any = None, **kind: Any) -> Inputs:
    items, features, results = synthetic(**kind)
    return Inputs(
        items=items,
        features=features,
        results=results,
        permutations=permutations,
        concepts=label_concepts(items, features.texts, MATCHER),
        controls=controls or {},
        groups=groups or {},
    )


def value(measured: Measured, name: str, variant: str = "sae", group: str = "all") -> MetricValue:
    found = [m for m in measured.metrics if (m.name, m.variant, m.group) == (f"alignment/{name}", variant, group)]
    assert len(found) == 1, (name, [(m.name, m.variant, m.group) for m in measured.metrics])
    return found[0]


def test_planted_alignment_is_found_by_retrieval_difference_and_overlap() -> None:
    study = inputs()
    for measure, name in (
        (measure_retrieval, "retrieval_mrr"),
        (measure_difference, "matched_minus_mismatched"),
        (measure_overlap, "overlap_jaccard"),
        (measure_overlap, "overlap_precision_at_20"),
    ):
        found = value(measure(study), name)
        assert found.p == 1 / 200, name
        assert found.n == 60


def test_retrieval_and_difference_are_those_of_align_with_bm25_and_controls_beside() -> None:
    _, control, _ = synthetic(planted=0, seed=9)
    study = inputs(controls={"shuffled_decoder": control})
    alone = align(study.features, study.items, permutations=199)
    for measure, prefix in ((measure_retrieval, "alignment/retrieval"), (measure_difference, "alignment/matched")):
        measured = measure(study).metrics
        for expected in (m for m in alone.metrics if m.name.startswith(prefix)):
            assert expected in measured
        assert {m.variant for m in measured} == {"sae", "raw", "pca", "tfidf", "bm25", "shuffled_decoder"}
    p = value(measure_difference(study), "matched_minus_mismatched", "shuffled_decoder").p
    assert p is not None
    assert p > 0.01


def test_overlap_is_the_mean_over_items_and_its_null_holds_the_lengths() -> None:
    study = inputs()
    found = value(measure_overlap(study), "overlap_jaccard")
    sides = study.pooled
    stems, explanations = sides.stems.toarray(), sides.explanations.toarray()
    by_hand = np.minimum(stems, explanations).sum(1) / np.maximum(stems, explanations).sum(1)
    assert found.value == pytest.approx(by_hand.mean(), abs=1e-12)
    assert found.null_mean is not None
    assert found.null_mean < found.value


def test_shared_length_alone_is_no_overlap_once_lengths_are_taken_out() -> None:
    """Long questions with long explanations overlap more; the unadjusted null mistakes that for alignment."""
    adjusted, unadjusted = [], []
    for seed in range(24):
        found = value(
            measure_overlap(inputs(99, planted=0, length_confound=True, concepts=False, seed=seed)), "overlap_jaccard"
        )
        adjusted.append(found.p)
        unadjusted.append(found.extra["unadjusted_p"])
    # 24 studies at 5 %: 6 or more rejections have a probability of 0.1 %.
    assert np.count_nonzero(np.array(adjusted) <= 0.05) <= 5
    assert np.count_nonzero(np.array(unadjusted) <= 0.05) >= 12


def test_rsa_is_spearman_over_pairs_and_an_embedder_takes_the_place_of_words() -> None:
    study = inputs()
    found = value(measure_rsa(study), "rsa")
    upper = np.triu_indices(60, 1)
    stems = study.pooled.stems.toarray()
    unit = stems / np.linalg.norm(stems, axis=1, keepdims=True)
    embedded = np.random.default_rng(3).normal(size=(60, 5))
    other = Inputs(
        items=study.items,
        features=study.features,
        results=study.results,
        permutations=99,
        embedder=lambda texts: embedded[: len(texts)],
        embedder_name="by hand",
    )
    by_hand = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
    expected = spearmanr((1 - unit @ unit.T)[upper], (1 - by_hand @ by_hand.T)[upper])[0]
    measured = measure_rsa(other)
    assert value(measured, "rsa").value == pytest.approx(expected, abs=1e-9)
    assert any("by hand" in note for note in measured.notes)
    assert found.value != value(measured, "rsa").value
    variants = {m.variant for m in measured.metrics if m.name == "alignment/rsa_partial"}
    assert variants == {"sae", "raw", "pca"}  # of the words nothing would be left


def test_planted_concept_features_are_found_and_held_out() -> None:
    study = inputs(n=120)
    measured = measure_concepts(study)
    assert value(measured, "concept_auroc_z").p == 1 / 200
    assert value(measured, "concept_auroc_z").extra["concepts_with_feature"] == 4
    f1 = value(measured, "concept_f1")
    assert f1.p == 1 / 200
    assert f1.value > 0.95
    table = {row["concept"]: row for row in measured.files["concepts.json"]}
    for c, name in enumerate(CONCEPTS):
        assert table[name]["features"][0]["feature"] == 1 + c
        assert table[name]["features"][0]["auroc"] == pytest.approx(1.0)
        assert table[name]["held_out"]["feature"] == 1 + c
        assert table[name]["questions"] == sum(name in item.question.split() for item in study.items)
    assert {name: features[0] for name, features in concept_features(study).items()} == {
        name: 1 + c for c, name in enumerate(CONCEPTS)
    }
    assert value(measure_coverage(study), "concept_coverage").value == pytest.approx(f1.value)


def test_without_concept_features_and_with_varying_length_nothing_stands_for_a_concept() -> None:
    p = []
    for seed in range(16):
        study = inputs(99, n=48, concepts=False, length_confound=True, planted=0, seed=seed)
        measured = measure_concepts(study)
        p.append([value(measured, name).p for name in ("concept_auroc_z", "concept_f1")])
    # 16 studies at 5 %: 5 or more rejections of one number have a probability of 0.1 %.
    assert (np.count_nonzero(np.array(p) <= 0.05, axis=0) <= 4).all()


def test_groups_and_rare_concepts_are_counted() -> None:
    left_out = np.arange(60) < 30
    study = inputs(groups={"left_out": left_out})
    measured = measure_concepts(study)
    assert value(measured, "concept_auroc_z", group="left_out").extra["items"] == 30
    items, features, results = synthetic(n=8)
    few = Inputs(
        items=items,
        features=features,
        results=results,
        concepts=label_concepts(items, features.texts, MATCHER),
        permutations=19,
    )
    rare = measure_coverage(few)
    assert all(m.n < 4 for m in rare.metrics)
    nothing = Inputs(items=items, features=features, results=results, permutations=19)
    assert measure_concepts(nothing).metrics == ()
    assert "not measured" in measure_concepts(nothing).notes[0]


def test_monosemanticity_by_hand_and_on_planted_texts() -> None:
    """Embeddings by concept: features that fire on a concept's word are about one thing, the others are not."""
    study = inputs(n=200)
    assert study.concepts is not None
    labels = study.concepts.stem.astype(float)
    given = Inputs(
        items=study.items,
        features=study.features,
        results=study.results,
        permutations=199,
        embedder=lambda texts: labels[: len(texts)] + 1e-3,
        embedder_name="concepts",
    )
    found = value(measure_monosemanticity(given), "monosemanticity")
    acts = given.pooled.stem_maxima.toarray()
    unit = (labels + 1e-3) / np.linalg.norm(labels + 1e-3, axis=1, keepdims=True)
    cosine = unit @ unit.T
    upper = np.triu_indices(len(acts), 1)
    scores = []
    for column in acts.T:
        if np.count_nonzero(column) < 2:
            continue
        scaled = (column - column.min()) / np.ptp(column)
        weight = np.outer(scaled, scaled)[upper]
        scores.append((weight * cosine[upper]).sum() / weight.sum())
    assert found.value == pytest.approx(np.mean(scores), abs=1e-9)
    assert found.p is not None
    assert found.p < 0.05  # four features of 74 are about one thing
    assert found.extra["corpus_mean"] == pytest.approx(cosine[upper].mean())
    plain = value(measure_monosemanticity(study), "monosemanticity")
    assert "tfidf" in plain.notes


def test_bm25_is_the_literal_formula() -> None:
    questions, explanations = ["가나다라", "열이 난다", "abc abd"], ["가나다마", "환자는 열이 난다고 한다", "xyz"]

    def grams(text: str) -> list[str]:
        return [text[i : i + n] for n in (2, 3, 4) for i in range(len(text) - n + 1)]

    documents = [grams(text) for text in explanations]
    mean = np.mean([len(d) for d in documents])
    expected = np.zeros((3, 3))
    for i, question in enumerate(questions):
        terms = set(grams(question))
        idf = {
            t: np.log1p((3 - sum(t in d for d in documents) + 0.5) / (sum(t in d for d in documents) + 0.5))
            for t in terms
        }
        for j, document in enumerate(documents):
            scale = 1.5 * (1 - 0.75 + 0.75 * len(document) / mean)
            score = sum(idf[t] * document.count(t) / (document.count(t) + scale) for t in terms)
            expected[i, j] = score / sum(idf.values())
    np.testing.assert_allclose(bm25(questions, explanations), expected, atol=1e-12)


def test_length_strata_keep_language_and_subject_apart_and_like_lengths_together() -> None:
    items = [McqItem(f"q{i}", f"s{i % 2}", "en" if i < 40 else "ko", "w " * (i + 1), ("a", "b"), 0) for i in range(80)]
    lengths = np.arange(80.0) + 1
    strata = length_strata(items, lengths)
    for group in strata.members():
        assert len({(items[i].language, items[i].subject) for i in group}) == 1
        assert len(group) in (2, 3)
        assert lengths[group].max() <= np.exp(0.4) * lengths[group].min()
    # Of 1, 3, 5, 7 ... and of 2, 4, 6, 8, ... characters the first two are too far from the next one.
    assert np.flatnonzero(~strata.exchangeable).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("lengths", "bins"),
    [
        ([10, 11, 12], [0, 0, 0]),
        ([10, 11, 30], [0, 0, -1]),
        ([10, 20, 40], [-1, -1, -1]),
        ([10, 11, 12, 13, 14], [0, 0, 1, 1, 1]),
        ([1000, 10, 101, 10, 100], [-1, 0, 1, 0, 1]),
        ([10, 30, 31], [-1, 0, 0]),
    ],
)
def test_a_small_subject_is_no_bin_of_any_length_range(lengths: list[int], bins: list[int]) -> None:
    items = [McqItem(f"q{i}", "s", "en", "Which?", ("a", "b"), 0) for i in range(len(lengths))]
    assert length_strata(items, np.array(lengths, dtype=np.float64)).index.tolist() == bins


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    items, features, results = synthetic(n=6)
    with pytest.raises(DataError, match="differ from item 0 on; pass the items that were collected"):
        Inputs(items=items[::-1], features=features, results=results)
    with pytest.raises(DataError, match="results are not of these items"):
        Inputs(items=items, features=features, results=results[:3])
    _, other, _ = synthetic(n=5)
    with pytest.raises(DataError, match="control 'random_model' was collected on other items"):
        Inputs(items=items, features=features, results=results, controls={"random_model": other})
    with pytest.raises(ConfigError, match="at least one permutation"):
        Inputs(items=items, features=features, results=results, permutations=0)
    study = Inputs(items=items, features=features, results=results, permutations=9)
    with pytest.raises(ConfigError, match="no variant 'tfid' here; did you mean tfidf"):
        study.view(Similarities).matrix("tfid")


def test_annotated_concepts_count_within_spans_only() -> None:
    items, features, _ = synthetic(n=20)
    whole = label_concepts(items, features.texts, MATCHER)
    within = label_concepts(items, features.texts, MATCHER, annotated=True)
    for i, item in enumerate(items):
        for c, name in enumerate(CONCEPTS):
            at = item.question.find(name)
            assert whole.stem[i, c] == (at >= 0)
            assert within.stem[i, c] == (at >= 0 and at + len(name) <= item.question_spans[0].end)
            assert whole.explanation[i, c] == (name in (item.explanation or ""))
    elsewhere = ConceptMatcher(ConceptSet((Concept("scurvy", "test", ("scurvy",)),), "by hand"))
    with pytest.raises(DataError, match="name none of the 1 concepts of by hand"):
        label_concepts(items, features.texts, elsewhere)
