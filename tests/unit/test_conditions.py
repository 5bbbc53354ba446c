"""The conditions file, and the numbers, tables and plot of a comparison, against SciPy and literal recomputation."""

import csv
import io
import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from scipy import stats

from sae_lens_med.commands.intervene import EXAMPLE
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.evaluation.conditions.compare import (
    Comparison,
    ConditionRun,
    compare,
    margins,
)
from sae_lens_med.evaluation.conditions.plot import steering_entries, steering_svg
from sae_lens_med.evaluation.conditions.spec import Condition, Conditions, load_conditions, parse_conditions
from sae_lens_med.evaluation.conditions.tables import comparison_csv, comparison_md, flips_csv
from sae_lens_med.interventions import Intervention
from sae_lens_med.records import ItemResult, Provenance

STEER = {"name": "s", "kind": "steer", "features": {7: 2.0, 3: -1.0}, "unit": "max", "strengths": [-1, 0.5]}
PROVENANCE = Provenance(
    created="2026-01-01T00:00:00+00:00",
    versions={},
    model={"name": "a-model"},
    sae={"source": "here", "hook_name": "blocks.1.hook_resid_post"},
    data={"source": "questions"},
    settings={"method": "letter", "shots": []},
    seed=0,
)


# --- the file -------------------------------------------------------------------------------------------------------


def read(*entries: Any, **top: Any) -> tuple[Condition, ...]:
    return parse_conditions({"conditions": list(entries), **top}).conditions


def test_the_example_is_a_conditions_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(EXAMPLE, encoding="utf-8")
    found = load_conditions(tmp_path / "c.yaml")
    assert found.matched_random == 20
    names = [c.name for c in found.conditions]
    assert names[:4] == ["plain", "splice", "splice-with-error", "ablate-two"]
    assert names[4:] == [f"steer-1285@{s}" for s in ("-2", "-1", "-0.5", "0.5", "1", "2")]
    assert found.conditions[-1].strength == 2.0
    assert found.conditions[-1].features == ((None, 1285),)


def test_strengths_multiply_the_values_of_what_is_steered_or_clamped() -> None:
    plain, low, high = read(STEER)
    assert (plain.name, plain.kind, plain.interventions, plain.features) == ("plain", "plain", (), ())
    assert [c.name for c in (low, high)] == ["s@-1", "s@0.5"]
    assert low.parsed[0].features == ((7, -2.0), (3, 1.0))
    assert high.parsed[0].features == ((7, 1.0), (3, -0.5))
    several = read(
        {
            "name": "b",
            "interventions": [{"kind": "ablate", "features": [1]}, {"kind": "clamp", "features": {2: 3.0}}],
            "strengths": [2],
        }
    )[1]
    assert several.kind == "ablate+clamp"
    assert [each.features for each in several.parsed] == [((1, None),), ((2, 6.0),)]
    assert several.features == ((None, 1), (None, 2))


def test_an_entry_is_what_interventions_read() -> None:
    entry = {"kind": "steer", "features": {5: 1.5}, "unit": "norm", "positions": {"parts": ["stem"]}, "sae": "x"}
    assert read(entry)[1].parsed == (Intervention.from_dict(entry),)


def test_other_features_take_the_place_of_their_own() -> None:
    both = read(
        {
            "name": "b",
            "interventions": [{"kind": "ablate", "features": [1, 4]}, {"kind": "steer", "features": {4: 2.0}}],
        }
    )[1]
    moved = both.on({(None, 1): 10, (None, 4): 40})
    assert moved.parsed[0].features == ((10, None), (40, None))
    assert moved.parsed[1].features == ((40, 2.0),)
    assert moved.name == both.name
    two = read(
        {
            "name": "b",
            "interventions": [
                {"kind": "ablate", "features": [1], "sae": "p"},
                {"kind": "ablate", "features": [1], "sae": "q"},
            ],
        }
    )[1]
    assert two.features == (("p", 1), ("q", 1))
    assert [e.features for e in two.on({("p", 1): 5, ("q", 1): 6}).parsed] == [((5, None),), ((6, None),)]


def test_names_are_made_where_none_are_given() -> None:
    found = read(
        {"kind": "splice"},
        {"kind": "splice", "error_term": True},
        {"kind": "ablate", "features": [9, 8]},
        {"kind": "ablate", "features": [1, 2, 3, 4, 5, 6]},
    )
    assert [c.name for c in found[1:]] == ["splice", "splice-with-error", "ablate-9-8", "ablate-1-2-3-4-and-2-more"]


