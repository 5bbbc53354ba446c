"""Does the model look where the expert looks? Token saliency against the expert's spans (domain metric #6; ERASER,
DeYoung et al. 2020, arXiv 1911.03429).

Per item, how much each counted stem token moves the answer through the features (`saliency`), against the
tokens that the expert marked: token-F1, IOU-F1 and AUPRC, each in [0, 1] and averaged over items (`span_scores`, which
also has the nulls: the spans shifted around the text, random spans of equal lengths, and the saliency of other items at
the same relative places, without which saliency that merely falls over the text would pass). p is that of the hardest
null. The interval is a percentile bootstrap over items.

**Variants** stand beside the metric (`sae`): the aligned features alone (`aligned_features`), where those fire whatever
they do (`activation`), and no SAE at all (`raw`). The aligned features are those that the explanation has, too; they
fire where the expert looks whether or not the model does, so that what goes through them cannot be the metric: a model
organism that answers by a shortcut is called plausible by it.

**Spans.** CasiMedicos marks the premises of the *question* (`McqItem.question_spans`); nearly all of the case is
marked, so what they are told from is the closing question. Premises marked in the explanation are the expert's own
wording and not to be found in the question, so they are not used. `cited` spans, where a concept that the explanation
names stands in the question, are narrower; aligned features fire there by their definition, so they say something only
beside `activation`, which knows no gradient.

Out of scope: the gradient (`saliency`), and the scores themselves (`span_scores`).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sae_lens_med.alignment.causal_items import CausalItems
from sae_lens_med.alignment.saliency import VARIANTS, Saliency
from sae_lens_med.alignment.span_gate import SpanGate
from sae_lens_med.alignment.span_scores import SCORES, span_scores
from sae_lens_med.metrics.depends import on_concepts, on_model_runs
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.metrics.metric import Claim, Measured, Metric, Sentence, few, with_z
from sae_lens_med.records import IntArray, MetricValue, Span
from sae_lens_med.statistics import bootstrap_interval, quantile_interval

VARIANT_NAMES = {"all": "sae", "aligned": "aligned_features", "activation": "activation", "residual": "raw"}
"""Kind of saliency -> the variant of its values."""
PREMISES = "premises that the expert marked in the question"
CITED = "words of the question for concepts that the explanation names"


def measure_plausibility(inputs: Inputs) -> Measured:
    """Against the premises marked in the question and, where concepts are known, against where a concept that the
    explanation names stands in the question (`alignment/plausibility_cited_*`)."""
    gate = inputs.view(SpanGate).by_group
    closed = [span.closed(group) for group, span in gate.items() if not span.open]
    if len(closed) == len(gate):
        return Measured(notes=tuple(closed))
    items = inputs.view(CausalItems)
    spans = {text.id: labelled(inputs.items[items.position[text.id]].question_spans) for text in items.texts}
    kinds = [("alignment/plausibility", PREMISES, spans)]
    if inputs.concepts is not None:
        kinds.append(("alignment/plausibility_cited", CITED, _cited(inputs)))
    metrics: list[MetricValue] = []
    notes = [*closed]
    for name, what, char_spans in kinds:
        for group, ids in items.groups.items():
            if not gate[group].open:
                continue
            own = [text for text in items.texts if text.id in ids]
            values, more = plausibility_values(
                [items.saliency[text.id] for text in own],
                [span_tokens(text.char_spans, char_spans[text.id]) for text in own],
                extra=gate[group].extra,
                draws=inputs.permutations,
                seed=inputs.seed,
                group=group,
                name=name,
                what=what,
            )
            metrics += values
            notes += more
    notes.append(
        "Plausibility: the marked premises are nearly the whole case, so they are told from the closing question only."
    )
    return Measured(tuple(metrics), tuple(dict.fromkeys(notes)))


def _cited(inputs: Inputs) -> dict[str, list[tuple[int, int]]]:
    """Item id -> characters of its question at which a concept stands that its explanation names."""
    assert inputs.concepts is not None  # who asks has looked
    items, matcher, ids = inputs.view(CausalItems), inputs.concepts.matcher(), inputs.concepts.concepts.ids
    cited: dict[str, list[tuple[int, int]]] = {}
    for text in items.texts:
        place = items.position[text.id]
        named = {ids[c] for c in np.flatnonzero(inputs.concepts.explanation[place])}
        mentions = matcher.find(inputs.items[place].question)
        cited[text.id] = [(m.start, m.end) for m in mentions if m.concept_id in named]
    return cited


def labelled(spans: Sequence[Span], label: str = "premise") -> list[tuple[int, int]]:
    """Characters of the spans that bear `label`."""
    return [(span.start, span.end) for span in spans if span.label == label]


def span_tokens(char_spans: IntArray, spans: Sequence[tuple[int, int]]) -> IntArray:
    """`[k, 2]`: runs of tokens `[first, last)` that the character spans cover, disjoint, in order.

    Args:
        char_spans: `[m, 2]`, the characters of each token.
        spans: `(start, end)`; a token belongs to the first one that it shares a character with.
    """
    owner = np.full(len(char_spans), -1, dtype=np.int64)
    for k, (start, end) in enumerate(sorted(spans)):
        touches = (char_spans[:, 0] < end) & (char_spans[:, 1] > start)
        owner[touches & (owner < 0)] = k
    edges = np.flatnonzero(np.diff(np.concatenate([[-1], owner, [-1]])) != 0)
    runs = [(a, b) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) if owner[a] >= 0]
    return np.array(runs, dtype=np.int64).reshape(-1, 2)


def plausibility_values(
    saliency: Sequence[Saliency],
    spans: Sequence[IntArray],
    *,
    draws: int,
    seed: int,
    group: str = "all",
    name: str = "alignment/plausibility",
    what: str = PREMISES,
    extra: Mapping[str, float] | None = None,
) -> tuple[list[MetricValue], list[str]]:
    """Token-F1, IOU-F1 and AUPRC of every saliency against the items' spans (tokens, `[k, 2]` each); or a note.
    `extra` goes to every value: the span that a causal claim needs (`study.counted`)."""
    metrics: list[MetricValue] = []
    notes: list[str] = []
    for variant in VARIANTS:
        found = span_scores([each.tokens[variant] for each in saliency], spans, draws, np.random.default_rng([seed, 6]))
        n = len(found.positions)
        if n == 0:
            return [], [f"Group {group!r}: no item has {what}; plausibility is not measured."]
        for score in SCORES:
            value = found.value(score)
            harder = found.harder(score)
            metrics.append(
                MetricValue(
                    name=f"{name}_{score}",
                    value=value,
                    range=(0.0, 1.0),
                    n=n,
                    interval=bootstrap_interval(found.per_item[score], seed=seed),
                    null_mean=float(harder.mean()),
                    null_interval=quantile_interval(harder),
                    p=found.p(score),
                    group=group,
                    variant=VARIANT_NAMES[variant],
                    extra=with_z(
                        value,
                        harder,
                        {
                            "prevalence": float(found.prevalence.mean()),
                            **{f"{name}_mean": float(null.mean()) for name, null in found.nulls(score).items()},
                            "permutations": float(draws),
                            **(extra or {}),
                        },
                    ),
                    notes=f"Spans: {what}; null: the hardest of shifted spans, random spans and other items' saliency "
                    "at the same relative places; interval: percentile bootstrap over items" + few(n),
                )
            )
    return metrics, notes


PLAUSIBILITY = Metric(
    name="plausibility",
    number=6,
    family="causal",
    title="Where the expert looks",
    meaning="Whether the tokens through which the features move the answer are those the expert marked.",
    range=(0.0, 1.0),
    null="The expert's spans shifted around the text, random spans of equal lengths, and other items' saliency at the "
    "same relative places; the hardest counts.",
    needs=("explanations", "spans", "model"),
    source="ERASER, DeYoung et al. 1911.03429",
    values=("alignment/plausibility",),
    confirmatory=("alignment/plausibility_auprc",),
    claims={
        "alignment/plausibility_auprc": Claim(
            may=Sentence(
                "the tokens through which the features move the answer lie where the expert marked the question",
                "특징이 답을 움직이는 토큰이 전문가가 표시한 곳에 있다",
            ),
            may_not=Sentence("the model reasons as the expert does", "모델이 전문가처럼 추론한다"),
            floor=0.02,
        )
    },
    depends_on=(on_concepts, on_model_runs),
    measure=measure_plausibility,
)
