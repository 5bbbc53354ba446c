"""What a reconstruction costs the model: cross-entropy and KL of the next token with it in the activation's place.

A sequence runs once, as three: at the hook the activation x becomes the batch [x, x̂, μ], so that the layers before it
run once for all. Where the plain transformers model cannot stand for the bridge, the bridge runs three times.

The LM head is most of the work: a vocabulary of 262,144 times a width of 640 costs more than the transformer below it,
and its logits fill memory. They are made for a part of the vocabulary at a time, which stays in the processor's cache,
and summed up at once. With a the logits of the run with x, b those of another:

    CE = lse_b - b[target]        lse_b = log Σ exp(b)
    KL = lse_b - lse_a - Σ p (b - a)        p = exp(a - lse_a)

Out of scope: what the numbers are compared with (`metrics.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from rich.console import Console
from rich.progress import track
from sae_lens import SAE

from sae_lens_med.errors import DataError
from sae_lens_med.models.bridge import NONLINEAR_HEADS, MedBridge, Reached
from sae_lens_med.models.hf_hooks import hf_hooks, hook_places
from sae_lens_med.models.residuals import ready

BLOCK_VALUES = 2**21
"""Logits at a time: 8 MB in float32."""


@torch.no_grad()
def spliced_losses(
    model: MedBridge, sae: SAE[Any], sequences: Sequence[Sequence[int]], mean: torch.Tensor, threshold: float
) -> dict[str, Any]:
    """Cross-entropy and KL of the three runs, averaged over predicted tokens.

    Args:
        sequences: token ids; those with fewer than two tokens predict nothing.
        mean: μ, `[d_in]`.
        threshold: special tokens, and tokens whose activation has a larger norm, keep their activation.

    Returns the fields of `SaeQuality` from `ce_loss` on; losses and KL in nats, at least 0. Raises `DataError` when no
    token is predicted.
    """
    runs = _Runs(model, sae, mean, threshold)
    ce, kl, n = torch.zeros(3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0
    for ids in track(sequences, "measuring (sequences)", console=Console(stderr=True)):
        if len(ids) < 2:
            continue
        targets = torch.tensor(ids[1:])
        own_ce, own_kl = compared(runs.logits(ids), targets)
        ce, kl, n = ce + own_ce.cpu(), kl + own_kl.cpu(), n + len(targets)
    if n == 0:
        raise DataError("the functional scores need a sequence of at least two tokens; use more text.")
    (clean, spliced, ablated), (kl_spliced, kl_ablated) = (ce / n).tolist(), (kl / n).tolist()
    return {
        "ce_loss": clean,
        "ce_loss_spliced": spliced,
        "ce_loss_mean_ablated": ablated,
        "ce_loss_score": (ablated - spliced) / (ablated - clean),
        "kl_spliced": kl_spliced,
        "kl_mean_ablated": kl_ablated,
        "kl_score": 1 - kl_spliced / kl_ablated,
        "n_ce_tokens": n,
    }


def compared(blocks: Iterator[torch.Tensor], targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy `[runs]`, and KL `[runs - 1]` of the first run to each other one, summed over the positions.

    Args:
        blocks: float32 logits `[runs, n, width]` each, one part of the vocabulary after the other; they are changed.
        targets: `[n]`, ids of the tokens that come.

    Float64.
    """
    start = 0
    lse = at_target = gap = torch.zeros(())
    for logits in blocks:
        runs, n, width = logits.shape
        targets = targets.to(logits.device)
        if start == 0:
            lse = torch.full((runs, n), -torch.inf, dtype=torch.float64, device=logits.device)
            at_target, gap = torch.zeros_like(lse), torch.zeros_like(lse[1:])
        here = ((targets >= start) & (targets < start + width)).nonzero().squeeze(1)
        at_target[:, here] = logits[:, here, targets[here] - start].double()
        lse, before = torch.logaddexp(lse, logits.logsumexp(-1).double()), lse
        clean, others = logits[0], logits[1:]
        others -= clean
        p = clean.sub_(lse[0, :, None].float()).exp_()
        # What was summed up so far was divided by a smaller sum of exponentials.
        gap = gap * (before[0] - lse[0]).exp() + torch.linalg.vecdot(p, others).double()
        start += width
    return (lse - at_target).sum(1), (lse[1:] - lse[0] - gap).sum(1)


class _Runs:
    """The three runs of a sequence."""

    def __init__(self, model: MedBridge, sae: SAE[Any], mean: torch.Tensor, threshold: float) -> None:
        self.model = model
        self.sae = sae
        self.mean = mean
        self.threshold = threshold
        self.hook_name: str = sae.cfg.metadata.hook_name
        self.special = torch.tensor(model.text_tokenizer.all_special_ids)
        self.passes = self.special
        plain = ready(model)
        self.plain = plain if plain is not None and self.hook_name in hook_places(plain) else None
        head = None if self.plain is None else self.plain.get_output_embeddings()
        config = None if self.plain is None else self.plain.config.get_text_config()
        linear = all(getattr(config, name, None) in (None, 1.0) for name in NONLINEAR_HEADS)
        self.head = head if isinstance(head, torch.nn.Linear) and linear else None

    def logits(self, ids: Sequence[int]) -> Iterator[torch.Tensor]:
        """Float32 `[3, len(ids) - 1, width]`, one part of the vocabulary after the other."""
        tokens = torch.tensor([ids]).to(self.model.cfg.device or "cpu")
        self.passes = torch.isin(tokens[0].cpu(), self.special)
        width = max(1, BLOCK_VALUES // (3 * len(ids)))
        if self.head is not None:
            hidden = self._before_head(tokens)[:, :-1]
            biases = [None] if self.head.bias is None else self.head.bias.split(width)
            for number, weight in enumerate(self.head.weight.split(width)):
                yield F.linear(hidden, weight, biases[number % len(biases)]).float()
            return
        if self.plain is not None:
            with hf_hooks(self.plain, [(self.hook_name, self._three)]):
                whole = self.plain(input_ids=tokens, use_cache=False).logits
        else:
            whole = torch.cat([self._by_bridge(tokens, run) for run in range(3)])
        for block in whole[:, :-1].split(width, dim=-1):
            yield block.to(torch.float32, copy=True)

    def _before_head(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the LM head reads in the three runs, `[3, n, d_model]`."""
        found: list[torch.Tensor] = []

        def keep(_head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            found.append(args[0])
            raise Reached

        assert self.plain is not None and self.head is not None  # who calls has looked
        handle = self.head.register_forward_pre_hook(keep)
        try:
            with hf_hooks(self.plain, [(self.hook_name, self._three)]):
                self.plain(input_ids=tokens, use_cache=False)
        except Reached:
            return found[0]
        finally:
            handle.remove()
        raise AssertionError("the model has an LM head and did not run it")

    def _by_bridge(self, tokens: torch.Tensor, run: int) -> torch.Tensor:
        def one(x: torch.Tensor, hook: Any) -> torch.Tensor:
            return self._three(x, hook)[run : run + 1]

        return self.model.run_with_hooks(tokens, fwd_hooks=[(self.hook_name, one)] if run else [])

    def _three(self, x: torch.Tensor, hook: Any) -> torch.Tensor:
        """`[1, n, d]` -> `[3, n, d]`: as it is, reconstructed, the mean."""
        del hook  # TransformerLens passes it by name
        new = self.sae(x.to(self.sae.device, self.sae.dtype)).to(x)
        passed = self.passes.to(x.device) | (x[0].float().norm(dim=-1) > self.threshold)
        return torch.where(passed[None, :, None], x, torch.cat([x, new, self.mean.to(x).expand_as(x)]))
