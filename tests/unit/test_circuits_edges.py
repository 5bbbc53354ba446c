"""Edges of a decoder: the graph's run is the model's, and scores are what removing edges does."""

from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_med.circuits.decoder import GraphDecoder, batched
from sae_lens_med.circuits.edges import edge_scores, run_pairs
from sae_lens_med.circuits.exam import Fact, fact_pairs, made_pairs
from sae_lens_med.circuits.faithfulness import Patching
from sae_lens_med.circuits.graph import Graph
from sae_lens_med.circuits.mib import to_mib
from sae_lens_med.circuits.pairs import Pair, metric
from sae_lens_med.errors import ConfigError, DataError, ModelError
from sae_lens_med.records import McqItem
from tests.tiny import ARCHES, Arch, tiny_model


def pairs_of(n: int, length: int = 20, seed: int = 0) -> list[Pair]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        clean = rng.integers(3, 300, length)
        other = clean.copy()
        other[5:9] = rng.integers(3, 300, 4)
        found.append(Pair(str(i), "ioi", tuple(clean.tolist()), tuple(other.tolist()), 10 + i, 50 + i))
    return found


@pytest.fixture(scope="module", params=ARCHES)
def decoder(request: pytest.FixtureRequest) -> GraphDecoder:
    return GraphDecoder(tiny_model(request.param))


def test_the_run_is_the_models(decoder: GraphDecoder) -> None:
    tokens = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    wanted = torch.arange(12)[None].repeat(2, 1)
    with torch.no_grad():
        run = decoder.run(decoder.embed(tokens), wanted)
        theirs = decoder.model.plain(tokens).logits[:, -1, :12]
    assert torch.allclose(run.logits, theirs, atol=1e-5)


