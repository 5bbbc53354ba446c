"""A circuit beside what an expert names: what is used is above its nulls, what is not is at them."""

import numpy as np
import pytest

from sae_lens_med.circuits.expert import columns_of, compare, mass, named_effects
from sae_lens_med.circuits.node_controls import mean_scores
from sae_lens_med.circuits.nodes import feature_sizes, turned_sizes
from sae_lens_med.errors import DataError
from tests import known_model as known
from tests.unit.test_circuits_nodes import TURNS, Case, planted

N, COLUMNS, CONCEPTS = 48, 200, 12


def drawn(seed: int, *, used: bool) -> dict[str, object]:
    """Twelve concepts of three features each; each item names four. Where `used`, scores of the features named by its
    own item are five times those of others."""
    rng = np.random.default_rng(seed)
    features = rng.permutation(COLUMNS)[: 3 * CONCEPTS].reshape(CONCEPTS, 3)
    concepts = np.zeros((CONCEPTS, COLUMNS), dtype=bool)
    concepts[np.arange(CONCEPTS)[:, None], features] = True
    named = np.zeros((N, CONCEPTS), dtype=bool)
    for row in named:
        row[rng.choice(CONCEPTS, 4, replace=False)] = True
    sizes = rng.exponential(size=(N, COLUMNS)) * (rng.random((N, COLUMNS)) < 0.5)
    if used:
        sizes = np.where(named @ concepts, 5 * sizes, sizes)
    matches = np.stack([rng.permutation(COLUMNS) for _ in range(99)])
    return {
        "sizes": sizes,
        "named": named,
        "concepts": concepts,
        "matches": matches,
        "subjects": ["doctor", "nurse"] * (N // 2),
        "letters": [i // 2 % 4 for i in range(N)],
    }


def test_what_the_model_uses_is_above_matched_features_and_other_explanations() -> None:
    given = drawn(0, used=True)
    circuit = np.zeros(COLUMNS, dtype=bool)
    circuit[np.flatnonzero(given["concepts"].any(0))[:20]] = True  # type: ignore[attr-defined]
    found = compare(**given, circuit=circuit)  # type: ignore[arg-type]
    assert found.n == N and found.left_out == 0 and found.concepts == CONCEPTS
    assert found.matched.p == 0.01 and found.permuted is not None and found.permuted.p < 0.01
    assert found.matched.value > 2 * found.matched.null
    assert found.precision is not None and found.precision.value == 1 and found.precision.p == 0.01
    assert found.recall is not None and found.recall.value == pytest.approx(20 / 36)
    assert [each.n for each in found.subjects] == [24, 24] and all(each.q <= 0.02 for each in found.subjects)


def test_nulls_are_level_where_nothing_is_used() -> None:
    p = []
    for seed in range(60):
        found = compare(**drawn(seed, used=False), permutations=99)  # type: ignore[arg-type]
        assert found.permuted is not None
        p.append((found.matched.p, found.permuted.p))
    # Uniform: a twentieth below 0.05, and binomial(60, 0.05) is above 8 once in 500.
    assert ((np.array(p) <= 0.05).sum(0) <= 8).all()
    assert (np.abs(np.mean(p, axis=0) - 0.5) < 0.15).all()


def test_mass_is_a_share() -> None:
    sizes = np.array([[1.0, 1, 2], [0, 0, 0]])
    assert mass(sizes, np.array([[True, False, True]] * 2)) == pytest.approx([0.75, np.nan], nan_ok=True)


def test_items_that_name_nothing_are_counted() -> None:
    given = drawn(0, used=True)
    given["named"][:5] = False  # type: ignore[index]
    assert compare(**given).left_out == 5  # type: ignore[arg-type]
    given["named"][:] = False  # type: ignore[index]
    with pytest.raises(DataError, match="no item names"):
        compare(**given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def hops() -> Case:
    return planted([([known.SOURCE + a], [known.SOURCE + b]) for a, b in TURNS], TURNS)


def test_features_that_carry_the_answer_are_necessary_and_sufficient_and_others_neither(hops: Case) -> None:
    mean = mean_scores(hops.scores(10).scores)
    n = sum(hops.space.d_sae)
    used, unused = (np.zeros((len(TURNS), n), dtype=bool) for _ in range(2))
    second = hops.space.d_sae[0]
    for i, pair in enumerate(hops.patching.pairs):
        for k in TURNS[int(pair.id)]:
            used[i, [known.SOURCE + k, second + known.HIDDEN_AT + k]] = True
            unused[i, known.COPY + k] = True
    found = named_effects(hops.patching, hops.space, used, mean)
    assert found.necessity > 0.95 and found.sufficiency > 0.95
    # As many nodes of the largest mean scores are of all letters, and these two of them.
    assert found.necessity_of_largest <= found.necessity + 0.05
    found = named_effects(hops.patching, hops.space, unused, mean)
    assert abs(found.necessity) < 0.05 and abs(found.sufficiency) < 0.05
    with pytest.raises(DataError, match="nothing to take away"):
        named_effects(hops.patching, hops.space, np.zeros_like(used), mean)


def test_with_directions_exchanged_the_size_is_no_more_where_it_was(hops: Case) -> None:
    sizes = feature_sizes(hops.scores(5).scores, hops.space)
    [run] = hops.runs
    turned = turned_sizes(hops.spliced, hops.space, run, hops.sinks, ig_steps=5, draws=99)
    sources = np.zeros(sizes.shape, dtype=bool)
    sources[:, : known.COPY] = True
    first = slice(0, hops.space.d_sae[0])
    own = mass(sizes[:, first], sources[:, first])
    null = np.stack([mass(each[:, first], sources[:, first]) for each in turned])
    assert own.min() > 0.95 and np.nanmean(null) < 0.7
    assert turned.shape == (99, *sizes.shape)


def test_features_of_a_circuit_are_those_it_has_at_any_part(hops: Case) -> None:
    circuit = np.zeros(hops.space.n_nodes, dtype=bool)
    circuit[[hops.node(0, "slot", 3), hops.node(1, "changed", 7), hops.node(1, "slot", hops.space.d_sae[1])]] = True
    assert np.flatnonzero(columns_of(hops.space, circuit)).tolist() == [3, hops.space.d_sae[0] + 7]
