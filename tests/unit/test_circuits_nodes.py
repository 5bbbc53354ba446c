"""Circuits of features: scores beside known mechanisms and a splice written out, and what circuits do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import roc_auc_score

from sae_lens_med.circuits.clusters import assigned, clustered, silhouette
from sae_lens_med.circuits.node_controls import RandomCircuits, mean_scores, node_jaccard, sign_consistency
from sae_lens_med.circuits.node_faithfulness import NodePatching, chosen, ranked
from sae_lens_med.circuits.nodes import (
    NodeScores,
    NodeSpace,
    PairRun,
    SinkRules,
    joined,
    node_scores,
    node_space,
    require_complete,
    run_texts,
    sink_rules,
)
from sae_lens_med.circuits.pairs import Pair, metric
from sae_lens_med.circuits.spliced import SplicedModel
from sae_lens_med.errors import ConfigError, DataError, ModelError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.saes.releases import LoadedSae
from tests import known_model as known
from tests.tiny import ARCHES, tiny_model, tiny_sae
from tests.unit.test_circuits_edges import pairs_of

ZERO, ONE = "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"


def loaded(model: MedBridge, hook: str, seed: int = 0) -> LoadedSae:
    return LoadedSae(tiny_sae(model, hook, seed=seed), f"tiny-{seed}", "tiny", str(seed), hook, None)


class Case:
    """Model, SAEs and pairs, read."""

    def __init__(self, spliced: SplicedModel, pairs: list[Pair]) -> None:
        self.spliced, self.pairs = spliced, pairs
        self.space: NodeSpace = node_space(spliced, pairs)
        self.runs: list[PairRun] = list(run_texts(spliced, pairs))
        self.sinks: SinkRules = sink_rules(spliced, self.runs)
        self.patching = NodePatching(spliced, self.space, self.runs, self.sinks)

    def scores(self, ig_steps: int) -> NodeScores:
        return joined([node_scores(self.spliced, self.space, run, self.sinks, ig_steps=ig_steps) for run in self.runs])

    def node(self, hook: int, part: str, feature: int) -> int:
        return self.space.first[hook] + self.space.parts.index(part) * (self.space.d_sae[hook] + 1) + feature


@pytest.fixture(scope="module", params=ARCHES)
def tiny(request: pytest.FixtureRequest) -> Case:
    model = tiny_model(request.param)
    return Case(SplicedModel(model, [loaded(model, ONE, seed=1), loaded(model, ZERO)]), pairs_of(3))


def planted(symbols: list[tuple[list[int], list[int]]], answers: list[tuple[int, int]]) -> Case:
    """Texts of twelve plain symbols, whose third and later are the given ones in either text."""
    rng = np.random.default_rng(0)
    pairs = []
    for i, ((clean, other), answer) in enumerate(zip(symbols, answers, strict=True)):
        both = []
        plain = rng.choice(known.PLAIN, 12, replace=False).tolist()
        for own in (clean, other):
            text = plain.copy()
            text[2 : 2 + len(own)] = own
            both.append(tuple(known.token_of(s) for s in text))
        pairs.append(
            Pair(str(i), "fact", both[0], both[1], known.letter_token(answer[0]), known.letter_token(answer[1]))
        )
    return Case(SplicedModel(known.planted_model(), known.planted_saes()), pairs)


TURNS = [(0, 1), (1, 2), (2, 3), (3, 0)]


@pytest.fixture(scope="module")
def hops() -> Case:
    return planted([([known.SOURCE + a], [known.SOURCE + b]) for a, b in TURNS], TURNS)


def test_two_hops_are_found_and_nothing_else(hops: Case) -> None:
    scores = hops.scores(10)
    assert hops.spliced.hooks == (ZERO, ONE)
    true = {hops.node(0, "changed", known.SOURCE + k) for k in range(4)}
    for part in ("changed", "after", "slot"):
        true |= {hops.node(1, part, known.HIDDEN_AT + k) for k in range(4)}
    mean = mean_scores(scores.scores)
    label = np.isin(np.arange(hops.space.n_nodes), sorted(true))
    assert roc_auc_score(label, np.abs(mean)) == 1.0
    assert min(mean[sorted(true)]) > 1e-3  # each supports the clean answer
    # The copy goes along with its source wherever it fires, and moves nothing but the norm of its token: of squares 9,
    # 1 and 1, so that without it the rest counts for at most sqrt(11 / 10) of what it did.
    copies = [hops.node(0, "changed", known.COPY + k) for k in range(4)]
    sources = [hops.node(0, "changed", known.SOURCE + k) for k in range(4)]
    assert np.abs(mean[copies]).max() < (1.1**0.5 - 1) * mean[sources].min()
    # Integrated gradients sum to the effect of each hook, which is all of it: the other text stands there.
    missing = np.abs(scores.missing(hops.space))
    assert (missing < 1e-3 * np.abs(scores.effect)).all()
    ends = hops.patching.ends()
    assert scores.effect.mean(0) == pytest.approx([ends.all - ends.none] * 2, rel=1e-5)


def test_what_opposes_the_answer_has_the_other_sign() -> None:
    case = planted(
        [([known.SOURCE + a, known.OPPOSING + a], [known.SOURCE + b, known.PLAIN[-1]]) for a, b in TURNS], TURNS
    )
    mean = mean_scores(case.scores(10).scores)
    assert all(mean[case.node(0, "changed", known.OPPOSING + k)] < -1e-3 for k in range(4))
    # Exact: with the feature gone, and nothing else, the answer is clearer.
    gone = np.ones(case.space.n_nodes, dtype=bool)
    gone[[case.node(0, "changed", known.OPPOSING + k) for k in range(4)]] = False
    assert case.patching.values(gone).mean() > case.patching.ends().all


def test_attribution_misses_a_saturated_feature_and_integrated_gradients_do_not() -> None:
    case = planted([([known.VALUE + a], [known.ALONE + a]) for a, _ in TURNS], TURNS)
    key = case.node(0, "changed", known.KEY)
    gradient, path = (mean_scores(case.scores(k).scores)[key] for k in (0, 50))
    exact = case.patching.ends().all - case.patching.ends().none
    # The gradient sees the norm of the token, whose square is 11: a part of m below 1/11, and of the wrong sign.
    assert exact > 10 and -case.patching.ends().all / 11 < gradient < 0
    assert path == pytest.approx(exact, rel=1e-3)
    require_complete(case.scores(50), case.space)
    with pytest.raises(DataError, match=r"--ig-steps"):
        require_complete(case.scores(2), case.space)


def test_features_that_back_each_other_up_share_what_neither_has_alone() -> None:
    case = planted([([known.VALUE + a] * 2, [known.PLAIN[-1], known.PLAIN[-2]]) for a, _ in TURNS], TURNS)
    # Parts are sums over tokens, so that the two stand apart only in parts of their own.
    pairs = [
        replace(pair, parts=tuple("one" if t == 2 else "two" if t == 3 else "rest" for t in range(len(pair.clean))))
        for pair in case.pairs
    ]
    case = Case(case.spliced, pairs)
    one, two = ([case.node(0, part, f) for f in range(case.space.d_sae[0] + 1)] for part in ("one", "two"))

    def fall(nodes: list[int]) -> float:
        kept = np.ones(case.space.n_nodes, dtype=bool)
        kept[nodes] = False
        return case.patching.ends().all - float(case.patching.values(kept).mean())

    assert abs(fall(one)) < 0.05 * fall(one + two)
    mean = mean_scores(case.scores(50).scores)
    shares = [mean[nodes].sum() for nodes in (one, two)]
    assert shares[0] == pytest.approx(shares[1], rel=0.05) and sum(shares) == pytest.approx(fall(one + two), rel=0.01)


def test_scores_sum_to_the_effect_on_a_linear_path(hops: Case) -> None:
    plain = hops.spliced._plain
    norms = {name: module for name, module in plain.named_modules() if name.endswith("norm")}
    try:
        for name in norms:
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, torch.nn.Identity())
        case = Case(hops.spliced, hops.pairs)
        for steps in (0, 1):
            scores = case.scores(steps)
            assert np.abs(scores.effect).min() > 0.1
            assert np.abs(scores.missing(case.space)).max() < 1e-5
    finally:
        for name, module in norms.items():
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, module)


def test_attribution_is_that_of_a_splice_written_out(tiny: Case) -> None:
    """dec(f) + eps + (x - stopgrad x), with leaves f and eps at both hooks, in one backward pass."""
    [run] = tiny.runs
    leaves: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.enable_grad():

        def spliced(h: int):  # noqa: ANN202
            def edit(x: torch.Tensor) -> torch.Tensor:
                sae = tiny.spliced.saes[h].sae
                f = sae.encode(x.detach()).detach().requires_grad_()
                eps = (x - sae.decode(f)).detach().requires_grad_()
                leaves.append((f, eps))
                return sae.decode(f) + eps + (x - x.detach())

            return edit

        # Something below the first hook must ask for gradients, as the third term hands them on.
        x = run.clean.x[0].detach().requires_grad_()
        first = spliced(0)
        logits = tiny.spliced.run(run.clean, run.wanted, {0: lambda _: first(x), 1: spliced(1)})
        m = (logits[:, 0] - logits[:, 1]).sum()
        found = torch.autograd.grad(m, [leaf for both in leaves for leaf in both])
    assert torch.allclose(logits, run.clean.logits, atol=1e-4)
    scores = tiny.scores(0).scores.toarray()
    parts = tiny.space.of_pairs(run.pairs, tiny.spliced.device)
    with torch.no_grad():
        for h in range(2):
            sae = tiny.spliced.saes[h].sae
            f, other = sae.encode(run.clean.x[h]), sae.encode(run.other.x[h])
            eps = run.clean.x[h] - sae.decode(f) - (run.other.x[h] - sae.decode(other))
            each = torch.cat([(f - other) * found[2 * h], (eps * found[2 * h + 1]).sum(-1, keepdim=True)], -1)
            each = each * ~tiny.sinks.left_out(tiny.spliced, run, h)[..., None]
            for p in range(len(tiny.space.parts)):
                expected = (each * (parts == p)[..., None]).sum(1)
                first_node = tiny.space.first[h] + p * (tiny.space.d_sae[h] + 1)
                own = scores[:, first_node : first_node + tiny.space.d_sae[h] + 1]
                assert np.allclose(own, expected.numpy(), atol=1e-4 * max(1, float(expected.abs().max())))


def test_integrated_gradients_sum_to_the_effect(tiny: Case) -> None:
    effect, few, many = tiny.scores(1).effect, tiny.scores(4), tiny.scores(64)
    missing = [np.abs(scores.missing(tiny.space)).sum() for scores in (few, many)]
    assert missing[1] < 0.25 * missing[0] and missing[1] < 0.01 * np.abs(effect).sum()


def test_all_nodes_are_the_model_and_none_the_other_text(tiny: Case) -> None:
    everything = np.ones(tiny.space.n_nodes, dtype=bool)
    clean = np.concatenate([metric(run.clean).numpy() for run in tiny.runs])
    assert (tiny.patching.values(everything) == clean).all()
    other = np.concatenate([metric(run.other).numpy() for run in tiny.runs])
    assert np.allclose(tiny.patching.values(~everything), other, atol=1e-4)


def test_a_patched_node_is_what_the_bridge_does_when_it_is_patched(tiny: Case) -> None:
    mean = mean_scores(tiny.scores(10).scores)
    [run] = tiny.runs
    parts = tiny.space.of_pairs(run.pairs, tiny.spliced.device)
    for node in ranked(tiny.space, mean, errors=False)[:3].tolist():
        hook, part, feature = (int(each) for each in tiny.space.place(np.array(node)))
        kept = np.ones(tiny.space.n_nodes, dtype=bool)
        kept[node] = False
        sae = tiny.spliced.saes[hook].sae

        def patch(
            x: torch.Tensor,
            hook: object,
            sae=sae,
            at=hook,
            part=part,
            feature=feature,  # noqa: ANN001, ARG001
        ) -> torch.Tensor:
            step = sae.encode(run.other.x[at])[..., feature] - sae.encode(x)[..., feature]
            return x + (step * (parts == part))[..., None] * sae.W_dec[feature]

        with torch.no_grad():
            logits = tiny.spliced.model.run_with_hooks(
                run.clean.tokens, prepend_bos=False, fwd_hooks=[(tiny.space.hooks[hook], patch)]
            )[:, -1]
        expected = [float(logits[i, p.answer] - logits[i, p.other_answer]) for i, p in enumerate(run.pairs)]
        assert tiny.patching.values(kept) == pytest.approx(expected, abs=1e-3)


def test_special_tokens_have_no_nodes() -> None:
    model = tiny_model("gemma3")
    spliced = SplicedModel(model, [loaded(model, ZERO)])
    pairs = [replace(p, clean=(2, *p.clean[1:]), other=(2, *p.other[1:]), parts=("bos", *["text"] * 19))
             for p in pairs_of(2)]  # fmt: skip
    case = Case(spliced, pairs)
    scores = case.scores(1)
    assert (scores.left_out >= 1).all() and "norm > 5" in case.sinks.rules[0]
    first = case.node(0, "bos", 0)
    assert not scores.scores[:, first : first + 65].toarray().any()


def test_saes_that_do_not_go_together_are_refused() -> None:
    model = tiny_model("qwen3")
    with pytest.raises(ConfigError, match="each of another hook"):
        SplicedModel(model, [loaded(model, ZERO), loaded(model, ZERO, seed=1)])
    with pytest.raises(ModelError, match="hook_resid_posts"):
        SplicedModel(model, [loaded(model, "blocks.0.hook_resid_posts")])


def space_of(width: int = 40) -> NodeSpace:
    return NodeSpace((ZERO,), (width,), ("stem", "slot"))


def drawn_scores(space: NodeSpace, items: int, seed: int = 0) -> sparse.csr_array:
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.1, 1, space.n_nodes)
    return sparse.csr_array(rng.normal(size=(items, space.n_nodes)) * (rng.random((items, space.n_nodes)) < rate))


def test_random_circuits_have_the_shape_of_the_circuit() -> None:
    space = space_of()
    scores = drawn_scores(space, 16)
    circuit = chosen(space, ranked(space, mean_scores(scores))[:20])
    circuit[40] = True  # an error
    random = RandomCircuits(space, scores, circuit)
    common = np.bincount(scores.indices, minlength=space.n_nodes)

    def shape(nodes: np.ndarray) -> list[tuple[int, int]]:
        own = np.flatnonzero(nodes)
        own = own[~space.is_error(own)]
        return sorted(
            zip(space.place(own)[1].tolist(), np.floor(np.log2(common[own])).astype(int).tolist(), strict=True)
        )

    rng = np.random.default_rng(1)
    drawn = [random.draw(rng) for _ in range(300)]
    assert all(shape(each) == shape(circuit) and each[40] for each in drawn)
    fresh = np.mean([(each & ~circuit).sum() / (each.sum() - 1) for each in drawn])
    assert random.fresh == pytest.approx(fresh, abs=0.05) and random.fresh > 0.1


def test_jaccard_of_items_that_agree_is_one_and_of_noise_is_not() -> None:
    space = space_of()
    one = np.random.default_rng(0).normal(size=(1, space.n_nodes))
    assert node_jaccard(space, sparse.csr_array(np.repeat(one, 8, axis=0)), 10)[0] == 1
    assert node_jaccard(space, drawn_scores(space, 8), 10)[0] < 0.7
    with pytest.raises(DataError, match="two items"):
        node_jaccard(space, sparse.csr_array(one), 10)


def test_signs_are_counted_where_a_node_stands() -> None:
    values = np.zeros((10, 82))
    values[:, 0] = 1
    values[:8, 1] = [1, 1, 1, -1, 1, 1, 1, -1]
    values[:4, 2] = [-1, -1, 1, 1]
    signs = sign_consistency(sparse.csr_array(values), np.array([0, 1, 2]))
    assert signs.n_items.tolist() == [10, 8, 4]
    assert signs.consistency.tolist() == [1, 0.75, 0.5]
    assert (signs.low[0], signs.high[0]) == (1, 1) and signs.low[1] < 0.6 < 0.9 < signs.high[1]


def test_two_kinds_of_items_are_told_apart_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1], [9, 6])
    means = rng.normal(size=(2, 60))
    scores = sparse.csr_array(means[kinds] + 0.3 * rng.normal(size=(15, 60)))
    label, value = clustered(scores)
    assert value is not None and value > 0.6
    assert (label[:9] == label[0]).all() and (label[9:] == label[9]).all() and label[0] != label[9]
    fresh = sparse.csr_array(means[kinds] + 0.3 * rng.normal(size=(15, 60)))
    assert (assigned(fresh, scores, label) == label).all()
    alone, value = clustered(sparse.csr_array(rng.normal(size=(15, 60))))
    assert not alone.any() and (value is None or value < 0.25)


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(0)
    away = rng.random((12, 12))
    away = away + away.T
    np.fill_diagonal(away, 0)
    label = np.repeat([0, 1, 2], 4)
    assert silhouette(away, label) == pytest.approx(silhouette_score(away, label, metric="precomputed"))