def test_what_is_written_adds_up_to_the_residual_stream(decoder: GraphDecoder) -> None:
    tokens = torch.randint(3, 300, (1, 12), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        run = decoder.run(decoder.embed(tokens), torch.zeros((1, 1), dtype=torch.long))
        seen: list[torch.Tensor] = []

        def keep(_layer: Any, _args: Any, out: Any) -> None:
            seen.append(out[0] if isinstance(out, tuple) else out)

        handles = [layer.register_forward_hook(keep) for layer in decoder._blocks]
        decoder.model.plain(tokens)
        for handle in handles:
            handle.remove()
    for layer, after in enumerate(seen):
        written = run.writes[:, : decoder.graph.before(layer + 1)].sum(1)
        biases = sum(each.out_bias for each in decoder._layers[: layer + 1])
        assert torch.allclose(written + biases, after, atol=2e-5), layer


def test_all_edges_are_the_clean_text_and_none_the_other(decoder: GraphDecoder) -> None:
    pairs = pairs_of(3)
    patching = Patching(decoder, pairs)
    ends = patching.ends()
    edges = decoder.graph.edges
    assert patching.values(edges).mean() == pytest.approx(ends.all, abs=1e-5)
    assert patching.values(np.zeros_like(edges)).mean() == pytest.approx(ends.none, abs=1e-5)


def test_a_score_is_the_derivative_by_the_edges_mask(decoder: GraphDecoder) -> None:
    [pair] = pairs_of(1)
    scores = edge_scores(decoder, [pair], points=(1.0,))[0]
    wanted, clean, other = run_pairs(decoder, [pair])
    mask = torch.tensor(decoder.graph.edges, dtype=torch.float64)
    rng = np.random.default_rng(0)
    places = np.argwhere(decoder.graph.edges)
    chosen = places[rng.choice(len(places), 25, replace=False)]

    def value(at: tuple[int, int], change: float) -> float:
        changed = mask.clone()
        changed[at] += change
        with torch.no_grad():
            run = decoder.run(clean.writes[:, 0], wanted, mask=changed.float(), other=other.writes, keep=False)
        return float(metric(run)[0])

    slopes = [(value(tuple(at), 0.02) - value(tuple(at), -0.02)) / 0.04 for at in chosen.tolist()]
    assert np.corrcoef(slopes, scores[tuple(chosen.T)])[0, 1] > 0.999
    assert np.allclose(slopes, scores[tuple(chosen.T)], atol=2e-3 + 0.02 * np.abs(scores).max())
    assert not scores[~decoder.graph.edges].any()


def test_where_texts_hardly_differ_a_score_is_what_removing_the_edge_does(decoder: GraphDecoder) -> None:
    [pair] = pairs_of(1, seed=5)
    embedding = decoder.model.plain.get_input_embeddings().weight
    kept = embedding.detach().clone()
    noise = torch.randn(4, embedding.shape[1], generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            for k, place in enumerate(range(5, 9)):
                embedding[pair.other[place]] = embedding[pair.clean[place]] + 1e-3 * noise[k]
        patching = Patching(decoder, [pair])
        whole = patching.values(decoder.graph.edges)[0]
        scores = edge_scores(decoder, [pair])[0]
        places = np.argwhere(np.abs(scores) > 0.2 * np.abs(scores).max())
        assert len(places) >= 3
        for at in places.tolist():
            without = decoder.graph.edges.copy()
            without[tuple(at)] = False
            assert whole - patching.values(without)[0] == pytest.approx(scores[tuple(at)], rel=0.1)
    finally:
        with torch.no_grad():
            embedding.copy_(kept)


def test_batches_do_not_change_scores() -> None:
    decoder = GraphDecoder(tiny_model("gemma3"))
    pairs = [*pairs_of(3), *pairs_of(5, length=14)[3:]]
    together = edge_scores(decoder, pairs, batch_tokens=10_000)
    alone = np.stack([edge_scores(decoder, [pair])[0] for pair in pairs])
    assert np.allclose(together, alone, atol=1e-5)


def test_grouped_heads_share_their_keys() -> None:
    graph = GraphDecoder(tiny_model("qwen3")).graph
    assert (graph.n_writers, graph.n_readers) == (1 + 3 * 5, 3 * (4 + 2 + 2 + 1) + 1)
    assert graph.readers[:9] == (
        "a0.h0<q>", "a0.h1<q>", "a0.h2<q>", "a0.h3<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>", "m0",
    )  # fmt: skip
    assert Graph(18, 4, 1).n_edges == 5644  # Gemma 3 270M
    assert (
        graph.n_edges
        == sum((graph.n_heads + 2 * graph.n_kv_heads) * (1 + 5 * layer) + 1 + 5 * layer + 4 for layer in range(3)) + 16
    )


def test_edges_off_every_path_are_left_out_and_change_nothing() -> None:
    decoder = GraphDecoder(tiny_model("qwen3"))
    graph = decoder.graph
    patching = Patching(decoder, pairs_of(2))
    rng = np.random.default_rng(0)
    fewer = 0
    for _ in range(10):
        circuit = (rng.random(graph.edges.shape) < 0.08) & graph.edges
        kept = graph.connected(circuit)
        assert not (kept & ~circuit).any()
        fewer += circuit.sum() > kept.sum()
        assert np.allclose(patching.values(kept), patching.values(circuit), atol=1e-5)
    assert fewer


def test_the_benchmarks_file_has_a_key_for_each_head_and_the_same_sums() -> None:
    graph = Graph(2, 4, 2)
    rng = np.random.default_rng(0)
    scores = np.where(graph.edges, rng.normal(size=graph.edges.shape), 0)
    written = to_mib(graph, scores, graph.best(scores, 20), 32)
    assert written["cfg"] == {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": False, "d_model": 32}
    assert len(written["edges"]) == Graph(2, 4, 4).n_edges  # that of the benchmark has a key for each head
    assert sum(each["score"] for each in written["edges"].values()) == pytest.approx(scores.sum())
    parts = [written["edges"][f"input->a0.h{head}<k>"]["score"] for head in (2, 3)]
    assert sum(parts) == pytest.approx(scores[graph.place("input->a0.h1<k>")]) and parts[0] == parts[1]


def test_pairs_are_checked() -> None:
    with pytest.raises(DataError, match="3 and 2 tokens"):
        Pair("x", "ioi", (1, 2, 3), (1, 2), 5, 6)
    with pytest.raises(DataError, match="same answer"):
        Pair("x", "ioi", (1, 2), (1, 3), 5, 5)
    with pytest.raises(DataError, match="the same"):
        Pair("x", "ioi", (1, 2), (1, 2), 5, 6)
    with pytest.raises(DataError, match="not among its choices"):
        Pair("x", "ioi", (1, 2), (1, 3), 5, 6, (6, 7))
    with pytest.raises(ModelError, match="one length"):
        batched([(1, 2), (1,)], "cpu")
    decoder = GraphDecoder(tiny_model("llama"))
    with pytest.raises(ConfigError, match="lie between 0"):
        edge_scores(decoder, pairs_of(1), points=(1.5,))
    with pytest.raises(DataError, match="no node 'a9.h0'"):
        decoder.graph.place("a9.h0->m1")
    with pytest.raises(DataError, match="does not come before"):
        decoder.graph.place("m1->m0")


def item(answer: int | None = 1) -> McqItem:
    return McqItem("q", "doctor", "ko", "A 환자. 알맞은 치료는?", ("A 약", "물", "B 약", "잠"), answer)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_relabelling_changes_letters_alone(arch: Arch) -> None:
    tokenizer = tiny_model(arch).text_tokenizer
    [pair] = made_pairs([item()], tokenizer, "relabel").pairs
    clean, other = tokenizer.decode(pair.clean), tokenizer.decode(pair.other)
    assert [line.partition(".")[0] for line in other.splitlines()[1:5]] == list("EFGH")
    assert [line.partition(". ")[2] for line in other.splitlines()[1:5]] == ["A 약", "물", "B 약", "잠"]
    assert clean.splitlines()[0] == other.splitlines()[0] and clean.splitlines()[5:] == other.splitlines()[5:]
    assert tokenizer.decode([pair.answer]).strip() == "B" and tokenizer.decode([pair.other_answer]).strip() == "F"


def test_swapping_moves_the_right_text() -> None:
    tokenizer = tiny_model().text_tokenizer
    [pair] = made_pairs([item()], tokenizer, "swap", seed=1).pairs
    other = tokenizer.decode(pair.other).splitlines()
    letter = tokenizer.decode([pair.other_answer]).strip()
    assert letter != "B" and f"{letter}. 물" in other
    assert sorted(line[3:] for line in other[1:5]) == sorted(item().options)


def test_facts_are_of_items_and_change_the_answer() -> None:
    tokenizer = tiny_model().text_tokenizer
    fact = Fact("B 환자. 알맞은 치료는?", 2)
    [pair] = fact_pairs([item()], {"q": fact}, tokenizer).pairs
    assert pair.kind == "fact" and tokenizer.decode([pair.other_answer]).strip() == "C"
    longer = fact_pairs([item()], {"q": Fact("아주 다른 환자. 알맞은 치료는?", 2)}, tokenizer)
    assert longer.pairs == () and longer.unequal == ("q",)
    assert fact_pairs([item()], {}, tokenizer).unanswered == ("q",)
    with pytest.raises(DataError, match="which is no item"):
        fact_pairs([item()], {"r": fact}, tokenizer)
    with pytest.raises(DataError, match="one of its other options, got B"):
        fact_pairs([item()], {"q": Fact("x", 1)}, tokenizer)
    assert made_pairs([item(None)], tokenizer, "swap").unanswered == ("q",)
