"""Feature activations of items: collected from a model with an SAE, kept on disk, shown in their contexts."""

from sae_lens_med.features.collect import collect
from sae_lens_med.features.contexts import Context, top_contexts
from sae_lens_med.features.store import CollectedFeatures, load_features

__all__ = ["CollectedFeatures", "Context", "collect", "load_features", "top_contexts"]
