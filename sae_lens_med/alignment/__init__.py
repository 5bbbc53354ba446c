"""Alignment of the model's features with the expert's explanation: one metric, one file.

`METRICS` is the list. To add a metric, write its file (measure, null, value, claim, and its entry at the end) and name
the entry here; the command line, the runner, the report and `docs/metrics.md` follow. `METRICS.register` adds one from
outside of the package.

What several metrics share stands in `similarities`, `concept_tests`, `causal_items` and the files that they name.
"""

from sae_lens_med.alignment.causal_agreement import CAUSAL_AGREEMENT
from sae_lens_med.alignment.comprehensiveness import COMPREHENSIVENESS
from sae_lens_med.alignment.concepts import CONCEPTS
from sae_lens_med.alignment.coverage import COVERAGE
from sae_lens_med.alignment.difference import DIFFERENCE
from sae_lens_med.alignment.feature_verdicts import VERDICTS
from sae_lens_med.alignment.labels.measure import LABELS
from sae_lens_med.alignment.monosemanticity import MONOSEMANTICITY
from sae_lens_med.alignment.overlap import OVERLAP
from sae_lens_med.alignment.plausibility import PLAUSIBILITY
from sae_lens_med.alignment.ratings import RATINGS
from sae_lens_med.alignment.reasoning import REASONING
from sae_lens_med.alignment.retrieval import RETRIEVAL
from sae_lens_med.alignment.rsa import RSA
from sae_lens_med.alignment.steering import STEERING
from sae_lens_med.alignment.sufficiency import SUFFICIENCY
from sae_lens_med.metrics.metric import MetricList

METRICS = MetricList(
    [
        RETRIEVAL,
        DIFFERENCE,
        OVERLAP,
        CONCEPTS,
        COVERAGE,
        PLAUSIBILITY,
        COMPREHENSIVENESS,
        SUFFICIENCY,
        CAUSAL_AGREEMENT,
        STEERING,
        REASONING,
        RSA,
        LABELS,
        MONOSEMANTICITY,
        RATINGS,
        VERDICTS,
    ]
)

__all__ = ["METRICS"]
