"""Lists of features, as `POST /api/list/new` and `POST /api/list/add-features` take them.

A list for each verdict of `align` (what is shared reasoning, what drives answers and is in no explanation, ...) and one
for each concept that features tell.

Supernodes are part of an attribution graph of one prompt, which a study does not hold: none are written.
"""

from collections.abc import Collection
from typing import Any

from sae_lens_med.app.aligned import Aligned
from sae_lens_med.app.neuronpedia.form import number, storable

MOST_DESCRIBED = 200
"""Characters of what is said of a feature in a list."""


def feature_lists(aligned: Aligned, features: Collection[int], model_id: str, source: str) -> list[dict[str, Any]]:
    """Lists of those `features` that verdicts and concepts name, none of them empty: `new` and `featuresToAdd` are the
    bodies of the two requests, the second without the `listId` that the first is answered with."""

    def item(feature: int, said: str) -> dict[str, str]:
        shown = storable(said)[:MOST_DESCRIBED]
        return {"modelId": model_id, "layer": source, "index": str(feature), "description": shown}

    verdicts: dict[str, list[dict[str, str]]] = {}
    for feature, tested in sorted(aligned.tested.items()):
        if feature in features and tested.verdict is not None:
            effect = "" if tested.effect is None else f"mean change of the margin {number(tested.effect)} logits"
            verdicts.setdefault(tested.verdict, []).append(item(feature, effect))
    found = [
        _list(f"verdict: {verdict.replace('_', ' ')}", "What switching the features off shows.", items)
        for verdict, items in sorted(verdicts.items())
    ]
    for concept in aligned.concepts:
        items = [
            item(feature, f"AUROC {number(score.auroc)}") for feature, score in concept.features if feature in features
        ]
        if items:
            said = f"Features that tell texts with this concept from others ({', '.join(concept.forms[:5])})."
            found.append(_list(f"concept: {concept.id}", said, items))
    return found


def _list(name: str, description: str, items: list[dict[str, str]]) -> dict[str, Any]:
    said = f"{description} Research use only, not for clinical use."
    return {"new": {"name": storable(name), "description": storable(said)}, "featuresToAdd": items}
