"""`run_alignment` on folders made by hand: what it writes, skips, measures again and refuses; what the report says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sae_lens_med.alignment import METRICS
from sae_lens_med.cli import app
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.concepts.sets import load_concepts
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.metrics.inputs import Inputs, label_concepts
from sae_lens_med.metrics.metric import NEEDS, Claim, Measured, Metric, Sentence
from sae_lens_med.metrics.settings import MetricSettings, read_settings
from sae_lens_med.records import MetricValue
from sae_lens_med.study.alignment_report import REPORTS, write_alignment_report
from sae_lens_med.study.claims import Limits, sentence_of, warnings
from sae_lens_med.study.counted import confirmatory
from sae_lens_med.study.measure import AlignmentRun, run_alignment
from tests.synthetic_study import synthetic, without_explanations, write_study

ARRAYS = ("retrieval", "difference", "overlap", "concepts", "coverage", "rsa", "monosemanticity")


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lexicon") / "concepts.jsonl"
    rows = [
        {"concept": name, "category": "<b>sign</b>", "en": [name]} for name in ("fever", "cough", "anemia", "jaundice")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(lexicon: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AlignmentRun]:
    study = write_study(tmp_path_factory.mktemp("studies") / "study", *synthetic())
    return study, run_alignment(study, permutations=99, concepts=str(lexicon))


def again(study: Path, lexicon: Path, metrics: Any = ("all",), **changed: Any) -> AlignmentRun:
    return run_alignment(study, metrics, **({"permutations": 99, "concepts": str(lexicon)} | changed))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_can_be_measured_is_and_the_rest_is_said(finished: tuple[Path, AlignmentRun]) -> None:
    study, run = finished
    assert run.measured == ARRAYS
    assert set(run.absent) == set(METRICS.names) - set(ARRAYS)
    assert "nothing that runs the model was asked for" in run.absent["comprehensiveness"]
    assert run.absent["ratings"] == "Clinicians' ratings (#15) was not measured: no file of ratings was given."
    stored = json.loads((study / "alignment" / "metrics.json").read_text(encoding="utf-8"))
    assert [MetricValue.from_dict(values) for values in stored] == list(run.metrics)
    assert all(METRICS.owner(value.name) is not None for value in run.metrics)
    assert {p.name for p in (study / "alignment").iterdir()} == {
        *("manifest.json", "metrics.json", "notes.json", "concepts.json"),
        *REPORTS,
    }


def test_the_report_holds_every_number_and_escapes_what_it_shows(finished: tuple[Path, AlignmentRun]) -> None:
    study, run = finished
    html = run.report_html.read_text(encoding="utf-8")
    for value in run.metrics:
        assert f'value="{value.value}"' in html, value.name
        assert value.p is None or f'value="{value.p}"' in html
    assert "<b>sign</b>" not in html
    assert "&lt;b&gt;sign&lt;/b&gt;" in html
    assert "synthetic &lt;data&gt;" in html
    assert "<script" not in html
    markdown = run.report_md.read_text(encoding="utf-8")
    assert "<b>sign</b>" not in (study / "alignment" / "features.md").read_text(encoding="utf-8")
    for text in (html, markdown):
        assert "May be concluded" in text
        assert "내릴 수 있는 결론" in text
        assert "The model does not answer above chance" in text
        assert "Not measured" in text
    entries = confirmatory(run.metrics)
    assert [e.value.name for e in entries] == [
        *("alignment/retrieval_mrr", "alignment/matched_minus_mismatched", "alignment/overlap_jaccard"),
        "alignment/rsa_partial",
        *("alignment/concept_auroc_z", "alignment/concept_f1", "alignment/concept_coverage"),
        "alignment/monosemanticity",
    ]
    assert all(f'value="{e.q}"' in html for e in entries)


def test_a_second_run_measures_nothing_and_writes_the_same(finished: tuple[Path, AlignmentRun], lexicon: Path) -> None:
    study, run = finished
    before, told = snapshot(study), []
    second = again(study, lexicon, on_metric=lambda *what: told.append(what))
    assert second.measured == ()
    assert second.skipped == ARRAYS
    assert ("overlap", "skip") in told
    assert second.metrics == run.metrics
    assert snapshot(study) == before


def test_changed_settings_are_said_and_measured_again(lexicon: Path, tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", *synthetic(n=60))
    again(study, lexicon, ["overlap", "concepts"])
    told: list[tuple[str, str]] = []
    other = again(study, lexicon, ["overlap"], permutations=50, on_metric=lambda *what: told.append(what))
    assert told == [("overlap", "again: permutations: 99 -> 50")]
    assert other.changed == {"overlap": ("permutations: 99 -> 50",)}
    names = [(v.name, v.variant, v.group) for v in other.metrics]
    assert len(names) == len(set(names))
    # 0 where too few items exchange to adjust for length.
    assert {v.extra["permutations"] for v in other.metrics if "overlap" in v.name} - {0.0} == {50.0}
    assert {v.extra["permutations"] for v in other.metrics if "concept" in v.name} == {99.0}
    # A metric that does not use concepts does not depend on which were given.
    rows = lexicon.read_text(encoding="utf-8").splitlines(keepends=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(rows[:3]), encoding="utf-8")
    third = again(study, fewer, ["overlap", "concepts"], permutations=50, seed=0)
    assert third.skipped == ("overlap",)
    assert any(what.startswith("concepts.sha256:") for what in third.changed["concepts"])
    assert again(study, fewer, ["overlap"], permutations=50, force=True).measured == ("overlap",)


def test_the_analyser_of_korean_endings_is_chosen_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("kiwipiepy", reason="the extra 'korean' is not installed")
    items, features, results = synthetic(n=12)
    texts = ["두통이었는지도 모른다", "두통이 있다"]  # the table of endings holds only the second
    items = tuple(replace(item, question=texts[i % 2], question_spans=()) for i, item in enumerate(items))
    concepts = tmp_path / "concepts.jsonl"
    concepts.write_text(json.dumps({"concept": "headache", "category": "symptom", "ko": ["두통"]}), encoding="utf-8")
    named = [
        label_concepts(items, features.texts, ConceptMatcher(load_concepts(concepts), analyser))
        for analyser in ("rules", "kiwi")
    ]
    assert [labels.stem[:, 0].tolist() for labels in named] == [[False, True] * 6, [True] * 12]
    # The metrics that look into further texts look as the labels were made.
    assert [len(labels.matcher().find(texts[0])) for labels in named] == [0, 1]
    study = write_study(tmp_path / "study", items, features, results)
    run_alignment(study, ["concepts"], permutations=9, concepts=str(concepts))
    other = run_alignment(study, ["concepts"], permutations=9, concepts=str(concepts), analyser="kiwi")
    assert other.changed == {"concepts": ('concepts.analyser: "rules" -> "kiwi"',)}


def test_an_interrupted_metric_is_measured_again(
    lexicon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its values are written, the first ones of the folder too: the manifest does not say that it is
    finished."""
    from sae_lens_med.study import measured as store

    study = write_study(tmp_path / "study", *synthetic(n=24))
    write = store.write_json

    def interrupted(metric: str, at: str) -> None:
        def stop(path: Path, values: Any) -> None:
            if path.name == at:
                raise KeyboardInterrupt
            write(path, values)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write_json", stop)
            with pytest.raises(KeyboardInterrupt):
                again(study, lexicon, [metric])

    interrupted("difference", "metrics.json")
    again(study, lexicon, ["difference"])
    interrupted("overlap", "notes.json")
    resumed = again(study, lexicon, ["difference", "overlap"])
    assert resumed.measured == ("overlap",)
    names = [(v.name, v.variant, v.group) for v in resumed.metrics]
    assert len(names) == len(set(names))


