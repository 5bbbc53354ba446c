"""The bulk layout: the rows of Neuronpedia's tables, as JSON lines.

    {modelId}/{sourceId}/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
                         features/batch-N.jsonl.gz, activations/batch-N.jsonl.gz, explanations/batch-N.jsonl.gz

Every row of a table has the same keys, those of its columns; what a study does not hold is empty there. Ids are made of
what a row is about and times are that of the study, so that the same study gives the same bytes.

Out of scope: files (`export`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sae_lens_med.app.neuronpedia.form import CONTEXT, CREATOR_ID, number, require_source, row_id, storable
from sae_lens_med.app.neuronpedia.record import Context, FeatureRecord
from sae_lens_med.errors import DataError
from sae_lens_med.records import Provenance

Row = dict[str, Any]
EMPTY = {
    "Neuron": (
        *("vector", "neuron_alignment_*", "correlated_neurons_*", "correlated_features_*"),
        *("logits_hist_data_bar_*", "decoder_weights_dist"),
    ),
    "Activation": ("dfaValues", "lossValues", "logitContributions"),
    "Explanation": ("embedding", "typeName", "explanationModelName"),
    "Model": ("tlensId", "layers", "neuronsPerLayer", "website"),
}
"""Table -> columns that no study fills."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows belong, and what they say of it."""

    model_id: str
    source: str
    creator: str
    provenance: Provenance
    """Without paths of this machine."""
    n_cases: int

    @property
    def source_set(self) -> str:
        """Name of the source set."""
        return require_source(self.source)[1]

    @property
    def created(self) -> str:
        """When the study was made, in the form that the database reads."""
        at = datetime.fromisoformat(self.provenance.created)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @property
    def description(self) -> str:
        """Of source set and release."""
        sae = self.provenance.sae or {}
        return f"{sae.get('source') or 'an SAE'} on {self.provenance.data['source']} (research use only)"


def metadata(target: Target) -> dict[str, Row]:
    """File -> its one row."""
    sae, model, data = target.provenance.sae or {}, target.provenance.model, target.provenance.data
    name = str(model["name"])
    owned = {"creatorId": CREATOR_ID, "visibility": "UNLISTED", "createdAt": target.created}
    return {
        "release.jsonl": {
            "name": f"{target.model_id}-{target.source_set}",
            "description": target.description,
            "descriptionShort": target.source_set,
            "urls": [],
            "creatorName": target.creator,
            "defaultSourceSetName": target.source_set,
            "defaultSourceId": target.source,
            "defaultUmapSourceIds": [],
            **owned,
        },
        "model.jsonl": {
            "id": target.model_id,
            "displayName": name,
            "displayNameShort": target.model_id,
            "tlensId": None,
            "inferenceEnabled": False,
            "instruct": target.model_id.endswith(("-it", "-instruct", "-chat")),
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": name.split("/")[0] if "/" in name else "unknown",
            "website": None,
            "updatedAt": target.created,
            **owned,
        },
        "sourceset.jsonl": {
            "modelId": target.model_id,
            "name": target.source_set,
            "hasDashboards": True,
            "description": target.description,
            "type": "",
            "creatorName": target.creator,
            "urls": [],
            "releaseName": f"{target.model_id}-{target.source_set}",
            **owned,
        },
        "source.jsonl": {
            "id": target.source,
            "modelId": target.model_id,
            "setName": target.source_set,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "saelensRelease": sae.get("source"),
            "saelensSaeId": sae.get("sae_id"),
            "hfRepoId": None,
            "hfFolderId": None,
            "num_prompts": target.n_cases,
            "num_tokens_in_prompt": CONTEXT,
            "dataset": str(data["source"]),
            "notes": None,
            **owned,
        },
    }


