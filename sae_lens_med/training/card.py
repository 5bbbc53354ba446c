"""The model card of a release, from what training wrote: no number is typed by hand."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from sae_lens_med.errors import ReleaseError
from sae_lens_med.escaping import code, fence, markdown
from sae_lens_med.models.catalogue import find
from sae_lens_med.runs.parsing import ParseError, read_yaml
from sae_lens_med.saes.listing import read_json_object, read_left_out_ids
from sae_lens_med.saes.publish import portable
from sae_lens_med.training.frontier import Frontier
from sae_lens_med.training.recipe import current_keys

ROWS = (
    ("l0", "L0", "{:.1f}"),
    ("explained_variance", "explained variance", "{:.3f}"),
    ("explained_variance_without_first_direction", "... without the first principal direction", "{:.3f}"),
    ("first_direction_share", "(share of variance along that direction)", "{:.3f}"),
    ("explained_variance_with_sinks", "explained variance, sinks counted", "{:.3f}"),
    ("dead_fraction", "dead features (no held-out token activates them)", "{:.2%}"),
    ("ce_loss_score", "CE-loss score", "{:.3f}"),
    ("ce_loss", "CE loss of the model", "{:.3f}"),
    ("ce_loss_spliced", "... with the reconstruction", "{:.3f}"),
    ("ce_loss_mean_ablated", "... with the mean (the null)", "{:.3f}"),
    ("kl_score", "KL score", "{:.3f}"),
    ("sink_threshold", "tokens of a larger norm are sinks", "{:,.0f}"),
)
"""Key in `metrics.json`, label, format."""

SOURCES = {
    "kormedmcqa_train_shared.jsonl": "KorMedMCQA train questions (CC BY-NC 2.0, Kweon et al. 2024) with "
    "**model-written** rationales (github.com/AITEAM444/KoMEDMCQA_CoT, no licence stated)",
    "kormedmcqa_dev_r1_reasoning.jsonl.gz": "**model-written** reasoning over KorMedMCQA dev questions (same source)",
    "medquad_en.jsonl.gz": "MedQuAD (CC BY 4.0, Ben Abacha and Demner-Fushman 2019), English",
}
"""What a file of text is and under which licence; of others the card gives the name."""


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """What `sae-lens-med train` wrote to a folder, as far as a card and a manifest need it."""

    folder: Path
    recipe: dict[str, Any]
    """This and the metrics without paths of the machine that made them."""
    metrics: dict[str, Any]
    config: dict[str, Any]
    left_out_ids: tuple[str, ...]

    @property
    def hook_name(self) -> str:
        """Where the SAE reads; its id in a release."""
        return str(self.recipe["hook_name"])


def read_runs(folders: Sequence[Path]) -> dict[str, TrainedRun]:
    """Finished runs by hook name, for one release.

    Raises `ReleaseError` when a folder has no finished run, when two are at the same hook, or when they are of
    different models, texts or left-out items.
    """
    runs: dict[str, TrainedRun] = {}
    for folder in folders:
        run = _read(folder)
        if run.hook_name in runs:
            raise ReleaseError(
                f"{folder} and {runs[run.hook_name].folder} are both at {run.hook_name}; a release has one SAE "
                "per hook."
            )
        first = next(iter(runs.values()), run)
        for what, own, other in (
            ("a different text", run.metrics["text"]["sha256"], first.metrics["text"]["sha256"]),
            ("a different model", run.metrics["model"], first.metrics["model"]),
            ("different left-out items", run.left_out_ids, first.left_out_ids),
        ):
            if own != other:
                raise ReleaseError(f"{folder} has {what} from {first.folder}; a release covers one text and one model.")
        runs[run.hook_name] = run
    return runs


def model_card(release: str, runs: Mapping[str, TrainedRun], compared: Frontier | None = None) -> str:
    """The card of `runs` (one at least, `read_runs`), Markdown with the Hub's front matter.

    `compared` are runs to list below the metrics, those of other architectures among them.
    """
    first = next(iter(runs.values()))
    entry = find(first.metrics["model"]["name"])
    flat = [_flat(run.recipe) for run in runs.values()]
    varied = [key for key in flat[0] if any(each.get(key) != flat[0][key] for each in flat) and key != "hook_name"]
    gains = {hook_name: run.metrics["unshrunk"] for hook_name, run in runs.items() if "unshrunk" in run.metrics}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sae_lens_med"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"code": code, "markdown": markdown, "fence": fence, "yaml_value": _yaml_value}
    return environment.get_template("card.md.j2").render(
        release=release,
        runs=runs,
        first=first,
        varied=[(key, [each[key] for each in flat]) for key in varied],
        model={"dequantised_from": None, "sha256": None, "revision": None, **first.metrics["model"]},
        model_hub_id=entry.hub_id if entry else first.metrics["model"]["name"],
        fitted={hook_name: each for hook_name, each in gains.items() if each["ridge"] is not None},
        unfitted=[hook_name for hook_name, each in gains.items() if each["ridge"] is None],
        sources=[_source(each) for each in first.recipe["data"]["sources"]],
        recipe_yaml=yaml.safe_dump(first.recipe, sort_keys=False, allow_unicode=True),
        rows=ROWS,
        compared=compared,
    )


def _source(source: Mapping[str, Any]) -> str:
    known = SOURCES.get(Path(source["path"]).name, code(source["path"]))
    return known if source["max_rows"] is None else f"{known}, {source['max_rows']:,} rows of it at random"


def _yaml_value(text: str) -> str:
    """For the front matter: JSON is YAML, too."""
    return text if re.fullmatch(r"[A-Za-z0-9][\w./-]*", text) else json.dumps(text)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _read(folder: Path) -> TrainedRun:
    for name in ("recipe.yaml", "metrics.json", "cfg.json", "left_out_ids.json"):
        if not (folder / name).is_file():
            raise ReleaseError(f"{folder} is not a finished training run: {name} is missing.")
    try:
        recipe = read_yaml(folder / "recipe.yaml")
    except ParseError as error:
        raise ReleaseError(f"{folder} is not a finished training run: recipe.yaml cannot be read: {error}.") from error
    if not isinstance(recipe, dict) or not isinstance(recipe.get("data"), dict):
        raise ReleaseError(f"{folder} is damaged: recipe.yaml is not a recipe; train again.")
    metrics, config = (read_json_object(folder / name) for name in ("metrics.json", "cfg.json"))
    left_out = read_left_out_ids(folder / "left_out_ids.json")
    published = {**current_keys(recipe), "data": {**recipe["data"], "folder": "data"}}
    return TrainedRun(folder, portable(published), portable(metrics), config, tuple(sorted(left_out)))
