"""A study as pages see it: its groups and numbers are those of `align`, and painting is what fires."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from sae_lens_med.alignment.item_features import ItemFeatures, item_features
from sae_lens_med.app.aligned import auroc_interval
from sae_lens_med.app.feature_view import Cues
from sae_lens_med.app.index_files import FOLDER
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.views import CaseView, Filters, Group, Verdict
from sae_lens_med.errors import ConfigError, NotFoundError
from sae_lens_med.features.store import CollectedFeatures, load_features
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.records import PARTS, McqItem
from sae_lens_med.study.folder import read_questions
from tests.app_study import D_SAE, DENSE, EVERYWHERE, HANGUL, NEVER, make_study, make_whole_study

N = 24


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study, indexed."""
    folder = tmp_path_factory.mktemp("studies") / "whole"
    make_whole_study(folder, N)
    return folder


@pytest.fixture(scope="module")
def study(made: Path) -> OpenStudy:
    return OpenStudy.open(made)


@pytest.fixture(scope="module")
def whole(made: Path) -> CollectedFeatures:
    return load_features(made / "features")


@pytest.fixture(scope="module")
def items(made: Path) -> tuple[McqItem, ...]:
    return tuple(read_questions(made).values())


@pytest.fixture(scope="module")
def listed(items: tuple[McqItem, ...], whole: CollectedFeatures) -> list[ItemFeatures]:
    """All features of every case, as `align` gives them."""
    return item_features(Inputs(items, whole), top=D_SAE)


def groups(view: CaseView) -> dict[str, Group]:
    return {group.kind: group for group in view.groups}


KINDS = (("shared", "shared"), ("model", "stem_only"), ("expert", "explanation_only"))


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_are_those_of_align_number_for_number(study: OpenStudy, listed: list[ItemFeatures], made: Path) -> None:
    from sae_lens_med.app.index_files import parts_made
    from sae_lens_med.app.indexed import Index
    from sae_lens_med.features.part import FeaturePart

    part = FeaturePart(made / "features")
    weights = Index(made / FOLDER, parts_made(made, part)[0], D_SAE, N).weights
    compared = 0
    for number, entry in enumerate(listed):
        found = groups(study.case(number, limit=D_SAE))
        if not (entry["shared"] or entry["stem_only"] or entry["explanation_only"]):
            assert set(found) == {"model"}
            continue
        compared += 1
        for kind, name in KINDS:
            wanted = entry[name]
            assert found[kind].total == len(wanted)
            assert [
                (f.name.index, f.stem * weights[f.name.index], f.explanation * weights[f.name.index])
                for f in found[kind].features
            ] == [(use["feature"], use["stem"], use["explanation"]) for use in wanted]
    assert compared == sum(item.explanation is not None for item in study.items.values())


def test_features_that_align_leaves_out_are_in_no_group(study: OpenStudy) -> None:
    seen = {f.name.index for n in range(N) for g in study.case(n, limit=D_SAE).groups for f in g.features}
    assert not seen & {DENSE, HANGUL, EVERYWHERE, NEVER}
    assert len(seen) > 20


def test_without_an_explanation_there_is_the_model_alone(study: OpenStudy, items: tuple[McqItem, ...]) -> None:
    number = next(i for i, item in enumerate(items) if item.explanation is None)
    view = study.case(number)
    assert [group.kind for group in view.groups] == ["model"]
    assert view.groups[0].total > len(view.groups[0].features) == 5
    assert view.parts[-1].key == "option:E"
    assert view.explanation_source is None
    assert view.alignment is None
    assert "missing.explanation" in [each.what for each in view.missing]


def test_features_are_ranked_by_effect_where_they_have_one(study: OpenStudy) -> None:
    for number in range(N):
        view = study.case(number, order="effect", limit=D_SAE)
        assert view.order == "effect"
        for group in view.groups:
            effects = [feature.effect for feature in group.features]
            known = [effect for effect in effects if effect is not None]
            assert effects == sorted(known, reverse=True) + [None] * (len(effects) - len(known))


