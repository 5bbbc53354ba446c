"""Circuits of Gemma 3 270M: a task that it does, and the exam, which it does not."""

import numpy as np

from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.direct import direct_effects
from sae_lens_med.circuits.edges import edge_scores, midpoints
from sae_lens_med.circuits.exam import made_pairs
from sae_lens_med.circuits.faithfulness import Patching, split
from sae_lens_med.circuits.gate import gate
from sae_lens_med.circuits.ioi import ioi_pairs
from sae_lens_med.data import load_items
from sae_lens_med.models.bridge import MedBridge

SHARES = (0.005, 0.02, 0.1, 1.0)


def test_indirect_objects_are_admitted_and_a_twentieth_of_the_edges_finds_them(gemma: MedBridge) -> None:
    decoder = GraphDecoder(gemma)
    assert decoder.graph.n_edges == 5644
    pairs = ioi_pairs(gemma.text_tokenizer, 12)
    patching = Patching(decoder, pairs)
    found = gate(patching.runs, patching.ends())
    assert found.open and found.right == found.follows == 1
    direct = direct_effects(decoder, pairs)
    assert np.allclose(direct.values.sum(1) + direct.constant, direct.margin, atol=1e-3)
    finding, judging = split(pairs)
    scores = edge_scores(decoder, finding, points=midpoints(2)).mean(0)
    curve = Patching(decoder, judging).curve(scores, signed=False, shares=SHARES)
    assert curve.area < 0.1 and abs(1 - curve.faithfulness[2]) < 0.15  # random edges: 0.75


def test_the_exam_is_refused(gemma: MedBridge) -> None:
    made = made_pairs(load_items("sample").items, gemma.text_tokenizer, "relabel")
    patching = Patching(GraphDecoder(gemma), made.pairs[:8])
    found = gate(patching.runs, patching.ends())
    assert not found.open and found.sentence.startswith("No behaviour to explain: ")