def test_conditions_survive_json() -> None:
    found = parse_conditions({"conditions": [STEER, {"kind": "ablate", "features": [3]}], "matched_random": 4})
    for condition in found.conditions:
        assert Condition.from_dict(json.loads(json.dumps(condition.to_dict()))) == condition


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"condition": []}, "unknown key 'condition'; did you mean conditions"),
        ({"conditions": []}, "a list of at least one"),
        ({"conditions": [{"kind": "steer"}], "matched_random": -1}, "matched_random must be a whole number"),
        ([], "must be a mapping with the keys conditions, matched_random"),
        ({"conditions": ["splice"]}, "condition 1 must be a mapping such as"),
        ({"conditions": [{"kind": "splise"}]}, "condition 1 has the unknown kind 'splise'; did you mean splice"),
        (
            {"conditions": [{"kind": "ablate", "feature": [1]}]},
            r"condition 1 \(ablate\) has no key 'feature'; did you mean f",
        ),
        ({"conditions": [{"kind": "steer", "features": {1: 1.0}, "strength": [1]}]}, "no key 'strength'"),
        ({"conditions": [{"kind": "ablate", "features": [1, 1]}]}, "the feature 1 is named twice"),
        ({"conditions": [{"kind": "ablate", "features": [1], "strengths": [2]}]}, "which only clamp and steer have"),
        ({"conditions": [{**STEER, "strengths": []}]}, "strengths must be a list of numbers"),
        ({"conditions": [{**STEER, "strengths": [1, 0]}]}, "steering with strength 0 is the plain model"),
        ({"conditions": [{**STEER, "strengths": [float("inf")]}]}, "inf is not a strength"),
        ({"conditions": [{**STEER, "strengths": [1, 1]}]}, "two conditions are called 's@1'"),
        ({"conditions": [{**STEER, "name": "../up"}]}, r"the name '\.\./up' cannot be used as a folder name"),
        ({"conditions": [{**STEER, "name": "열" * 90}]}, "has 270 bytes, more than the 200 .*; choose a shorter one"),
        ({"conditions": [{"name": "Plain", "kind": "splice"}]}, "two conditions are called 'Plain'"),
        ({"conditions": [{"interventions": [], "name": "x"}]}, "a list of at least one"),
        ({"conditions": [{"interventions": [{"kind": "splice"}], "kind": "splice"}]}, "unknown key 'kind'"),
        (
            {"conditions": [{"interventions": [{"kind": "x"}], "name": "x"}]},
            "condition 1, intervention 1 has the unknown kind 'x'",
        ),
    ],
)
def test_what_is_wrong_is_said(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_conditions(values)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no conditions file .*--example"):
        load_conditions(tmp_path / "none.yaml")
    path = tmp_path / "c.yaml"
    path.write_text("conditions: [", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_conditions(path)
    path.write_text("conditions:\n- {kind: steer, features: {1: 2.0, 1: 3.0}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the key 1 is given twice"):
        load_conditions(path)
    for line in ("matched_random: 100000000000", "matched_random: 1e11", "matched_random: -1", "matched_random: true"):
        path.write_text("conditions:\n- {kind: splice}\n" + line, encoding="utf-8")
        with pytest.raises(ConfigError, match="matched_random must be a whole number from 0 to 10,000"):
            load_conditions(path)
    path.write_text("conditions:\n- &a {kind: steer, features: {1: 2.0}}\n- {<<: *a, name: b}\n", encoding="utf-8")
    assert [c.name for c in load_conditions(path).conditions] == ["plain", "steer-1", "b"]
    path.write_text("conditions: !!python/object/apply:os.system ['true']\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_conditions(path)


# --- the numbers ----------------------------------------------------------------------------------------------------


def result(i: int, scores: Any, gold: str | None = "A", subject: str = "x") -> ItemResult:
    best = "ABCDE"[int(np.argmax(scores))]
    return ItemResult(
        id=f"i{i}",
        subject=subject,
        gold=gold,
        prediction=best,
        option_logprobs=tuple(float(s) for s in scores),
        correct=None if gold is None else best == gold,
    )


def results(
    rng: np.random.Generator, push: float = 0.0, n: int = 60, unknown: tuple[int, ...] = ()
) -> list[ItemResult]:
    """Random scores of five options; `push` goes to the gold one, E for every third item."""
    noise = np.random.default_rng(5).normal(size=(n, 5)) + 0.3 * rng.normal(size=(n, 5))
    found = []
    for i in range(n):
        gold = "E" if i % 3 == 0 else "A"
        scores = noise[i] - 5
        scores["ABCDE".index(gold)] += push
        found.append(result(i, scores, None if i in unknown else gold, "abc"[i % 3] if i % 2 else "a"))
    return found


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compare(ran(), PROVENANCE, seed=3)


def ran() -> list[ConditionRun]:
    rng = np.random.default_rng(0)
    conditions = read({"kind": "splice"}, {**STEER, "strengths": [-2, -1, 1, 2]})
    found = [
        ConditionRun(conditions[0], results(rng, unknown=(4, 50))),
        ConditionRun(conditions[1], results(rng, unknown=(4, 50))),
    ]
    for condition in conditions[2:]:
        strength = condition.strength or 0.0
        sets = [results(rng, 0.05 * k * strength, unknown=(4, 50)) for k in range(-2, 8)]
        indices = tuple((10 + k, 20 + k) for k in range(10))
        own = results(rng, strength, unknown=(4, 50))
        found.append(ConditionRun(condition, own, indices, sets, [1.1] * 19 + [3.0], (0.5, 0.0)))
    return found


def test_margins_by_hand() -> None:
    rows = [result(0, [-1.0, -2.0, -0.5]), result(1, [-1.0, -3.0, -4.0])]
    assert margins(rows).tolist() == [-0.5, 2.0]
    with pytest.raises(DataError, match="'i2' has no gold letter"):
        margins([result(2, [-1, -2], None)])


def test_numbers_are_those_of_a_literal_recomputation(comparison: Comparison) -> None:
    everything = ran()
    plain = {r.id: r for r in everything[0].results if r.gold is not None}
    assert (comparison.n_items, comparison.n_gold) == (60, 58)
    raw_p = []
    for given, found in zip(everything, comparison.results, strict=True):
        own = {r.id: r for r in given.results if r.gold is not None}
        lost = sum(plain[i].prediction == plain[i].gold and own[i].prediction != own[i].gold for i in own)
        won = sum(plain[i].prediction != plain[i].gold and own[i].prediction == own[i].gold for i in own)
        assert (found.lost, found.won) == (lost, won)
        right = sum(r.prediction == r.gold for r in own.values())
        assert found.accuracy == right / 58
        wilson = stats.binomtest(right, 58).proportion_ci(method="wilson")
        assert found.accuracy_interval == pytest.approx((wilson.low, wilson.high))
        raw_p.append(stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0)
        assert found.p == pytest.approx(raw_p[-1])
        change = []
        for i, r in own.items():
            scores, base = r.option_logprobs, plain[i].option_logprobs
            assert scores and base and r.gold
            g = "ABCDE".index(r.gold)
            margin = scores[g] - max(s for k, s in enumerate(scores) if k != g)
            change.append(margin - (base[g] - max(s for k, s in enumerate(base) if k != g)))
        assert found.margin_change == pytest.approx(np.mean(change))
        assert found.margin_change_interval is not None
        se = np.std(change) / np.sqrt(58)
        assert found.margin_change_interval == pytest.approx(
            (np.mean(change) - 1.96 * se, np.mean(change) + 1.96 * se), abs=0.5 * se + 1e-12
        )
        flips = [r for r in given.results if r.prediction != everything[0].results[int(r.id[1:])].prediction]
        assert found.flips == len(flips)
    adjusted = stats.false_discovery_control(raw_p[1:])
    assert [r.p_fdr for r in comparison.results[1:]] == pytest.approx(adjusted)


def test_the_random_band_is_that_of_a_literal_recomputation(comparison: Comparison) -> None:
    given = ran()
    base = [r for r in given[0].results if r.gold is not None]
    p_values = []
    for own, found in zip(given[2:], comparison.results[2:], strict=True):
        assert found.random is not None
        band = found.random.margin_change
        expected = [
            float(np.mean(margins([r for r in s if r.gold is not None]) - margins(base))) for s in own.random_results
        ]
        assert band.values == pytest.approx(expected)
        assert band.z == pytest.approx((found.margin_change - np.mean(expected)) / np.std(expected, ddof=1))
        assert band.interval == pytest.approx(np.quantile(expected, [0.025, 0.975]))
        everything = np.array([*expected, found.margin_change])
        away = abs(everything - everything.mean())
        assert band.p == pytest.approx(np.mean(away >= away[-1]))
        p_values.append(band.p)
        accuracy = found.random.accuracy_change
        right = [np.mean([r.correct is True for r in s if r.gold is not None]) for s in own.random_results]
        assert accuracy.values == pytest.approx([v - comparison.results[0].accuracy for v in right])
        assert (found.random.fold_median, found.random.fold_max) == (1.1, 3.0)
    found_fdr = [r.random.margin_change.p_fdr for r in comparison.results[2:] if r.random]
    assert found_fdr == pytest.approx(stats.false_discovery_control(p_values))
    strong = comparison.results[-1].random
    assert strong is not None and strong.margin_change.p == pytest.approx(1 / 11)
    assert comparison.results[1].random is None


def test_subjects_add_up(comparison: Comparison) -> None:
    for found in comparison.results:
        groups = found.by_subject
        assert [g.group for g in groups] == ["subject=a", "subject=b", "subject=c"]
        assert sum(g.n for g in groups) == found.n
        assert sum(g.lost for g in groups) == found.lost
        assert sum(g.n * g.margin_change for g in groups) == pytest.approx(found.n * found.margin_change)


def test_flips_are_listed_item_by_item(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(flips_csv(comparison))))
    expected = []
    before = {r.id: r for r in ran()[0].results}
    for given in ran()[1:]:
        for r in given.results:
            b = before[r.id]
            if r.prediction != b.prediction:
                effect = "lost" if b.correct else "won" if r.correct else "other"
                expected.append((given.condition.name, r.id, b.prediction, r.prediction, r.gold or "", effect))
    assert [(r["condition"], r["id"], r["from"], r["to"], r["gold"], r["effect"]) for r in rows] == expected
    assert {r["effect"] for r in rows} == {"lost", "won", "other"}


def test_an_answer_that_is_lost_altogether() -> None:
    tie = replace(result(0, [-1.0, -1.0]), prediction=None, correct=False, reason="ambiguous")
    conditions = read({"kind": "splice"})
    found = compare(
        [ConditionRun(conditions[0], [result(0, [-1.0, -2.0])]), ConditionRun(conditions[1], [tie])], PROVENANCE
    )
    assert (found.results[1].lost, found.results[1].unanswered) == (1, 1)
    assert found.flips[0].after is None
    assert found.results[1].margin_change_interval is None  # one item
    assert "1 lost" in comparison_md(found)


def test_comparisons_survive_json(comparison: Comparison) -> None:
    assert Comparison.from_dict(json.loads(json.dumps(comparison.to_dict(), allow_nan=False))) == comparison


def test_csv_has_a_row_for_each_condition_and_subject(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(comparison))))
    assert [(r["condition"], r["group"]) for r in rows] == list(
        product([c.condition.name for c in comparison.results], ["all", "subject=a", "subject=b", "subject=c"])
    )
    last = next(r for r in rows if r["condition"] == "s@2" and r["group"] == "all")
    found = comparison.results[-1]
    assert found.random is not None
    assert float(last["margin_change"]) == found.margin_change
    assert float(last["random_margin_change_p_fdr"]) == found.random.margin_change.p_fdr
    assert (last["random_sets"], last["features"], last["strength"]) == ("10", "7 3", "2.0")


