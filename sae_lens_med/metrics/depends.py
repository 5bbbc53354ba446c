"""What the values of a metric depend on beside the study itself, for `Metric.depends_on`.

Each function gives JSON values by name; a metric is measured again when one of them has changed.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Metric
from sae_lens_med.runs.files import file_sha256, json_sha256

JsonValues = Mapping[str, Any]

NULLS = 2
"""Raised when what all metrics are compared with changes, so that a finished study is measured again."""


def dependencies(metric: Metric, inputs: Inputs) -> dict[str, Any]:
    """Everything that the values of a metric depend on: the study, the permutations, and what the metric says."""
    values: dict[str, Any] = {
        "nulls": NULLS,
        "permutations": inputs.permutations,
        "seed": inputs.seed,
        **inputs.study,
        "groups": json_sha256({name: np.flatnonzero(mask).tolist() for name, mask in inputs.groups.items()}),
    }
    for depends_on in metric.depends_on:
        values |= depends_on(inputs)
    return values


def on_controls(inputs: Inputs) -> JsonValues:
    """The collected controls, which are measured beside the SAE."""
    return {"controls": {name: json_sha256(control.manifest["shards"]) for name, control in inputs.controls.items()}}


def on_concepts(inputs: Inputs) -> JsonValues:
    """The set of concepts and how they are found in texts."""
    return {} if inputs.concepts is None else {"concepts": inputs.concepts.identity}


def on_embedder(inputs: Inputs) -> JsonValues:
    """What embeds texts."""
    return {"embedder": inputs.embedder_name}


def on_model_runs(inputs: Inputs) -> JsonValues:
    """How much is run with the model, and what the model answers."""
    return {
        "options": asdict(inputs.settings),
        "results": json_sha256([result.to_dict() for result in inputs.results]),
    }


def on_labels(inputs: Inputs) -> JsonValues:
    """The file of feature labels and who judges them."""
    return {
        "labels": None if inputs.labels is None else file_sha256(inputs.labels),
        "judge": getattr(inputs.judge, "name", None),
    }


def on_ratings(inputs: Inputs) -> JsonValues:
    """The file of ratings."""
    return {} if inputs.ratings is None else {"ratings": file_sha256(inputs.ratings)}
