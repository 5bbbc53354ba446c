"""The pictures of the documentation, drawn again from the numbers beside them.

    python benchmarks/figures.py
    python benchmarks/figures.py --demo demo-study    # first take the twins' numbers from a demo's folder

    results/frontier.json        L0 and explained variance of the release and of what it is compared with
                                   -> results/frontier.svg (layer 9) and, all layers, the release's frontier.svg
    results/steering.json        steering of one feature beside ten random ones           -> results/steering.svg
    results/retrieval_mrr.json   whose features find the own explanation                  -> ../docs/images/overview.svg

    results/twins.json           what the demo measures of the twins                      -> ../docs/images/twins.svg

The release's manifest holds the hash of its picture; it is written anew with it.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sae_lens_med import plots
from sae_lens_med.plots.style import new_axes, own_settings
from sae_lens_med.runs.files import file_sha256, write_json, write_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RELEASE = ROOT / "sae_lens_med" / "saes" / "weights" / "sae-lens-med-gemma-3-270m-res"
VARIANTS = {
    "tfidf": "Words alone (TF-IDF)",
    "raw": "Residual stream, no SAE",
    "sae": "SAE features",
    "shuffled_sae": "SAE with shuffled directions",
    "random_model": "Model with random weights",
}


def read(name: str) -> dict[str, Any]:
    """A file of `results/`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def frontier(hook_name: str | None = None) -> str:
    """The runs at `hook_name`, or all."""
    points: list[Any] = [SimpleNamespace(**point) for point in read("frontier.json")["points"]]
    points = [point for point in points if hook_name in (None, point.hook_name)]
    axes = plots.frontier_panels(points)
    return plots.svg(axes, title="L0 against explained variance", description=plots.describe_frontier(points))


def steering() -> str:
    """Feature 3188 beside ten random ones."""
    values = read("steering.json")

    def points(name: str) -> tuple[plots.SteeringPoint, ...]:
        return tuple(plots.SteeringPoint(**point) for point in values[name])

    entry = plots.SteeringEntry(values["title"], points("accuracy"), points("margin_change"))
    plain = next(point.value for point in entry.accuracy if point.plain)
    axes = plots.steering_panels([entry], plain_accuracy=plain, n_sets=values["n_sets"], heading=values["heading"])
    title = "Accuracy and margin against steering strength"
    return plots.svg(axes, title=title, description=plots.describe_steering([entry]))


def overview() -> str:
    """How well each representation of a question finds the question's own explanation, beside permuted explanations."""
    studies = read("retrieval_mrr.json")["studies"]
    described = []
    with own_settings():
        axes = new_axes(1, len(studies), 8.8, 4.0)
        for ax, study in zip(axes, studies, strict=True):
            by_name = {values["variant"]: values for values in study["variants"]}
            rows = [
                plots.IntervalRow(label, by_name[name]["value"], by_name[name]["interval"], by_name[name]["null_mean"])
                for name, label in VARIANTS.items()
            ]
            plots.intervals(rows, ax, xlabel="mean reciprocal rank of the own explanation")
            ax.set_title(f"{study['data']}, {study['n']} questions:\nexplanations {study['explanations']}", pad=10)
            described.append(f"{study['data']}, explanations {study['explanations']}: {plots.describe_intervals(rows)}")
        lines: dict[Any, Any] = {line.get_label(): line for line in axes[0].lines}
        handles: list[Any] = [(lines["interval"], lines["value"]), lines["chance"]]  # a pair is drawn as one mark
        axes[0].figure.legend(
            handles,
            ["measured (line: 95 % interval)", "the same with the explanations permuted"],
            title="Which representation of a question finds its own explanation among all?",
            loc="outside upper left",
            ncols=2,
            frameon=False,
            alignment="left",
            title_fontproperties={"weight": "bold", "size": 11},
        )
    return plots.svg(
        axes,
        title="Which representation of a question finds its own explanation among all?",
        description=" ".join(described),
    )


def twins() -> str:
    """Two model organisms that answer alike for different reasons."""
    values = read("twins.json")

    def of(each: dict[str, Any] | None) -> plots.ForestRow | None:
        if each is None:
            return None
        low, high = each.pop("null_interval")
        return plots.ForestRow(**each, null_interval=(low, high))

    rows = [plots.PairRow(row["label"], of(row["first"]), of(row["second"]), row["heading"]) for row in values["rows"]]
    names = (values["names"][0], values["names"][1])
    return plots.svg(
        plots.pairs(rows, names),
        title="Two models that answer alike for different reasons",
        description=plots.describe_pairs(rows, names),
    )


def take_twins(demo: Path) -> None:
    """Write `results/twins.json` from the folder of a demo."""
    from sae_lens_med.study.twins import pair_rows, read_twins

    rows, names = pair_rows(*read_twins(demo))
    write_json(RESULTS / "twins.json", {"names": names, "rows": [asdict(row) for row in rows]})


def main() -> None:
    """Write every picture."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--demo", type=Path, help="folder of a demo, whose numbers of the twins are taken first")
    demo = made.parse_args().demo
    if demo is not None:
        take_twins(demo)
    write_text(ROOT / "docs" / "images" / "twins.svg", twins())
    write_text(RESULTS / "frontier.svg", frontier("blocks.9.hook_resid_post"))
    write_text(RESULTS / "steering.svg", steering())
    write_text(ROOT / "docs" / "images" / "overview.svg", overview())
    write_text(RELEASE / "frontier.svg", frontier())
    manifest = json.loads((RELEASE / "release.json").read_text(encoding="utf-8"))
    manifest["files"]["frontier.svg"] = file_sha256(RELEASE / "frontier.svg")
    write_json(RELEASE / "release.json", manifest)


if __name__ == "__main__":
    main()
