"""What heads and MLPs write towards an answer adds up to it, and composition is a norm of products."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_med.circuits.composition import Composition, composition
from sae_lens_med.circuits.decoder import GraphDecoder
from sae_lens_med.circuits.direct import direct_effects, feature_effects
from tests.tiny import ARCHES, tiny_model
from tests.unit.test_circuits_edges import pairs_of


@pytest.fixture(scope="module", params=ARCHES)
def decoder(request: pytest.FixtureRequest) -> GraphDecoder:
    model = tiny_model(request.param)
    with torch.no_grad():  # gains and biases that are not those of a new model
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.plain.named_parameters():
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return GraphDecoder(model)


def test_direct_effects_add_up_to_the_models_margin(decoder: GraphDecoder) -> None:
    pairs = [*pairs_of(3), *pairs_of(5, length=14)[3:]]
    found = direct_effects(decoder, pairs)
    assert np.allclose(found.values.sum(1) + found.constant, found.margin, atol=1e-4)
    for pair, margin in zip(pairs, found.margin, strict=True):
        with torch.no_grad():
            logits = decoder.model.plain(torch.tensor([pair.clean])).logits[0, -1]
        assert margin == pytest.approx(float(logits[pair.answer] - logits[pair.other_answer]), abs=1e-4)
    assert found.writers[0] == "input" and (decoder.centres or not found.constant.any())


def test_a_direction_adds_what_a_write_in_it_does(decoder: GraphDecoder) -> None:
    [pair] = pairs_of(1)
    with torch.no_grad():
        wanted = torch.tensor([[pair.answer, pair.other_answer]])
        run = decoder.run(decoder.embed(torch.tensor([pair.clean])), wanted)
    found = feature_effects(decoder, pair, run.writes[0, :, -1])
    assert np.allclose(found, direct_effects(decoder, [pair]).values[0], atol=1e-4)
    units = feature_effects(decoder, pair, torch.eye(32))
    assert np.allclose(found, run.writes[0, :, -1].numpy() @ units, atol=1e-4)


def test_composition_is_the_norm_of_the_products(decoder: GraphDecoder) -> None:
    found = composition(decoder, draws=3)
    graph = decoder.graph
    early, late = decoder.head_weights(0), decoder.head_weights(2)
    ov = early.value[1] @ early.write[1]
    qk = late.query[3] @ late.key[3].T
    others: dict[Composition, torch.Tensor] = {"q": qk, "k": qk.T, "v": late.value[3] @ late.write[3]}
    for kind, other in others.items():
        expected = torch.linalg.norm(ov @ other) / torch.linalg.norm(ov) / torch.linalg.norm(other)
        assert found.scores[kind][1, 2 * graph.n_heads + 3] == pytest.approx(float(expected), rel=1e-4)
    assert np.isnan(found.scores["q"][graph.n_heads :, : graph.n_heads]).all()  # a later head is not read by an earlier


def test_random_heads_do_not_compose_and_planted_ones_do() -> None:
    decoder = GraphDecoder(tiny_model("llama"))
    before = composition(decoder, draws=40)
    later = ~np.isnan(before.z["v"])
    assert abs(np.median(before.z["v"][later])) < 1 and np.mean(np.abs(before.z["v"][later]) > 4) < 0.05
    assert np.sqrt(np.mean(before.scores["q"][later] ** 2)) == pytest.approx(before.chance, rel=0.15)
    with torch.no_grad():  # head 0 of layer 2 reads, as values, what head 1 of layer 0 writes
        wrote = decoder._layers[0].out[1]
        block: Any = decoder._blocks[2].self_attn
        block.v_proj.weight[:8] = torch.linalg.svd(wrote, full_matrices=False)[2][:8]
    after = composition(GraphDecoder(decoder.model), draws=40)
    n = decoder.graph.n_heads
    both = after.z["v"][1, [2 * n, 2 * n + 1]]  # the second shares the values of the first
    assert both.min() > 8 and both.max() == np.nanmax(after.z["v"])
