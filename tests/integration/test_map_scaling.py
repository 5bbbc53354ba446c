"""`map scaling` on a tiny model: one harvest, cells at one L0, coverage and seeds, the folder, the command."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import StudyError
from sae_lens_med.knowledge_map import packaged_lists, scaling_measure
from sae_lens_med.knowledge_map.scaling_run import KIND, ScalingResult, ScalingSettings, scale, scaling_variants
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.runs.folder import RunFolder
from tests.tiny import save_tiny_model, tiny_model

SETTINGS = ScalingSettings((24, 48), (640,), (0.02, 3.0), (0, 1), permutations=19)
WORDS = ["환자는", "발열과", "기침으로", "병원에", "왔다", "fever", "patient", "chest", "pain", "has", "blood", "120"]


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    rows = [{"id": f"t{i}", "text": f"{i} {' '.join(rng.choice(WORDS, 20))}."} for i in range(120)]
    (folder / "text.jsonl").write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return folder


def overrides(texts: Path) -> list[str]:
    return [f"data.folder={texts}", "model.name=tiny", "data.heldout=0.3", "training_tokens=1280", "lr_decay_steps=5",
            "lr=2e-2"]  # fmt: skip


def run(model: MedBridge, texts: Path, folder: Path) -> ScalingResult:
    variants = scaling_variants("tiny", SETTINGS, overrides(texts))
    lists = packaged_lists().only(["symptoms"])
    acts = texts.parent / f"{texts.name}-acts"
    return scale(variants, model, lists, folder, SETTINGS, activations=acts, progress=False)


@pytest.fixture(scope="module")
def made(model: MedBridge, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ScalingResult]:
    folder = tmp_path_factory.mktemp("scaling") / "out"
    return folder, run(model, texts, folder)


def test_all_saes_come_from_one_harvest_and_one_held_out_text(made: tuple[Path, ScalingResult], texts: Path) -> None:
    folder, found = made
    assert len(found.points) == 8 and not found.failed
    assert len(list((texts.parent / f"{texts.name}-acts").iterdir())) == 1
    metrics = [json.loads(path.read_text()) for path in (folder / "sweep").glob("*/metrics.json")]
    assert len(metrics) == 8 and len({each["text"]["sha256"] for each in metrics}) == 1
    assert {each["tokens"] for each in metrics} == {640}


def test_a_cell_is_the_rule_of_three_of_what_training_measured(made: tuple[Path, ScalingResult]) -> None:
    folder, found = made
    assert len(found.cells) == 4
    reached = 0
    for each in found.cells:
        cell, own = each.cell, []
        for coefficient in ("0.02", "3"):
            name = f"d_sae-{cell.d_sae}_tokens-{cell.tokens}_seed-{cell.seed}_l1-{coefficient}"
            held = json.loads((folder / "sweep" / name / "metrics.json").read_text())["heldout"]
            own.append((held["l0"], 1 - held["explained_variance"], held["dead_fraction"]))
        (x0, y0, d0), (x1, y1, d1) = sorted(own)
        if not x0 <= found.l0 <= x1:
            assert cell.loss is None
            continue
        share = np.log(found.l0 / x0) / np.log(x1 / x0)
        assert cell.loss == pytest.approx(y0 + share * (y1 - y0))
        assert cell.dead == pytest.approx(d0 + share * (d1 - d0))
        reached += 1
    assert reached == 2  # the sweeps of the small SAEs do not reach the L0 of the large ones


def test_seeds_are_matched_once_and_stand_beside_shuffled_directions(made: tuple[Path, ScalingResult]) -> None:
    _, found = made
    for each in found.cells:
        whats = [row.what for row in each.matches]
        assert whats == (["seed", "shuffled"] if each.cell.seed == 0 else [])
        for row in each.matches:
            assert row.first == each.cell.nearest
            assert (row.cosine is not None) and 0 <= row.share <= 1


def test_coverage_counts_labels_beside_shuffled_directions(made: tuple[Path, ScalingResult]) -> None:
    folder, found = made
    for each in found.cells:
        assert each.coverage is not None and each.shuffled_coverage is not None
        kept = json.loads((folder / "coverage" / f"{each.cell.nearest}.json").read_text())
        assert len(kept["labels"]) == each.coverage.n >= 10  # both languages
        assert {label["language"] for label in kept["labels"]} == {"ko", "en"}
        above = each.coverage.interval[0] > max(0.05, each.shuffled_coverage)
        assert above != any("nothing may be concluded" in n and each.cell.nearest in n for n in found.notes)
        assert each.coverage.n_covered == sum(label["p"] < 0.05 for label in kept["labels"])


def test_the_files_say_the_same_and_what_may_not_be_said(made: tuple[Path, ScalingResult]) -> None:
    folder, found = made
    told = json.loads((folder / "scaling.json").read_text(encoding="utf-8"))
    lines = list(csv.DictReader((folder / "scaling.csv").open(encoding="utf-8")))
    assert [line["loss"] for line in lines] == ["" if c["loss"] is None else str(c["loss"]) for c in told["cells"]]
    assert told["power_laws"] == []
    assert any("no power law is fitted" in note for note in found.notes)
    assert (folder / "scaling.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    made: tuple[Path, ScalingResult], model: MedBridge, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained is taken from the other run; training itself goes on as `tests/integration/test_sweep` says."""
    from sae_lens_med.training import sweep as sweeping

    plain, calls = scaling_measure.label_coverage, []

    def stops_training(_recipe: Any, _model: Any, output: Path, **_more: Any) -> None:
        calls.append(output.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        shutil.copytree(made[0] / "sweep" / output.name, output)

    def stops_measuring(*args: Any, **more: Any) -> Any:
        calls.append("measured")
        if calls.count("measured") == 4:
            raise KeyboardInterrupt
        return plain(*args, **more)

    monkeypatch.setattr(sweeping, "train", stops_training)
    with pytest.raises(KeyboardInterrupt):
        run(model, texts, tmp_path / "out")
    monkeypatch.setattr(scaling_measure, "label_coverage", stops_measuring)
    with pytest.raises(KeyboardInterrupt):
        run(model, texts, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "manifest.json").read_text())["parts"]) == 2
    monkeypatch.setattr(scaling_measure, "label_coverage", plain)
    run(model, texts, tmp_path / "out")
    assert len(set(calls)) == 9 and len(calls) == 13  # each SAE once, the third twice; coverage is not measured again
    for name in ("scaling.json", "scaling.csv", "scaling.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (made[0] / name).read_bytes()


def test_seeds_are_matched_again_where_the_others_are_other_ones(
    model: MedBridge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The common L0, and with it which SAEs stand for their cells, moves when one that had failed is trained."""
    folder = RunFolder(tmp_path, KIND, {"identity": {}, "versions": {}, "parts": {}})
    folder.begin()
    asked: list[tuple[str, tuple[str, ...]]] = []

    def matched(_measure: Any, name: str, others: Any) -> list[Any]:
        asked.append((name, tuple(others)))
        return []

    monkeypatch.setattr(scaling_measure.ScalingMeasure, "_matched", matched)
    variant = scaling_variants("tiny", SETTINGS, ["data.folder=texts"])[0]
    measure = scaling_measure.ScalingMeasure(model, variant, tmp_path, packaged_lists(), 19, 100, 0, folder)
    for others in (["b"], ["b"], ["c"]):
        measure.seeds("a", others)
    assert asked == [("a", ("b",)), ("a", ("c",))]


def test_other_settings_are_refused(made: tuple[Path, ScalingResult], model: MedBridge, texts: Path) -> None:
    other = ScalingSettings((24, 48), (640,), (0.02, 4.0), (0, 1), permutations=19)
    variants = scaling_variants("tiny", other, overrides(texts))
    with pytest.raises(StudyError, match="other settings"):
        scale(variants, model, packaged_lists().only(["symptoms"]), made[0], other, progress=False)


class TestCommand:
    def run(self, texts: Path, *more: str) -> Any:
        sets = [f"--set={each}" for each in (f"data.folder={texts}", "data.heldout=0.3", "training_tokens=1280",
                "lr_decay_steps=5")]  # fmt: skip
        given = ["map", "scaling", "tiny", "--sizes", "24,48", "--tokens", "640", *sets, *more]
        return CliRunner().invoke(app, given)

    def test_lists_what_it_would_train(self, texts: Path, tmp_path: Path) -> None:
        done = self.run(texts, "--coefficients", "0.05,0.3", "--seeds", "4", "-o", str(tmp_path / "o"), "--dry-run")
        assert done.exit_code == 0, done.output
        assert "d_sae-48_tokens-640_seed-4_l1-0.05" in done.stdout and "4 SAEs" in done.stdout
        assert not (tmp_path / "o").exists()

    def test_trains_and_says_what_came_out(self, texts: Path, tmp_path: Path) -> None:
        save_tiny_model(tmp_path / "model", "gemma3")
        given = ["--coefficients", "0.02,0.3", "--seeds", "0", "--permutations", "19", "-o", str(tmp_path / "o")]
        given += ["--set", f"model.name={tmp_path / 'model'}", "--activations", str(tmp_path / "acts")]
        done = self.run(texts, *given)
        assert done.exit_code == 0, done.output
        assert "24 features, 640 tokens, seed 0: " in done.stdout and "One seed was trained" in done.stdout
        again = self.run(texts, *given, "--json")
        assert len(json.loads(again.stdout)["cells"]) == 2

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["--coefficients", "0.1,x"], "--coefficients takes numbers above 0"),
            (["--coefficients", "0.1,0.2", "--seeds", "1.5"], "--seeds takes whole numbers"),
            (["--coefficients", "0.1"], "two coefficients at least"),
            (["--coefficients", "0.1,0.2", "--l0", "0"], "must be above 0, got 0"),
        ],
    )
    def test_refuses_what_cannot_be(self, given: list[str], message: str, texts: Path, tmp_path: Path) -> None:
        done = self.run(texts, *given, "-o", str(tmp_path / "o"))
        assert done.exit_code != 0 and message in str(done.exception)
        assert not (tmp_path / "o").exists()
