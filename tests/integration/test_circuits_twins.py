"""Circuits on models whose mechanism is known: a twin is admitted on its own cue, and its circuit runs through it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med import load_model
from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.edges import edge_scores, token_scores
from sae_lens_med.circuits.faithfulness import Patching, split
from sae_lens_med.circuits.gate import gate
from sae_lens_med.circuits.node_controls import mean_scores
from sae_lens_med.circuits.node_faithfulness import ranked
from sae_lens_med.circuits.nodes import joined, node_scores, node_space, require_complete, run_texts, sink_rules
from sae_lens_med.circuits.spliced import SplicedModel
from sae_lens_med.circuits.twins import CUES, OrganismPairs, TwinCue, organism_pairs
from sae_lens_med.cli import app
from sae_lens_med.controls.organisms.cases import cases, item_of, write
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.prompts.tokens import question_prompt
from sae_lens_med.saes.releases import load_sae

TWINS: dict[str, TwinCue] = {"concepts": "findings", "shortcut": "place"}


@pytest.fixture(scope="module", params=[f"ko-{family}-{seed}" for family in TWINS for seed in range(3)])
def twin(request: pytest.FixtureRequest) -> tuple[str, GraphDecoder, dict[str, OrganismPairs]]:
    model = load_model(f"organism/{request.param}")
    own = TWINS[request.param.split("-")[1]]
    return own, GraphDecoder(model), {cue: organism_pairs(model.text_tokenizer, "ko", cue, 16) for cue in CUES}


def test_the_gate_admits_its_cue_and_refuses_the_other(
    twin: tuple[str, GraphDecoder, dict[str, OrganismPairs]],
) -> None:
    own, decoder, pairs = twin
    for cue, made in pairs.items():
        patching = Patching(decoder, made.pairs)
        found = gate(patching.runs, patching.ends())
        assert found.open == (cue == own), found.sentence
        if cue == own:
            assert found.right > 0.9 and found.follows > 0.9


def test_a_small_circuit_does_what_the_model_does(twin: tuple[str, GraphDecoder, dict[str, OrganismPairs]]) -> None:
    own, decoder, pairs = twin
    finding, judging = split(pairs[own].pairs)
    scores = edge_scores(decoder, finding).mean(0)
    patching = Patching(decoder, judging)
    shares = (0.1, 0.2, 0.5, 1.0)
    curve, drawn = (
        patching.curve(each, signed=False, shares=shares)
        for each in (scores, np.random.default_rng(0).normal(size=scores.shape))
    )
    assert abs(1 - curve.faithfulness[2]) < 0.2 and curve.area < drawn.area / 2


def test_what_supports_the_answer_stands_in_the_words_of_its_cue(
    twin: tuple[str, GraphDecoder, dict[str, OrganismPairs]],
) -> None:
    own, decoder, pairs = twin
    made = pairs[own]
    found = token_scores(decoder, made.pairs[:8])
    ends = Patching(decoder, made.pairs[:8]).ends()
    sums = [float(scores.sum()) for scores in found]
    assert np.mean(sums) == pytest.approx(ends.all - ends.none, rel=0.1)
    inside = sum(float(scores[list(at)].sum()) for scores, at in zip(found, made.at, strict=False))
    assert inside == pytest.approx(sum(sums), rel=1e-3)  # nothing else differs


# --- features ---------------------------------------------------------------------------------------------------------


def _cue_of(model: MedBridge, spliced: SplicedModel) -> dict[str, np.ndarray]:
    """Of each feature of the SAE, told from other cases: whether it fires most densely at the findings, the place, or
    elsewhere."""
    density = {cue: np.zeros(spliced.d_sae[0]) for cue in (*CUES, "rest")}
    for case in cases("independent", 48, 9_000):
        prompt = question_prompt(item_of(case, "ko", "case", "independent"), model.text_tokenizer)
        start = next(span.start for span in prompt.part_spans if span.label == "stem")
        written = write(case, "ko")
        spans = {"findings": written.findings, "place": (written.place,)}
        at = {
            cue: {
                t
                for t, (a, b) in enumerate(prompt.char_spans)
                if any(a < span.end + start and b > span.start + start for span in own)
            }
            for cue, own in spans.items()
        }
        at["rest"] = set(range(1, len(prompt.token_ids))) - at["findings"] - at["place"]
        run = spliced.read(torch.tensor([prompt.token_ids]), torch.tensor([[0, 1]]))
        acts = spliced.acts(0, run.x[0])[0].numpy()
        for cue, tokens in at.items():
            density[cue] += acts[sorted(tokens)].mean(0)
    most = np.stack(list(density.values())).argmax(0)
    return {cue: most == k for k, cue in enumerate(density)}


@pytest.mark.parametrize("name", [f"ko-{family}-{seed}" for family in TWINS for seed in range(3)])
def test_the_features_of_a_twins_circuit_are_those_of_its_cue(name: str) -> None:
    own = TWINS[name.split("-")[1]]
    other = next(cue for cue in CUES if cue != own)
    model = load_model(f"organism/{name}")
    spliced = SplicedModel(model, [load_sae(f"organism/{name}")])
    made = organism_pairs(model.text_tokenizer, "ko", own, 12).pairs
    space = node_space(spliced, made)
    runs = list(run_texts(spliced, made))
    sinks = sink_rules(spliced, runs)
    scores = joined([node_scores(spliced, space, run, sinks) for run in runs])
    assert (require_complete(scores, space) < 0.02).all()
    best = ranked(space, mean_scores(scores.scores), errors=False)[:20]
    _, _, feature = space.place(best)
    kind = _cue_of(model, spliced)
    share = {cue: float(kind[cue][feature].mean()) for cue in (own, other)}
    # Of all features a third to a half fire most at the findings, and an eighth to a third at the place.
    assert share[own] >= 0.85 and share[other] <= 0.1, share


@pytest.mark.parametrize("name", ["ko-concepts-0", "ko-shortcut-0"])
def test_the_gate_of_features_admits_its_cue_and_refuses_the_other(name: str, tmp_path: Path) -> None:
    own = TWINS[name.split("-")[1]]
    for cue in CUES:
        command = ["circuit", "nodes", "-m", f"organism/{name}", "-s", f"organism/{name}", "--task", cue, "--pairs",
                   "12", "--ig-steps", "6", "--random-circuits", "19", "-o", str(tmp_path / cue), "--json"]  # fmt: skip
        ended = CliRunner().invoke(app, command)
        assert ended.exit_code == 0, ended.output
        found = json.loads(ended.stdout)
        assert (found["curve"] is not None) == (cue == own), cue
        if cue != own:
            assert not found["nodes"] and not list((tmp_path / cue / "scores").iterdir())
            continue
        assert found["faithfulness"] > 0.5 > found["random_faithfulness"] and found["random_p"] == 0.05
        assert found["nodes"][0]["part"] == "changed" and max(found["missing"]) < 0.05
