"""Features that carry labels, and what is bilingual among them: against scikit-learn, planted dictionaries, nulls."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map import features
from sae_lens_med.knowledge_map.bilingual import (
    LanguageFeature,
    RetrievalRow,
    corrected_retrieval,
    language_features,
    retrieved,
    shares,
    shares_strings,
)
from sae_lens_med.knowledge_map.bilingual_effects import EffectRow, corrected_effects
from sae_lens_med.knowledge_map.features import (
    CHOSEN,
    ConceptActs,
    FeatureRow,
    auroc,
    auroc_intervals,
    carriers,
    choose,
    corrected,
    held_out,
    require_labels,
)
from sae_lens_med.knowledge_map.features_run import to_csv
from sae_lens_med.knowledge_map.lists import MapConcept
from sae_lens_med.knowledge_map.names import depth_of
from sae_lens_med.plots.map_features import carried_labels, describe_carried

LABELS, EACH, FEATURES = 7, 8, 120
BILINGUAL, KOREAN, LANGUAGE, EVERYWHERE = 3, 5, 7, 9
"""Planted features: of label 2 in both languages, of label 4 in Korean, of all Korean names, of all names."""
ABOUT: dict[str, Any] = {"depth": 10, "sae": "an SAE", "position": "concept"}


@cache
def concepts_of(labels: int = LABELS, each: int = EACH) -> tuple[MapConcept, ...]:
    """Names at random, the same letters nowhere by plan."""
    rng = np.random.default_rng(17)
    found = []
    for i in range(labels * each):
        ko = "".join(chr(0xAC00 + int(c)) for c in rng.integers(0, 11172, 4))
        en = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, 8))
        found.append(MapConcept("made", f"c{i}", {"ko": ko, "en": en}, {"kind": f"label {i % labels}"}))
    return tuple(found)


def sparse(rng: np.random.Generator, n: int, d: int = FEATURES) -> np.ndarray:
    """Features that fire on a fifth of the rows, whatever these are."""
    return (rng.random((n, d)) < 0.2) * rng.lognormal(size=(n, d))


def acts_of(language: str, features: np.ndarray, rng: np.random.Generator, concepts: Any = None) -> ConceptActs:
    concepts = concepts or concepts_of()
    n = len(concepts)
    return ConceptActs(
        concepts=concepts,
        language=language,
        features=features,
        fires=(features > 0).astype(float),
        residual=rng.normal(size=(n, 12)),
        embedding=rng.normal(size=(n, 12)),
        shuffled=sparse(rng, n),
        random=(sparse(rng, n),),
    )


def planted(seed: int = 0) -> tuple[ConceptActs, ConceptActs]:
    """Korean and English of a dictionary with the four planted features among others that have nothing to do with
    labels or translations."""
    rng = np.random.default_rng(seed)
    own = np.arange(LABELS * EACH) % LABELS
    found = []
    for language in ("ko", "en"):
        x = sparse(rng, len(own))
        strength = rng.lognormal(size=(4, len(own)))
        x[:, BILINGUAL] = (own == 2) * strength[0]
        x[:, KOREAN] = (own == 4) * strength[1] * (language == "ko")
        x[:, LANGUAGE] = strength[2] * (language == "ko")
        x[:, EVERYWHERE] = strength[3]
        found.append(acts_of(language, x, rng))
    return found[0], found[1]


def carried(train: ConceptActs, test: ConceptActs, **more: Any) -> list[FeatureRow]:
    out = held_out(train.concepts, np.random.default_rng(0))
    given: dict[str, Any] = {"permutations": 999, "rng": np.random.default_rng(1)} | ABOUT | more
    return carriers(train, test, out, "kind", **given)[0]


def standing_out(rows: list[FeatureRow]) -> set[tuple[str, int]]:
    return {(row.label, row.feature) for row in corrected(rows) if row.stands_out}


class TestAuroc:
    def test_is_that_of_scikit_learn_with_ties(self) -> None:
        rng = np.random.default_rng(0)
        x, member = sparse(rng, 30, 5), rng.random((4, 30)) < 0.3
        got = auroc(x, member)
        for b in range(4):
            for f in range(5):
                assert got[b, f] == pytest.approx(roc_auc_score(member[b], x[:, f]))

    def test_the_best_are_chosen_and_none_that_is_weaker_where_the_label_is(self) -> None:
        member = np.arange(10) < 4
        x = np.stack([member * 1.0, -1.0 * member, np.zeros(10), member * 1.0, np.arange(10) == 0], axis=1)
        (first,), (most, other) = choose(x, member[None], 2), choose(x, np.array([member, ~member]), 9)
        assert [each.tolist() for each in first] == [[0, 3], [1.0, 1.0]]
        assert most[0].tolist() == [0, 3, 4] and most[1][2] == pytest.approx(0.625)
        assert other[0].tolist() == [1]

    def test_the_interval_holds_the_auroc_of_the_population_as_often_as_it_says(self) -> None:
        """Binormal, AUROC 0.76, 30 with and 60 without; 200 draws, binomial 99.9 % band of 0.95."""
        rng, member = np.random.default_rng(0), np.arange(90) < 30
        held = 0
        for _ in range(200):
            ((low, high),) = auroc_intervals((rng.normal(size=90) + member)[:, None], member, rng)
            held += low <= 0.7602 <= high
        assert held >= 200 * 0.95 - 3.3 * np.sqrt(200 * 0.95 * 0.05)


class TestHalves:
    def test_take_half_of_every_label(self) -> None:
        concepts = concepts_of()
        out = held_out(concepts, np.random.default_rng(3))
        for label in {each.labels["kind"] for each in concepts}:
            own = [each.concept for each in concepts if each.labels["kind"] == label]
            assert len(out & set(own)) == EACH // 2

    def test_odd_labels_take_turns(self) -> None:
        out = held_out(concepts_of(labels=4, each=3), np.random.default_rng(3))
        assert len(out) == 6


class TestPlanted:
    def test_in_one_language_what_carries_a_label_there_is_found(self) -> None:
        """In each of 40 dictionaries; of what is found, the share that is wrong is on average at most the 5 % that q
        allows."""
        right = {"ko": {("label 2", BILINGUAL), ("label 4", KOREAN)}, "en": {("label 2", BILINGUAL)}}
        wrong = []
        for seed in range(20):
            for acts in planted(seed):
                own = standing_out(carried(acts, acts))
                assert own >= right[acts.language]
                wrong.append(len(own - right[acts.language]) / len(own))
        assert np.mean(wrong) <= 0.05

    @pytest.mark.parametrize("seed", range(5))
    def test_across_languages_only_the_bilingual_feature_is(self, seed: int) -> None:
        korean, english = planted(seed)
        rows = carried(korean, english) + carried(english, korean)
        assert standing_out(rows) == {("label 2", BILINGUAL)}
        assert {row.language for row in corrected(rows) if row.stands_out} == {"ko-en", "en-ko"}
        # The Korean one was chosen, and told nothing in English.
        (of_korean,) = [row for row in rows if row.feature == KOREAN and row.label == "label 4"]
        assert (of_korean.language, of_korean.auroc_train, of_korean.auroc) == ("ko-en", 1.0, 0.5)

    def test_the_language_feature_is_the_one_that_fires_in_one_language(self) -> None:
        korean, english = planted()
        found = language_features(
            [(korean, english)], depth=10, sae="an SAE", permutations=999, rng=np.random.default_rng(0)
        )
        assert [(each.feature, each.rate_ko, each.rate_en) for each in found] == [(LANGUAGE, 1.0, 0.0)]
        assert found[0].p == 1 / 1000

    def test_a_label_chooses_only_on_its_training_half(self) -> None:
        """A feature that carries the label on held-out concepts alone is not chosen."""
        korean, _ = planted()
        out = held_out(korean.concepts, np.random.default_rng(0))
        held = np.array([each.concept in out for each in korean.concepts])
        own = np.arange(LABELS * EACH) % LABELS == 1
        korean.features[:, 40] = own & held
        assert 40 not in {row.feature for row in carried(korean, korean) if row.label == "label 1"}
        korean.features[:, 40] = own & ~held
        (row,) = [row for row in carried(korean, korean) if row.feature == 40 and row.label == "label 1"]
        assert (row.auroc_train, row.auroc) == (1.0, 0.5)

    def test_the_names_on_which_it_is_strongest_are_told_in_the_language_of_the_test(self) -> None:
        korean, english = planted()
        row = next(row for row in carried(korean, english) if row.feature == BILINGUAL)
        order = np.argsort(-english.features[:, BILINGUAL])[:5]
        assert row.top == tuple(english.concepts[i].forms["en"] for i in order)

    def test_what_the_features_are_is_counted(self) -> None:
        korean, english = planted(1)
        rows = corrected(carried(korean, korean) + carried(english, english))
        across = corrected(carried(korean, english) + carried(english, korean))
        languages = [LanguageFeature(10, "an SAE", KOREAN, 1.0, 0.0, 0.001)]
        told = {each.language: each for each in shares(rows, across, languages)}
        assert (told["ko"].stand_out, told["ko"].bilingual, told["ko"].language_features) == (2, 1, 1)
        assert (told["en"].stand_out, told["en"].bilingual, told["en"].language_features) == (1, 1, 0)
        assert told["ko"].n == len({row.feature for row in rows if row.language == "ko"})


@pytest.mark.parametrize("across", [False, True], ids=["one language", "two languages"])
def test_a_null_dictionary_gives_hits_as_often_as_it_should(across: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """150 studies of 7 labels and 60 features that have nothing to do with them; a hit is a label of which any chosen
    feature has p <= 0.05: 3 to 7 %."""
    monkeypatch.setattr(features, "_RESAMPLES", 2)  # intervals are not looked at
    rng, concepts = np.random.default_rng(5), concepts_of()
    out = held_out(concepts, np.random.default_rng(0))
    hits = tested = 0
    for _ in range(150):
        korean, english = (acts_of(name, rng.exponential(size=(56, 60)), rng) for name in ("ko", "en"))
        rows, _ = carriers(korean, english if across else korean, out, "kind", permutations=199, rng=rng, **ABOUT)
        best: dict[str, float] = {}
        for row in rows:
            best[row.label] = min(row.p, best.get(row.label, 1.0))
        hits += sum(p <= 0.05 for p in best.values())
        tested += len(best)
    assert tested == 150 * LABELS
    assert 0.03 <= hits / tested <= 0.07


def test_p_is_of_the_largest_of_all_that_were_chosen() -> None:
    korean, _ = planted()
    rows = [row for row in carried(korean, korean, permutations=199) if row.label == "label 0"]
    assert len(rows) == CHOSEN
    out = held_out(korean.concepts, np.random.default_rng(0))
    at = [i for i, each in enumerate(korean.concepts) if each.concept in out]
    features = [row.feature for row in rows]
    rng = np.random.default_rng(9)
    null = []
    for _ in range(2000):
        member = rng.permutation(np.arange(len(at)) < 4)
        with_it, without = (korean.features[at][own][:, features] for own in (member, ~member))
        better = (with_it[:, None] > without[None]) + (with_it[:, None] == without[None]) / 2
        null.append(better.mean((0, 1)).max())
    assert rows[0].auroc_null_high == pytest.approx(np.quantile(null, 0.95), abs=0.04)
    assert rows[0].null_mean == pytest.approx(np.mean(null), abs=0.02)


def test_a_label_with_too_few_concepts_is_left_out_and_said() -> None:
    concepts = list(concepts_of())
    concepts[0] = replace(concepts[0], labels={"kind": "rare"})
    korean = acts_of("ko", sparse(np.random.default_rng(0), 56), np.random.default_rng(1), tuple(concepts))
    out = held_out(concepts, np.random.default_rng(0))
    rows, notes = carriers(korean, korean, out, "kind", permutations=19, rng=np.random.default_rng(0), **ABOUT)
    assert "rare" not in {row.label for row in rows}
    assert len(notes) == 1 and "made, kind, rare (ko): not tested; it needs 2 concepts" in notes[0]


class TestControls:
    ROW = next(row for row in carried(*planted()) if row.feature == BILINGUAL)
    CLEAR: dict[str, Any] = {"p": 0.001, "auroc": 0.9, "characters": 0.8, "embedding": 0.8, "shuffled": 0.8}
    CLEAR |= {"random": (0.8, 0.7)}

    def test_above_all_it_stands_out(self) -> None:
        (row,) = corrected([replace(self.ROW, **self.CLEAR)])
        assert row.stands_out and row.not_above == () and row.q == 0.001

    @pytest.mark.parametrize(
        ("control", "said"),
        [
            ({"characters": 0.9}, ("characters",)),
            ({"embedding": 0.95}, ("embedding",)),
            ({"random": (0.5, 0.9)}, ("random",)),
            ({"shuffled": 1.0}, ("shuffled",)),
            ({"p": 0.06}, ()),
        ],
    )
    def test_each_alone_takes_it_back(self, control: dict[str, Any], said: tuple[str, ...]) -> None:
        (row,) = corrected([replace(self.ROW, **self.CLEAR | control)])
        assert not row.stands_out and row.not_above == said

    def test_q_is_over_labels_and_the_other_features_of_a_label_are_held_to_the_same(self) -> None:
        told = {"a": (0.01, 0.02, 0.9), "b": (0.03,), "c": (0.9,), "d": (0.5,)}
        rows = [replace(self.ROW, **self.CLEAR | {"label": name, "p": p}) for name, own in told.items() for p in own]
        q = [row.q for row in corrected(rows)]
        # Labels have 0.01, 0.03, 0.5 and 0.9: adjusted 0.04, 0.06, 2/3, 0.9. 0.02 as a label's: min(4 x 0.02, 0.06).
        assert q == pytest.approx([0.04, 0.06, 0.9, 0.06, 0.9, 2 / 3])

    def test_spelling_that_tells_the_label_takes_the_row_back(self) -> None:
        """Names of label 2 end alike in both languages' letters, as drugs of one mechanism do."""
        concepts = tuple(
            replace(each, forms={"ko": each.forms["ko"] + "olol", "en": each.forms["en"] + "olol"})
            if each.labels["kind"] == "label 2"
            else each
            for each in concepts_of()
        )
        korean, _ = (replace(each, concepts=concepts) for each in planted())
        row = next(row for row in corrected(carried(korean, korean)) if row.feature == BILINGUAL)
        assert row.characters == 1.0 and row.not_above == ("characters",) and not row.stands_out

    @pytest.mark.parametrize("name", ["embedding", "shuffled", "random"])
    def test_another_dictionary_that_has_it_takes_the_row_back(self, name: str) -> None:
        korean, english = planted()
        has = korean.features[:, [BILINGUAL]]
        korean = replace(korean, **{name: (has,) if name == "random" else has})
        given = english.features[:, [BILINGUAL]]
        english = replace(english, **{name: (given,) if name == "random" else given})
        row = next(row for row in corrected(carried(korean, english)) if row.feature == BILINGUAL)
        assert row.not_above == (name,) and not row.stands_out


