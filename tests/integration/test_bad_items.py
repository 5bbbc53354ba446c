"""One bad item never ends a run: all are named at once, left out when asked, and a refused run binds no folder."""

import gc
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from sae_lens_med.commands import evaluate as evaluate_commands
from sae_lens_med.commands import intervene as intervene_commands
from sae_lens_med.commands import study as study_commands
from sae_lens_med.data import load_items
from sae_lens_med.errors import DataError, StudyError, UnfitItemsError
from sae_lens_med.evaluation.conditions.run import run_conditions
from sae_lens_med.evaluation.conditions.spec import parse_conditions
from sae_lens_med.evaluation.method import METHODS
from sae_lens_med.evaluation.run import evaluate
from sae_lens_med.features import collect as collect_module
from sae_lens_med.features.collect import collect
from sae_lens_med.features.store import load_features
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import LoadedSae, load_folder
from sae_lens_med.study.run import run_study
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_model, tiny_sae

SAMPLE = load_items("sample", limit=6)
LONG = "아주 긴 질문 " * 400
"""More tokens than the tiny model's context."""
CONDITIONS: dict[str, Any] = {"conditions": [{"kind": "splice"}], "matched_random": 0}


def with_long(*places: int) -> list[McqItem]:
    return [replace(item, question=LONG) if i in places else item for i, item in enumerate(SAMPLE.items)]


def loaded(items: list[McqItem]) -> Any:
    return replace(SAMPLE, items=items, sha256=json_sha256([item.to_dict() for item in items]))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model()


