"""What a finished training run leaves: the SAE in SAELens' inference form, and what is known about it.

    trained weights -> scaling folded in -> SAE folder -> loaded again -> gains (`unshrink`, on request) -> measured

A `tied_l1` SAE leaves strictly tied, W_dec = W_encᵀ with unit rows: the activation scaling s goes into the features'
values (c / s) and biases, since ReLU(M s x + b) / s = ReLU(M x + b / s). Gains untie the lengths, not the directions.

`cfg.json`, `sae_weights.safetensors`, `sparsity.safetensors` and `runner_cfg.json` are as SAELens writes them. Beside
them lie `metrics.json` (held-out text), `curve.json` and `curve.svg`, and `left_out_ids.json`. `cfg.json` comes last: a
folder that has it is finished.

Out of scope: releases (`saes.publish`), and the training (`run.py`).
"""

from pathlib import Path
from typing import Any

from sae_lens import SAE, LanguageModelSAERunnerConfig, SAETrainer
from safetensors.torch import save_file

from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.plots import describe_training, svg, training_panels
from sae_lens_med.runs.files import atomic_path, follow_umask, write_json, write_text
from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE
from sae_lens_med.training.activations import Activations, Corpus
from sae_lens_med.training.quality import SaeQuality, measure, reservations
from sae_lens_med.training.recipe import Recipe
from sae_lens_med.training.resample import rows_for
from sae_lens_med.training.unshrink import unshrink

UNSHRINK_ROWS = 40_960
"""Activations that the gains are fitted to, those held back among them."""


def export(
    trainer: SAETrainer[Any, Any],
    cfg: LanguageModelSAERunnerConfig[Any],
    recipe: Recipe,
    model: MedBridge,
    text: Corpus,
    acts: Activations,
    curve: list[dict[str, float]],
    output: Path,
) -> SaeQuality:
    """Write what the finished `trainer` holds to `output`, and return what it is worth on the held-out text.

    The trainer is used up: the scaling is folded into its SAE. Called again after an interruption, it does all of it
    again.
    """
    sae = trainer.sae
    trainer.set_final_sae_metadata()
    if trainer.activation_scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    if isinstance(sae, TiedL1TrainingSAE):
        sae.fold_W_dec_norm()
    metadata = sae.cfg.metadata
    metadata.model_name, metadata.hook_name = cfg.model_name, cfg.hook_name
    metadata.context_size, metadata.dataset_path = cfg.context_size, cfg.dataset_path
    metadata.model_class_name, metadata.exclude_special_tokens = cfg.model_class_name, True
    staging = output / ".export"
    sae.save_inference_model(staging)
    with atomic_path(output / "sparsity.safetensors") as temporary:
        save_file({"sparsity": trainer.log_feature_sparsity}, temporary)
    write_json(output / "runner_cfg.json", cfg.to_dict())
    exported = SAE.load_from_disk(staging, device=cfg.device)
    gains = None
    if recipe.unshrink:
        rows = rows_for(acts, UNSHRINK_ROWS, cfg.train_batch_size_tokens, seed=cfg.seed, step=trainer.n_training_steps)
        gains = unshrink(exported, rows.split(cfg.train_batch_size_tokens)).to_dict()
        exported.save_model(staging)
    quality = measure(model, exported, text.heldout, sink_multiple=recipe.sink_multiple)
    write_json(output / "left_out_ids.json", list(text.left_out_ids))
    write_json(
        output / "metrics.json",
        {
            "heldout": quality.to_dict(),
            **({"reservations": list(said)} if (said := reservations(quality)) else {}),
            **({"unshrunk": gains} if gains else {}),
            "text": {"sha256": text.sha256, "counts": text.counts, "heldout_sequences": len(text.heldout)},
            "activations": acts.summary(),
            "model": model.provenance,
            "steps": trainer.n_training_steps,
            "tokens": trainer.n_training_samples,
        },
    )
    write_json(output / "curve.json", curve)
    picture = svg(training_panels(curve), title="Training curve", description=describe_training(curve))
    write_text(output / "curve.svg", picture)
    for name in ("sae_weights.safetensors", "cfg.json"):
        follow_umask(staging / name)
        (staging / name).replace(output / name)
    staging.rmdir()
    return quality
