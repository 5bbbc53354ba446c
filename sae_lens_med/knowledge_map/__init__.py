"""Which layer knows what, and in which features: read-outs of concepts, each beside the controls without which it says
little. One folder for each command of `sae-lens-med map`:

    layers       `lists` -> `reading` -> `geometry` -> `measure`; `pairs` -> `block_runs` -> `saliency`, `lesion`,
                 `patching` -> `causal_rows`, in parts (`causal_run`); `combined`; all in a folder (`run`)
    features     `names` -> `features_reading` -> `features`, `bilingual`, `bilingual_effects` -> `features_run`
    match        `words` -> `word_reading` -> `matching` -> `match_run`, `match_files`
    scaling      `scaling`, `coverage` -> `scaling_measure` -> `scaling_run`
    attributes   the folder `attributes/`
"""

from sae_lens_med.knowledge_map.lists import Lists, packaged_lists, read_lists
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.knowledge_map.run import MapSettings, make_map

__all__ = ["Lists", "MapRow", "MapSettings", "make_map", "packaged_lists", "read_lists"]
