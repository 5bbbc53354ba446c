"""Which layer knows what: read-outs of concepts by layer, each beside the controls without which it says little.

`lists` (what is asked), `reading` (activations), `geometry` (read-outs of a layer), `measure` (cells and their nulls),
`run` (a folder).
"""

from sae_lens_med.knowledge_map.lists import Lists, packaged_lists, read_lists
from sae_lens_med.knowledge_map.measure import MapRow
from sae_lens_med.knowledge_map.run import MapSettings, make_map

__all__ = ["Lists", "MapRow", "MapSettings", "make_map", "packaged_lists", "read_lists"]
