"""Saliency: how much log p(answer) would change with each weight of a block.

    S_k = mean over the entries w of block k's weight matrices of |d log p(answer) / d w|,   or of |w d log p / d w|

for each clean prompt by itself, at its next token (not the gradient of a mean: gradients of several prompts cancel).
Only matrices of the blocks count: a tied embedding is none of them. Late blocks have larger gradients whatever the
text, and a doubtful answer has larger ones in every block: what is compared is the share of block k in the sum over the
blocks, of medical against plain statements (`causal_rows`).

A prompt's gradient of a matrix is the product of what goes into it with what comes back, `G^T X`: it is made, summed
and dropped matrix by matrix, so that no gradient of the whole model is ever held.

Out of scope: second derivatives; weights that are no matrix of a linear map (experts in one tensor are refused).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from sae_lens_med.errors import ModelError
from sae_lens_med.knowledge_map.block_runs import BlockRuns, by_length
from sae_lens_med.knowledge_map.pairs import Pair
from sae_lens_med.records import FloatArray


def saliencies(
    runs: BlockRuns,
    pairs: Sequence[Pair],
    *,
    batch_tokens: int,
    on_batch: Callable[[int], None] = lambda _n: None,
) -> FloatArray:
    """`[pairs, blocks, 2]`: mean |g| and mean |g w| of each clean prompt.

    Raises `ModelError` for a model whose blocks have weights that are no linear maps.
    """
    matrices = [_matrices(runs, block) for block in range(runs.n_layers)]
    entries = np.array([sum(each.weight.numel() for each in found) for found in matrices])
    sums = np.zeros((len(pairs), runs.n_layers, 2))
    for batch in by_length([len(pair.clean) for pair in pairs], batch_tokens):
        tokens = runs.tokens([pairs[i].clean for i in batch])
        answers = torch.tensor([pairs[i].answers[0] for i in batch], device=runs.device)
        sums[batch] = _batch(runs, tokens, answers, matrices)
        on_batch(len(batch))
    return sums / entries[:, None]


def _batch(
    runs: BlockRuns, tokens: torch.Tensor, answers: torch.Tensor, matrices: Sequence[Sequence[Any]]
) -> FloatArray:
    sums = torch.zeros(len(tokens), len(matrices), 2, dtype=torch.float64)

    def watch(block: int, module: Any) -> Callable[..., None]:
        def forward(_module: Any, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
            into = args[0].detach()

            def backward(back: torch.Tensor) -> None:
                size = module.weight.detach().abs().reshape(-1)
                for row, (x, g) in enumerate(zip(into, back, strict=True)):
                    gradient = (x.T @ g if isinstance(module, Conv1D) else g.T @ x).abs_().reshape(-1)
                    sums[row, block, 0] += gradient.sum(dtype=torch.float32).item()
                    sums[row, block, 1] += (gradient @ size).item()

            out.register_hook(backward)

        return forward

    def leaf(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    handles = [each.register_forward_hook(watch(block, each)) for block, found in enumerate(matrices) for each in found]
    handles.append(runs.blocks[0].register_forward_pre_hook(leaf, with_kwargs=True))
    try:
        with torch.enable_grad():
            logits = runs.last_logits(tokens)
            logits.log_softmax(-1).gather(1, answers[:, None]).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return sums.numpy()


def _matrices(runs: BlockRuns, block: int) -> list[Any]:
    found = [each for each in runs.blocks[block].modules() if isinstance(each, torch.nn.Linear | Conv1D)]
    weights = {id(each.weight) for each in found}
    for name, parameter in runs.blocks[block].named_parameters():
        if parameter.ndim > 1 and id(parameter) not in weights:
            raise ModelError(
                f"{name} of block {block} of {runs.name} is the weight of no linear map, so that saliency cannot count "
                "it; choose the other methods with --method."
            )
    return found