def test_what_cannot_be_is_one_sentence(lexicon: Path, tmp_path: Path) -> None:
    items, features, results = synthetic(n=12)
    study = write_study(tmp_path / "study", items, features, results)
    with pytest.raises(ConfigError, match="no metric 'overlp'; did you mean overlap"):
        again(study, lexicon, ["overlp"])
    with pytest.raises(ConfigError, match="no analyser 'kiwis'; did you mean kiwi"):
        again(study, lexicon, ["concepts"], analyser="kiwis")
    with pytest.raises(ConfigError, match="ratings cannot be measured: no file of ratings was given"):
        again(study, lexicon, ["ratings"])
    with pytest.raises(ConfigError, match="control 'random_modl'; did you mean random_model"):
        again(study, lexicon, controls=["random_modl"])
    with pytest.raises(ConfigError, match="shuffled_decoder cannot be collected: nothing that runs the model"):
        again(study, lexicon, controls=["shuffled_decoder"])
    with pytest.raises(StudyError, match="is not a study folder"):
        again(tmp_path / "nowhere", lexicon)
    (study / "alignment").mkdir(exist_ok=True)
    (study / "alignment" / "manifest.json").write_text('{"format": 1', encoding="utf-8")
    with pytest.raises(StudyError, match="manifest.json is damaged .*; delete .*alignment to start again"):
        again(study, lexicon)