def test_an_order_that_the_study_has_not_got_is_not_pretended(study: OpenStudy) -> None:
    view = study.case(0, order="attribution")
    assert view.order == "activation"
    assert "missing.attribution" in [each.what for each in view.missing]
    for order, limit in (("strength", 5), ("activation", 0)):
        with pytest.raises(ConfigError):
            study.case(0, order=order, limit=limit)


def test_what_is_known_of_a_feature_stands_beside_it(study: OpenStudy) -> None:
    found = {f.name.index: f for n in range(N) for g in study.case(n, limit=D_SAE).groups for f in g.features}
    shared = found[10]
    assert (shared.verdict, shared.effect) == ("shared_reasoning", 2.5)
    assert shared.band is not None
    assert (shared.band.low, shared.band.high, shared.band.n) == (0.1, 0.9, 99)
    assert shared.name.label == "폐렴 소견"
    assert len(shared.name.phrases) == 3
    assert (found[12].effect, found[12].band) == (0.25, None)
    assert (found[20].verdict, found[20].effect) == (None, None)
    assert found[15].name.label is None


# --- painting and tokens --------------------------------------------------------------------------------------------


def test_painting_is_the_maximum_of_what_fires_in_each_segment(study: OpenStudy, whole: CollectedFeatures) -> None:
    acts = whole.acts
    dense = acts.acts.toarray()
    for number in (0, 4, 5, N - 1):
        rows = np.flatnonzero(acts.token_item == number)
        view = study.case(number, limit=D_SAE)
        for feature in (DENSE, EVERYWHERE, NEVER, 30):
            wanted = {}
            for part in view.parts:
                for place, segment in enumerate(part.segments):
                    own = [r for r in rows[list(segment.tokens)] if not acts.excluded[r]]
                    value = max([float(dense[r, feature]) for r in own], default=0.0)
                    if value > 0:
                        wanted[part.key, place] = value
            found = {(each.part, each.segment): each.value for each in study.paint(number, feature)}
            assert found == wanted
        for group in view.groups:
            for feature in group.features:
                assert feature.paint == study.paint(number, feature.name.index)
                assert feature.paint


def test_a_case_whose_parts_are_painted_has_every_stem_token(study: OpenStudy, whole: CollectedFeatures) -> None:
    for number, view in ((n, study.case(n)) for n in range(N)):
        rows = np.flatnonzero(whole.acts.token_item == number)
        stem = {i for i, row in enumerate(rows) if PARTS[whole.acts.token_part[row]] == "stem"}
        assert {token for segment in view.parts[0].segments for token in segment.tokens} <= stem


def test_a_token_lists_what_fires_there_by_share_of_the_maximum(study: OpenStudy, whole: CollectedFeatures) -> None:
    dense = whole.acts.acts.toarray()
    rows = np.flatnonzero(whole.acts.token_item == 3)
    segment = study.case(3).parts[0].segments[4]
    found = study.token(3, "stem", 4, limit=D_SAE)
    values = dense[rows[list(segment.tokens)]].max(axis=0)
    assert found.total == np.count_nonzero(values) == len(found.features)
    assert found.text == study.case(3).parts[0].text[segment.start : segment.end]
    shares = []
    for feature in found.features:
        (paint,) = feature.paint
        assert (paint.part, paint.segment) == ("stem", 4)
        assert paint.value == values[feature.name.index]
        assert feature.name.maximum is not None
        shares.append(paint.value / feature.name.maximum)
    assert shares == sorted(shares, reverse=True)
    assert len(study.token(3, "stem", 4, limit=2).features) == 2


@pytest.mark.parametrize(("key", "segment"), [("stem", 10_000), ("stem", -1), ("option:Z", 0), ("../etc", 0)])
def test_a_segment_that_is_not_there_is_not_found(study: OpenStudy, key: str, segment: int) -> None:
    with pytest.raises(NotFoundError, match="no segment"):
        study.token(0, key, segment)


def test_what_does_not_exist_is_not_found(study: OpenStudy) -> None:
    asked: list[Callable[[], object]] = [
        lambda: study.case(N),
        lambda: study.case(-1),
        lambda: study.paint(N, 0),
        lambda: study.paint(0, D_SAE),
        lambda: study.paint(0, -1),
        lambda: study.feature(D_SAE),
        lambda: study.feature(-1),
        lambda: study.cases(Filters(feature=D_SAE)),
        lambda: study.label(D_SAE, "x", "y", 0, "z"),
    ]
    for ask in asked:
        with pytest.raises(NotFoundError):
            ask()


