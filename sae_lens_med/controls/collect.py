"""Features that have learned nothing, collected on the study's own texts: what any dictionary, or any network, gives.

- `shuffled_decoder`: the study's model, and its SAE with every feature's direction shuffled;
- `random_model`: the study's SAE on its model with the entries of every weight matrix permuted.

In both, each feature's threshold is set so that it fires as often as the trained feature does (`controls.untrained`
says how), on the tokens of up to `CALIBRATION_TEXTS` texts spread over the study. What a control shows is shown by
firing rates, by the words (a random network still tells tokens apart) and by chance directions alone.

Each control is a collection of its own, `STUDY/alignment/controls/NAME/`, made by `features.collect`, resumable.

Out of scope: what `baselines` computes from the study's own arrays (`raw`, `pca`, `tfidf`, `bm25`).
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import ConfigError, ReleaseError, StudyError, nearest
from sae_lens_med.features.store import CollectedFeatures, is_complete, load_features, read_manifest
from sae_lens_med.features.vectors import Collected, counted_tokens, firing_counts
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.records import McqItem

Control = Literal["shuffled_decoder", "random_model"]
CONTROLS: dict[Control, str] = {
    "shuffled_decoder": "the SAE with the entries of every feature's direction permuted, thresholds set so that each "
    "feature fires as often",
    "random_model": "the model with the entries of every weight matrix permuted, under the same SAE, thresholds set so "
    "that each feature fires as often",
}
CALIBRATION_TEXTS = 96


def choose_controls(names: Iterable[str]) -> tuple[Control, ...]:
    """Controls by name, in the order of the list; `all` for every one. Raises `ConfigError` for an unknown name."""
    wanted = set(names)
    for name in sorted(wanted - {"all", *CONTROLS}):
        hint = nearest(name, CONTROLS) or f"; use {', '.join(CONTROLS)} or all."
        raise ConfigError(f"there is no control {name!r}{hint}")
    return tuple(name for name in CONTROLS if name in wanted or "all" in wanted)


def collected_control(folder: Path) -> CollectedFeatures | None:
    """A control that was collected in `folder`, or None where it was not, or not to its end."""
    if not (folder / "manifest.json").is_file() or not is_complete(read_manifest(folder)):
        return None
    return load_features(folder)


def collect_control(
    name: Control,
    open_model: Callable[[], ModelSide],
    items: Sequence[McqItem],
    features: Collected,
    folder: Path,
    *,
    seed: int = 0,
) -> CollectedFeatures:
    """Make the control and collect its features of `items` into `folder`.

    Args:
        name: which.
        open_model: opens the study's model and SAE; for `random_model` the model is altered, so it must be a fresh one.
        items: those of the study.
        features: what the study collected: its firing rates are matched.
        folder: new, empty, or that of the same control, which is then finished.
        seed: of the permutations of entries.

    Raises `StudyError` when `folder` holds something else, `ReleaseError` for an SAE that cannot be altered or where
    the model gives nothing to match rates on.
    """
    from sae_lens_med.controls.untrained import match_rates, permute_weights, shuffled_sae
    from sae_lens_med.features.collect import collect

    side = open_model()
    altered = side.loaded_sae
    if name == "random_model":
        permute_weights(side.model, seed)
    else:
        altered = shuffled_sae(altered, seed)
    rates = firing_rates(features)
    if len(rates) != int(altered.sae.cfg.d_sae):
        raise StudyError(
            f"the study has {len(rates)} features, but the SAE has {int(altered.sae.cfg.d_sae)}; use the "
            "study's own SAE."
        )
    altered = match_rates(altered, activations(side, items), rates)
    collect(
        side.model,
        altered,
        items,
        output=folder,
        batch_tokens=side.batch_tokens,
        shots=side.shots,
        progress=side.progress,
    )
    return load_features(folder)


def firing_rates(features: Collected) -> npt.NDArray[np.float64]:
    """`[d_sae]`: the share of the counted tokens of stems and explanations on which each feature fires."""
    counted = counted_tokens(features.acts)
    return firing_counts(features.acts, counted) / max(1, int(np.count_nonzero(counted)))


def activations(side: ModelSide, items: Sequence[McqItem]) -> npt.NDArray[np.float32]:
    """`[n, d_in]` at the SAE's hook: tokens of stems and explanations, special tokens and sinks left out."""
    from sae_lens_med.features.rules import special_ids
    from sae_lens_med.models.residuals import ResidualReader
    from sae_lens_med.models.sinks import SINK_MULTIPLE
    from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
    from sae_lens_med.records import PARTS

    spread = [items[i] for i in np.linspace(0, len(items) - 1, min(len(items), CALIBRATION_TEXTS // 2)).astype(int)]
    tokenizer = side.model.text_tokenizer
    prompts = [question_prompt(item, tokenizer) for item in spread]
    explained = [item for item in spread if item.explanation is not None and not mask_leakage(item).nothing_left]
    prompts += [explanation_prompt(item, tokenizer)[0] for item in explained]
    hook, special = side.loaded_sae.hook_name, special_ids(side.model)
    reader = ResidualReader(side.model, [hook])
    content = [PARTS.index("stem"), PARTS.index("explanation")]
    found = []
    for prompt in prompts:
        x = reader.read([prompt.token_ids])[hook][0].flatten(1).float().cpu().numpy()
        found.append(x[np.isin(prompt.token_parts, content) & ~np.isin(prompt.token_ids, special)])
    rows = np.concatenate(found)
    norm = np.linalg.norm(rows.astype(np.float64), axis=1)
    kept = rows[norm <= SINK_MULTIPLE * np.median(norm)] if len(rows) else rows
    if not len(kept) or not np.isfinite(kept).all():
        raise ReleaseError(f"the altered model gives no finite activations at {hook}; load it in float32 or bfloat16.")
    return np.ascontiguousarray(kept, dtype=np.float32)
