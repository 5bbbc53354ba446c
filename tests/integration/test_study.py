"""The whole study on a tiny random model: what it writes, what it skips, what it refuses, how it resumes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file
from typer.testing import CliRunner

from sae_lens_med.commands import evaluate as evaluate_commands
from sae_lens_med.commands import study as run_commands
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import LoadedSae, load_folder
from sae_lens_med.study import run as study_module
from sae_lens_med.study.report import REPORTS
from sae_lens_med.study.run import STAGES, StudyResult, choose_shown, item_groups, run_study
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_model, tiny_sae

THRESHOLD = 3.0
"""Taken off the tiny SAE's encoder bias: about 3 % of the features are then active on a token, as in a real SAE."""
SETTINGS: dict[str, Any] = {"permutations": 50, "progress": False}


@pytest.fixture(scope="module")
def data() -> LoadedItems:
    """12 items of 4 subjects: three each, so that explanations can be exchanged."""
    sample = load_items("sample", limit=12)
    items = [replace(item, subject=f"subject {i % 4}") for i, item in enumerate(sample.items)]
    return replace(sample, items=items, sha256=json_sha256([i.to_dict() for i in items]))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def sae(model: MedBridge, data: LoadedItems, tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    folder = tmp_path_factory.mktemp("sae")
    sparse = tiny_sae(model, d_sae=512)
    with torch.no_grad():
        sparse.b_enc.sub_(THRESHOLD)  # few features per token, so that some are left when dense ones are masked
    save_tiny_sae(folder, sparse)
    return replace(load_folder(folder), left_out_ids=frozenset(item.id for item in data.items[:5]))


@pytest.fixture(scope="module")
def finished(
    model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path_factory: pytest.TempPathFactory
) -> StudyResult:
    return run_study(model, sae, data, tmp_path_factory.mktemp("studies") / "study", **SETTINGS)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_folder_holds_everything(finished: StudyResult, data: LoadedItems) -> None:
    folder = finished.folder
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format"] == 1
    assert list(manifest["stages"]) == list(STAGES)
    assert all({"done", "seconds", "files"} <= set(stage) for stage in manifest["stages"].values())
    assert manifest["provenance"]["data"]["sha256"] == data.sha256
    assert finished.skipped == ()
    questions = [
        json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    assert [McqItem.from_dict(q) for q in questions] == data.items
    lines = (folder / "items.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [ItemResult.from_dict(json.loads(line)) for line in lines] == list(finished.results)
    metrics = {(m.name, m.group, m.variant): m for m in finished.metrics}
    for group in ("all", "left_out", "trained_on"):
        assert ("accuracy", group, "model") in metrics
        assert ("alignment/retrieval_mrr", group, "sae") in metrics
    assert metrics["accuracy", "left_out", "model"].n == 5
    assert metrics["accuracy", "trained_on", "model"].n == 7
    for variant in ("sae", "raw", "pca", "tfidf"):
        assert ("alignment/matched_minus_mismatched", "all", variant) in metrics
    arrays = load_file(folder / "alignment.safetensors")
    headline = metrics["alignment/matched_minus_mismatched", "all", "sae"]
    assert np.mean(arrays["matched"] - arrays["mismatched_mean"]) == pytest.approx(headline.value, abs=1e-5)
    shown = json.loads((folder / "item_features.json").read_text(encoding="utf-8"))
    assert len({entry["id"] for entry in shown}) == 6
    used = {
        str(use["feature"])
        for entry in shown
        for kind in ("shared", "stem_only", "explanation_only")
        for use in entry[kind]
    }
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    assert used
    assert set(examples) == used
    assert all(1 <= len(contexts) <= 8 for contexts in examples.values())
    html = finished.report_html.read_text(encoding="utf-8")
    assert shown[0]["id"] in html
    assert finished.report_md.exists()
    assert not [p for p in folder.rglob("*") if p.name.startswith(".") or "partial" in p.name]


def test_running_again_changes_nothing(
    finished: StudyResult, model: MedBridge, sae: LoadedSae, data: LoadedItems
) -> None:
    before = snapshot(finished.folder)
    stages: list[tuple[str, str]] = []
    again = run_study(
        model, sae, data, finished.folder, batch_tokens=77, on_stage=lambda *a: stages.append(a), **SETTINGS
    )
    assert again.skipped == STAGES
    assert stages == [(name, "skip") for name in STAGES]
    assert again.metrics == finished.metrics
    assert again.provenance == finished.provenance
    assert snapshot(finished.folder) == before


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


def drop(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text(encoding="utf-8")
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    "damage, stage, why",
    [
        (drop("features"), "collect", "features/manifest.json is missing"),
        (drop("features/manifest.json"), "collect", "features/manifest.json is missing"),
        (cut("features/manifest.json"), "collect", "features/manifest.json was changed"),
        (drop("features/shard-00000.safetensors"), "collect", "features/shard-00000.safetensors is missing"),
        (cut("features/shard-00000.safetensors"), "collect", "features/shard-00000.safetensors was changed"),
        (cut("features/shard-00000.jsonl"), "collect", "features/shard-00000.jsonl was changed"),
        (drop("metrics.json"), "evaluate", "metrics.json is missing"),
        (cut("items.jsonl"), "evaluate", "items.jsonl was changed"),
        (edit("items.jsonl", '"correct": true', '"correct": false'), "evaluate", "items.jsonl was changed"),
        (drop("alignment"), "align", "is missing or was changed in alignment/"),
        (cut("alignment/metrics.json"), "align", "is missing or was changed in alignment/"),
        (edit("alignment/metrics.json", '"value": 0.', '"value": 0.1'), "align", "is missing or was changed in"),
        (drop("alignment.safetensors"), "align", "alignment.safetensors is missing"),
        (cut("item_features.json"), "align", "item_features.json was changed"),
        (drop("examples.json"), "examples", "examples.json is missing"),
        (drop("report.html"), "report", "report.html is missing"),
        (cut("report.md"), "report", "report.md was changed"),
        (drop("report.ko.html"), "report", "report.ko.html is missing"),
    ],
)
def test_what_is_missing_or_changed_is_made_again_and_said(
    damage: Callable[[Path], object],
    stage: str,
    why: str,
    finished: StudyResult,
    model: MedBridge,
    sae: LoadedSae,
    data: LoadedItems,
    tmp_path: Path,
) -> None:
    """The folder is that of before, but for when its parts were made."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "study"))
    damage(folder)
    states: dict[str, str] = {}
    again = run_study(model, sae, data, folder, on_stage=lambda *a: states.update([a]), **SETTINGS)
    assert states[stage].startswith("again: ") and why in states[stage]
    assert [name for name, state in states.items() if state != "skip"] == [stage]
    assert any(f"The stage {stage} was made again" in note for note in again.notes)
    assert again.metrics == finished.metrics
    before, after = snapshot(finished.folder), snapshot(folder)
    timed = {"manifest.json", "alignment/manifest.json", *REPORTS}
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name] and name not in timed] == []


def test_questions_of_a_study_are_those_of_its_data(
    finished: StudyResult, model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "study"))
    cut("questions.jsonl")(folder)
    run_study(model, sae, data, folder, **SETTINGS)
    assert (folder / "questions.jsonl").read_bytes() == (finished.folder / "questions.jsonl").read_bytes()


def test_what_a_new_stage_gives_otherwise_goes_into_the_later_ones(
    finished: StudyResult, model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path: Path
) -> None:
    """The record of a stage says that its files were others: what was made of them is made again."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "study"))
    edit("manifest.json", '"items.jsonl": "', '"items.jsonl": "0')(folder)
    states: dict[str, str] = {}
    run_study(model, sae, data, folder, on_stage=lambda *a: states.update([a]), **SETTINGS)
    again = {"evaluate", "align", "report"}
    assert {name for name, state in states.items() if state.startswith("again")} == again
    assert states["report"] == "again: what evaluate gave is new"


def test_changed_settings_are_refused_and_named(
    finished: StudyResult, model: MedBridge, sae: LoadedSae, data: LoadedItems
) -> None:
    before = snapshot(finished.folder)
    fewer = replace(data, items=data.items[:11], sha256=json_sha256([i.to_dict() for i in data.items[:11]]))
    cases: list[tuple[str, Any, LoadedSae, LoadedItems, dict[str, Any]]] = [
        ("settings.permutations: 50 -> 51", model, sae, data, {"permutations": 51}),
        ("seed: 0 -> 3", model, sae, data, {"seed": 3}),
        ("settings.n_shown: 6 -> 2", model, sae, data, {"n_shown": 2}),
        (r"data.n_items: 12 -> 11; data.sha256: \w+ -> \w+", model, sae, fewer, {}),
        ('sae.sha256: .* -> "other"', model, replace(sae, sha256="other"), data, {}),
        ('model.name: "tiny-gemma3-0" -> "tiny-qwen3-0"', tiny_model("qwen3"), sae, data, {}),
        ("settings.left_out: .* -> null", model, replace(sae, left_out_ids=None), data, {}),
    ]
    for expected, other_model, other_sae, other_data, changed in cases:
        with pytest.raises(StudyError, match=expected):
            run_study(other_model, other_sae, other_data, finished.folder, **(SETTINGS | changed))
    assert snapshot(finished.folder) == before


def test_a_foreign_folder_is_left_alone(model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StudyError, match="is not empty and contains no study"):
        run_study(model, sae, data, tmp_path, **SETTINGS)
    assert snapshot(tmp_path) == {"thesis.txt": b"mine"}
    (tmp_path / "manifest.json").write_text('{"format": 1, "provenance": {}}', encoding="utf-8")
    with pytest.raises(StudyError, match=r"manifest.json is damaged \(the key 'stages' is missing\)"):
        run_study(model, sae, data, tmp_path, **SETTINGS)
    with pytest.raises(ConfigError, match="got 0, 6 and None"):
        run_study(model, sae, data, tmp_path / "new", permutations=0)


def test_an_interrupted_study_resumes_to_the_same_folder(
    finished: StudyResult,
    model: MedBridge,
    sae: LoadedSae,
    data: LoadedItems,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in the middle of the answers, then in every later stage; each part of the work is done once."""
    output = tmp_path / "study"
    forward, calls = Engine.next_token_logprobs, []

    def stop_after_four(engine: Any, prompts: Any, wanted: Any) -> Any:
        if sum(calls) >= 4:
            raise KeyboardInterrupt
        calls.append(len(prompts))
        return forward(engine, prompts, wanted)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "next_token_logprobs", stop_after_four)
        with pytest.raises(KeyboardInterrupt):
            run_study(model, sae, data, output, batch_tokens=1, **SETTINGS)
    assert list(json.loads((output / "manifest.json").read_text(encoding="utf-8"))["stages"]) == ["collect"]
    assert len((output / "items.partial.jsonl").read_text(encoding="utf-8").split("\n")) == 1 + 4 + 1
    for stage, name in (("align", "measure_metrics"), ("examples", "top_contexts"), ("report", "write_report")):
        with monkeypatch.context() as patch:
            patch.setattr(study_module, name, _interrupt)
            with pytest.raises(KeyboardInterrupt):
                run_study(model, sae, data, output, batch_tokens=1, **SETTINGS)
        done = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["stages"]
        assert list(done) == list(STAGES[: STAGES.index(stage)])
    monkeypatch.setattr(Engine, "next_token_logprobs", _interrupt)
    resumed = run_study(model, sae, data, output, batch_tokens=1, **SETTINGS)
    assert resumed.skipped == STAGES[:-1]
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in finished.folder.iterdir())
    assert [r.prediction for r in resumed.results] == [r.prediction for r in finished.results]
    values = {(m.name, m.group, m.variant): m.value for m in finished.metrics}
    assert {(m.name, m.group, m.variant): m.value for m in resumed.metrics} == pytest.approx(values, abs=1e-4)


def _interrupt(*args: Any, **kwargs: Any) -> Any:
    raise KeyboardInterrupt


def test_items_without_explanation_and_gold_make_a_study(
    model: MedBridge, sae: LoadedSae, data: LoadedItems, tmp_path: Path
) -> None:
    items = [replace(item, explanation=None, explanation_source=None, answer=None) for item in data.items[:3]]
    bare = replace(data, items=items, sha256=json_sha256([i.to_dict() for i in items]))
    result = run_study(
        model, replace(sae, left_out_ids=None), bare, tmp_path / "bare", shots=data.items[3:5], **SETTINGS
    )
    assert result.metrics == ()
    assert not (result.folder / "alignment.safetensors").exists()
    assert any("does not say which items" in note for note in result.notes)
    assert all(r.correct is None for r in result.results)
    assert result.report_html.exists()


def test_groups(data: LoadedItems) -> None:
    mine = [replace(item, provenance={"dataset": "a.jsonl"}) for item in data.items[:4]]
    other = [replace(item, provenance={"dataset": "b.jsonl"}) for item in data.items[4:6]]
    groups, notes = item_groups([*mine, *other], {mine[1].id, "elsewhere"})
    assert {name: mask.tolist() for name, mask in groups.items()} == {
        "left_out": [False, True, False, False, False, False],
        "trained_on": [True, False, True, True, False, False],
    }
    assert notes == []
    groups, notes = item_groups(other, {mine[1].id})
    assert groups == {}
    assert "None of the items is listed as left out" in notes[0]
    assert "does not say" in item_groups(other, None)[1][0]


def test_shown_items_are_spread() -> None:
    def item(i: int, subject: str) -> McqItem:
        return McqItem(f"q{i}", subject, "ko", "?", ("x", "y"), 0, "because", "illustrative")

    def result(i: McqItem, right: bool) -> ItemResult:
        return ItemResult(i.id, i.subject, "A", "A" if right else "B", (-1.0, -2.0), right)

    items = [item(i, "one" if i < 5 else "two") for i in range(8)]
    results = [result(i, k % 2 == 0) for k, i in enumerate(items)]
    similarity = {f"q{i}": 1 - i / 10 for i in range(8)}
    # Right: q0 q2 q4 (one), q6 (two): the highest is q0; then the median (q4) but of a fresh subject: q6.
    # Wrong: q1 q3 (one), q5 q7 (two): "one" and "two" are now shown once each; the highest is q1, then q5 (median).
    assert choose_shown(items, results, similarity, 4) == ["q0", "q6", "q1", "q5"]
    assert choose_shown(items, results, similarity, 0) == []
    assert choose_shown(items, results, similarity, 3) == ["q0", "q6", "q1"]
    assert sorted(choose_shown(items, results, similarity, 99)) == sorted(i.id for i in items)
    only_wrong = [result(i, False) for i in items]
    assert len(set(choose_shown(items, only_wrong, similarity, 6))) == 6
    assert set(choose_shown(items, results, {"q2": 0.1, "q3": 0.2}, 2)) == {"q2", "q3"}


def test_commands(tmp_path: Path) -> None:
    app = typer.Typer()
    run_commands.register(app)
    evaluate_commands.register(app)
    tiny = tiny_model()
    save_tiny_model(tmp_path / "model")
    save_tiny_sae(tmp_path / "sae", tiny_sae(tiny))
    runner = CliRunner()
    common = ["--model", str(tmp_path / "model"), "--data", "sample", "--limit", "5", "--permutations", "20"]
    evaluated = runner.invoke(app, ["evaluate", *common, "--shots", "1", "--output", str(tmp_path / "e"), "--json"])
    assert evaluated.exit_code == 0, evaluated.output
    metrics = json.loads(evaluated.stdout)["metrics"]
    assert (metrics[0]["name"], metrics[0]["n"]) == ("accuracy", 4)  # the shot is left out
    studied = runner.invoke(app, ["study", *common, "--sae", str(tmp_path / "sae"), "--output", str(tmp_path / "s")])
    assert studied.exit_code == 0, studied.output
    assert "alignment/retrieval_mrr" in studied.stdout
    assert f"Report: {tmp_path / 's' / 'report.html'}" in studied.stdout
    assert "Not for clinical use" in studied.stdout
    for command in ("evaluate", "study", "demo"):
        shown = runner.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert "Example:" in shown.stdout