# --- answers and lists ----------------------------------------------------------------------------------------------


def test_probabilities_prediction_and_gold_stand_at_the_options(study: OpenStudy) -> None:
    for number, (item, result) in enumerate(zip(study.items.values(), study.results.values(), strict=True)):
        view = study.case(number)
        assert view.row.id == item.id
        assert [option.gold for option in view.options] == [k == item.answer for k in range(5)]
        assert [option.predicted for option in view.options] == [x == result.prediction for x in "ABCDE"]
        if result.option_logprobs is None:
            assert {option.probability for option in view.options} == {None}
            assert view.row.margin is None
            continue
        shares = np.exp(result.option_logprobs) / np.exp(result.option_logprobs).sum()
        assert [option.probability for option in view.options] == pytest.approx(shares.tolist())
        assert view.row.margin == pytest.approx(np.sort(shares)[-1] - np.sort(shares)[-2])


def test_the_alignment_of_a_case_is_that_of_its_item(study: OpenStudy) -> None:
    found = {number: study.case(number).alignment for number in range(N)}
    known = {number: each for number, each in found.items() if each is not None}
    assert {n: (round(a.matched, 3), round(a.mismatched, 3), a.rank, a.n) for n, a in known.items()} == {
        0: (0.5, 0.4, 2, 4),
        2: (0.2, 0.3, 4, 4),
        3: (0.9, 0.1, 1, 4),
        7: (0.1, 0.1, 3, 4),
    }


FILTERS: list[tuple[Filters, Callable[[McqItem, Any], bool]]] = [
    (Filters(), lambda i, r: True),
    (Filters(subject="subject1"), lambda i, r: i.subject == "subject1"),
    (Filters(answer="right"), lambda i, r: r.correct is True),
    (Filters(answer="wrong"), lambda i, r: r.correct is False and r.reason is None),
    (Filters(answer="none"), lambda i, r: r.reason is not None),
    (Filters(reason="truncated"), lambda i, r: r.reason == "truncated"),
    (Filters(text="심전도"), lambda i, r: any("심전도" in t for t in (i.question, *i.options, i.explanation or ""))),
    (Filters(text="SEPSIS"), lambda i, r: any("sepsis" in t for t in (i.question, *i.options, i.explanation or ""))),
    (Filters(subject="subject0", text="there is no such text"), lambda i, r: False),
]


@pytest.mark.parametrize(("filters", "keeps"), FILTERS)
def test_filters_keep_what_they_say_in_order(study: OpenStudy, filters: Filters, keeps: Callable[..., bool]) -> None:
    wanted = [
        n
        for n, (item, result) in enumerate(zip(study.items.values(), study.results.values(), strict=True))
        if keeps(item, result)
    ]
    found = []
    for number in range(1, study.cases(filters, size=5).pages + 1):
        page = study.cases(filters, number, 5)
        assert (page.page, page.total, page.of) == (number, len(wanted), N)
        found += [row.number for row in page.rows]
    assert found == wanted
    assert study.cases(filters, 99, 5).page == study.cases(filters, size=5).pages
    for place, number in enumerate(wanted):
        around = (wanted[place - 1] if place else None, wanted[place + 1] if place + 1 < len(wanted) else None)
        assert study.neighbours_of(number, filters) == around


def test_counts_are_before_filtering(study: OpenStudy) -> None:
    page = study.cases(Filters(answer="none"))
    assert dict(page.subjects) == {"subject0": 12, "subject1": 12}
    assert dict(page.reasons) == {"truncated": 4}
    assert dict(page.answers)["none"] == 4
    with pytest.raises(ConfigError):
        study.cases(Filters(), page=0)


@pytest.mark.parametrize("name", ["margin", "difference", "comprehensiveness"])
def test_orders_put_what_has_no_value_last(study: OpenStudy, name: str) -> None:
    for sign in ("", "-"):
        order: Any = sign + name
        rows = study.cases(Filters(order=order), size=N).rows
        values = [getattr(row, name) for row in rows]
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=sign == "-")
        assert values[len(known) :] == [None] * (N - len(known))
        assert len(known) >= 4


