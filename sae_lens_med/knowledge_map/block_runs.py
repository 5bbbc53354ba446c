"""The plain transformer from any block on: what it says when the residual stream before that block is given.

    token ids -> every depth (`residuals`)        changed before block k -> blocks k .. L-1 (`last`) -> `logits`

Depth k is what block k - 1 leaves, depth 0 the embedding. The blocks before k are not run: for the time of a pass they
give on what they get. So a skipped block is what enters it, handed to the next, to the last bit, whatever norms the
block has of its own (Gemma's stand behind its matrices, so that zeroed weights would not be the same as no block).

With `before`, the keys and values of all tokens but the last come from a pass of the unchanged text, which is exact
where the last token alone is changed: no token before it sees it.

Batches are of texts of one length, so that nothing is padded. Own code: TransformerLens and nnsight run all blocks.

Out of scope: encoder-decoder models, and models spread over several devices.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sae_lens_med.errors import ModelError
from sae_lens_med.models.bridge import NONLINEAR_HEADS, Reached
from sae_lens_med.models.kv_cache import on_prefix
from sae_lens_med.models.residuals import ready

if TYPE_CHECKING:
    from sae_lens_med.models.bridge import MedBridge

MOST_ROWS = 64
"""Of a batch: each may have logits over the vocabulary."""


class BlockRuns:
    """Runs one model from any block on.

    Raises `ModelError` for a model that is spread over several devices, or was given other weights after it was opened.
    """

    def __init__(self, model: "MedBridge") -> None:
        plain = ready(model)
        if plain is None:
            raise ModelError(
                f"{model.provenance['name']} is spread over several devices or was changed after it was opened; "
                "lesion, patching and saliency need it on one device."
            )
        self.name: str = model.provenance["name"]
        self.plain: Any = plain
        self.device = plain.device
        path: str = model.adapter.component_mapping["blocks"].name  # type: ignore[index,assignment]  # None by type alone
        self.blocks: list[Any] = list(plain.get_submodule(path))
        self._body: Any = plain.get_submodule(path.rpartition(".")[0])
        self._head: Any = plain.get_output_embeddings()
        config = plain.config.get_text_config()
        self._linear = all(getattr(config, name, None) in (None, 1.0) for name in NONLINEAR_HEADS)

    @property
    def n_layers(self) -> int:
        """Blocks."""
        return len(self.blocks)

    def tokens(self, token_ids: Sequence[Sequence[int]]) -> torch.Tensor:
        """`[batch, n]` of texts of one length."""
        return torch.tensor(list(map(list, token_ids)), dtype=torch.long, device=self.device)

    @torch.no_grad()
    def residuals(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[depth, batch, n, d_model]`, embedding first."""
        found: list[torch.Tensor] = []

        def keep(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])

        def last(_block: Any, _args: Any, out: Any) -> None:
            if not isinstance(out, torch.Tensor):
                raise ModelError(
                    f"the blocks of {self.name} give more than the residual stream; they cannot be skipped."
                )
            found.append(out)
            raise Reached

        with contextlib.ExitStack() as stack:
            for block in self.blocks:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            stack.callback(self.blocks[-1].register_forward_hook(last).remove)
            stack.enter_context(contextlib.suppress(Reached))
            self._body(input_ids=tokens, use_cache=False)
        return torch.stack(found)

    @torch.no_grad()
    def before_last(self, tokens: torch.Tensor) -> Any:
        """Keys and values of all tokens but the last, for `last`; None for texts of one token."""
        if tokens.shape[1] == 1:
            return None
        cache = on_prefix(None, grow=True)
        self._body(input_ids=tokens[:, :-1], past_key_values=cache, use_cache=True)
        return cache

    @torch.no_grad()
    def last(self, tokens: torch.Tensor, depth: int, hidden: torch.Tensor, *, before: Any = None) -> torch.Tensor:
        """What the head gets of the last token, `[batch, d_model]`.

        Args:
            tokens: `[batch, n]`.
            depth: of `hidden`: the blocks from this number on are run; at `n_layers` none.
            hidden: `[batch, n, d_model]`.
            before: from `before_last` of the same texts; then `hidden` is `[batch, 1, d_model]`, of the last token.
        """
        cached: dict[str, Any] = {"use_cache": False}
        if before is not None:
            tokens = tokens[:, -1:]
            cached = {"past_key_values": on_prefix(before, grow=False), "use_cache": True}
        seen: list[torch.Tensor] = []

        def reached(_head: Any, args: tuple[torch.Tensor, ...]) -> None:
            seen.append(args[0][:, -1].contiguous())
            raise Reached

        with contextlib.ExitStack() as stack:
            stack.enter_context(self._from(depth, hidden))
            stack.callback(self._head.register_forward_pre_hook(reached).remove)
            stack.enter_context(contextlib.suppress(Reached))
            self.plain(input_ids=tokens, **cached)
        return seen[0]

    @torch.no_grad()
    def logits(self, last: torch.Tensor, answers: torch.Tensor | None = None) -> torch.Tensor:
        """In float32, of what `last` gives for several passes together: the head's matrix, often the largest of all, is
        read once.

        Args:
            last: `[rows, d_model]`.
            answers: `[rows, k]`, the only tokens that are wanted; None: the vocabulary.

        Returns `[rows, k]` or `[rows, vocabulary]`.
        """
        if answers is not None and self._linear:
            out = torch.einsum("bkd,bd->bk", self._head.weight[answers].float(), last.float())
            bias = getattr(self._head, "bias", None)
            return out if bias is None else out + bias[answers].float()
        handle = self._head.register_forward_pre_hook(lambda _head, args: (last[None], *args[1:]))
        try:  # a pass of one token, of which nothing is left, for what the model does to its logits after the head
            with self._from(self.n_layers, last[None, :1]):
                out = self.plain(input_ids=self.tokens([[0]]), use_cache=False).logits[0].float()
        finally:
            handle.remove()
        return out if answers is None else out.gather(1, answers)

    def last_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[batch, vocabulary]` after the last token of a whole pass, in float32; with gradients where they are on."""
        handle = self._head.register_forward_pre_hook(lambda _head, args: (args[0][:, -1:].contiguous(), *args[1:]))
        try:
            return self.plain(input_ids=tokens, use_cache=False).logits[:, -1].float()
        finally:
            handle.remove()

    @contextlib.contextmanager
    def _from(self, depth: int, hidden: torch.Tensor) -> Iterator[None]:
        """The blocks before `depth` give on what they get, and the first of all gets `hidden`."""

        def enter(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

        handle = self.blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
        passed = self.blocks[:depth]
        for block in passed:
            block.forward = _give_on  # of the instance, before its class's own
        try:
            yield
        finally:
            handle.remove()
            for block in passed:
                del block.forward


def by_length(lengths: Sequence[int], batch_tokens: int, rows: int = 1) -> list[list[int]]:
    """Places of texts that run together: of one length, `rows` rows for each, at most `batch_tokens` tokens and
    `MOST_ROWS` rows, unless one text has more."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        last = batches[-1] if batches else []
        more = (len(last) + 1) * rows
        if last and lengths[last[0]] == lengths[i] and more <= MOST_ROWS and more * lengths[i] <= batch_tokens:
            last.append(i)
        else:
            batches.append([i])
    return batches


def _give_on(hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
    return hidden_states