def test_the_page_says_what_a_reader_needs(comparison: Comparison) -> None:
    page = comparison_md(comparison, plot="steering.svg")
    assert "Research tool. Not for clinical use" in page
    assert "58 with a known gold answer of 60" in page
    assert "Loosely matched: in s@-2, s@-1, s@1, s@2, some random feature" in page and "(at most 3.0)" in page
    assert "Never fires on these questions: 3;" in page
    assert "cannot be below 1/11" in page
    assert "![Accuracy and margin against steering strength](steering.svg)" in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[:8]} == {11}
    assert not re.search(r"-0\.000|nan|inf\b", page)
    few = compare([ConditionRun(r.condition, r.results[:9]) for r in ran()[:2]], PROVENANCE)
    assert "Only 8 items: one item is 12.5 points" in comparison_md(few)


def test_what_cannot_be_compared() -> None:
    given = ran()
    with pytest.raises(DataError, match="the first condition of a comparison must be the one without"):
        compare(given[1:], PROVENANCE)
    with pytest.raises(DataError, match="'splice' does not cover the same items"):
        compare([given[0], replace(given[1], results=given[1].results[1:])], PROVENANCE)
    unknown = [replace(r, gold=None, correct=None) for r in given[0].results]
    with pytest.raises(DataError, match="no item has a known gold answer"):
        compare([replace(given[0], results=unknown)], PROVENANCE)


