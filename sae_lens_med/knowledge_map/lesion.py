"""Lesion: a block is skipped, its input handed on; what does the model then say after a statement?

For each block and each clean prompt of the pairs (`pairs`), at the next token:

- **kl** = KL(p || p without the block), nats, >= 0, over the whole vocabulary;
- **margin** = [logit(answer) - logit(the partner's answer)] - the same without the block: positive where the block
  speaks for the answer;
- **flip**: 1 where the likeliest token is another one.

Depth k of a map is block k - 1; depth 0 skips nothing and is 0. No other model judges what comes out: these are exact.

The first blocks (`measure.FIRST_BLOCKS`) are needed for any text in any model, and nothing is claimed of them. Even
later a block that medical statements need may be one that every statement needs: what counts is the difference to plain
ones.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from sae_lens_med.knowledge_map.block_runs import BlockRuns, by_length
from sae_lens_med.knowledge_map.pairs import Pair
from sae_lens_med.records import FloatArray


def lesions(
    runs: BlockRuns,
    pairs: Sequence[Pair],
    *,
    batch_tokens: int,
    on_batch: Callable[[int], None] = lambda _n: None,
) -> FloatArray:
    """`[pairs, depth, 3]`: kl, margin and flip of the clean prompts; `on_batch` is called with how many are done."""
    found = np.zeros((len(pairs), runs.n_layers + 1, 3))
    for batch in by_length([len(pair.clean) for pair in pairs], batch_tokens):
        tokens = runs.tokens([pairs[i].clean for i in batch])
        answers = torch.tensor([pairs[i].answers for i in batch], device=runs.device)
        hidden = runs.residuals(tokens)
        whole = runs.logits(tokens, runs.n_layers, hidden[-1])
        for block in range(runs.n_layers):
            without = runs.logits(tokens, block + 1, hidden[block])
            found[batch, block + 1] = _compared(whole, without, answers).cpu().numpy()
        on_batch(len(batch))
    return found


def _compared(whole: torch.Tensor, without: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """`[batch, 3]`"""
    log_p, log_q = whole.log_softmax(-1), without.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # rounding alone makes it less
    margins = [each.gather(1, answers) @ each.new_tensor([1.0, -1.0]) for each in (whole, without)]
    flip = (whole.argmax(-1) != without.argmax(-1)).float()
    return torch.stack([kl, margins[0] - margins[1], flip], dim=1).double()