class TestSharedStrings:
    @pytest.mark.parametrize(
        ("ko", "en", "shared"),
        [
            ("당화혈색소 HbA1c", "HbA1c level", True),
            ("만성 콩팥병 3기", "chronic kidney disease, stage 3", True),
            ("비타민 B12", "cobalamin", False),
            ("고혈압", "hypertension", False),
            ("13세", "3 years", False),
        ],
    )
    def test_are_runs_of_latin_letters_or_digits(self, ko: str, en: str, shared: bool) -> None:
        assert shares_strings(MapConcept("d", "c", {"ko": ko, "en": en}, {"k": "a"})) is shared

    def test_are_left_out_and_told_beside_it(self) -> None:
        korean, english = planted()
        out = held_out(korean.concepts, np.random.default_rng(0))
        own = [i for i, each in enumerate(korean.concepts) if each.concept in out and i % LABELS == 2]
        english.features[own[0], BILINGUAL] = 0  # the one that is left out is the one that was missed
        without = frozenset([korean.concepts[own[0]].concept])
        (row,) = [
            row for row in carried(korean, english, without=without)
            if row.feature == BILINGUAL and row.label == "label 2"
        ]  # fmt: skip
        assert (row.n, row.n_label, row.n_shared, row.auroc) == (27, 3, 1, 1.0)
        assert row.auroc_with_shared == pytest.approx((3 + 0.5) / 4)


