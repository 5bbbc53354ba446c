"""The folder of a circuit of features: its gate, what stands beside the circuit, and going on after a stop."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.circuits import node_run as running
from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.node_records import NodeCircuit, NodeSettings
from sae_lens_med.circuits.node_run import find_nodes
from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.circuits.parts import question_parts
from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.records import McqItem
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_model, tiny_sae, tiny_tokenizer
from tests.unit.test_circuits_nodes import ONE, ZERO, loaded
from tests.unit.test_circuits_run import answered


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("qwen3")


@pytest.fixture(scope="module")
def pairs(model: MedBridge) -> list[Pair]:
    return answered(GraphDecoder(model), 16)


SETTINGS = NodeSettings(ig_steps=12, random_circuits=9)


@pytest.fixture(scope="module")
def whole(model: MedBridge, pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NodeCircuit]:
    output = tmp_path_factory.mktemp("nodes") / "whole"
    saes = [loaded(model, ONE, seed=1), loaded(model, ZERO)]
    return output, find_nodes(model, saes, pairs, output, SETTINGS, task="test", second=saes, progress=False)


def test_a_circuit_is_described(whole: tuple[Path, NodeCircuit]) -> None:
    output, found = whole
    assert found.hooks == (ZERO, ONE) and found.gate.open and (found.n_found, found.n_judged) == (8, 8)
    assert found.curve is not None and found.feature_curve is not None
    assert found.curve.faithfulness[0] == pytest.approx(0, abs=1e-6)
    assert found.curve.sizes[-1] == found.n_graph and found.feature_curve.sizes[-1] < found.curve.sizes[-1]
    heights = np.abs(1 - np.array(found.curve.faithfulness))
    assert found.curve.area == pytest.approx(np.trapezoid(heights, found.curve.shares))
    assert found.n_nodes == len(found.nodes) and found.n_errors == sum(n.feature is None for n in found.nodes)
    sizes = [abs(node.score) for node in found.nodes]
    assert sizes == sorted(sizes, reverse=True)
    assert all(0.5 <= node.sign <= 1 and node.sign_interval[0] <= node.sign <= node.sign_interval[1] + 1e-9
               for node in found.nodes)  # fmt: skip
    # The second SAEs are the first: each feature is its own nearest, and the second circuit the same.
    assert found.second is not None and found.second.shared == 1 and found.second.cosine == pytest.approx(1)
    assert found.second.null < 1
    written = json.loads((output / "circuit.json").read_text(encoding="utf-8"))
    assert NodeCircuit.from_dict(written) == found
    rows = (output / "nodes.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + (found.n_graph or 0) and sum(row.endswith("True") for row in rows) == found.n_nodes
    assert (output / "curve.svg").is_file()


def test_a_stopped_run_goes_on_where_it_was(
    model: MedBridge,
    pairs: list[Pair],
    whole: tuple[Path, NodeCircuit],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, scored = 0, running.node_scores

    def once(*args: object, **rest: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return scored(*args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "node_scores", once)
    settings = replace(SETTINGS, batch_tokens=80)
    saes = [loaded(model, ONE, seed=1), loaded(model, ZERO)]

    def run() -> NodeCircuit:
        return find_nodes(model, saes, pairs, tmp_path / "b", settings, task="test", second=saes, progress=False)

    with pytest.raises(KeyboardInterrupt):
        run()
    done = len(list((tmp_path / "b" / "scores").iterdir()))
    assert done == 8
    again = run()
    # Sixteen pairs, four a batch, two sets of SAEs: eight batches, of which two were done before the one that stopped.
    assert calls == 3 + 6
    assert again.curve is not None and whole[1].curve is not None
    assert again.curve.area == pytest.approx(whole[1].curve.area, abs=1e-4)
    with pytest.raises(StudyError):
        find_nodes(model, saes, pairs, tmp_path / "b", replace(settings, seed=1), task="test", progress=False)


def test_too_few_midpoints_are_refused(model: MedBridge, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more --ig-steps"):
        find_nodes(model, [loaded(model, ZERO)], pairs, tmp_path, NodeSettings(ig_steps=1), task="t", progress=False)
    found = find_nodes(
        model, [loaded(model, ZERO)], pairs, tmp_path / "a", NodeSettings(0, 0), task="t", progress=False
    )
    assert found.missing[0] > 0.1  # of attribution it is said


def test_second_saes_are_of_the_same_hooks(model: MedBridge, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give one for each hook"):
        find_nodes(model, [loaded(model, ZERO)], pairs, tmp_path, task="t", second=[loaded(model, ONE)])
    for wrong in ({"ig_steps": -1}, {"random_circuits": -1}, {"batch_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            NodeSettings(**wrong)


def test_a_closed_gate_is_all_that_is_said(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen3")
    save_tiny_sae(tmp_path / "sae", tiny_sae(tiny_model("qwen3")))
    rows = [
        {"id": str(k), "subject": "doctor", "question": f"{'ABCD'[k % 4]} 환자의 병은?",
         "options": ["A 병", "B 병", "C 병", "D 병"], "answer": "ABCD"[k % 4]}
        for k in range(12)
    ]  # fmt: skip
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    command = ["circuit", "nodes", "-m", str(folder), "-s", str(tmp_path / "sae"), "--task", "swap", "-d", str(data),
               "-o", str(tmp_path / "out")]  # fmt: skip
    ended = CliRunner().invoke(app, [*command, "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["curve"] is None and found["nodes"] == [] and found["n_found"] == 6
    assert set(found["parts"]) >= {"stem", "option:answer", "end:wrong", "letter:other", "slot"}
    assert not list((tmp_path / "out" / "scores").iterdir())
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0 and ended.stdout.startswith("No behaviour to explain")


def test_tokens_of_a_question_belong_to_its_parts() -> None:
    item = McqItem("1", "doctor", "en", "fever and cough", ("oo", "uuu", "yy", "vv"), 1)
    tokenizer = tiny_tokenizer()
    prompt = question_prompt(item, tokenizer)
    other = list(prompt.token_ids)
    stem = next(span for span in prompt.part_spans if span.label == "stem")
    changed = next(t for t, (a, _) in enumerate(prompt.char_spans) if a >= stem.start + 6)
    other[changed] = 3
    parts = question_parts(prompt, other, 1, 3)

    def text(part: str) -> str:
        return "".join(prompt.text[a:b] for (a, b), p in zip(prompt.char_spans, parts, strict=True) if p == part)

    assert [t for t, part in enumerate(parts) if part == "changed"] == [changed]
    assert (text("option:answer") + text("end:answer")).strip() == "uuu"
    assert (text("option:other") + text("end:other")).strip() == "vv"
    assert {text(f"letter:{role}").strip(". ") for role in ("answer", "other")} == {"B", "D"}
    assert sorted(text("letter:wrong").replace(".", "").split()) in (["A", "C"], ["AC"])
    assert parts[-1] == "slot" and parts.count("slot") == 1
