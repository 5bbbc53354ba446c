"""The read-out metrics on data that are hard in one way each: few items in a stratum and ties in length, lengths with
heavy tails, cases told again. 500 studies without any alignment of each kind, 1,000 in the slow tier.

Heavy tails are those of t distributions with three degrees of freedom: one text in a hundred is sixteen times as long,
or as short, as the middle one (the log lengths of exam questions are close to normal). Of cases told again the package
measures one, found by its questions; without that, p is below 0.05 far too often.
"""

from functools import cache

import numpy as np
import pytest

from tests import readout_study
from tests.calibration import FAST, TIERS, Values, band, rejected
from tests.readout_study import CONFOUNDED, Shape, study

SHAPES = {
    "small strata and ties in length": Shape(subjects=(1 / 14,) * 14, letters=(0.25,) * 4, step=0.5),
    "heavy-tailed lengths": Shape(tails=3.0),
    "cases told again": Shape(again=True),
}
"""In studies of 40 items; of 60, of which half tell five of the others again."""
CONSERVATIVE = {"mentioned, a rare feature"}
"""A sum over few texts: most permutations give the same."""


def _measured(shape: str, seed: int, remedy: bool = True) -> Values:
    """All read-out metrics of one study."""
    of = study(seed, 60 if SHAPES[shape].again else 40, n_features=40, shape=SHAPES[shape], remedy=remedy)
    rng = np.random.default_rng([seed, 11])
    return {
        name: p
        for measure in (
            readout_study.similarity,
            readout_study.concepts,
            readout_study.monosemantic,
            readout_study.mentioned,
        )
        for name, p in measure(of, rng).items()
    }


_rejected = cache(lambda shape, studies: rejected(lambda seed: _measured(shape, seed), studies))


@pytest.mark.parametrize("studies", TIERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_studies_without_alignment_are_called_aligned_one_time_in_twenty(shape: str, studies: int) -> None:
    low, high = band(studies)
    for name, (plain, tie_free) in _rejected(shape, studies).items():
        if name in CONFOUNDED:
            continue
        assert plain <= high, (name, plain)
        if name not in CONSERVATIVE:
            assert low <= tie_free <= high, (name, tie_free)


def test_lengths_alone_would_be_called_alignment() -> None:
    found = _rejected("heavy-tailed lengths", FAST)
    assert all(found[name][0] > band(FAST)[1] for name in CONFOUNDED), found


@pytest.mark.parametrize("studies", TIERS)
def test_lengths_far_apart_are_no_shared_structure(studies: int) -> None:
    """Tails heavier still, and more items: RSA with the sums of lengths alone taken out would reject one in nine."""
    very = Shape(tails=2.0)

    def partial(seed: int) -> Values:
        p = readout_study.partial_rsa(study(seed, 60, shape=very)).p
        return {"rsa_partial": (p, p)}

    low, high = band(studies)
    [(found, _)] = rejected(partial, studies).values()
    assert low <= found <= high, found


def test_cases_told_again_would_be_called_alignment() -> None:
    found = rejected(lambda seed: _measured("cases told again", seed, remedy=False), 100)
    assert found["rsa_partial"][0] > 0.2, found