class TestRetrieval:
    @staticmethod
    def row(korean: ConceptActs, english: ConceptActs, *, keep: bool = True) -> RetrievalRow | None:
        return retrieved(korean, english, keep_shared=keep, permutations=199, rng=np.random.default_rng(0), **ABOUT)

    def test_a_dictionary_that_translates_is_found_and_no_other(self) -> None:
        korean, english = planted()
        rng = np.random.default_rng(2)
        same = replace(english, features=korean.features + 0.3 * sparse(rng, 56))
        row = self.row(korean, same)
        assert row is not None and row.value > 0.9 and row.p == row.p_within_label == 1 / 200
        assert max(row.shuffled, row.embedding, row.characters, *row.random) < 0.3
        (told,) = corrected_retrieval([replace(row, shared="left out")])
        assert told.stands_out and told.q == row.p

    def test_features_that_fire_in_one_language_alone_do_not_count(self) -> None:
        korean, english = planted()
        noise = np.random.default_rng(0).lognormal(size=(56, 50))
        same = replace(english, features=korean.features.copy())
        plain = self.row(korean, same)
        pair = [
            replace(each, features=np.concatenate([each.features, noise * (name == "ko")], axis=1))
            for name, each in (("ko", korean), ("en", same))
        ]
        row = self.row(*pair)
        assert row is not None and plain is not None
        assert (row.n_features, row.value) == (plain.n_features, plain.value)
        assert plain.n_features == int(((korean.features > 0).any(0) & (same.features > 0).any(0)).sum())

    def test_a_dictionary_of_kinds_does_not_tell_concepts_of_one_kind(self) -> None:
        """Each label has features in both languages; which concept of the label it is, nothing says."""
        korean, english = planted()
        rng = np.random.default_rng(4)
        kinds = np.repeat(np.eye(LABELS), 4, axis=1)[np.arange(56) % LABELS]
        pair = [replace(each, features=kinds * rng.lognormal(size=kinds.shape)) for each in (korean, english)]
        row = self.row(*pair)
        assert row is not None and row.p == 1 / 200 and (row.p_within_label or 0) > 0.05

    def test_p_holds_where_nothing_translates(self) -> None:
        """200 pairs of dictionaries of 20 concepts, 99 permutations; binomial 99 % band of 0.05."""
        rng, concepts = np.random.default_rng(6), concepts_of(labels=4, each=5)
        hits = {"p": 0, "p_within_label": 0}
        for _ in range(200):
            pair = [acts_of(name, rng.exponential(size=(20, 15)), rng, concepts) for name in ("ko", "en")]
            row = retrieved(*pair, keep_shared=True, permutations=99, rng=rng, **ABOUT)
            assert row is not None
            for name in hits:
                hits[name] += getattr(row, name) <= 0.05
        assert all(3 <= n <= 20 for n in hits.values()), hits

    def test_pairs_are_found_by_concept_whatever_their_order(self) -> None:
        korean, english = planted()
        same = replace(english, features=korean.features)
        order = np.random.default_rng(0).permutation(56)
        moved = ConceptActs(
            concepts=tuple(same.concepts[i] for i in order),
            language="en",
            random=tuple(each[order] for each in same.random),
            **{name: getattr(same, name)[order] for name in ("features", "fires", "residual", "embedding", "shuffled")},
        )
        first, second = self.row(korean, same), self.row(korean, moved)
        assert first is not None and second is not None
        assert (first.value, first.shuffled, first.residual) == pytest.approx(
            (second.value, second.shuffled, second.residual)
        )

    def test_names_that_share_strings_are_left_out(self) -> None:
        korean, english = planted()
        concepts = tuple(
            replace(each, forms={name: f"{text} 3" for name, text in each.forms.items()}) if i < 50 else each
            for i, each in enumerate(korean.concepts)
        )
        pair = [replace(each, concepts=concepts) for each in (korean, english)]
        assert self.row(*pair, keep=False) is None  # six are left
        assert (row := self.row(*pair)) is not None and row.n == 56

    @pytest.mark.parametrize("control", ["characters", "embedding", "shuffled", "random", "p"])
    def test_each_control_alone_takes_it_back(self, control: str) -> None:
        korean, english = planted()
        row = self.row(korean, replace(english, features=korean.features))
        assert row is not None
        value: Any = {"random": (0.1, row.value), "p": 0.2}.get(control, row.value)
        (told,) = corrected_retrieval([replace(row, shared="left out", **{control: value})])
        assert not told.stands_out


