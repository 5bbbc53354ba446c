"""Many edits of one text at an SAE's hook, for the price of the layers above it.

    text ──► model, once ──► x [n, d] at the hook, c = encode(x) at the chosen tokens, key-value cache
    edits ─► x' = x + change, one row each ─► layers above the hook ─► logits after the last token

What lies below the hook is the same for all edits of a text, and so is everything before the first token that an edit
changes: neither is computed again. Edits run as rows of one batch, those that begin to differ at like tokens together;
only the last position goes through the LM head, and only the words that are asked for.

An edit is one of `Without`, `Only`, `Clamp`, `Change`, `Push` and `Splice`. The error term x − x̂ stays as it is in all
but the last, so that `Without` equals `ablate(mode="zero")` at the same tokens up to rounding.

`gradient` gives d(sum_w a_w logit_w)/dx at the chosen tokens by one backward pass through the layers above; because
the decoder is linear, the derivative by the activation of feature f at token t is `s_t d_f · gradient_t`, for all
features at once.

Fast for hooks on the residual stream (`hook_resid_pre`, `hook_resid_post`) of a model that `reader.ready` knows; at
other hooks, and in models that only the bridge runs, whole passes are made. `continued` writes on after an edited text,
greedily, token by token. Out of scope: transcoders, generation in batches (`models.engine`).
"""

import contextlib
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.interventions.dictionary import AnySae, Dictionary
from sae_lens_med.models.bridge import NONLINEAR_HEADS, MedBridge, Reached, default_batch_tokens
from sae_lens_med.models.hf_hooks import decoder_layers, hf_hooks, hook_places, resumed
from sae_lens_med.models.kv_cache import cut, on_prefix
from sae_lens_med.models.residuals import ready
from sae_lens_med.records import FloatArray

_RESIDUAL = re.compile(r"blocks\.(\d+)\.hook_(in|out)")


@dataclass(frozen=True, slots=True)
class Without:
    """These features do not fire at the chosen tokens."""

    features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Only:
    """All features but these do not fire at the chosen tokens; bias and error term stay. `Only(())`: no feature."""

    features: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Clamp:
    """The feature has this activation at all chosen tokens."""

    feature: int
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """Several features at once, at all chosen tokens: some are set, as by `Clamp`, and of others a multiple of the
    decoder direction is added, as by `hooks.steer`, whatever their own activation."""

    put: tuple[tuple[int, float], ...] = ()
    """Feature and the activation that it has; 0: it does not fire."""
    add: tuple[tuple[int, float], ...] = ()
    """Feature and what is added, in its units of activation."""

    @property
    def features(self) -> tuple[int, ...]:
        """All of them, those that are set first."""
        return tuple(feature for feature, _ in (*self.put, *self.add))


@dataclass(frozen=True, slots=True, eq=False)
class Push:
    """Add at every chosen token what clamping `like` would add, turned into another direction of equal length."""

    direction: npt.NDArray[np.float32]
    """`[d_in]`, of length 1."""
    like: Clamp


@dataclass(frozen=True, slots=True)
class Splice:
    """The reconstruction x̂ stands at the chosen tokens: all features, without the error term."""


Edit = Without | Only | Clamp | Change | Push | Splice


@dataclass(slots=True, eq=False)
class HookedText:
    """One text that was run once, for its edits."""

    token_ids: tuple[int, ...]
    at: torch.Tensor
    """`[m]`, the chosen tokens, ascending."""
    x: torch.Tensor
    """`[n, ...]`, the activation at the hook."""
    acts: torch.Tensor
    """`[m, d_sae]`, feature activations at the chosen tokens, >= 0."""
    scale: torch.Tensor | None
    """`[m, 1]`, of SAEs that normalise each token."""
    cache: Any
    head: torch.Tensor
    """What the unedited text gives at its last token: the LM head's input, or logits where the head is not linear."""
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def active(self) -> sparse.csr_array:
        """CSR `[m, d_sae]`, float64: `acts`."""
        if "active" not in self._kept:
            self._kept["active"] = sparse.csr_array(self.acts.detach().cpu().numpy().astype(np.float64))
        return self._kept["active"]

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """`[d_sae]`: at which of the chosen tokens each feature fires first; m for one that does not."""
        if "first" not in self._kept:
            fires = self.acts > 0
            at = fires.int().argmax(0)
            at[~fires.any(0)] = len(self.at)
            self._kept["first"] = at.cpu().numpy().astype(np.int64)
        return self._kept["first"]


