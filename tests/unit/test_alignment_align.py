"""`align` end to end, on collected features made by hand: what is measured, on whom, what is said of the rest."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.alignment.align import AlignmentResult, align
from sae_lens_med.alignment.similarities import BASELINES
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import PARTS, FeatureActs, McqItem

BASELINE_VARIANTS = ("sae", *BASELINES)
METRICS = ("matched_minus_mismatched", "retrieval_mrr", "retrieval_at_1", "retrieval_at_5", "retrieval_at_10")
D_SAE, D_IN, TOKENS = 60, 12, 12


@dataclass(frozen=True)
class Case:
    """What `align` reads of collected features."""

    acts: FeatureActs
    texts: dict[str, dict[str, str]]
    raw_mean_stem: np.ndarray
    raw_mean_explanation: np.ndarray
    has_explanation: np.ndarray


def _case(
    n: int, planted: bool, seed: int = 0, unexplained: tuple[int, ...] = (), subjects: int = 2
) -> tuple[Case, list[McqItem]]:
    """`n` items; where planted, the two sides of an item share a direction, features and a word.

    Feature 0 fires on every token. The first token of each side is excluded and carries feature 1 only.
    """
    rng = np.random.default_rng(seed)
    items, texts, rows, item_of, part_of, excluded, spans = [], {}, [], [], [], [], []
    raw = {"stem": np.zeros((n, D_IN), np.float32), "explanation": np.zeros((n, D_IN), np.float32)}
    for i in range(n):
        own, topic, word = rng.choice(np.arange(2, D_SAE), 4, replace=False), rng.normal(size=D_IN), f"w{i:03}x"
        explained = i not in unexplained
        question = f"환자 {word if planted else ''} " + " ".join(str(w) for w in rng.integers(100, 999, size=8))
        explanation = f"설명 {word if planted else ''} " + " ".join(str(w) for w in rng.integers(100, 999, size=8))
        items.append(
            McqItem(
                id=f"q{i}",
                subject=f"subject{i % subjects}",
                language="ko",
                question=question,
                options=("갑상선", "신장염"),
                answer=int(rng.integers(0, 2)),
                explanation=f"{explanation} 갑상선. 정답: A" if explained else None,
                explanation_source="illustrative" if explained else None,
            )
        )
        texts[f"q{i}"] = {"question": question} | ({"explanation": f"{explanation} …. …"} if explained else {})
        for part in ("stem", "explanation")[: 1 + explained]:
            offset = 0.0 if part == "stem" else 3.0
            raw[part][i] = rng.normal(size=D_IN) + offset + 2 * planted * topic
            for t in range(TOKENS):
                row = (rng.random(D_SAE) < 0.08) * rng.gamma(2.0, size=D_SAE)
                if planted and t == 3:
                    row[own] = 6.0
                row[:2] = 1.0, 0.0
                if t == 0:
                    row = np.eye(D_SAE)[1]
                rows.append(row)
                item_of.append(i)
                part_of.append(PARTS.index("option" if part == "stem" and t > 8 else part))
                excluded.append(t == 0)
                spans.append((t, t + 1))
    n_tokens = len(rows)
    acts = FeatureActs(
        item_ids=tuple(item.id for item in items),
        acts=sparse.csr_array(np.array(rows, dtype=np.float32)),
        token_item=np.array(item_of, dtype=np.int32),
        token_part=np.array(part_of, dtype=np.uint8),
        token_id=np.zeros(n_tokens, dtype=np.int32),
        char_start=np.array([s for s, _ in spans], dtype=np.int32),
        char_end=np.array([e for _, e in spans], dtype=np.int32),
        norm=np.ones(n_tokens, dtype=np.float32),
        error_norm=np.zeros(n_tokens, dtype=np.float32),
        excluded=np.array(excluded),
    )
    has = np.array([i not in unexplained for i in range(n)])
    return Case(acts, texts, raw["stem"], raw["explanation"], has), items


def _by_name(result: AlignmentResult, variant: str = "sae", group: str = "all") -> dict:
    return {m.name.split("/")[1]: m for m in result.metrics if (m.variant, m.group) == (variant, group)}


def test_planted_alignment_is_found_by_every_variant() -> None:
    case, items = _case(60, planted=True)
    result = align(case, items, permutations=199)
    assert len(result.metrics) == len(BASELINE_VARIANTS) * len(METRICS)
    for variant in BASELINE_VARIANTS:
        metrics = _by_name(result, variant)
        assert tuple(metrics) == METRICS
        for metric in metrics.values():
            assert metric.p == 1 / 200, (variant, metric.name)
            assert metric.n == 60
            assert metric.extra["unadjusted_p"] == 1 / 200
            assert metric.extra["unadjusted"] == pytest.approx(metric.value, abs=0.15)
            assert "adjusted for text length and script" in metric.notes


def test_unrelated_sides_are_not_called_aligned() -> None:
    p = []
    for seed in range(30):
        case, items = _case(36, planted=False, seed=seed)
        result = align(case, items, permutations=99, seed=seed)
        p.append([_by_name(result, variant)["matched_minus_mismatched"].p for variant in BASELINE_VARIANTS])
    # 30 studies at 5 %: more than 6 rejections of one variant have a probability of 0.1 %.
    assert (np.count_nonzero(np.array(p) <= 0.05, axis=0) <= 6).all()
    assert 0.3 < np.mean(p) < 0.7


def test_groups_and_counts() -> None:
    case, items = _case(40, planted=True, unexplained=(5, 6))
    left_out = np.arange(40) < 20
    result = align(case, items, groups={"left_out": left_out, "trained_on": ~left_out}, permutations=49)
    everyone, left, trained = (
        _by_name(result, group=group)["matched_minus_mismatched"] for group in ("all", "left_out", "trained_on")
    )
    assert (everyone.n, left.n, trained.n) == (38, 18, 20)
    assert everyone.masked == {
        "excluded_tokens": 78,  # one of each side
        "option_text_chars": 38 * 3,
        "stem_quote_chars": 0,
        "answer_marks": 38,
        "items_without_explanation": 2,
        "option_word_tokens": 0,
        "near_duplicates": 0,
        "items_without_partner": 0,
        "dense_features": 1,
        "script_features": 0,
    }
    assert left.masked["items_without_explanation"] == 2
    assert left.masked["option_text_chars"] + trained.masked["option_text_chars"] == 38 * 3
    assert "n = 18 is small" in left.notes
    assert "fewer than 30 items, so not adjusted" in left.notes
    assert "unadjusted" not in left.extra
    # Words and raw activations have no features to leave out.
    assert "dense_features" not in _by_name(result, "tfidf")["retrieval_mrr"].masked
    assert "59 of 60 features compared; left out: 1 dense, 0 script." in result.notes


def test_per_item_arrays_belong_to_the_headline() -> None:
    case, items = _case(40, planted=True, unexplained=(5,))
    result = align(case, items, permutations=49)
    headline = _by_name(result)["matched_minus_mismatched"]
    assert result.detail_ids == tuple(item.id for item in items if item.id != "q5")
    arrays = result.arrays
    assert {name: a.shape for name, a in arrays.items()} == {"matched": (39,), "mismatched_mean": (39,), "null": (49,)}
    assert all(a.dtype == np.float32 for a in arrays.values())
    assert (arrays["matched"] - arrays["mismatched_mean"]).mean() == pytest.approx(headline.value, abs=1e-6)
    assert arrays["null"].mean() == pytest.approx(headline.null_mean, abs=1e-6)


def test_features_of_items() -> None:
    case, items = _case(40, planted=True, unexplained=(5,))
    result = align(case, items, permutations=9, top_features=4)
    assert [entry["id"] for entry in result.item_features] == [item.id for item in items]
    assert result.item_features[5] == {"id": "q5", "shared": [], "stem_only": [], "explanation_only": []}
    dense = case.acts.acts.toarray()
    for i, entry in enumerate(result.item_features):
        if i == 5:
            continue
        own = (case.acts.token_item == i) & ~case.acts.excluded
        sides = [own & (case.acts.token_part == part) for part in (0, 2)]
        stem, explanation = ({int(f) for f in np.flatnonzero(dense[rows].any(axis=0))} for rows in sides)
        assert len(entry["shared"]) == 4
        assert {f["feature"] for f in entry["shared"]} <= stem & explanation
        assert {f["feature"] for f in entry["stem_only"]} <= stem - explanation
        assert {f["feature"] for f in entry["explanation_only"]} <= explanation - stem
        least = [min(f["stem"], f["explanation"]) for f in entry["shared"]]
        assert least == sorted(least, reverse=True)
        assert all(f["explanation"] == 0 < f["stem"] for f in entry["stem_only"])
        # Neither the dense feature nor that of the excluded token.
        listed = {f["feature"] for f in entry["shared"] + entry["stem_only"] + entry["explanation_only"]}
        assert not listed & {0, 1}


def test_equal_seeds_give_equal_results_and_order_changes_no_value() -> None:
    case, items = _case(36, planted=True)
    one, same, other = (align(case, items, permutations=49, seed=seed) for seed in (1, 1, 2))
    assert [m.to_dict() for m in one.metrics] == [m.to_dict() for m in same.metrics]
    assert [m.value for m in one.metrics] == [m.value for m in other.metrics]
    assert [m.null_mean for m in one.metrics] != [m.null_mean for m in other.metrics]

    order = np.random.default_rng(0).permutation(36)
    place = np.argsort(order)
    acts = replace(
        case.acts,
        item_ids=tuple(items[i].id for i in order),
        token_item=place[case.acts.token_item].astype(np.int32),
    )
    moved = Case(
        acts, case.texts, case.raw_mean_stem[order], case.raw_mean_explanation[order], case.has_explanation[order]
    )
    again = align(moved, [items[i] for i in order], permutations=49, seed=1)
    np.testing.assert_allclose([m.value for m in again.metrics], [m.value for m in one.metrics], atol=1e-9)


def test_items_without_partner_are_counted_and_stay_in_retrieval() -> None:
    case, items = _case(40, planted=True)
    items[0] = replace(items[0], subject="alone")
    result = align(case, items, permutations=49)
    two, one = (_by_name(result)[name] for name in ("matched_minus_mismatched", "retrieval_mrr"))
    assert (two.n, one.n) == (39, 40)
    assert two.masked["items_without_partner"] == 1
    assert "q0" not in result.detail_ids


def test_nobody_to_exchange_with() -> None:
    case, items = _case(40, planted=True, subjects=40)
    result = align(case, items, permutations=49)
    assert result.detail is None and result.arrays == {} and result.detail_ids == ()
    assert tuple(_by_name(result)) == METRICS[1:]
    assert all(m.p is None for m in result.metrics)
    assert any("no two items share a subject" in note for note in result.notes)


def test_too_few_explanations_are_said_and_not_measured() -> None:
    case, items = _case(6, planted=True, unexplained=(1, 2, 3, 4, 5))
    result = align(case, items, permutations=9)
    assert result.metrics == ()
    assert "Group 'all' has 1 items with an explanation: alignment is not measured." in result.notes
    case, items = _case(6, planted=True, unexplained=tuple(range(6)))
    assert align(case, items, permutations=9).metrics == ()


def test_an_item_without_any_feature_stays_in_at_similarity_zero() -> None:
    case, items = _case(40, planted=True)
    acts = case.acts.acts.tolil()
    acts[(case.acts.token_item == 3).nonzero()[0]] = 0
    features = sparse.csr_array(acts.tocsr())
    features.eliminate_zeros()
    result = align(replace(case, acts=replace(case.acts, acts=features)), items, permutations=49)
    two = _by_name(result)["matched_minus_mismatched"]
    assert two.n == 40
    assert two.extra["stems_without_similarity"] == two.extra["explanations_without_similarity"] == 1
    assert result.arrays["matched"][3] == 0


def test_what_does_not_belong_together_is_refused() -> None:
    case, items = _case(6, planted=True)
    with pytest.raises(DataError, match="features are of 6 items, 5 were given, and they differ from item 5 on"):
        align(case, items[:5])
    with pytest.raises(DataError, match="features are of 6 items, 6 were given, and they differ from item 0 on"):
        align(case, [items[1], items[0], *items[2:]])
    with pytest.raises(DataError, match=r"group 'left_out' has shape \(5,\), expected \(6,\)"):
        align(case, items, groups={"left_out": np.ones(5, dtype=bool)})
    with pytest.raises(DataError, match=r"has_explanation has shape \(3,\), expected \(6,\)"):
        align(replace(case, has_explanation=np.ones(3, dtype=bool)), items)
    with pytest.raises(ConfigError, match="at least one permutation, got 0"):
        align(case, items, permutations=0)
