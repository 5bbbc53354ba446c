"""The export to Neuronpedia: both forms hold what a study knows, within the limits of their readers, which are written
down here once more from the reader's side; and they are read by the classes of the `neuronpedia` package."""

import gzip
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from sae_lens_med.app import index_files
from sae_lens_med.app.neuronpedia import export as module
from sae_lens_med.app.neuronpedia import upload
from sae_lens_med.app.neuronpedia.export import Exported, Wanted, export_neuronpedia
from sae_lens_med.app.neuronpedia.form import model_id_of, number, require_source, source_of
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.records import PARTS
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.parsing import read_json
from tests.app_study import D_SAE, NEVER, make_whole_study

ALLOWED = Wanted(accept_licence=True)
SHOWN = [PARTS.index(part) for part in ("stem", "option", "explanation")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with an index that has neighbours and logits, made by hand."""
    path = tmp_path_factory.mktemp("np") / "study"
    make_whole_study(path, 24)
    rng = np.random.default_rng(3)
    others = np.stack([rng.permutation(np.delete(np.arange(D_SAE), f))[:20] for f in range(D_SAE)])
    arrays: dict[str, dict[str, Any]] = {
        "neighbours": {"features": others.astype(np.int32), "cosines": rng.random((D_SAE, 20)).astype(np.float32)},
        "logits": {
            "row_of": np.arange(D_SAE, dtype=np.int32),
            **{f"{side}_token": rng.integers(0, 4, (D_SAE, 10)).astype(np.int32) for side in ("raised", "lowered")},
            **{f"{side}_value": rng.normal(size=(D_SAE, 10)).astype(np.float32) for side in ("raised", "lowered")},
        },
    }
    for name, own in arrays.items():
        save_file(own, path / "app" / f"{name}.safetensors")
    write_json(path / "app" / "logits.json", ["폐", " 렴", "<0xEC>", "a\x00"])
    manifest = read_json(path / "app" / "manifest.json")
    manifest["parts"] |= {name: {"done": "2026-01-01T00:00:00+00:00", "seconds": 0.0} for name in arrays}
    write_json(path / "app" / "manifest.json", manifest)
    return path


@pytest.fixture(scope="module")
def study(folder: Path) -> OpenStudy:
    return OpenStudy.open(folder)


@pytest.fixture(scope="module")
def written(study: OpenStudy, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Exported]:
    path = tmp_path_factory.mktemp("out") / "np"
    return path, export_neuronpedia(study, path, ALLOWED)


def _bodies(path: Path) -> list[dict[str, Any]]:
    return [json.loads(each.read_text(encoding="utf-8")) for each in sorted(path.glob("upload/batch-*.json"))]


def _rows(path: Path, table: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for each in sorted(path.glob(f"bulk/*/*/{table}/batch-*.jsonl.gz"))
        for line in gzip.decompress(each.read_bytes()).decode("utf-8").removesuffix("\n").split("\n")
    ]


# --- upload batches -------------------------------------------------------------------------------------------------


def test_batches_keep_the_limits_of_the_api(written: tuple[Path, Exported]) -> None:
    seen: set[int] = set()
    bodies = _bodies(written[0])
    for body in bodies:
        assert body["modelId"] == "made-by-hand" and body["source"] == "0-med-res-48"
        assert 1 <= len(body["features"]) <= 128
        for feature in body["features"]:
            assert type(feature["index"]) is int and 0 <= feature["index"] <= 10_000_000
            assert feature["index"] not in seen
            seen.add(feature["index"])
            assert 0 < feature["density"] <= 1
            for logit in (*feature["topLogits"], *feature["bottomLogits"]):
                assert logit["token"] and math.isfinite(logit["value"])
            assert len(feature["topLogits"]) == len(feature["bottomLogits"]) == 10
            assert all(1 <= len(each["text"]) <= 512 and set(each) == {"text"} for each in feature["explanations"])
            assert feature["activations"]
            for each in feature["activations"]:
                assert 1 <= len(each["tokens"]) <= 128 and all(each["tokens"])
                assert len(each["values"]) == len(each["tokens"])
                assert all(math.isfinite(value) and value >= 0 for value in each["values"])
                assert 0 <= each["quantileFraction"] <= 1
                assert each["quantileMin"] <= max(each["values"]) <= each["quantileMax"]
    assert seen == set(range(D_SAE)) - {NEVER}


def test_the_packages_classes_read_both_forms(written: tuple[Path, Exported]) -> None:
    pytest.importorskip("neuronpedia", reason="the classes of the neuronpedia package are in the extra [dev]")
    from neuronpedia.np_explanation import Explanation
    from neuronpedia.np_feature import Feature, Logit
    from neuronpedia.np_list import NPListItem
    from neuronpedia.requests.activation_request import Activation

    n = 0
    for body in _bodies(written[0]):
        where = {"modelId": body["modelId"], "source": body["source"]}
        for feature in body["features"]:
            own = {**where, "index": feature["index"]}
            Feature(
                **own,
                density=feature["density"],
                top_logits=[Logit(**each) for each in feature["topLogits"]],
                bottom_logits=[Logit(**each) for each in feature["bottomLogits"]],
                explanations=[Explanation(**own, text=each["text"]) for each in feature["explanations"]],
                activations=[Activation(**own, **each) for each in feature["activations"]],
            )
            n += len(feature["activations"])
    rows = [Activation.from_np_db_json(row | {"source": row["layer"]}) for row in _rows(written[0], "activations")]
    assert len(rows) == n == written[1].counts["contexts"]
    assert {Explanation.from_np_db_json(row | {"source": row["layer"]}).text
            for row in _rows(written[0], "explanations")} == {"폐렴 소견"}  # fmt: skip
    for each in read_json(written[0] / "lists.json"):
        assert set(each["new"]) == {"name", "description"} and each["featuresToAdd"]
        for item in each["featuresToAdd"]:
            NPListItem(item["modelId"], item["layer"], item["index"], item["description"])


def test_a_context_is_a_piece_of_the_text_and_its_values_are_those_collected(
    study: OpenStudy, written: tuple[Path, Exported]
) -> None:
    """Against the shards, feature by feature: what the piece says, where its peak is, and how strong."""
    assert study.part is not None
    numbers = {item_id: number for number, item_id in enumerate(study.items)}
    korean = 0
    for row in _rows(written[0], "activations")[::7]:
        found = study.part.item(numbers[row["dataIndex"]])
        acts, feature = found.acts, int(row["index"])
        context = "".join(row["tokens"])
        column = np.asarray(acts.acts[:, [feature]].todense()).ravel()
        shown = np.isin(acts.token_part, SHOWN) & ~acts.excluded
        strongest = float(np.where(shown, column, 0).max())
        assert row["maxValue"] == number(strongest) == row["values"][row["qualifyingTokenIndex"]]
        assert row["maxValueTokenIndex"] == row["qualifyingTokenIndex"]
        places = [t for t in np.flatnonzero(shown) if column[t] == np.float32(strongest)]
        peak = len("".join(row["tokens"][: row["qualifyingTokenIndex"]]))
        length = len(row["tokens"][row["qualifyingTokenIndex"]])
        begins = {text.find(context) + peak for text in found.texts[row["dataIndex"]].values() if context in text}
        assert any(acts.char_start[t] < begin + length and acts.char_end[t] > begin for t in places for begin in begins)
        assert "\ufffd" not in context
        korean += any("가" <= character <= "힣" for character in context)
    assert korean > 50


def test_intervals_are_tenths_with_the_share_of_the_tokens_in_them(
    study: OpenStudy, written: tuple[Path, Exported]
) -> None:
    assert study.part is not None
    values: dict[int, list[float]] = {}
    for shard in range(study.part.n_shards):
        acts = study.part.shard(shard).acts
        rows = acts.acts[np.flatnonzero(np.isin(acts.token_part, SHOWN) & ~acts.excluded)]
        for feature, value in zip(rows.indices.tolist(), rows.data.tolist(), strict=True):
            values.setdefault(feature, []).append(value)
    for row in _rows(written[0], "activations")[::11]:
        own = np.array(values[int(row["index"])])
        top = float(own.max())
        tenth = min(int(10 * row["maxValue"] / top + 1e-3), 9)
        assert row["binMin"] == pytest.approx(top * tenth / 10, rel=2e-3, abs=1e-6)
        assert row["binMax"] == pytest.approx(top * (tenth + 1) / 10, rel=2e-3)
        inside = ((own >= top * tenth / 10) & ((own < top * (tenth + 1) / 10) | (tenth == 9))).mean()
        assert row["binContains"] == pytest.approx(inside, abs=1e-3)


# --- bulk layout ----------------------------------------------------------------------------------------------------

COLUMNS = {
    "features": "modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel "
    "vectorDefaultSteerStrength hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices "
    "neuron_alignment_values neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson "
    "correlated_neurons_l1 correlated_features_indices correlated_features_pearson correlated_features_l1 pos_str "
    "pos_values neg_str neg_values frac_nonzero freq_hist_data_bar_heights freq_hist_data_bar_values "
    "logits_hist_data_bar_heights logits_hist_data_bar_values decoder_weights_dist sourceSetName",
    "activations": "id tokens values index layer modelId maxValue maxValueTokenIndex minValue creatorId createdAt "
    "binMin binMax binContains qualifyingTokenIndex dfaValues dfaTargetIndex dfaMaxValue lossValues logitContributions "
    "dataSource dataIndex",
    "explanations": "id modelId layer index description authorId typeName explanationModelName notes embedding "
    "createdAt updatedAt",
}


def test_every_line_of_the_bulk_layout_has_the_columns_of_its_table(written: tuple[Path, Exported]) -> None:
    for table, columns in COLUMNS.items():
        rows = _rows(written[0], table)
        assert rows and all(set(row) == set(columns.split()) for row in rows)
        assert all(row["layer"] == "0-med-res-48" and isinstance(row["index"], str) for row in rows)
        if "id" in rows[0]:
            assert len({row["id"] for row in rows}) == len(rows)
            assert all(len(row["id"]) == 25 and row["id"][0] == "c" and row["id"].isalnum() for row in rows)
    place = written[0] / "bulk" / "made-by-hand" / "0-med-res-48"
    found = {name: json.loads((place / f"{name}.jsonl").read_text(encoding="utf-8"))
             for name in ("release", "model", "sourceset", "source")}  # fmt: skip
    assert found["source"]["setName"] == found["sourceset"]["name"] == "med-res-48"
    assert found["sourceset"]["releaseName"] == found["release"]["name"]
    assert found["source"]["modelId"] == found["model"]["id"] == found["sourceset"]["modelId"] == "made-by-hand"
    assert found["release"]["defaultSourceId"] == found["source"]["id"] == "0-med-res-48"
    assert all(row["createdAt"] == "2026-01-01T00:00:00.000Z" for row in found.values())


def test_a_feature_has_what_the_index_knows(study: OpenStudy, written: tuple[Path, Exported]) -> None:
    assert study.index is not None
    for row in _rows(written[0], "features"):
        feature = int(row["index"])
        neighbours = study.index.neighbours(feature)
        assert row["topkCosSimIndices"] == [other for other, _ in neighbours]
        assert row["topkCosSimValues"] == [number(cosine) for _, cosine in neighbours]
        assert len(row["pos_str"]) == len(row["pos_values"]) == 10
        assert not any("\0" in token for token in (*row["pos_str"], *row["neg_str"]))
        assert sum(row["freq_hist_data_bar_heights"]) == study.index.count[feature]
        assert row["maxActApprox"] == number(float(study.index.maximum[feature]))
        assert row["frac_nonzero"] == number(study.index.count[feature] / study.index.n_tokens)


def test_the_same_study_gives_the_same_bytes_interrupted_or_not(
    study: OpenStudy, written: tuple[Path, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    export_neuronpedia(study, whole, ALLOWED)
    real, calls = module._write_batch, []

    def fails(*arguments: Any) -> None:
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(module, "_write_batch", fails)
    with pytest.raises(KeyboardInterrupt):
        export_neuronpedia(study, stopped, ALLOWED)
    assert "counts" not in read_json(stopped / "manifest.json")
    export_neuronpedia(study, stopped, ALLOWED)
    assert calls == ["batch-000", "batch-001", "batch-002", "batch-002", "batch-003", "batch-004"]
    assert _contents(whole) == _contents(stopped)
    again = [feature for body in _bodies(whole) for feature in body["features"]]
    assert again == [feature for body in _bodies(written[0]) for feature in body["features"]]
    # What was changed since is written again.
    (stopped / "upload" / "batch-001.json").write_text("{}", encoding="utf-8")
    export_neuronpedia(study, stopped, ALLOWED)
    assert calls[-1] == "batch-001" and _contents(whole) == _contents(stopped)


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def test_a_feature_without_characters_is_left_out_and_counted(
    study: OpenStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert study.index is not None
    real, chosen = module.contexts_of, module.chosen_features(study.index, study.names, 3)
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(
        module, "contexts_of", lambda part, index, f, names: [] if f == chosen[1] else real(part, index, f, names)
    )
    done = export_neuronpedia(study, tmp_path / "np", replace(ALLOWED, most_features=3))
    assert [row["index"] for row in _rows(tmp_path / "np", "features")] == [str(chosen[0]), str(chosen[2])]
    assert done.counts["features"] == done.counts["upload_files"] == len(_bodies(tmp_path / "np")) == 2
    assert done.counts["without_characters"] == 1


# --- refusals, manifest, command ------------------------------------------------------------------------------------


def test_a_folder_that_holds_something_else_is_left_alone(study: OpenStudy, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StudyError, match="is not empty"):
        export_neuronpedia(study, tmp_path, ALLOWED)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    export_neuronpedia(study, tmp_path / "np", ALLOWED)
    with pytest.raises(StudyError, match="model_id"):
        export_neuronpedia(study, tmp_path / "np", replace(ALLOWED, model_id="another"))


@pytest.mark.parametrize(
    ("licence", "refused"),
    [
        ("CC BY-NC 2.0", True), ("CC BY-NC-SA 4.0", True), ("CC BY-ND 4.0", True), ("CC-BY-SA-NC 4.0", True),
        ("none stated by its authors", True), (None, True), ("mitigated by nobody", True),
        ("CC BY 4.0 (Hub copy; the authors' repository: MIT)", False), ("CC BY-SA 4.0", False), ("MIT", False),
        ("Apache-2.0", False), ("CC0 1.0", False), ("cc-by-4.0", False),
    ],
)  # fmt: skip
def test_texts_go_out_only_under_an_open_licence_or_on_ones_word(
    folder: Path, tmp_path: Path, licence: str | None, refused: bool
) -> None:
    own = tmp_path / "study"
    shutil.copytree(folder, own)
    rows = [json.loads(line) for line in (own / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["provenance"] = {"dataset": "sean0042/KorMedMCQA"} | ({} if licence is None else {"licence": licence})
    (own / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shutil.rmtree(own / "app")
    done = CliRunner().invoke(app, ["export", str(own), "--neuronpedia", str(tmp_path / "np"), "--features", "2"])
    if not refused:
        assert done.exit_code == 0 and list(tmp_path.glob("np/upload/*.json"))
        return
    assert isinstance(done.exception, ConfigError) and not (tmp_path / "np").exists()
    said = str(done.exception)
    assert "sean0042/KorMedMCQA" in said and "--accept-licence" in said
    assert (licence or "no licence is stated") in said


def test_the_manifest_says_what_was_made_of_what(written: tuple[Path, Exported]) -> None:
    manifest = read_json(written[0] / "manifest.json")
    assert manifest["forms"]["neuronpedia"]["commit"] == "ebb8426"
    assert manifest["forms"]["SAEDashboard"]["commit"] == "db4839a"
    assert manifest["provenance"]["model"]["name"] == "made-by-hand"
    assert (
        manifest["licences"] == [{"dataset": "synthetic <data>", "licence": None, "items": 24, "open": False}]
        and manifest["licence_accepted"]
    )
    assert manifest["counts"] == written[1].counts and manifest["counts"]["features"] == D_SAE - 1
    assert manifest["missing"] == [] and "vector" in manifest["empty"]["Neuron"]
    assert str(written[0].parent) not in json.dumps(manifest)


def test_what_the_index_has_not_got_is_empty_and_named(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "study"
    shutil.copytree(folder, own)
    shutil.rmtree(own / "app")
    done = CliRunner().invoke(
        app, ["export", str(own), "--neuronpedia", str(tmp_path / "np"), "--accept-licence", "--json"]
    )
    assert done.exit_code == 0
    said = json.loads(done.stdout[done.stdout.index("{") :])
    assert [each["what"] for each in said["missing"]] == ["neighbours", "logits"]
    assert said["missing"][0]["command"] == index_files.command(own, "--neighbours")
    assert read_json(tmp_path / "np" / "manifest.json")["missing"][1]["command"] == "sae-lens-med index study --logits"
    row, body = _rows(tmp_path / "np", "features")[0], _bodies(tmp_path / "np")[0]
    assert row["topkCosSimIndices"] == row["pos_str"] == body["features"][0]["topLogits"] == []
    assert any("upload-batch" in step for step in said["next"]) and len(said["next"]) == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give --static DIR for pages, or --neuronpedia DIR"),
        (["--static", "a", "--neuronpedia", "b"], "an export is of one form"),
        (["--static", "a", "--model-id", "x"], "are for --neuronpedia"),
        (["--neuronpedia", "b", "--accept-licence", "--model-id", "Gemma-3"], "--model-id gemma-3"),
        (["--neuronpedia", "b", "--accept-licence", "--source", "9-Med"], "LAYER-SET"),
        (["--neuronpedia", "b", "--accept-licence", "--source", "9-neurons"], "LAYER-SET"),
        (["--neuronpedia", "b", "--accept-licence", "--features", "0"], "no feature would be written"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", str(folder), *options])
    assert isinstance(done.exception, ConfigError) and said in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_names_at_neuronpedia() -> None:
    assert model_id_of("google/gemma-3-270m") == "gemma-3-270m"
    assert model_id_of("/home/me/My Model.v2/") == "my-model-v2"
    assert source_of("blocks.9.hook_resid_post", 16_384) == "9-med-res-16k"
    assert source_of("model.layers.12.mlp.hook_in", 100) == "12-med-mlp-100"
    assert source_of("hook_embed", 100) is None
    assert require_source("9-med-res-16k") == (9, "med-res-16k")
    for wrong in ("med", "9-", "9-9a", "9-a--b", "9-a-", "x-a", "9-neurons", "9-A"):
        with pytest.raises(ConfigError):
            require_source(wrong)


def test_numbers_have_four_digits_and_keep_their_order() -> None:
    assert [number(x) for x in (0.0, 1.0, 0.123456, 1234.56, -2e-7)] == [0, 1, 0.1235, 1235, -2e-7]
    values = sorted(np.random.default_rng(0).gamma(1.0, 10.0, 500).tolist())
    rounded = [number(x) for x in values]
    assert rounded == sorted(rounded)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            number(wrong)


def test_the_check_of_a_batch_finds_what_the_api_would_refuse(written: tuple[Path, Exported]) -> None:
    def broken(change: Any) -> dict[str, Any]:
        body = json.loads(json.dumps(_bodies(written[0])[0]))
        body["features"] = body["features"][:3]
        change(body, body["features"][0], body["features"][0]["activations"][0])
        return body

    upload.check(broken(lambda *_: None))
    for change in (
        lambda body, *_: body.update(modelId="Upper"),
        lambda body, *_: body.update(features=[]),
        lambda body, *_: body.update(features=body["features"] * 50),
        lambda _b, feature, _c: feature.update(index=10_000_001),
        lambda _b, feature, _c: feature.update(index=True),
        lambda _b, feature, _c: feature.update(density=1.5),
        lambda _b, feature, _c: feature.update(activations=[]),
        lambda _b, feature, _c: feature.update(extra=1),
        lambda _b, feature, _c: feature.update(topLogits=[{"token": "a", "value": 1}] * 21),
        lambda _b, feature, _c: feature.update(explanations=[{"text": "x" * 513}]),
        lambda _b, _f, context: context["tokens"].__setitem__(0, ""),
        lambda _b, _f, context: context["values"].pop(),
        lambda _b, _f, context: context["values"].__setitem__(0, math.nan),
        lambda _b, _f, context: context.update(tokens=["a"] * 1025, values=[0] * 1025),
        lambda _b, _f, context: context.update(quantileFraction=1.01),
        lambda _b, _f, context: context.update(quantileMin=9, quantileMax=1),
    ):
        with pytest.raises(DataError, match="would be refused"):
            upload.check(broken(change))