def test_no_language_feature_where_languages_are_alike() -> None:
    """A dictionary in which rates differ by chance alone, and one whose feature differs by less than half."""
    korean, english = planted(3)
    rng = np.random.default_rng(0)
    few = [replace(each, fires=1.0 * (rng.random((56, 30)) < 0.3)) for each in (korean, english)]
    few[1].fires[:10, 0] = 1
    few[0].fires[:, 0] = 0
    found = language_features([(few[0], few[1])], depth=1, sae="s", permutations=199, rng=np.random.default_rng(0))
    assert found == []


def test_a_language_feature_is_not_the_luckiest_of_many() -> None:
    """30 studies of 10 concepts and 300 features that fire on half of the names in either language: in most some differ
    by more than half. Binomial 99.9 % band of 0.05."""
    rng, concepts = np.random.default_rng(2), concepts_of(labels=2, each=5)
    found = lucky = 0
    for _ in range(30):
        pair = [acts_of(name, rng.random((10, 300)) - 0.5, rng, concepts) for name in ("ko", "en")]
        korean, english = (replace(each, fires=1.0 * (each.features > 0)) for each in pair)
        lucky += np.abs(korean.fires.mean(0) - english.fires.mean(0)).max() > 0.5
        found += bool(language_features([(korean, english)], depth=1, sae="s", permutations=199, rng=rng))
    assert lucky > 25 and found <= 6


