"""Upload batches: the body of `POST /api/feature/upload-batch`, and the checks that its server makes.

    {modelId, source, features: [{index, density, topLogits, bottomLogits, explanations, activations}]}

An explanation names neither method nor model: those that may be named are the server's own. What a study does not hold
is an empty list.

Out of scope: sending, and making model and source set there.
"""

import math
from collections.abc import Sequence
from typing import Any

from sae_lens_med.app.neuronpedia.form import (
    MOST_FEATURES,
    MOST_INDEX,
    MOST_LOGITS,
    MOST_TEXT,
    MOST_TOKENS,
    number,
    storable,
)
from sae_lens_med.app.neuronpedia.record import Context, FeatureRecord
from sae_lens_med.errors import DataError

_BATCH = {"modelId", "source", "features"}
_FEATURE = {"index", "density", "topLogits", "bottomLogits", "explanations", "activations"}
_ACTIVATION = {"tokens", "values", "quantileMin", "quantileMax", "quantileFraction"}


def batch(model_id: str, source: str, records: Sequence[FeatureRecord]) -> dict[str, Any]:
    """The body of one request. Raises `DataError` as `check`."""
    body = {"modelId": model_id, "source": source, "features": [_feature(record) for record in records]}
    check(body)
    return body


def check(body: dict[str, Any]) -> None:
    """Raise `DataError` that names the feature where the server would refuse `body`."""
    _require(body.keys() == _BATCH, "a batch has modelId, source and features")
    for name in ("modelId", "source"):
        _require(bool(body[name]) and body[name] == body[name].lower(), f"{name} is lower case")
    features = body["features"]
    _require(1 <= len(features) <= MOST_FEATURES, f"a batch has 1 to {MOST_FEATURES} features")
    _require(len({each["index"] for each in features}) == len(features), "a feature stands once in a batch")
    for feature in features:
        where = f"feature {feature.get('index')}: "
        _require(feature.keys() == _FEATURE, f"{where}it has the fields {', '.join(sorted(_FEATURE))}")
        _require(type(feature["index"]) is int and 0 <= feature["index"] <= MOST_INDEX, f"{where}its index is a number")
        _require(_is_share(feature["density"]), f"{where}a density is in [0, 1]")
        for side in ("topLogits", "bottomLogits"):
            logits = feature[side]
            _require(len(logits) <= MOST_LOGITS, f"{where}{side} are at most {MOST_LOGITS}")
            sound = all(each.keys() == {"token", "value"} and each["token"] and _is_finite(each["value"])
                        for each in logits)  # fmt: skip
            _require(sound, f"{where}each of {side} is a token with a finite value")
        for each in feature["explanations"]:
            known = each.keys() == {"text"} and 1 <= len(each["text"]) <= MOST_TEXT
            _require(known, f"{where}an explanation has 1 to {MOST_TEXT} characters")
        _require(len(feature["activations"]) >= 1, f"{where}it has at least one context")
        for each in feature["activations"]:
            _check_activation(each, where)


def _check_activation(activation: dict[str, Any], where: str) -> None:
    _require(activation.keys() == _ACTIVATION, f"{where}a context has {', '.join(sorted(_ACTIVATION))}")
    tokens, values = activation["tokens"], activation["values"]
    _require(1 <= len(tokens) <= MOST_TOKENS, f"{where}a context has 1 to {MOST_TOKENS} tokens")
    _require(all(isinstance(token, str) and token for token in tokens), f"{where}no token is empty")
    _require(len(values) == len(tokens), f"{where}a context has as many values as tokens")
    _require(all(map(_is_finite, values)), f"{where}values are finite")
    low, high = activation["quantileMin"], activation["quantileMax"]
    _require(_is_finite(low) and _is_finite(high) and low <= high, f"{where}an interval ascends")
    _require(_is_share(activation["quantileFraction"]), f"{where}a quantileFraction is in [0, 1]")


def _feature(record: FeatureRecord) -> dict[str, Any]:
    return {
        "index": record.index,
        "density": number(record.density),
        "topLogits": _logits(record.raised),
        "bottomLogits": _logits(record.lowered),
        "explanations": [] if record.explanation is None else [{"text": storable(record.explanation.text)}],
        "activations": [_activation(context) for context in record.contexts],
    }


def _logits(effects: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"token": storable(token), "value": number(value)} for token, value in effects[:MOST_LOGITS]]


def _activation(context: Context) -> dict[str, Any]:
    return {
        "tokens": list(context.tokens),
        "values": [number(value) for value in context.values],
        "quantileMin": number(context.interval[0]),
        "quantileMax": number(context.interval[1]),
        "quantileFraction": number(context.share),
    }


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_finite(value) and 0 <= value <= 1


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise DataError(f"the upload batch would be refused: {rule}; please report this with the study's versions.")
