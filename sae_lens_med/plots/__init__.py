"""The one way to draw: every figure is a function that takes plain data and returns matplotlib axes.

    import sae_lens_med as slm

    ax = slm.plots.null_histogram(null, observed)             # on a new figure: ax.figure
    slm.plots.frontier(points, ax=axes[0, 1])                 # on yours
    text = slm.plots.svg(ax, title="...", description="...")  # for a report or a file

| function | draws |
|---|---|
| `intervals` | values with their intervals, one row each, beside what guessing or a null gives |
| `forest` | metrics of different scales, each against its own null, in units of the null's spread |
| `pairs` | the same for two models beside each other |
| `letter_shares` | how often each option letter is the gold answer and how often it is predicted |
| `similarity_histogram` | similarity to the own explanation and to the others |
| `null_histogram` | an observed value among the values that its null gives |
| `frontier` | L0 against explained variance, a curve for each way of training |
| `training_curve` | loss, L0, explained variance or dead features over the steps of a training run |
| `steering` | accuracy or margin against steering strength, with matched random features |
| `deferral` | accuracy when the least confident items are left to a human |

These take `ax`, an axes to draw on; without it they make a figure of their own, which no global state of `pyplot`
knows, so that nothing opens a window or chooses a backend. `frontier_panels`, `training_panels` and `steering_panels`
make a whole figure of several such axes and return all of them. `describe_*` says the same numbers in words: the
description that `svg` puts into the picture for those who do not see it. Those that reports hold take `language`
(`languages.ENGLISH`, `languages.KOREAN`), for what they write beside the labels given.

Colours can be told apart with a colour-vision deficiency and on light and dark pages; marks, dashes or fillings say the
same. Labels are data and never markup: no mathematics is parsed in them, and what cannot be shown is replaced.

matplotlib is imported when something is drawn. Out of scope: computing what is drawn, and interaction.
"""

from sae_lens_med.plots.bars import describe_letter_shares, letter_shares
from sae_lens_med.plots.deferring import DeferralLike, deferral, describe_deferral
from sae_lens_med.plots.forests import ForestRow, describe_forest, forest
from sae_lens_med.plots.histograms import (
    describe_null_histogram,
    describe_similarity_histogram,
    null_histogram,
    similarity_histogram,
)
from sae_lens_med.plots.markup import svg
from sae_lens_med.plots.pairs import PairRow, describe_pairs, pairs
from sae_lens_med.plots.rows import IntervalRow, describe_intervals, intervals
from sae_lens_med.plots.strengths import (
    SteeringEntry,
    SteeringPoint,
    describe_steering,
    steering,
    steering_panels,
)
from sae_lens_med.plots.tradeoff import FrontierLike, describe_frontier, frontier, frontier_panels
from sae_lens_med.plots.training_steps import describe_training, training_curve, training_panels

__all__ = [
    "DeferralLike",
    "ForestRow",
    "FrontierLike",
    "IntervalRow",
    "PairRow",
    "SteeringEntry",
    "SteeringPoint",
    "deferral",
    "describe_deferral",
    "describe_forest",
    "describe_frontier",
    "describe_intervals",
    "describe_letter_shares",
    "describe_null_histogram",
    "describe_pairs",
    "describe_similarity_histogram",
    "describe_steering",
    "describe_training",
    "forest",
    "frontier",
    "frontier_panels",
    "intervals",
    "letter_shares",
    "null_histogram",
    "pairs",
    "similarity_histogram",
    "steering",
    "steering_panels",
    "svg",
    "training_curve",
    "training_panels",
]
