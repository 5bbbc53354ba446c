"""`compare_studies`: pairing over items, the three numbers by hand, signs, and what cannot be compared."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.alignment.similarities import Similarities
from sae_lens_med.alignment.similarity import adjust_for_nuisance
from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.features.store import CollectedFeatures
from sae_lens_med.metrics.inputs import Inputs, stratum_labels
from sae_lens_med.study.compare import compare_studies, comparison_page, write_comparison
from tests.synthetic_study import synthetic, write_study


def shuffled(features: CollectedFeatures) -> CollectedFeatures:
    """The same tokens with their features in the order of other tokens: nothing is aligned any more."""
    acts = features.acts
    order = np.random.default_rng(1).permutation(len(acts.token_item))
    return replace(features, acts=replace(acts, acts=acts.acts[order]))


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    items, features, results = synthetic(n=60)
    folder = tmp_path_factory.mktemp("studies")
    return (
        write_study(folder / "good", items, features, results),
        write_study(folder / "bad", items, shuffled(features), results),
    )


def test_the_better_study_wins_and_the_sign_turns(studies: tuple[Path, Path]) -> None:
    good, bad = studies
    found = compare_studies(good, bad, permutations=999)
    assert [m.name for m in found.metrics] == [
        *("compare/matched_minus_mismatched", "compare/reciprocal_rank", "compare/stratum_percentile")
    ]
    for metric in found.metrics:
        assert metric.value > 0
        assert metric.p == 1 / 1000
        assert metric.extra["a"] - metric.extra["b"] == pytest.approx(metric.value)
    assert found.summary.en.count("A is higher") == 3
    assert found.summary.ko.count("A가 더 높음") == 3
    turned = compare_studies(bad, good, permutations=999)
    assert [m.value for m in turned.metrics] == pytest.approx([-m.value for m in found.metrics])
    assert turned.summary.en.count("B is higher") == 3


def test_the_numbers_are_those_of_the_similarity_matrix() -> None:
    items, features, results = synthetic(n=40)
    study = Inputs(items=items, features=features, results=results, permutations=1)
    table = adjust_for_nuisance(study.view(Similarities).matrix("sae"), *study.properties)
    labels = [stratum_labels(item)[0] for item in items]
    rank = [1 / (1 + np.sum(row > row[i])) for i, row in enumerate(table)]
    percentile, difference = [], []
    for i, row in enumerate(table):
        others = [j for j in range(40) if j != i and labels[j] == labels[i]]
        percentile.append(np.mean(row[i] > row[others]))
        difference.append(row[i] - row[others].mean())
    assert min(labels.count(label) for label in labels) >= 2  # so that no stratum is made coarser

    from sae_lens_med.statistics import coarsen_strata
    from sae_lens_med.study.compare import _per_item

    strata = coarsen_strata([stratum_labels(item) for item in items])
    found = _per_item(study, np.arange(40), "sae", strata)
    np.testing.assert_allclose(found["reciprocal_rank"], rank, atol=1e-9)
    np.testing.assert_allclose(found["stratum_percentile"], percentile, atol=1e-9)
    np.testing.assert_allclose(found["matched_minus_mismatched"], difference, atol=1e-9)


def test_a_study_against_itself_differs_nowhere(studies: tuple[Path, Path], tmp_path: Path) -> None:
    good, _ = studies
    found = compare_studies(good, good, permutations=99)
    assert [(m.value, m.p) for m in found.metrics] == [(0.0, 1.0)] * 3
    with pytest.raises(ConfigError, match="compared with itself"):
        compare_studies(good)
    with pytest.raises(ConfigError, match="compared with itself"):
        compare_studies(good, variants=["raw", "raw"])
    with pytest.raises(ConfigError, match="3 were named"):
        compare_studies(good, variants=["raw", "pca", "sae"])
    with pytest.raises(ConfigError, match="no variant 'random_model' here"):
        compare_studies(good, variants=["sae", "random_model"])


def test_unrelated_studies_are_told_apart_by_chance_only(tmp_path: Path) -> None:
    p = []
    for seed in range(12):
        items, features, results = synthetic(n=40, planted=0, seed=seed)
        a = write_study(tmp_path / f"a{seed}", items, features, results)
        b = write_study(tmp_path / f"b{seed}", items, shuffled(features), results)
        p.append([m.p for m in compare_studies(a, b, permutations=99, seed=seed).metrics])
    # 12 studies at 5 %: 5 or more rejections of one number have a probability of 0.03 %.
    assert (np.count_nonzero(np.array(p) <= 0.05, axis=0) <= 4).all()


def test_variants_of_one_study_are_compared_by_ranks(studies: tuple[Path, Path]) -> None:
    found = compare_studies(studies[0], variants=["sae", "tfidf"], permutations=199)
    assert [m.name for m in found.metrics] == ["compare/reciprocal_rank", "compare/stratum_percentile"]
    assert {m.variant for m in found.metrics} == {"sae-tfidf"}
    assert all(m.value > 0 and m.p == 1 / 200 for m in found.metrics)  # no word is shared, features are
    assert "different scales" in found.notes[0]


def test_only_the_same_items_are_paired(studies: tuple[Path, Path], tmp_path: Path) -> None:
    items, features, results = synthetic(n=60)
    changed = (replace(items[0], explanation="another text"), *items[1:])
    other = write_study(tmp_path / "changed", changed, features, results)
    found = compare_studies(studies[0], other, permutations=19)
    assert found.n_items == 59
    assert found.notes[0] == ("1 items have the same id but another question, answer or explanation; left out.")
    fewer_items, fewer, fewer_results = synthetic(n=30)
    small = write_study(tmp_path / "small", fewer_items, fewer, fewer_results)
    found = compare_studies(studies[0], small, permutations=19)
    assert found.n_items == 30
    assert "30 items with an explanation are in one of the two only" in found.notes[0]
    assert "fewer than 50 items carry no claim" in found.summary.en
    # The sides hardly differ here: a small p of few items is another thing to say.
    assert "too few to conclude" not in found.summary.en
    renamed = tuple(replace(item, id=f"x{item.id}") for item in fewer_items)
    texts = {f"x{name}": text for name, text in fewer.texts.items()}
    ids = tuple(f"x{name}" for name in fewer.acts.item_ids)
    foreign = write_study(
        tmp_path / "foreign",
        renamed,
        replace(fewer, texts=texts, acts=replace(fewer.acts, item_ids=ids)),
        tuple(replace(result, id=f"x{result.id}") for result in fewer_results),
    )
    with pytest.raises(StudyError, match="share 0 items"):
        compare_studies(studies[0], foreign)


def test_a_small_p_of_few_items_is_no_absence_of_a_difference(tmp_path: Path) -> None:
    items, features, results = synthetic(n=30)
    good = write_study(tmp_path / "good", items, features, results)
    bad = write_study(tmp_path / "bad", items, shuffled(features), results)
    found = compare_studies(good, bad, permutations=9999)
    assert max(metric.p or 1.0 for metric in found.metrics) < 0.01
    assert "no difference shown" not in found.summary.en and "확인되지 않음" not in found.summary.ko
    assert "A is higher on these 30 items, too few to conclude from" in found.summary.en
    assert "이 30문항에서는 A가 더 높지만, 결론을 내리기에는 문항이 너무 적음" in found.summary.ko
    same = compare_studies(good, good, permutations=99)
    assert same.summary.en.count("no difference shown") == 3


def test_a_comparison_is_written(studies: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = studies
    output = tmp_path / "compared"
    args = ["compare", str(good), str(bad), "--permutations", "99", "--output", str(output)]
    done = CliRunner().invoke(app, args, catch_exceptions=False)
    assert done.exit_code == 0 and f"Report: {output / 'comparison.md'}" in done.output
    assert {path.name for path in output.iterdir() if path.name[0] != "."} == {"comparison.md", "comparison.json"}
    found = compare_studies(good, bad, permutations=99)
    values = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    assert values["metrics"] == [metric.to_dict() for metric in found.metrics]
    assert values["identity"]["a"]["data.sha256"] and values["identity"]["permutations"] == 99
    page = (output / "comparison.md").read_text(encoding="utf-8")
    assert page == comparison_page(found)
    assert "| reciprocal rank | " in page and "Not for clinical use" in page
    assert CliRunner().invoke(app, args).exit_code == 0  # the same one again
    with pytest.raises(StudyError, match=r"other settings \(identity.permutations: 99 -> 98\)|permutations: 99 -> 98"):
        write_comparison(compare_studies(good, bad, permutations=98), output)


def test_the_page_escapes_what_others_wrote(studies: tuple[Path, Path]) -> None:
    found = compare_studies(studies[0], studies[1], permutations=19)
    hostile = "x|y`<script>alert(1)</script>\n# head\x1b[2J\u202e"
    renamed = replace(found, name_a=hostile, notes=(hostile,))
    page = comparison_page(replace(renamed, summary=replace(found.summary, en=hostile)))
    assert "<script>" not in page.replace(r"\<", "")
    assert page.count("\n# ") == 0 and "\x1b" not in page and "\u202e" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {10}
