"""Circuits on models whose mechanism is known: a twin is admitted on its own cue, and its circuit runs through it."""

import numpy as np
import pytest

from sae_lens_med import load_model
from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.edges import edge_scores, token_scores
from sae_lens_med.circuits.faithfulness import Patching, split
from sae_lens_med.circuits.gate import gate
from sae_lens_med.circuits.twins import CUES, OrganismPairs, organism_pairs

TWINS = {"concepts": "findings", "shortcut": "place"}


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
