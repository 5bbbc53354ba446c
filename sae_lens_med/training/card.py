"""The model card of a release, from what training wrote: no number is typed by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from sae_lens_med.catalogue import find
from sae_lens_med.errors import ReleaseError

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
)
"""Key in `metrics.json`, label, format."""


def model_card(release: str, sae_id: str, trained: Path, beside: Sequence[Path] = ()) -> str:
    """The card, Markdown with the Hub's front matter, of the SAE that `sae-lens-med train` wrote to `trained`.

    `beside` are folders of other runs, to show next to it. Raises `ReleaseError` when a run has no metrics, or one
    beside it was not trained on the same text for the same steps.
    """
    metrics, recipe = _read(trained)
    others = []
    for folder in beside:
        other, other_recipe = _read(folder)
        if (other["text"]["sha256"], other["steps"]) != (metrics["text"]["sha256"], metrics["steps"]):
            raise ReleaseError(f"{folder} was trained on another text or for other steps than {trained}; compare like.")
        others.append({"name": f"SAELens {other_recipe['sae']['architecture']}", "heldout": other["heldout"]})
    config = json.loads((trained / "cfg.json").read_text(encoding="utf-8"))
    entry = find(metrics["model"]["name"])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sae_lens_med"), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md.j2").render(
        **{key: metrics[key] for key in ("text", "activations", "heldout", "steps", "tokens")},
        model={"dequantised_from": None, "sha256": None, "revision": None, **metrics["model"]},
        model_hub_id=entry.hub_id if entry else metrics["model"]["name"],
        unshrunk=metrics.get("unshrunk"),
        release=release,
        sae_id=sae_id,
        hook_name=recipe["hook_name"],
        architecture=recipe["sae"]["architecture"],
        d_in=config["d_in"],
        d_sae=config["d_sae"],
        context_size=recipe["context_size"],
        sink_multiple=recipe["data"]["sink_multiple"],
        batch=recipe["train_batch_size_tokens"],
        n_left_out=len(json.loads((trained / "left_out_ids.json").read_text(encoding="utf-8"))),
        recipe_yaml=yaml.safe_dump(published_recipe(recipe), sort_keys=False, allow_unicode=True),
        rows=ROWS,
        others=others,
    )


def published_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe without the folder of one machine."""
    return {**recipe, "data": {**recipe["data"], "folder": "data"}}


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReleaseError(f"{folder} is no finished training run: it lacks {Path(error.filename).name}.") from error
    return metrics, recipe