# --- the plot -------------------------------------------------------------------------------------------------------


def test_the_plot_holds_every_value(comparison: Comparison) -> None:
    (entry,) = steering_entries(comparison)
    assert entry.title == "s: steer, features 7, 3, unit max"
    plain, _, *steered = comparison.results
    for points, values, intervals in (
        (entry.accuracy, [r.accuracy for r in steered], [r.accuracy_interval for r in steered]),
        (entry.margin_change, [r.margin_change for r in steered], [r.margin_change_interval for r in steered]),
    ):
        assert [p.strength for p in points] == [-2, -1, 0, 1, 2] and points[2].plain
        assert [p.value for p in points if not p.plain] == values
        assert [p.interval for p in points if not p.plain] == intervals
    for point, result in zip([p for p in entry.accuracy if not p.plain], steered, strict=True):
        assert result.random is not None and point.band is not None
        sets = [plain.accuracy + change for change in result.random.accuracy_change.values]
        assert point.band == pytest.approx(np.quantile(sets, [0.025, 0.975]))
        assert point.band_mean == pytest.approx(np.mean(sets)) and point.p == result.random.accuracy_change.p
    assert (entry.accuracy[2].value, entry.margin_change[2].value) == (plain.accuracy, 0.0)
    text = steering_svg(comparison)
    assert text is not None
    root = ElementTree.fromstring(text)
    ns = "{http://www.w3.org/2000/svg}"
    texts = [t.text for t in root.iter(f"{ns}text")]
    assert "10 matched random sets: 95 % and mean" in texts and entry.title in texts
    described = root.find(f"{ns}desc")
    assert described is not None and "s@2: accuracy 0." in (described.text or "")


