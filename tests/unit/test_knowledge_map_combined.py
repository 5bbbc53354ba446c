"""Agreement of methods: what passes, what is counted, how often by chance, and segments only above that."""

from dataclasses import replace

import numpy as np
import pytest

from sae_lens_med.knowledge_map.combined import agreements, passes
from sae_lens_med.knowledge_map.measure import MapRow

DEPTHS = 13


def row(read_out: str, at: range | list[int], domain: str = "drugs", high: float = 1.0) -> MapRow:
    """Values and q that pass at `at` alone."""
    values = np.linspace(0, 0.1, DEPTHS)
    values[list(at)] = high
    q = np.full(DEPTHS, 0.5)
    q[list(at)] = 0.01
    scale = "standardised" if read_out == "silhouette" else "relative"
    return MapRow(
        domain=domain,
        language="en",
        read_out=read_out,
        labels="",
        scale=scale,
        position="concept",
        n=10,
        values=tuple(values),
        intervals=(None,) * DEPTHS,
        null_mean=(0.0,) * DEPTHS,
        null_high=(0.0,) * DEPTHS,
        p=tuple(q),
        p_best=0.01,
        q=tuple(q),
        stands_out=(False,) * DEPTHS,
    )


def test_a_read_out_passes_with_q_and_in_its_own_upper_quarter_alone() -> None:
    both = row("silhouette", [5, 6])
    assert np.flatnonzero(passes(both)).tolist() == [5, 6]
    assert not passes(replace(both, q=(0.2,) * DEPTHS)).any()
    everywhere = replace(row("silhouette", []), q=(0.01,) * DEPTHS)
    assert np.flatnonzero(passes(everywhere)).tolist() == [10, 11, 12]  # the upper quarter of 12
    assert not passes(replace(row("silhouette", [0]), q=(0.01,) * DEPTHS))[0]


def test_of_the_first_blocks_a_lesion_claims_nothing() -> None:
    assert np.flatnonzero(passes(row("lesion_kl", [1, 2, 3]))).tolist() == [3]
    assert np.flatnonzero(passes(row("patching_concept", [1, 2, 3]))).tolist() == [1, 2, 3]


def test_four_methods_in_one_place_are_a_segment_and_two_elsewhere_are_none() -> None:
    together = [row(name, [5, 6, 7]) for name in ("silhouette", "saliency", "lesion_kl", "patching_last")]
    apart = [row(name, [at], "age") for name, at in (("silhouette", 3), ("saliency", 5), ("lesion_kl", 7))]
    by_domain = {each.domain: each for each in agreements([*together, *apart], 999, np.random.default_rng(0))}
    drugs, age = by_domain["drugs"], by_domain["age"]
    assert drugs.counts == (0, 0, 0, 0, 0, 4, 4, 4, 0, 0, 0, 0, 0)
    assert [each.value for each in drugs.cells] == [3, 3, 3] and drugs.overlap.value == 18
    assert drugs.segments == ((5, 7),) and drugs.q < 0.05
    assert age.segments == () and set(age.counts) == {0, 1} and age.overlap.p == 1


def test_two_read_outs_of_a_method_are_one_method() -> None:
    [found] = agreements(
        [row("lesion_kl", [5]), row("lesion_margin", [5]), row("saliency", [9])], 99, np.random.default_rng(0)
    )
    assert max(found.counts) == 1


@pytest.mark.parametrize("width", [1, 3])
def test_by_chance_it_agrees_as_often_as_counted_by_hand(width: int) -> None:
    """Two methods that pass on `width` neighbouring depths of 12, shifted round: exactly known."""
    rows = [row("silhouette", range(4, 4 + width)), row("saliency", range(4, 4 + width))]
    [found] = agreements(rows, 20_000, np.random.default_rng(0))
    shared = [max(0, width - min(s, 12 - s)) for s in range(12)]  # by the distance of the shifts
    assert found.cells[0].null_mean == pytest.approx(np.mean(shared), abs=0.03)
    assert found.overlap.p == pytest.approx(1 / 12, abs=0.01)


def test_agreement_by_chance_is_claimed_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        rows = [row(name, rng.choice(np.arange(3, 13), 3, replace=False).tolist())
                for name in ("silhouette", "saliency", "lesion_kl", "patching_last")]  # fmt: skip
        [found] = agreements(rows, 199, rng)
        hits += bool(found.q < 0.05)
    assert hits <= 20  # 10 are expected at most; more than 20 in 200 happen with p 0.002