@pytest.mark.parametrize("name", ["ratings", "labels"])
def test_a_file_that_is_missing_or_broken_is_said_before_anything_is_measured(
    name: str, lexicon: Path, tmp_path: Path
) -> None:
    study = write_study(tmp_path / "study", *synthetic())
    before = snapshot(study)
    with pytest.raises(DataError, match="missing.csv: no such file"):
        again(study, lexicon, **{name: tmp_path / "missing.csv"})
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=f"broken.json: not a JSON .* of {name}"):
        again(study, lexicon, **{name: broken})
    assert snapshot(study) == before


def test_a_study_without_explanations_and_concepts_says_so(lexicon: Path, tmp_path: Path) -> None:
    items, features, results = synthetic(n=12, concepts=False)
    bare = replace(features, has_explanation=features.has_explanation & False)
    study = write_study(tmp_path / "study", without_explanations(items), bare, results)
    elsewhere = tmp_path / "other.jsonl"
    elsewhere.write_text('{"concept": "scurvy", "category": "disease", "en": ["scurvy"]}\n', encoding="utf-8")
    run = again(study, elsewhere)
    assert run.measured == ("monosemanticity",)
    assert "fewer than two items have an explanation" in run.absent["overlap"]
    assert "name none of the 1 concepts" in run.absent["concepts"]
    assert "fewer than two items have an explanation" in run.report_md.read_text(encoding="utf-8")


def test_the_list_of_metrics_is_whole() -> None:
    assert sorted(metric.number for metric in METRICS) == list(range(1, 17))
    assert len({metric.name for metric in METRICS}) == 16
    for metric in METRICS:
        assert set(metric.needs) <= set(NEEDS)
        assert all(metric.owns(name) and name in metric.claims for name in metric.confirmatory)
        for claim in metric.claims.values():
            assert not claim.may.en.startswith("that ") and not claim.may_not.en.startswith("that ")
            assert claim.may.ko.endswith("다") and claim.may_not.ko.endswith("다")
        for text in (metric.meaning, metric.null):
            assert text.endswith(".")
        for other in METRICS:
            assert other is metric or not any(other.owns(name) for name in metric.values)
    assert METRICS.choose(["rsa", "overlap", "rsa"]) == (METRICS["overlap"], METRICS["rsa"])
    assert METRICS.choose(["all"]) == tuple(METRICS)
    with pytest.raises(ConfigError, match="no metric was named"):
        METRICS.choose([])


def _toy(name: str = "toy", value: str = "alignment/toy") -> Metric:
    def measure(inputs: Inputs) -> Measured:
        n = len(inputs.items)
        return Measured((MetricValue(value, 0.75, (0.0, 1.0), n, p=0.001, null_mean=0.5, null_interval=(0.4, 0.6)),))

    return Metric(
        name=name,
        number=99,
        family="readout",
        title="A toy",
        meaning="Three quarters of everything.",
        range=(0.0, 1.0),
        null="A half.",
        needs=("explanations",),
        source="By hand",
        values=(value,),
        confirmatory=(value,),
        claims={value: Claim(Sentence("toys are had", "장난감이 있다"), Sentence("they are safe", "안전하다"))},
        depends_on=(lambda inputs: {"toys": len(inputs.items)},),
        measure=measure,
    )


def test_a_metric_from_outside_is_listed_measured_and_reported(lexicon: Path, tmp_path: Path) -> None:
    METRICS.register(_toy())
    try:
        listed = CliRunner().invoke(app, ["list-metrics"])
        assert "toy  (#99) A toy" in listed.stdout
        study = write_study(tmp_path / "study", *synthetic(n=60))
        run = again(study, lexicon, ["toy"])
        assert run.measured == ("toy",)
        assert [value.name for value in run.metrics] == ["alignment/toy"]
        assert again(study, lexicon, ["toy"]).skipped == ("toy",)
        settings = json.loads((study / "alignment" / "manifest.json").read_text(encoding="utf-8"))["metrics"]["toy"]
        assert settings["settings"]["toys"] == 60
        report = run.report_md.read_text(encoding="utf-8")
        assert "## 99. A toy" in report
        assert "May be concluded: that toys are had. May not:" in report
        assert "that they are safe" in report
        assert "장난감이 있다는 것" in report
    finally:
        METRICS.remove("toy")
    assert "toy" not in METRICS.names


def test_a_metric_that_clashes_or_claims_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is already a metric 'overlap'"):
        METRICS.register(_toy("overlap"))
    with pytest.raises(ConfigError, match="gives 'alignment/overlap_more', which 'overlap' gives already"):
        METRICS.register(_toy("more", "alignment/overlap_more"))
    with pytest.raises(ConfigError, match="counts 'alignment/toy' without a claim"):
        replace(_toy(), claims={})
    with pytest.raises(ConfigError, match="which is not one of its values"):
        replace(_toy(), values=("alignment/other",))
    with pytest.raises(ConfigError, match="there is no metric 'overlp'; did you mean overlap"):
        METRICS.remove("overlp")
    assert len(METRICS) == len(METRICS.names)