class AboveHook:
    """Reads texts and runs their edits.

    Args:
        model: from `load_model`; hooks and SAEs attached to the bridge are not seen.
        sae: of a hook of this model.
        batch_tokens: most tokens of a forward pass; None: what suits the device. Results do not depend on it but for
            rounding.

    Raises `ModelError` for a transcoder and for a hook that the model does not have, `ConfigError` for a batch without
    tokens.
    """

    def __init__(self, model: MedBridge, sae: AnySae, *, batch_tokens: int | None = None) -> None:
        self.model, self.dictionary = model, Dictionary(sae)
        self.batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
        if self.batch_tokens < 1:
            raise ConfigError(f"batch_tokens must be at least 1, got {batch_tokens}.")
        name = self.dictionary.hook_in
        if self.dictionary.hook_out != name:
            raise ModelError(
                f"a transcoder reads {name} and writes {self.dictionary.hook_out}; edits above a hook need an SAE, "
                "which reconstructs what it reads."
            )
        place = _RESIDUAL.fullmatch(model.require_hook(name))
        plain = ready(model)
        self._hf: Any
        self._hooked: Callable[[Callable[..., Any]], contextlib.AbstractContextManager[Any]]
        self._below: list[Any] = []
        if plain is not None and name in hook_places(plain):
            self._hf, self._hooked = plain, lambda fn: hf_hooks(plain, [(name, fn)])
            if place is not None:
                self._below = list(decoder_layers(plain)[: int(place[1]) + (place[2] == "out")])
        else:
            self._hf, self._hooked = model.original_model, lambda fn: model.hooks(fwd_hooks=[(name, fn)])
        self._tuple = False
        """Whether this family's layers return a tuple."""
        self._head: Any = self._hf.get_output_embeddings()
        config = self._hf.config.get_text_config()
        self._linear = all(getattr(config, key, None) in (None, 1.0) for key in NONLINEAR_HEADS)
        every = tuple(range(self.dictionary.d_sae))
        self.dictionary.features(every[:1])  # refuses a decoder that does not add its rows
        rescaled = getattr(self.dictionary.sae.cfg, "rescale_acts_by_decoder_norm", False)
        self._decoder = self.dictionary.rows(every) if rescaled else self.dictionary.sae.W_dec.detach()
        self.tokens_run = 0
        """Tokens that passed the layers above the hook so far, padding never among them."""

    @property
    def width(self) -> int:
        """`d_in`, of the activation at the hook."""
        return self.dictionary.d_in

    @property
    def resolution(self) -> float:
        """Logits that differ by less are the same number rounded in passes of different shapes."""
        return 1e-4 if self._hf.dtype == torch.float32 else 2e-2

    @property
    def fast(self) -> bool:
        """Whether only the layers above the hook are run for an edit."""
        return bool(self._below)

    @torch.no_grad()
    def read(self, token_ids: Sequence[int], chosen: npt.NDArray[np.bool_]) -> HookedText:
        """Run a text once. `chosen` `[n]`: at which of its tokens edits act.

        Raises `ModelError` for a text that is empty, too long, or of another length than `chosen`, and where no token
        is chosen.
        """
        n, most = len(token_ids), int(self.model.cfg.n_ctx)
        if not 0 < n <= most or np.shape(chosen) != (n,) or not np.any(chosen):
            raise ModelError(
                f"a text to edit needs 1 to {most} tokens and at least one of them chosen; got {n} tokens, and "
                f"{int(np.count_nonzero(chosen))} of {np.size(chosen)} chosen."
            )
        seen: list[torch.Tensor] = []
        cache = on_prefix(None, grow=True)
        handles = [layer.register_forward_hook(self._note_type) for layer in self._below[-1:]]
        try:
            with self._hooked(lambda activation, hook: seen.append(activation)):  # noqa: ARG005 - TransformerLens' names
                head = self._forward(token_ids, 0, 1, cache)
        finally:
            for handle in handles:
                handle.remove()
        if not seen:
            raise ModelError(f"the hook {self.dictionary.hook_in!r} did not run in a forward pass.")
        x = seen[0][0]
        at = torch.from_numpy(np.flatnonzero(chosen)).to(x.device)
        acts, scale = self.dictionary.acts(x[at].flatten(1))
        return HookedText(tuple(token_ids), at, x, acts, scale, cache, head)

    @torch.no_grad()
    def logits(
        self, text: HookedText, edits: Sequence[Edit], wanted: Sequence[int]
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Logits of the words `wanted` after the text.

        Returns those of the unedited text `[W]`, of each edit `[E, W]`, and `[E]` the length (Frobenius norm over the
        chosen tokens) of what each edit adds to the activation. An edit that changes nothing has the unedited logits.
        """
        ids = list(wanted)
        whole = _numpy(self._words(text.head, ids)[0])
        found, size = np.tile(whole, (len(edits), 1)), np.zeros(len(edits))
        for rows, head, length in self._edited(text, edits):
            found[rows], size[rows] = _numpy(self._words(head, ids)), _numpy(length)
        return whole, found, size

    @torch.no_grad()
    def all_logits(
        self, text: HookedText, edits: Sequence[Edit]
    ) -> Iterator[tuple[list[int], npt.NDArray[np.float32]]]:
        """`(numbers of edits, their logits over the whole vocabulary [r, V])`, the unedited text first, as number -1;
        batch by batch, each edit once."""
        yield [-1], self._every(text.head)
        left = set(range(len(edits)))
        for rows, head, _ in self._edited(text, edits):
            left -= set(rows)
            yield rows, self._every(head)
        for unchanged in sorted(left):
            yield [unchanged], self._every(text.head)

    def gradient(self, text: HookedText, wanted: Sequence[int], factors: Sequence[float]) -> torch.Tensor:
        """`[m, d_in]`, float32: derivative of `sum_w factors_w logit_w` by the activation at the chosen tokens."""
        start = int(text.at[0]) if self.fast else 0
        with torch.enable_grad():
            rows = text.x[None, start:].detach().clone().requires_grad_()
            cache = on_prefix(cut(text.cache, start), grow=False) if start else None
            with self._given(rows):
                head = self._forward(text.token_ids, start, 1, cache)
            words = self._words(head, list(wanted))[0]
            value = (words * torch.tensor(list(factors), device=words.device, dtype=words.dtype)).sum()
            (found,) = torch.autograd.grad(value, rows)
        self.tokens_run += 2 * (len(text.token_ids) - start)
        return found[0].flatten(1)[text.at - start].float()

    @torch.no_grad()
    def attribution(self, text: HookedText, gradient: torch.Tensor) -> sparse.csr_array:
        """CSR `[m, d_sae]`, float64: `c_tf s_t d_f · gradient_t`, the first-order effect of each feature at each chosen
        token; where the feature does not fire there is none."""
        found = (gradient.to(text.acts) @ self._decoder.T) * text.acts
        if text.scale is not None:
            found = found * text.scale
        return sparse.csr_array(found.cpu().numpy().astype(np.float64))

    def decoder_lengths(self) -> FloatArray:
        """`[d_sae]`, the length of what one unit of each feature adds, before the scale of the token."""
        return _numpy(self._decoder.float().norm(dim=1))

    @torch.no_grad()
    def residual_dot(self, text: HookedText, gradient: torch.Tensor) -> FloatArray:
        """`[m]`: `x_t · gradient_t`, the first-order effect of the whole activation at each chosen token."""
        return _numpy((text.x[text.at].flatten(1).float() * gradient).sum(dim=1))

    @torch.no_grad()
    def continued(self, text: HookedText, edit: Edit | None, ends: Collection[int], most: int) -> Iterator[int]:
        """The tokens that follow the text, the likeliest each time, until one of `ends` (which is not given) or `most`
        of them or the end of the model's context. The edit acts at the chosen tokens alone, as they are read."""
        ids = list(text.token_ids)
        change = torch.zeros_like(text.x) if edit is None else self._whole_change(text, edit)
        cache = on_prefix(None, grow=True)
        most = min(most, int(self.model.cfg.n_ctx) - len(ids))
        for n in range(most):
            if n == 0:
                with self._hooked(lambda activation, hook: activation + change.view_as(activation)):  # noqa: ARG005
                    head = self._forward(ids, 0, 1, cache)
            else:
                head = self._forward(ids, len(ids) - 1, 1, cache)
            token = int(self._every(head)[0].argmax())
            if token in ends:
                return
            ids.append(token)
            yield token

    # --- edits --------------------------------------------------------------------------------------------------------

    def _edited(
        self, text: HookedText, edits: Sequence[Edit]
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """`(numbers of edits, head input or logits [r, ...], lengths [r])` of those that change something."""
        n, m = len(text.token_ids), len(text.at)
        places = [*text.at.tolist(), n]
        begins = [self._begin(text, edit) for edit in edits]
        order = sorted((i for i in range(len(edits)) if begins[i] < m), key=lambda i: (begins[i], i))
        at = 0
        while at < len(order):
            start = places[begins[order[at]]] if self.fast else 0
            rows = order[at : at + max(1, self.batch_tokens // (n - start))]
            at += len(rows)
            first = int(torch.searchsorted(text.at, start))
            change = torch.stack([self._change(text, edits[i])[first:] for i in rows])
            dtype = torch.promote_types(text.x.dtype, change.dtype)
            x = text.x[start:].to(dtype).expand(len(rows), *text.x[start:].shape).clone()
            x[:, text.at[first:] - start] += change.to(x).view(len(rows), -1, *text.x.shape[1:])
            cache = on_prefix(cut(text.cache, start), grow=False) if start else None
            with self._given(x.to(text.x.dtype)):
                head = self._forward(text.token_ids, start, len(rows), cache)
            self.tokens_run += len(rows) * (n - start)
            yield rows, head, change.flatten(1).norm(dim=1)

    def _begin(self, text: HookedText, edit: Edit) -> int:
        """Number of the first chosen token that the edit changes; m where it changes none."""
        self._require(edit)
        if isinstance(edit, Without):
            return int(text.first[list(edit.features)].min(initial=len(text.at)))
        if isinstance(edit, Change):
            off = [feature for feature, value in edit.put if value == 0]
            all_off = len(off) == len(edit.features)
            return int(text.first[off].min(initial=len(text.at))) if all_off else 0
        if isinstance(edit, Only):
            others = text.first.copy()
            others[list(edit.features)] = len(text.at)
            return int(others.min(initial=len(text.at)))
        return 0

    def _change(self, text: HookedText, edit: Edit) -> torch.Tensor:
        """`[m, d_in]`, what the edit adds to the activation at the chosen tokens."""
        if isinstance(edit, Splice):
            x = text.x[text.at].flatten(1)
            return self.dictionary.through(x).to(x) - x
        if isinstance(edit, Push):
            like = self._change(text, edit.like)
            direction = torch.from_numpy(edit.direction).to(like)
            # Signed, so that it points one way at tokens where the clamp raises and the other where it lowers.
            sign = torch.sign(edit.like.value - text.acts[:, edit.like.feature]).to(like)
            return (sign * like.norm(dim=1))[:, None] * direction
        if isinstance(edit, Clamp | Change):
            pairs = ((edit.feature, edit.value),) if isinstance(edit, Clamp) else (*edit.put, *edit.add)
            step = text.acts.new_tensor([value for _, value in pairs]).expand(len(text.at), -1).clone()
            n_put = 1 if isinstance(edit, Clamp) else len(edit.put)
            chosen = tuple(feature for feature, _ in pairs)
            step[:, :n_put] -= text.acts[:, list(chosen[:n_put])]
            step = step @ self.dictionary.rows(chosen)
        else:
            step = text.acts[:, list(edit.features)] @ self.dictionary.rows(edit.features)
            step = -step if isinstance(edit, Without) else step - self._all(text)
        return step if text.scale is None else text.scale * step

    def _whole_change(self, text: HookedText, edit: Edit) -> torch.Tensor:
        """`[n, ...]`, as `text.x`: what the edit adds at every token."""
        self._require(edit)
        found = torch.zeros_like(text.x).flatten(1)
        found[text.at] = self._change(text, edit).to(found)
        return found.view_as(text.x)

    def _all(self, text: HookedText) -> torch.Tensor:
        if "all" not in text._kept:
            text._kept["all"] = text.acts @ self._decoder
        return text._kept["all"]

    def _require(self, edit: Edit) -> None:
        if isinstance(edit, Splice):
            return
        if isinstance(edit, Push):
            self._require(edit.like)
            return
        features = (edit.feature,) if isinstance(edit, Clamp) else edit.features
        if any(not 0 <= f < self.dictionary.d_sae for f in features) or len(set(features)) < len(features):
            self.dictionary.features(features)  # says which, and why not

    # --- the model ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _given(self, rows: torch.Tensor) -> Iterator[None]:
        """The activation at the hook is `rows`; layers below do not run."""
        if not self._below:
            with self._hooked(lambda activation, hook: rows.view_as(activation)):  # noqa: ARG005 - their names
                yield
            return
        with resumed(self._below, rows, as_tuple=self._tuple):
            yield

    def _note_type(self, _layer: Any, _args: Any, output: Any) -> None:
        self._tuple = isinstance(output, tuple)

    def _forward(self, token_ids: Sequence[int], start: int, rows: int, cache: Any) -> torch.Tensor:
        """`[rows, ...]` at the last token: the LM head's input, or logits where the head is not linear."""
        device = self._hf.device
        ids = torch.tensor([list(token_ids[start:])], device=device).expand(rows, -1)
        seen: list[torch.Tensor] = []

        def last(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden = args[0][:, -1]
            seen.append(hidden)
            if self._linear:
                raise Reached
            return (hidden[:, None], *args[1:])

        handle = self._head.register_forward_pre_hook(last)
        out: Any = None
        try:
            with contextlib.suppress(Reached):
                out = self._hf(
                    input_ids=ids,
                    attention_mask=torch.ones(rows, len(token_ids), dtype=torch.long, device=device),
                    position_ids=torch.arange(start, len(token_ids), device=device).expand(rows, -1),
                    past_key_values=cache,
                    use_cache=cache is not None,
                )
        finally:
            handle.remove()
        return seen[0] if self._linear else out.logits[:, -1].float()

    def _words(self, head: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """`[rows, W]`, float32."""
        if not self._linear:
            return head[:, ids]
        found = head.float() @ self._head.weight[ids].float().T
        bias = getattr(self._head, "bias", None)
        return found if bias is None else found + bias[ids].float()

    def _every(self, head: torch.Tensor) -> npt.NDArray[np.float32]:
        return (self._head(head) if self._linear else head).float().cpu().numpy()


def _numpy(values: torch.Tensor) -> FloatArray:
    return values.detach().cpu().numpy().astype(np.float64)
