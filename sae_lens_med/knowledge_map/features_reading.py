"""Reading for a map of features: models, SAEs and lists -> residuals on disk -> one `ConceptActs` for each place.

    read/DOMAIN-LANGUAGE-WHICH.safetensors    `names.NameTokens`, of the model and of each model with permuted weights

Models with permuted weights are made of the model itself, opened once more: seed k permutes what seed k - 1 left, as in
the map of layers. A shuffled dictionary, and the SAE on models with permuted weights, are given the firing rates that
the SAE has on the names, since their thresholds belong to other directions (`controls.untrained`).

Out of scope: what the features say (`features_run`).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sae_lens_med.knowledge_map.features import ConceptActs
from sae_lens_med.knowledge_map.lists import LanguageCode, Lists, Place
from sae_lens_med.knowledge_map.names import NamePosition, NameTokens, mean_rows, name_residuals, pooled, read_names
from sae_lens_med.knowledge_map.reading import Float32Array, SlotText, slot_texts
from sae_lens_med.records import FloatArray
from sae_lens_med.runs.files import atomic_path
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.progress import progress_bar

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge
    from sae_lens_med.saes.releases import LoadedSae


def texts_of(lists: Lists, domain: str, language: LanguageCode, model: "MedBridge") -> list[SlotText]:
    """The concepts of a place in its medical frames."""
    templates = lists.templates_of(domain, language, "medical")
    return slot_texts(lists.of(domain, language), templates, language, model.text_tokenizer)


def read_all(
    model: "MedBridge",
    open_model: Callable[[], "MedBridge"],
    saes: Sequence["LoadedSae"],
    lists: Lists,
    places: Sequence[Place],
    run: RunFolder,
    *,
    random_models: int,
    seed: int,
    batch_tokens: int | None,
    progress: bool,
) -> None:
    """Write the files of all places that are not done yet. `model` is left as it is; `open_model` gives another.

    Raises `ModelError` for an SAE that does not fit the model.
    """
    which = ["model", *(f"random-{k}" for k in range(1, random_models + 1))]
    n_texts = {place: len(lists.of(*place)) * len(lists.templates_of(*place, "medical")) for place in places}
    with progress_bar(progress) as bar:
        task = bar.add_task("reading", total=len(which) * len(saes) * sum(n_texts.values()))
        for k, name in enumerate(which):
            left = [place for place in places if _part(*place, name) not in run.parts]
            bar.advance(task, len(saes) * sum(n for place, n in n_texts.items() if place not in left))
            if k and any(_part(*place, each) not in run.parts for place in places for each in which[k:]):
                from sae_lens_med.controls.untrained import permute_weights

                model = open_model() if k == 1 else model
                permute_weights(model, seed + k)
            for domain, language in left:
                began = time.monotonic()
                texts = texts_of(lists, domain, language, model)
                found = read_names(model, saes, texts, batch_tokens=batch_tokens, on_text=lambda: bar.advance(task))
                with atomic_path(_file(run.path, domain, language, name)) as path:
                    found.save(path)
                run.finish(_part(domain, language, name), time.monotonic() - began, texts=len(texts))


def concept_acts(
    number: int,
    sae: "LoadedSae",
    lists: Lists,
    places: Sequence[Place],
    output: Path,
    *,
    position: NamePosition,
    random_models: int,
    seed: int,
) -> dict[Place, ConceptActs]:
    """What was read, as the SAE `number` sees it, with its controls.

    Raises `ReleaseError` for an SAE other than `standard`, `jumprelu` and `topk`.
    """
    from sae_lens_med.controls.untrained import match_rates, shuffled_sae

    def tokens(which: str) -> list[NameTokens]:
        return [NameTokens.load(_file(output, *place, which)) for place in places]

    trained = tokens("model")
    everything = np.concatenate([each.x[number] for each in trained])
    rates = firing_rates(sae, everything)
    shuffled = match_rates(shuffled_sae(sae, seed), everything, rates)
    random: list[list[Float32Array]] = []
    for k in range(1, random_models + 1):
        own = tokens(f"random-{k}")
        matched = match_rates(sae, np.concatenate([each.x[number] for each in own]), rates)
        random.append([pooled(matched, each.x[number], each, position).acts for each in own])
    found: dict[Place, ConceptActs] = {}
    for i, (place, each) in enumerate(zip(places, trained, strict=True)):
        x = each.x[number]
        features = pooled(sae, x, each, position)
        found[place] = ConceptActs(
            concepts=lists.of(*place),
            language=place[1],
            features=features.acts,
            fires=features.fires,
            residual=name_residuals(x, each, position),
            embedding=mean_rows(each.embedding, each.concept),
            shuffled=pooled(shuffled, x, each, position).acts,
            random=tuple(own[i] for own in random),
        )
    return found


def firing_rates(sae: "LoadedSae", x: Float32Array) -> FloatArray:
    """`[d_sae]`, the share of the rows of `x` `[n, d_in]` on which each feature fires."""
    import torch

    from sae_lens_med.features.reading import encoded

    fires = np.zeros(int(sae.sae.cfg.d_sae))
    with torch.no_grad():
        for _, acts in encoded(sae, torch.from_numpy(x).to(sae.sae.device), "the names of concepts"):
            fires += (acts > 0).sum(0).cpu().numpy()
    return fires / len(x)


def _part(domain: str, language: str, which: str) -> str:
    return f"{domain}-{language}-{which}"


def _file(output: Path, domain: str, language: str, which: str) -> Path:
    return output / "read" / f"{_part(domain, language, which)}.safetensors"