def test_settings_of_metrics_are_read() -> None:
    assert read_settings(["causal_items=20", "causal_sizes=1+5"]) == MetricSettings(
        causal_items=20, causal_sizes=(1, 5)
    )
    with pytest.raises(ConfigError, match="no setting 'causal_item' of a metric; did you mean causal_items"):
        read_settings(["causal_item=20"])
    for wrong in ("causal_items", "causal_items=", "causal_items=0", "causal_items=many", "causal_sizes=1+"):
        with pytest.raises(ConfigError, match="N a whole number above 0"):
            read_settings([wrong])
    wrongly: list[dict[str, Any]] = [{"causal_items": 0}, {"causal_sizes": ()}, {"causal_sizes": (1, -5)}]
    for settings in wrongly:
        with pytest.raises(ConfigError, match=f"setting '{next(iter(settings))}' needs whole numbers above 0"):
            MetricSettings(**settings)
    for sizes in ("5+1", "5+5"):
        with pytest.raises(ConfigError, match="'causal_sizes' needs ascending numbers"):
            read_settings([f"causal_sizes={sizes}"])


FREE = Limits(model_written=False, illustrative=False)


def metric_value(name: str = "alignment/retrieval_mrr", /, **changed: Any) -> MetricValue:
    about: dict[str, Any] = {
        **{"value": 0.4, "range": (0.0, 1.0), "n": 100, "p": 0.001, "null_mean": 0.1, "null_interval": (0.05, 0.15)}
    }
    return MetricValue(name, **(about | changed))


def said(values: list[MetricValue], limits: Limits = FREE) -> tuple[str, str]:
    found = sentence_of(confirmatory(values)[0], values, limits)
    return found.en, found.ko


def test_sentences_claim_only_what_stands_out() -> None:
    control = metric_value(variant="random_model", value=0.12)
    en, ko = said([metric_value(), control])
    assert "May be concluded: that a question's features find its own explanation" in en
    assert "자기 해설을 더 잘 찾아낸다는 것" in ko.split("내릴 수 없는")[0]
    assert "no control" not in en
    for changed in ({"p": 0.2}, {"n": 20}, {"value": 0.05}):
        en, ko = said([metric_value(**changed), control])
        assert "that a question's features find" in en.split("May not:")[1], changed
        assert "자기 해설을 더 잘 찾아낸다는 것" in ko.split("내릴 수 없는 결론")[1]
    assert "20 items are too few" in said([metric_value(n=20)])[0]
    assert "only what these texts gave" in said([metric_value()], replace(FREE, illustrative=True))[0]


def test_sentences_name_the_limits() -> None:
    learned_nothing = metric_value(variant="random_model", value=0.5)
    words = metric_value(variant="tfidf", value=0.6)
    en, ko = said([metric_value(), learned_nothing, words])
    assert "what has learned nothing gives at least as much (model with random weights)" in en
    assert "무작위 가중치 모델도 같거나 더 큼" in ko
    assert "the words alone give at least as much (TF-IDF)" in en
    assert "no control that has learned nothing was measured" in said([metric_value()])[0]
    limits = Limits(model_written=True, illustrative=False, at_chance=frozenset({"all"}))
    en, ko = said([metric_value()], limits)
    assert "a language model wrote explanations" in en
    assert "the model answers at chance" in en
    assert "무작위 수준" in ko
    assert [w.en[:20] for w in warnings([metric_value(n=20)], limits)] == [
        *("Explanations were wr", "The model does not a", "Some numbers rest on")
    ]


def test_q_is_over_confirmatory_numbers_alone() -> None:
    values = [
        metric_value(p=0.02),
        metric_value(p=0.9, group="left_out"),
        metric_value("alignment/matched_minus_mismatched", p=0.04),
        metric_value("alignment/retrieval_at_1", p=0.001),
        metric_value(p=0.001, variant="raw"),
    ]
    entries = confirmatory(values)
    # Of the MRR the left-out items count; 0.04 * 2 / 1 is its q.
    assert [(e.value.group, e.q) for e in entries] == [("left_out", 0.9), ("all", 0.08)]


def test_a_report_without_numbers_can_be_written(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", *synthetic(n=6))
    paths = write_alignment_report(study, absent={"rsa": "RSA was not measured: <why>."})
    assert tuple(p.name for p in paths) == REPORTS
    assert "No number was measured" in paths[0].read_text(encoding="utf-8")
    assert "&lt;why&gt;" in paths[1].read_text(encoding="utf-8")