class TestEffects:
    ROW = EffectRow(
        domain="d", labels="k", label="a", language="ko", depth=1, sae="s", feature=3, n=4, n_texts=12, fires=1.0,
        value=0.5, interval=None, n_random=99, fold=1.1, null_mean=0.1, null_high=0.2, p=0.01,
    )  # fmt: skip

    def test_used_in_both_needs_both(self) -> None:
        rows = [self.ROW, replace(self.ROW, language="en"), replace(self.ROW, feature=4),
                replace(self.ROW, feature=4, language="en", p=0.9)]  # fmt: skip
        told = corrected_effects(rows)
        assert [row.used_in_both for row in told] == [True, True, False, False]
        assert [row.stands_out for row in told] == [True, True, True, False]

    def test_one_without_matched_features_has_no_q(self) -> None:
        (row, other) = corrected_effects([replace(self.ROW, p=None), replace(self.ROW, language="en")])
        assert row.q is None and not row.stands_out and not row.used_in_both and other.q == 0.01


def test_domains_without_labels_are_refused() -> None:
    with pytest.raises(DataError, match="none of the chosen domains has labels"):
        require_labels([MapConcept("age", "17", {"ko": "17", "en": "17"}, value=17.0)])


@pytest.mark.parametrize(
    ("hook", "depth"),
    [
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.9.hook_resid_post", 10),
        ("blocks.9.hook_resid_pre", 9),
        ("blocks.9.mlp.hook_out", 10),
        ("hook_embed", 0),
    ],
)
def test_depths_are_those_of_the_map_of_layers(hook: str, depth: int) -> None:
    assert depth_of(hook) == depth


class TestShown:
    ROWS = corrected(carried(*planted()) + carried(*reversed(planted())))

    def test_rows_survive_json(self) -> None:
        for row in self.ROWS:
            assert FeatureRow.from_dict(row.to_dict()) == row

    def test_a_line_for_each_row(self) -> None:
        lines = to_csv(self.ROWS).splitlines()
        assert len(lines) == len(self.ROWS) + 1
        assert lines[0].startswith("domain,language,labels,label,depth,sae,position,feature,") and "," in lines[1]

    def test_the_figure_says_the_best_feature_of_each_label(self) -> None:
        axes = carried_labels(self.ROWS)
        cells = [text.get_text() for text in axes.texts]
        assert cells.count(str(BILINGUAL)) == 2
        said = describe_carried(self.ROWS)
        assert f"made/kind: label 2 (ko-en, depth 10): feature {BILINGUAL}, AUROC 1.00, stands out." in said
        assert said.count("does not stand out") == len(cells) - 2
        assert len([patch for patch in axes.collections if patch.get_hatch()]) == len(cells) - 2

    def test_no_rows_no_figure(self) -> None:
        with pytest.raises(DataError, match="at least one row"):
            carried_labels([])
