"""sae_lens_med: does a medical language model compute with what the expert's explanation names?

A plugin for SAELens and TransformerLens. Importing it registers the training architecture `tied_l1` and the releases
with SAELens. The names below are the public ones; each is imported when it is first used. Research tool, not for
clinical use.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sae_lens_med._registration import register_with_sae_lens

if TYPE_CHECKING:
    from sae_lens_med import plots
    from sae_lens_med.alignment import METRICS
    from sae_lens_med.data import load_items
    from sae_lens_med.evaluation.conditions.run import run_conditions
    from sae_lens_med.evaluation.conditions.spec import load_conditions
    from sae_lens_med.evaluation.method import Method
    from sae_lens_med.evaluation.run import evaluate
    from sae_lens_med.features.collect import collect
    from sae_lens_med.features.contexts import top_contexts
    from sae_lens_med.features.store import load_features
    from sae_lens_med.interventions import ablate, attached, clamp, load_interventions, record, splice, steer
    from sae_lens_med.models.bridge import MedBridge, load_model
    from sae_lens_med.models.engine import Engine, TokenText
    from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
    from sae_lens_med.records import FeatureActs, FeatureRef, ItemResult, McqItem, MetricValue, Prompt, Provenance
    from sae_lens_med.saes.releases import load_sae
    from sae_lens_med.saes.tied_l1 import TiedL1TrainingSAE, TiedL1TrainingSAEConfig
    from sae_lens_med.study.compare import compare_studies
    from sae_lens_med.study.measure import run_alignment
    from sae_lens_med.study.measure import run_alignment as align
    from sae_lens_med.study.report import write_report
    from sae_lens_med.study.run import run_study
    from sae_lens_med.training.recipe import load_recipe
    from sae_lens_med.training.run import train
    from sae_lens_med.training.text import training_text

__version__ = "0.1.0"

_WHERE = {
    "METRICS": "alignment",
    "plots": "plots",
    "load_items": "data",
    "load_recipe": "training.recipe",
    "train": "training.run",
    "training_text": "training.text",
    "load_conditions": "evaluation.conditions.spec",
    "run_conditions": "evaluation.conditions.run",
    "Method": "evaluation.method",
    "evaluate": "evaluation.run",
    "collect": "features.collect",
    "top_contexts": "features.contexts",
    "load_features": "features.store",
    "Engine": "models.engine",
    "TokenText": "models.engine",
    "ablate": "interventions",
    "attached": "interventions",
    "clamp": "interventions",
    "load_interventions": "interventions",
    "record": "interventions",
    "splice": "interventions",
    "steer": "interventions",
    "MedBridge": "models.bridge",
    "load_model": "models.bridge",
    "explanation_prompt": "prompts.tokens",
    "question_prompt": "prompts.tokens",
    "FeatureActs": "records",
    "FeatureRef": "records",
    "ItemResult": "records",
    "McqItem": "records",
    "MetricValue": "records",
    "Prompt": "records",
    "Provenance": "records",
    "load_sae": "saes.releases",
    "TiedL1TrainingSAE": "saes.tied_l1",
    "TiedL1TrainingSAEConfig": "saes.tied_l1",
    "compare_studies": "study.compare",
    "run_alignment": "study.measure",
    "align": "_deprecated",  # run_alignment, which it also is for type checkers; the old use warns
    "write_report": "study.report",
    "run_study": "study.run",
}

_DEPRECATED = {"evaluate_letters": "sae_lens_med.evaluate(model, items).results"}
"""Names of 0.1.0 -> what takes their place."""

__all__ = [
    "Engine",
    "FeatureActs",
    "FeatureRef",
    "ItemResult",
    "METRICS",
    "McqItem",
    "MedBridge",
    "Method",
    "MetricValue",
    "Prompt",
    "Provenance",
    "TiedL1TrainingSAE",
    "TiedL1TrainingSAEConfig",
    "TokenText",
    "ablate",
    "align",
    "attached",
    "clamp",
    "collect",
    "compare_studies",
    "evaluate",
    "explanation_prompt",
    "load_conditions",
    "load_features",
    "load_interventions",
    "load_items",
    "load_model",
    "load_recipe",
    "load_sae",
    "plots",
    "question_prompt",
    "record",
    "run_alignment",
    "run_conditions",
    "run_study",
    "splice",
    "steer",
    "top_contexts",
    "train",
    "training_text",
    "write_report",
]

register_with_sae_lens()


def __getattr__(name: str) -> Any:
    if name in _DEPRECATED:
        warnings.warn(
            f"{__name__}.{name} goes with the next version; use {_DEPRECATED[name]}.", DeprecationWarning, stacklevel=2
        )
        return getattr(import_module(f"{__name__}._deprecated"), name)
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_WHERE[name]}")
    return module if name == _WHERE[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