def test_a_number_leads_to_the_cases_that_make_it_where_they_have_values(study: OpenStudy) -> None:
    assert study.case_orders == ("", "margin", "-margin", "difference", "-difference", "comprehensiveness",
                                 "-comprehensiveness")  # fmt: skip
    rows = study.cases(Filters(order="comprehensiveness"), size=4).rows
    assert [(row.number, row.comprehensiveness) for row in rows] == [(5, 0.125), (8, 0.25), (1, 0.375), (3, 0.5)]


def test_a_study_without_values_of_cases_offers_no_such_order(tmp_path: Path) -> None:
    make_study(tmp_path, 4)
    assert OpenStudy.open(tmp_path).case_orders == ("", "margin", "-margin")


def test_what_a_case_shows_is_found_without_its_texts(study: OpenStudy) -> None:
    for number in range(N):
        view = study.case(number, "activation", 3)
        assert study.shown(number, 3) == [each.name.index for group in view.groups for each in group.features]


def test_cases_by_feature_are_all_in_which_it_fires(study: OpenStudy, whole: CollectedFeatures) -> None:
    acts = whole.acts
    shown = ~acts.excluded & (acts.token_part != PARTS.index("other"))
    dense = acts.acts.toarray() * shown[:, None]
    for feature in (DENSE, NEVER, 5, 30):
        fires = sorted(set(acts.token_item[dense[:, feature] > 0].tolist()))
        assert [row.number for row in study.cases(Filters(feature=feature), size=N).rows] == fires


# --- features -------------------------------------------------------------------------------------------------------


def test_contexts_are_pieces_of_what_was_run_with_what_fires_in_them(
    study: OpenStudy, whole: CollectedFeatures, items: tuple[McqItem, ...]
) -> None:
    acts = whole.acts
    for feature in (DENSE, 5, 20, 30):
        view = study.feature(feature)
        assert len({context.case for context in view.contexts}) == len(view.contexts) > 0
        top = [context.value for context in view.contexts[:20]]
        assert top == sorted(top, reverse=True)
        for context in view.contexts:
            rows = np.flatnonzero(acts.token_item == context.case)
            column = acts.acts[rows][:, [feature]].toarray()[:, 0]
            shown = ~acts.excluded[rows] & (acts.token_part[rows] != PARTS.index("other"))
            assert context.value == column[shown].max()
            texts = whole.texts[items[context.case].id].values()
            assert any(context.text in text for text in texts)
            strongest = rows[int(np.where(shown, column, 0).argmax())]
            run = whole.texts[items[context.case].id][("question", "explanation")[whole.token_text[strongest]]]
            if run[acts.char_start[strongest] : acts.char_end[strongest]].strip():  # else there is nothing to paint
                assert context.value in [value for _, _, value in context.pieces]
            assert all(0 <= start < end <= len(context.text) for start, end, _ in context.pieces)
            assert 0 <= context.quantile <= 9


def test_a_feature_page_has_what_is_known(study: OpenStudy, whole: CollectedFeatures) -> None:
    view = study.feature(11)
    assert [(score.concept, score.auroc, score.n) for score in view.concepts] == [
        ("pneumonia", 0.9, 8),
        ("fever", 0.6, 6),
    ]
    assert view.concepts[0].interval == auroc_interval(0.9, 8, N - 8)
    assert view.reference == "made by hand:11"
    assert view.n_tokens is not None
    assert sum(view.histogram) == view.n_tokens
    assert view.density == pytest.approx(view.n_tokens / study._cases.index.n_tokens)  # type: ignore[union-attr]
    assert [row.number for row in view.cases] == [context.case for context in view.contexts[: len(view.cases)]]
    assert {each.what for each in view.missing} == {"missing.neighbours", "missing.logits"}
    assert study.feature(DENSE).left_out == "dense"
    assert study.feature(HANGUL).left_out == "script"
    silent = study.feature(NEVER)
    assert (silent.n_tokens, silent.contexts, silent.name.maximum, silent.mean) == (0, (), None, 0.0)
    assert set(get_args(Verdict)) >= {study.feature(40).verdict}