@pytest.fixture(scope="module")
def sae(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    folder = tmp_path_factory.mktemp("sae")
    save_tiny_sae(folder, tiny_sae(model))
    return load_folder(folder)


def refuses_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any forward pass is an error."""

    def ran(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("the model ran")

    for name in ("next_token_logprobs", "continuation_logprobs", "generate"):
        monkeypatch.setattr(Engine, name, ran)
    monkeypatch.setattr(collect_module, "read_at_hook", ran)


@pytest.mark.parametrize("method", METHODS)
def test_all_that_is_too_long_is_named_before_the_model_runs(
    model: MedBridge, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_run(monkeypatch)
    items = with_long(1, 4)
    if method == "option-text":  # the prompt fits, an option does not
        items[4] = replace(SAMPLE.items[4], options=("가", "나 " * 2000), answer=0)
    with pytest.raises(UnfitItemsError) as error:
        evaluate(model, items, method, progress=False)
    assert list(error.value.reasons) == [items[1].id, items[4].id]
    said = str(error.value)
    assert said.count("more than the 2048 that tiny-qwen3-0 takes") == 2 and "\n" not in said
    assert said.endswith("leave these 2 items out with --skip-bad-items or --exclude ID.")


def test_what_is_too_long_for_a_study_counts_explanations_too(
    model: MedBridge, sae: LoadedSae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_to_run(monkeypatch)
    items = with_long(1)
    items[3] = replace(items[3], explanation=LONG, explanation_spans=())
    for run in (
        lambda: collect(model, sae, items, output=tmp_path / "f", progress=False),
        lambda: run_study(model, sae, loaded(items), tmp_path / "s", progress=False),
        lambda: run_conditions(model, loaded(with_long(1, 3)), parse_conditions(CONDITIONS), tmp_path / "c", saes=sae),
    ):
        with pytest.raises(UnfitItemsError) as error:
            run()
        assert list(error.value.reasons) == [items[1].id, items[3].id]
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_an_item_of_which_the_masks_leave_nothing_is_left_out_and_named(
    model: MedBridge, sae: LoadedSae, tmp_path: Path
) -> None:
    items = list(SAMPLE.items)
    first = items[0]
    items[0] = replace(first, explanation=f"{first.options[2]}.", explanation_spans=())
    found = run_study(model, sae, loaded(items), tmp_path / "s", progress=False, permutations=9)
    said = f"1 items are left out of the alignment, because the masks leave nothing of the explanation: {first.id}."
    assert said in found.notes
    assert first.id in (tmp_path / "s" / "report.md").read_text(encoding="utf-8")
    features = load_features(tmp_path / "s" / "features")
    assert features.has_explanation.tolist() == [False] + [True] * 5
    bare = collect(model, sae, [replace(items[0], explanation=None, explanation_source=None)], output=tmp_path / "b")
    own, without = features.acts, load_features(bare).acts
    assert own.token_id[own.token_item == 0].tolist() == without.token_id.tolist()


def test_items_that_a_method_cannot_ask_are_named_with_the_others(model: MedBridge) -> None:
    other = replace(SAMPLE.items[2], language="xx")  # no template is written for it
    items = [*with_long(0)[:2], other]
    with pytest.raises(UnfitItemsError) as error:
        evaluate(model, items, progress=False)
    assert list(error.value.reasons) == [items[0].id, other.id]
    assert "xx" in error.value.reasons[other.id]
    with pytest.raises(DataError, match="xx") as alone:  # not the fault of an item where it is that of all
        evaluate(model, [other], progress=False)
    assert not isinstance(alone.value, UnfitItemsError)


def test_leaving_out_is_counted_and_has_an_end(model: MedBridge) -> None:
    data = loaded(with_long(1, 4))
    with pytest.raises(UnfitItemsError) as error:
        evaluate(model, data, progress=False)
    rest = data.without(error.value.reasons)
    assert [i.id for i in rest.items] == [i.id for k, i in enumerate(data.items) if k not in (1, 4)]
    assert rest.sha256 == loaded(rest.items).sha256 and len(rest.bad_rows) == 2
    assert evaluate(model, rest, progress=False).provenance.data["bad_rows"] == 2
    with pytest.raises(Exception, match="none of the 4 items can be used; item .*: why"):
        rest.without({item.id: "why" for item in rest.items})


# --- folders --------------------------------------------------------------------------------------------------------


def test_a_refused_or_interrupted_evaluation_binds_no_folder(
    model: MedBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnfitItemsError):
        evaluate(model, loaded(with_long(2)), output=tmp_path / "e", progress=False)

    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Engine, "next_token_logprobs", stop)
        evaluate(model, SAMPLE, output=tmp_path / "e", permutations=20, progress=False)
    done = evaluate(model, SAMPLE, output=tmp_path / "e", permutations=30, progress=False)
    assert len(done.results) == 6
    with pytest.raises(StudyError, match="settings.permutations: 30 -> 40"):
        evaluate(model, SAMPLE, output=tmp_path / "e", permutations=40, progress=False)


def test_a_study_is_bound_when_its_first_stage_is_done(
    model: MedBridge, sae: LoadedSae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    settings: dict[str, Any] = {"permutations": 20, "progress": False}
    monkeypatch.setattr(collect_module, "SHARD_ITEMS", 2)
    monkeypatch.setattr(collect_module, "CALIBRATION_ITEMS", 2)
    write = collect_module._write
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(collect_module, "_write", lambda *a: stop() if a[1] == 1 else write(*a))
        run_study(model, sae, SAMPLE, tmp_path / "s", **settings)
    kept = tmp_path / "s" / "features" / "shard-00000.safetensors"
    shard = kept.stat().st_mtime_ns
    # Another seed begins anew, and keeps the features, which are the same; other items begin anew altogether.
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(collect_module, "_write", stop)
        run_study(model, sae, SAMPLE, tmp_path / "s", seed=1, **settings)
    assert kept.stat().st_mtime_ns == shard
    fewer = loaded(SAMPLE.items[:5])
    done = run_study(model, sae, fewer, tmp_path / "s", seed=2, **settings)
    assert [r.id for r in done.results] == [i.id for i in fewer.items]
    questions = (tmp_path / "s" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in questions] == [i.id for i in fewer.items]
    whole = run_study(model, sae, fewer, tmp_path / "whole", seed=2, **settings)
    assert whole.metrics == done.metrics
    with pytest.raises(StudyError, match="was started with other settings"):
        run_study(model, sae, SAMPLE, tmp_path / "s", **settings)


def test_a_comparison_is_bound_when_a_condition_is_done(
    model: MedBridge, sae: LoadedSae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    common: dict[str, Any] = {"saes": sae, "progress": False, "resamples": 20}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Engine, "next_token_logprobs", stop)
        run_conditions(model, SAMPLE, parse_conditions(CONDITIONS), tmp_path / "c", **common)
    done = run_conditions(model, SAMPLE, parse_conditions(CONDITIONS), tmp_path / "c", seed=3, **common)
    assert len(done.results) == 2
    with pytest.raises(StudyError, match="seed: 3 -> 4"):
        run_conditions(model, SAMPLE, parse_conditions(CONDITIONS), tmp_path / "c", seed=4, **common)


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, an SAE, and a file that has one of everything that is wrong with an item."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    save_tiny_sae(folder / "sae", tiny_sae(tiny_model()))
    (folder / "conditions.yaml").write_text(json.dumps(CONDITIONS), encoding="utf-8")
    rows: list[dict[str, Any]] = [
        {"id": i.id, "question": i.question, "options": i.options, "answer": i.answer, "note": 1}
        | {"explanation": i.explanation, "explanation_source": "illustrative"}
        for i in SAMPLE.items
    ]
    rows[1]["question"] = LONG
    rows[2]["question"] = " "
    rows[4]["id"] = rows[3]["id"]
    rows.append(rows[0] | {"id": "zero", "answer": 0})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "cp949.jsonl").write_bytes(text.encode("cp949"))
    return folder


@pytest.mark.parametrize("command", ["evaluate", "study", "intervene"])
def test_every_command_that_reads_items_has_the_options(place: Path, tmp_path: Path, command: str) -> None:
    app = typer.Typer()
    for module in (evaluate_commands, study_commands, intervene_commands):
        module.register(app)
    rest = {"evaluate": [], "study": ["--permutations", "20"], "intervene": ["-c", str(place / "conditions.yaml")]}
    given = [command, "--model", str(place / "model"), "--data", str(place / "cp949.jsonl"), "--device", "cpu"]
    given += ["-o", str(tmp_path / "out"), "--sae", str(place / "sae"), *rest[command]]

    def refused(*options: str) -> str:
        done = CliRunner().invoke(app, [*given, *options])
        assert done.exception is not None, done.output
        said = str(done.exception)
        del done  # its traceback holds the run, and so the folder
        gc.collect()
        assert not (tmp_path / "out").exists()
        return said

    assert "looks like cp949; read it with --encoding cp949" in refused()
    options = ["--encoding", "cp949"]
    assert "nothing reads the columns note" in refused(*options)
    options += ["--extra-columns", "ignore"]
    assert "--answers-from 0" in refused(*options)
    options += ["--answers-from", "0"]
    said = refused(*options)
    assert "row 3: field 'question'" in said and "row 5: field 'id'" in said and "2 rows cannot be used" in said
    assert f"item {SAMPLE.items[1].id!r}" in refused(
        *options, "--exclude", f"{SAMPLE.items[2].id},{SAMPLE.items[3].id}"
    )
    done = CliRunner().invoke(app, [*given, *options, "--skip-bad-items", "--exclude", "zero"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "columns that nothing reads, ignored: note." in done.stderr
    assert "3 rows or items were left out" in done.stderr and "1 rows or items were left out" in done.stderr
    name = {"evaluate": "summary.json", "study": "manifest.json", "intervene": "comparison.json"}[command]
    about = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))["provenance"]["data"]
    assert (about["n_items"], about["bad_rows"], about["ignored_columns"]) == (3, 4, ["note"])
    if command == "study":
        report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
        assert "4 rows or items of the data were left out" in report and "nothing reads: note" in report
