"""A circuit's gate, curves and controls, and the folder of a run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med.circuits import run as running
from sae_lens_med.circuits.decoder import GraphDecoder, batched
from sae_lens_med.circuits.faithfulness import SHARES, Patching, settled, split
from sae_lens_med.circuits.gate import gate
from sae_lens_med.circuits.graph import Graph
from sae_lens_med.circuits.pairs import Pair
from sae_lens_med.circuits.run import EdgeSettings, find_edges, random_circuit
from sae_lens_med.circuits.stability import bootstrap_jaccard
from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.models.bridge import MedBridge
from tests.tiny import save_tiny_model, tiny_model
from tests.unit.test_circuits_edges import pairs_of


def answered(decoder: GraphDecoder, n: int, seed: int = 0) -> list[Pair]:
    """Pairs whose answers are those that the model gives, so that there is a behaviour."""
    found = []
    for pair in pairs_of(4 * n, seed=seed):
        with torch.no_grad():
            said = [
                int(decoder.model.plain(batched([ids], "cpu")).logits[0, -1, 3:300].argmax()) + 3
                for ids in (pair.clean, pair.other)
            ]
        if said[0] != said[1]:
            choices = tuple(said if len(found) % 2 else said[::-1])
            found.append(replace(pair, answer=said[0], other_answer=said[1], choices=choices))
        if len(found) == n:
            return found
    raise AssertionError("the model says the same to both texts")


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def pairs(model: MedBridge) -> list[Pair]:
    return answered(GraphDecoder(model), 16)


def test_the_gate_is_open_where_the_model_answers_and_follows(model: MedBridge, pairs: list[Pair]) -> None:
    patching = Patching(GraphDecoder(model), pairs)
    found = gate(patching.runs, patching.ends())
    assert found.open and (found.right, found.follows) == (1.0, 1.0)
    assert 0.4 < found.null < 0.6 and found.p < 0.01
    assert found.sentence.startswith("There is a behaviour to explain: 100.0% of 16")


@pytest.mark.parametrize("seed", range(3))
def test_the_gate_is_closed_for_answers_that_the_model_does_not_give(model: MedBridge, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = [replace(pair, choices=tuple(rng.permutation([pair.answer, pair.other_answer]).tolist()))
             for pair in pairs_of(16, seed=seed)]  # fmt: skip
    patching = Patching(GraphDecoder(model), drawn)
    found = gate(patching.runs, patching.ends())
    assert not found.open and found.sentence.startswith("No behaviour to explain: ")


def test_a_model_that_always_says_the_same_letter_is_no_better_than_its_letters(model: MedBridge) -> None:
    decoder = GraphDecoder(model)
    [first] = answered(decoder, 1)
    letters = (first.answer, first.other_answer, 5, 6)
    same = [
        replace(first, id=str(k), answer=letters[k % 4], other_answer=letters[(k + 1) % 4], choices=letters)
        for k in range(16)
    ]
    patching = Patching(decoder, same)
    found = gate(patching.runs, patching.ends())
    assert found.right == 0.25 and found.p > 0.5 and not found.open
    assert "no better than their own letters in another order" in found.sentence


def test_a_liking_for_the_commonest_letter_is_no_behaviour(model: MedBridge) -> None:
    decoder = GraphDecoder(model)
    [first] = answered(decoder, 1)
    letters = (first.answer, first.other_answer, 5, 6)
    common = [
        replace(
            first, id=str(k), answer=letters[max(0, k - 10)], other_answer=letters[max(0, k - 10) - 1], choices=letters
        )
        for k in range(14)
    ]
    patching = Patching(decoder, common)
    found = gate(patching.runs, patching.ends())
    assert found.right == pytest.approx(11 / 14) == found.null and found.p == 1 and not found.open


def test_right_answers_that_do_not_follow_the_change_are_no_behaviour(model: MedBridge, pairs: list[Pair]) -> None:
    never = []
    for k, pair in enumerate(pairs):
        choices = (pair.answer, 7) if k % 2 else (7, pair.answer)
        never.append(replace(pair, other_answer=7, choices=choices, other_choices=(pair.other_answer, 7)))
    patching = Patching(GraphDecoder(model), never)
    found = gate(patching.runs, patching.ends())
    assert found.right > 0.9 and found.p < 0.05 and found.ends.clear
    assert found.follows < 0.6 and not found.open and "fewer than 60% follow the change" in found.sentence


def test_curves_end_where_all_edges_are_and_areas_are_trapezoids(model: MedBridge, pairs: list[Pair]) -> None:
    patching = Patching(GraphDecoder(model), pairs[:8])
    rng = np.random.default_rng(0)
    scores = rng.normal(size=patching.decoder.graph.edges.shape)
    for signed in (False, True):
        curve = patching.curve(scores, signed=signed)
        assert curve.shares == SHARES and curve.faithfulness[-1] == pytest.approx(1, abs=1e-4)
        heights = [f if signed else abs(1 - f) for f in curve.faithfulness]
        area = sum((SHARES[i + 1] - SHARES[i]) * (heights[i] + heights[i + 1]) / 2 for i in range(len(SHARES) - 1))
        assert curve.area == pytest.approx(area)
        order = scores if signed else np.abs(scores)
        circuit = patching.decoder.graph.best(order, curve.n_edges[6])
        assert curve.values[6] == pytest.approx(patching.values(circuit).mean(), abs=1e-5)
        ends = patching.ends()
        assert curve.faithfulness[6] == pytest.approx((curve.values[6] - ends.none) / (ends.all - ends.none))


@pytest.mark.parametrize(
    ("faithfulness", "size"),
    [
        ((0.92, 0.6, 0.95, 1.0), 30),
        ((0.2, 0.5, 0.8, 1.0), 40),
        ((1.05, 0.95, 1.08, 1.0), 10),
        ((1.0, 1.0, 1.0, 1.2), None),
    ],
)
def test_a_circuit_is_one_from_which_on_all_larger_ones_are_faithful(
    faithfulness: tuple[float, ...], size: int | None
) -> None:
    assert settled((10, 20, 30, 40), faithfulness) == size


def test_no_curve_without_a_behaviour(model: MedBridge) -> None:
    same = [Pair(str(k), "ioi", pair.clean, (*pair.clean[:-2], pair.clean[-1], pair.clean[-2]), 10, 11)
            for k, pair in enumerate(pairs_of(2))]  # fmt: skip
    undecided = [replace(same[0], id="a"), replace(same[0], id="b", answer=11, other_answer=10)]
    patching = Patching(GraphDecoder(model), undecided)
    with pytest.raises(DataError, match="no behaviour to explain"):
        patching.curve(np.zeros(patching.decoder.graph.edges.shape), signed=False)
    with pytest.raises(DataError, match="two pairs or more"):
        Patching(GraphDecoder(model), undecided[:1]).ends()


def test_halves_are_disjoint_and_whole(pairs: list[Pair]) -> None:
    first, second = split(pairs)
    assert len(first) == len(second) == 8
    assert {p.id for p in first} | {p.id for p in second} == {p.id for p in pairs}
    with pytest.raises(DataError, match="four or more"):
        split(pairs[:3])


def test_a_random_circuit_has_as_many_edges_into_each_kind_of_reader() -> None:
    graph = Graph(3, 4, 2)
    rng = np.random.default_rng(0)
    circuit = graph.best(rng.normal(size=graph.edges.shape), 60)
    drawn = [random_circuit(graph, circuit, rng) for _ in range(5)]

    def counts(edges: np.ndarray) -> dict[str, int]:
        kinds = [("logits" if name == "logits" else name[-3:] if name.endswith(">") else "m") for name in graph.readers]
        return {kind: int(edges[[k == kind for k in kinds]].sum()) for kind in set(kinds)}

    assert all(counts(each) == counts(circuit) for each in drawn)
    assert not any((each & ~graph.edges).any() for each in drawn)
    assert len({each.tobytes() for each in drawn}) == 5


def test_circuits_of_items_that_agree_are_the_same_and_of_noise_are_not() -> None:
    graph = Graph(2, 2, 2)
    rng = np.random.default_rng(0)
    same = np.repeat(rng.normal(size=(1, *graph.edges.shape)), 12, axis=0)
    assert bootstrap_jaccard(graph, same, 10, signed=False)[0] == 1
    noise = rng.normal(size=(12, *graph.edges.shape))
    assert bootstrap_jaccard(graph, noise, 10, signed=False)[0] < 0.7
    with pytest.raises(DataError, match="two items"):
        bootstrap_jaccard(graph, same[:1], 10, signed=False)


def test_a_run_writes_its_circuit_and_goes_on_where_it_was_stopped(
    model: MedBridge, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EdgeSettings(ig_steps=2, random_circuits=3)
    whole = find_edges(model, pairs, tmp_path / "whole", settings, task="test", progress=False)
    monkeypatch.setattr(running, "CHUNK", 4)
    stopped, scored = 0, running.edge_scores

    def once(*args: object, **rest: object) -> object:
        nonlocal stopped
        stopped += 1
        if stopped == 2:
            raise KeyboardInterrupt
        return scored(*args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "edge_scores", once)
    with pytest.raises(KeyboardInterrupt):
        find_edges(model, pairs, tmp_path / "b", settings, task="test", progress=False)
    again = find_edges(model, pairs, tmp_path / "b", settings, task="test", progress=False)
    assert stopped == 3  # the first batch was not scored again
    assert again.curve is not None and whole.curve is not None
    assert again.curve.area == pytest.approx(whole.curve.area, abs=1e-4) and again.n_edges == whole.n_edges
    for name in ("circuit.json", "edges.csv", "mib.json", "curve.svg", "manifest.json"):
        assert (tmp_path / "b" / name).is_file(), name
    rows = (tmp_path / "b" / "edges.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + whole.n_graph
    in_circuit = sum(row.endswith("True") for row in rows)
    assert in_circuit == (whole.n_edges or 0)
    with pytest.raises(StudyError):
        find_edges(model, pairs, tmp_path / "b", replace(settings, seed=1), task="test", progress=False)


def test_a_closed_gate_is_all_that_is_said(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", "qwen3")
    rows = [
        {"id": str(k), "subject": "doctor", "question": f"{'ABCD'[k % 4]} 환자의 병은?",
         "options": ["A 병", "B 병", "C 병", "D 병"], "answer": "ABCD"[k % 4]}
        for k in range(12)
    ]  # fmt: skip
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    command = ["circuit", "edges", "-m", str(folder), "--task", "swap", "-d", str(data), "-o", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, [*command, "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["curve"] is None and found["edges"] == [] and found["n_found"] == 6
    assert not list((tmp_path / "out" / "scores").iterdir())
    assert json.loads((tmp_path / "out" / "circuit.json").read_text(encoding="utf-8")) == found
    for wrong, said in (
        (["--task", "swop"], "did you mean swap"),
        (["--task", "ioi"], "--data is for the tasks"),
        (["--task", "fact"], "--facts is for the task fact"),
    ):
        ended = CliRunner().invoke(app, [*command[:4], *wrong, "-d", str(data), "-o", str(tmp_path / "other")])
        assert ended.exit_code == 2 or ended.exception is not None
        assert said in str(ended.exception) + ended.output


def test_settings_are_checked() -> None:
    for wrong in ({"ig_steps": -1}, {"random_circuits": -1}, {"batch_tokens": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EdgeSettings(**wrong)
