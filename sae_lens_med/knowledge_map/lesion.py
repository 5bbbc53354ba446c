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

from sae_lens_med.knowledge_map.block_runs import MOST_ROWS, BlockRuns, by_length
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
        whole = runs.last(tokens, runs.n_layers, hidden[-1])
        without = [runs.last(tokens, block + 1, hidden[block]) for block in range(runs.n_layers)]
        log_p, margin = runs.logits(whole).log_softmax(-1), _margin(runs, whole, answers)
        at_once = max(1, MOST_ROWS // len(batch))
        for first in range(0, runs.n_layers, at_once):
            some = range(first, min(first + at_once, runs.n_layers))
            together = runs.logits(torch.cat([without[block] for block in some]))
            for block, logits in zip(some, together.split(len(batch)), strict=True):
                log_q = logits.log_softmax(-1)
                kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
                lost = margin - _margin(runs, without[block], answers)
                flip = logits.argmax(-1) != log_p.argmax(-1)
                # Rounding alone makes a divergence negative, and one of batches of different size not 0.
                differ = (without[block] != whole).any(-1)
                three = torch.stack([kl.clamp(min=0), lost, flip.float()], dim=1) * differ[:, None]
                found[batch, block + 1] = three.cpu().numpy()
        on_batch(len(batch))
    return found


def _margin(runs: BlockRuns, last: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    logits = runs.logits(last, answers)
    return logits[:, 0] - logits[:, 1]