def test_the_interval_of_an_auroc_is_as_wide_as_it_spreads() -> None:
    """For exponential scores, of which the formula is exact: 9 with and 21 without the label, area 3/4."""
    rng = np.random.default_rng(0)
    scores = rng.exponential(3.0, (4000, 9, 1)) > rng.exponential(1.0, (4000, 1, 21))
    spread = scores.mean(axis=(1, 2)).std()
    low, high = auroc_interval(0.75, 9, 21) or (0, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * spread, rel=0.04)
    assert (high + low) / 2 == pytest.approx(0.75)
    assert auroc_interval(1.0, 5, 5) == (1.0, 1.0)
    assert auroc_interval(0.7, 0, 9) is None


@pytest.mark.parametrize("order", ["maximum", "density", "auroc", "effect", "index"])
def test_the_list_of_features_is_ordered(study: OpenStudy, order: str) -> None:
    pages = [study.features(order, page, 20) for page in (1, 2, 3)]
    rows = [row for page in pages for row in page.rows]
    assert len(rows) == pages[0].total == D_SAE - 1
    assert NEVER not in {row.name.index for row in rows}
    keys = {
        "maximum": lambda row: -(row.name.maximum or 0),
        "density": lambda row: -row.density,
        "auroc": lambda row: -(row.auroc or 0),
        "effect": lambda row: -(row.effect or 0),
        "index": lambda row: row.name.index,
    }
    values = [keys[order](row) for row in rows]
    assert values == sorted(values)
    with pytest.raises(ConfigError):
        study.features("name")


# --- search ---------------------------------------------------------------------------------------------------------


def test_labels_come_before_concepts_before_words_before_texts(study: OpenStudy) -> None:
    hits = study.search("폐렴", limit=40)
    kinds = [hit.kind for hit in hits]
    assert kinds == sorted(kinds, key=["label", "concept", "token", "text"].index)
    assert set(kinds) == {"label", "concept", "token", "text"}
    by = {kind: [hit for hit in hits if hit.kind == kind] for kind in set(kinds)}
    assert [hit.feature.index for hit in by["label"] if hit.feature] == [10]
    assert [(hit.feature.index, hit.auroc) for hit in by["concept"] if hit.feature] == [(11, 0.9), (13, 0.7)]
    assert all("폐렴" in hit.text for hit in (*by["token"], *by["text"]))
    for hit in by["token"]:
        assert hit.feature is not None
        assert hit.text in study._cases.index.words_of(hit.feature.index)  # type: ignore[union-attr]
    assert len(study.search("폐렴", limit=10)) == 10
    assert {hit.kind for hit in study.search("폐렴", limit=10)} == {"label", "concept", "token", "text"}


@pytest.mark.parametrize("query", ["ＦＥＶＥＲ", "Fever", "fever  ", "폐렴", "\u1111\u1168\u1105\u1167\u11b7"])
def test_a_query_is_folded_as_the_texts_are(study: OpenStudy, query: str) -> None:
    assert {"concept", "text"} <= {hit.kind for hit in study.search(query)}


def test_nothing_is_found_for_nothing(study: OpenStudy) -> None:
    assert study.search("") == study.search(" \u3000 ") == study.search("no such words anywhere") == ()
    with pytest.raises(ConfigError):
        study.search("a", limit=0)


def test_a_feature_of_an_organism_says_which_cue_its_words_are_of() -> None:
    cues = Cues.of_study("organism/ko-shortcut-0", "ko")
    assert cues is not None
    assert cues.of(["동구에", "남구인", "동구이다."]) == "place"
    assert cues.of(["칼륨", "감소를", "증가이다."]) == "findings"
    assert cues.of(["동구에", "칼륨", "약은?", "진단에"]) is None
    assert cues.of([]) is None
    assert Cues.of_study("gemma-3-270m", "ko") is None
    english = Cues.of_study("organism/en-concepts-0", "en")
    assert english is not None
    assert english.of(["potassium", "low."]) == "findings"
