"""The reader against the bridge on gemma-3-270m: both kinds of layer, sequences shorter and longer than its window."""

import pytest
import torch

from sae_lens_med.data import load_items
from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.models.residuals import ResidualReader

HOOKS = ["blocks.0.hook_resid_pre", "blocks.5.hook_resid_post", "blocks.9.hook_resid_post", "blocks.17.hook_resid_post"]


@pytest.mark.real
def test_residuals_are_the_bridges(gemma: MedBridge) -> None:
    """Float32, relative to the norm of each token's residual: rounding, not another computation."""
    texts = "\n".join(item.question for item in load_items("sample").items)
    ids = gemma.text_tokenizer(texts).input_ids
    while len(ids) < 700:  # the window is 512
        ids += ids[1:]
    batch = [ids[:700], [2, *ids[40:300]], [2, *ids[5:20]], ids[:1]]
    found = ResidualReader(gemma, HOOKS).read(batch)
    for hook in HOOKS:
        for got, want in zip(found[hook], residuals(gemma, batch, hook), strict=True):
            error = (got - want).norm(dim=-1) / want.norm(dim=-1)
            assert torch.all(error < 1e-5), hook
