"""The list of metrics as a page: `docs/metrics.md`, made by `sae-lens-med list-metrics --markdown`."""

from collections.abc import Iterable

from sae_lens_med.metrics.metric import NEEDS, Metric
from sae_lens_med.metrics.settings import meanings

_HEAD = """# Alignment metrics

Made from `sae_lens_med.alignment.METRICS` by `sae-lens-med list-metrics --markdown`. To change a line, edit the
metric's own file and run that command again.

`sae-lens-med align STUDY` measures them on a finished study. Every value stands beside its null. *Counts* names the
values that the correction for multiplicity (Benjamini-Hochberg) counts, each in its family: `readout`, `causal`, and
`features`, which does not change when explanations are permuted and stands beside the alignment. The claim is what such
a value allows to be said when it stands out, and what it does not show even then.

"""


def reference(metrics: Iterable[Metric]) -> str:
    """Markdown with one section a metric, then the needs and the settings."""
    parts = [_HEAD]
    for metric in metrics:
        low, high = ("unbounded" if bound is None else f"{bound:g}" for bound in metric.range)
        parts.append(f"## {metric.number}. {metric.title}\n\n`{metric.name}`. {metric.meaning}\n")
        parts.append(
            f"- **Range**: {low} to {high}.\n- **Null**: {metric.null}\n- **Needs**: {', '.join(metric.needs)}.\n"
            f"- **Source**: {metric.source}.\n- **Values**: {', '.join(f'`{name}`' for name in metric.values)}.\n"
        )
        for name in metric.confirmatory:
            claim = metric.claims[name]
            least = "" if claim.least is None else f", and {claim.least:g} as no effect"
            parts.append(
                f"- **Counts**: `{name}`, with the family {metric.family!r}. May be concluded: that {claim.may.en}. "
                f"Smallest effect claimed: {claim.floor:g} above the null{least}. Not shown by it: that "
                f"{claim.may_not.en}.\n"
            )
        parts.append("\n")
    parts.append("## What metrics need\n\n")
    parts += [f"- `{need}`: {meaning}.\n" for need, meaning in NEEDS.items()]
    parts.append(
        "\n## Settings of the metrics that run the model\n\n`align --set NAME=N`; several numbers joined by `+`.\n\n"
    )
    for name, (default, meaning) in meanings().items():
        shown = "+".join(map(str, default)) if isinstance(default, tuple) else default
        parts.append(f"- `{name}={shown}`: {meaning}.\n")
    return "".join(parts)