def rows(target: Target, records: Sequence[FeatureRecord]) -> dict[str, list[Row]]:
    """Folder -> its rows for these features. Raises `DataError` as `check`."""
    found = {
        "features": [_neuron(target, record) for record in records],
        "activations": [_activation(target, record, each) for record in records for each in record.contexts],
        "explanations": [_explanation(target, record) for record in records if record.explanation is not None],
    }
    for name, own in found.items():
        check(name, own)
    return found


def check(name: str, table: Sequence[Mapping[str, Any]]) -> None:
    """Raise `DataError` where a reader would lose something of these rows: other keys than the first one's, an id that
    stands twice."""
    for row in table:
        if row.keys() != table[0].keys():
            raise DataError(f"rows of {name} have different keys; please report this with the study's versions.")
    ids = [row["id"] for row in table if "id" in row]
    if len(set(ids)) < len(ids):
        raise DataError(f"rows of {name} have the same id; please report this with the study's versions.")


def _neuron(target: Target, record: FeatureRecord) -> Row:
    width = record.maximum / len(record.histogram)
    return {
        "modelId": target.model_id,
        "layer": target.source,
        "index": str(record.index),
        "creatorId": CREATOR_ID,
        "createdAt": target.created,
        "maxActApprox": number(record.maximum),
        "hasVector": False,
        "vector": [],
        "vectorLabel": None,
        "vectorDefaultSteerStrength": None,
        "hookName": (target.provenance.sae or {}).get("hook_name"),
        "topkCosSimIndices": [other for other, _ in record.neighbours],
        "topkCosSimValues": [number(cosine) for _, cosine in record.neighbours],
        "neuron_alignment_indices": [],
        "neuron_alignment_values": [],
        "neuron_alignment_l1": [],
        "correlated_neurons_indices": [],
        "correlated_neurons_pearson": [],
        "correlated_neurons_l1": [],
        "correlated_features_indices": [],
        "correlated_features_pearson": [],
        "correlated_features_l1": [],
        "neg_str": [storable(token) for token, _ in record.lowered],
        "neg_values": [number(value) for _, value in record.lowered],
        "pos_str": [storable(token) for token, _ in record.raised],
        "pos_values": [number(value) for _, value in record.raised],
        "frac_nonzero": number(record.density),
        "freq_hist_data_bar_heights": list(record.histogram),
        "freq_hist_data_bar_values": [number(width * (n + 0.5)) for n in range(len(record.histogram))],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "decoder_weights_dist": [],
        "sourceSetName": target.source_set,
    }


def _activation(target: Target, record: FeatureRecord, context: Context) -> Row:
    values = [number(value) for value in context.values]
    highest = max(values)
    return {
        "id": row_id(target.model_id, target.source, record.index, context.item, context.token),
        "tokens": list(context.tokens),
        "values": values,
        "index": str(record.index),
        "layer": target.source,
        "modelId": target.model_id,
        "maxValue": highest,
        "maxValueTokenIndex": context.peak if values[context.peak] == highest else values.index(highest),
        "minValue": min(values),
        "creatorId": CREATOR_ID,
        "createdAt": target.created,
        "binMin": number(context.interval[0]),
        "binMax": number(context.interval[1]),
        "binContains": number(context.share),
        "qualifyingTokenIndex": context.peak,
        "dfaValues": [],
        "dfaTargetIndex": None,
        "dfaMaxValue": None,
        "lossValues": [],
        "logitContributions": None,
        "dataSource": storable(context.dataset),
        "dataIndex": storable(context.item),
    }


def _explanation(target: Target, record: FeatureRecord) -> Row:
    assert record.explanation is not None  # the caller looked
    text, by = record.explanation.text, record.explanation
    return {
        "id": row_id(target.model_id, target.source, record.index, "explanation", text),
        "modelId": target.model_id,
        "layer": target.source,
        "index": str(record.index),
        "description": storable(text),
        "authorId": CREATOR_ID,
        "typeName": None,
        "explanationModelName": None,
        "notes": f"label of a {by.source}, revision {by.revision}",
        "embedding": None,
        "createdAt": target.created,
        "updatedAt": target.created,
    }
