"""`map features`: which features of an SAE carry which label. Heavy imports are inside the command."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.maps.options import (
    Concepts,
    Domain,
    Language,
    RandomModels,
    Seed,
    Templates,
    languages_of,
    lists_of,
)
from sae_lens_med.commands.options import AsJson, BatchTokens, Device, Dtype, Model, Output
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.knowledge_map.features_run import FeatureMap


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command("features")(map_features)


def map_features(
    model: Model,
    sae: Annotated[
        list[str],
        typer.Option(
            "--sae",
            "-s",
            help="RELEASE/ID, a folder, or REL:ID for a release of SAELens. Repeatable: SAEs of several layers.",
        ),
    ],
    output: Output,
    domain: Domain = None,
    language: Language = None,
    concepts: Concepts = None,
    templates: Templates = None,
    collection: Annotated[
        list[Path] | None,
        typer.Option(help="Features that `collect` wrote with an SAE given here: contexts are shown. Repeatable."),
    ] = None,
    position: Annotated[
        str, typer.Option(help="concept: the name's last token; name: the strongest over its tokens.")
    ] = "concept",
    permutations: Annotated[int, typer.Option(help="Draws of the label null.")] = 1000,
    random_models: RandomModels = 3,
    ablate: Annotated[int, typer.Option(help="Most bilingual features of an SAE that are ablated; 0: none.")] = 6,
    matched: Annotated[int, typer.Option(help="Matched-random features beside each that is ablated.")] = 99,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_tokens: BatchTokens = None,
    as_json: AsJson = False,
) -> None:
    """Which features of an SAE carry a label (a system, a specialty, a mechanism), and which do in Korean and English.

    Each label chooses features on half of its concepts, and the other half tests them, beside what the spelling, the
    embedding, models with permuted weights and a shuffled dictionary give when they are asked the same. A bilingual
    feature is chosen in one language and tested in the other; it is then ablated in both, beside features that fire
    there as often and as strongly. Writes features.json, features.csv, features.svg and bilingual.json; goes on where
    it was stopped.

    A read-out does not show that the model uses a feature. The packaged lists were reviewed by no clinician.

    Example: sae-lens-med map features -m gemma-3-270m -s sae-lens-med-gemma-3-270m-res/blocks.9.hook_resid_post -o out

    Example: sae-lens-med map features -m qwen3 -s ./my-sae -o out --domain drugs --collection collected
    """
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.knowledge_map.features_run import KIND, FeatureMapSettings, make_feature_map
    from sae_lens_med.knowledge_map.names import POSITIONS
    from sae_lens_med.runs.folder import require_output

    require_output(output, KIND)
    if position not in POSITIONS:
        raise ConfigError(f"--position must be one of {', '.join(POSITIONS)}, got {position!r}.")
    if len(set(sae)) < len(sae):
        raise ConfigError("an SAE is given twice; name each one once.")
    settings = FeatureMapSettings(
        languages=languages_of(language),
        position=position,
        permutations=permutations,
        random_models=random_models,
        ablate=ablate,
        matched=matched,
        seed=seed,
        batch_tokens=batch_tokens,
    )
    lists = lists_of(concepts, templates, domain)
    from sae_lens_med.commands.options import open_model, warn_other_model
    from sae_lens_med.features.store import load_features
    from sae_lens_med.saes.releases import load_sae

    collected = [load_features(each) for each in collection or ()]
    opened, first = open_model(model, sae[0], device, dtype)
    if first is None:
        raise ConfigError("name at least one SAE.")
    saes = [first, *(load_sae(each, device=str(first.sae.device)) for each in sae[1:])]
    for each in saes[1:]:
        warn_other_model(opened, each)
    del opened
    found = make_feature_map(
        lambda: open_model(model, None, device, dtype)[0], saes, lists, output, settings, collections=collected
    )
    if as_json:
        rows = [row.to_dict() for row in found.rows]
        say_json({"features": rows, "bilingual": found.bilingual(), "notes": found.notes})
        return
    _say(found)
    say(f"Features: {output / 'features.json'}; across languages: {output / 'bilingual.json'}")


def _say(found: "FeatureMap") -> None:
    cells: dict[tuple[str, str, str, int], list[tuple[str, bool]]] = {}
    for row in [*found.rows, *found.across]:
        key = (row.domain, row.labels, row.language.replace("-", " to "), row.depth)
        cells.setdefault(key, []).append((row.label, row.stands_out))
    for (domain, labels, language, depth), own in cells.items():
        out = list(dict.fromkeys(label for label, stands_out in own if stands_out))
        n = len({label for label, _ in own})
        which = f": {', '.join(out)}" if out else ""
        say(f"{domain}/{labels} ({language}, depth {depth}): {len(out)} of {n} labels have a feature{which}")
    for row in found.retrieval:
        if row.q is not None:
            how = "stands out" if row.stands_out else "does not stand out"
            say(
                f"{row.domain} retrieval by features (ko-en, depth {row.depth}): {row.value:.3f} ({how}; null "
                f"{row.null_mean:.3f}, residual {row.residual:.3f})"
            )
    for effect in found.effects:
        beside = "no matched features" if effect.p is None else f"random {effect.null_mean:.2g}, p {effect.p:.2g}"
        say(
            f"without feature {effect.feature} ({effect.label}, {effect.language}, depth {effect.depth}): "
            f"KL {effect.value:.2g} nats ({beside})"
        )
    for note in found.notes:
        say(note, err=True)