def test_plain_is_a_point_of_the_line_only_where_nothing_but_steering_is_done() -> None:
    """A clamp to 0 times its value is not the plain model."""
    clamp = {"name": "c", "kind": "clamp", "features": {7: 2.0}, "strengths": [0, 1]}
    rng = np.random.default_rng(0)
    (entry,) = steering_entries(compare([ConditionRun(c, results(rng, n=9)) for c in read(clamp)], PROVENANCE))
    assert [(p.strength, p.plain) for p in entry.accuracy] == [(0, False), (1, False)]
    alone = read({**clamp, "strengths": [2]})
    assert steering_svg(compare([ConditionRun(c, results(rng, n=9)) for c in alone], PROVENANCE)) is not None


def test_no_strengths_no_plot(comparison: Comparison) -> None:
    assert steering_svg(replace(comparison, results=comparison.results[:2])) is None


def test_a_plot_without_random_sets_and_with_a_long_name() -> None:
    given = [replace(r, random_results=(), random_sets=(), fold=()) for r in ran()]
    text = steering_svg(compare(given, replace(PROVENANCE, data={"source": "<&" * 40})))
    assert text is not None and "matched random" not in text
    ElementTree.fromstring(text)


def test_yaml_and_python_say_the_same() -> None:
    text = yaml.safe_dump({"conditions": [STEER], "matched_random": 3})
    assert parse_conditions(yaml.safe_load(text)) == Conditions(read(STEER), 3)


def test_the_page_escapes_what_others_wrote(comparison: Comparison) -> None:
    hostile = "x|y`<script>alert(1)</script>\n# head\x1b[2J\u202e"
    about = comparison.provenance
    page = comparison_md(
        replace(
            comparison,
            provenance=replace(about, model={"name": hostile}, data={**about.data, "source": hostile}),
            results=tuple(
                replace(r, by_subject=tuple(replace(g, group=f"subject={hostile}") for g in r.by_subject))
                for r in comparison.results
            ),
        )
    )
    assert "<script>" not in page.replace(r"\<", "")
    assert page.count("\n# ") == 0 and "\x1b" not in page and "\u202e" not in page
    for block in page.split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.replace(r"\|", "").count("|") for line in rows}) <= 1


@pytest.mark.parametrize(
    "conditions",
    [
        [{"kind": "steer", "features": {1: 10**400}}],
        [{"kind": "steer", "features": {1: 1.0}, "strengths": [10**400]}],
        [{"kind": "steer", "features": {1: 1e10}, "strengths": [1e308]}],  # each is a number, their product is none
        [{"kind": "splice", "name": "가"}, {"kind": "splice", "name": "\u1100\u1161"}],  # one name, composed and not
    ],
)
def test_numbers_past_all_floats_and_names_that_look_alike_are_refused(conditions: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_conditions({"conditions": conditions})
    assert len(str(caught.value)) < 200
