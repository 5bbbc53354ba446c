"""An SAE or transcoder as an intervention needs it: activations of some features, and their rows of the decoder.

    c = encode(x)            x̂ = s(x) (c W + b)            x̂(c') − x̂(c) = s(x) (c' − c) W

`s(x)` is the scale of an SAE that normalises each token by itself (`layer_norm`, `constant_norm_rescale`), else 1; W
are the decoder's rows as `decode` applies them (divided by their norms where the SAE rescales by them). That an
intervention may add `s (c' − c) W` to an activation holds for every architecture whose `decode` is affine; one row is
compared with `decode` itself when an intervention is made.

Activations are flat here, `[m, d_in]`: also those of `attn.hook_z`, which some models give by head. Out of scope: SAEs
whose features at a token depend on other tokens (`temporal`, BatchTopK before it is exported).
"""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAE
from sae_lens.saes.standard_sae import StandardSAE
from sae_lens.saes.temporal_sae import TemporalSAE
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUTranscoder,
    SkipTranscoder,
    Transcoder,
)

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.saes.releases import LoadedSae

AnySae = SAE[Any] | LoadedSae

_ELEMENTWISE = (StandardSAE, Transcoder, SkipTranscoder)
_THRESHOLD = (JumpReLUSAE, JumpReLUTranscoder, JumpReLUSkipTranscoder)


class Dictionary:
    """Raises `ModelError` for an SAE that does not name a hook or that cannot be used token by token."""

    def __init__(self, sae: AnySae) -> None:
        self.sae: SAE[Any] = sae.sae if isinstance(sae, LoadedSae) else sae
        if not isinstance(self.sae, SAE):
            raise ModelError(f"an intervention needs a SAELens SAE or a LoadedSae, got {type(sae).__name__}.")
        metadata = self.sae.cfg.metadata
        if not metadata.hook_name:
            raise ModelError("this SAE does not name a hook; set sae.cfg.metadata.hook_name first.")
        self.hook_in: str = metadata.hook_name
        self.hook_out: str = metadata.hook_name_out or metadata.hook_name
        self.d_sae, self.d_in = int(self.sae.cfg.d_sae), int(self.sae.cfg.d_in)
        self.d_out = int(getattr(self.sae.cfg, "d_out", self.d_in))
        if isinstance(self.sae, TemporalSAE | BatchTopKTrainingSAE):
            raise ModelError(
                f"the features of a {type(self.sae).__name__} at a token depend on other tokens, so it cannot be used "
                "in interventions; export a training SAE first (save_inference_model)."
            )

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    def features(self, given: Iterable[Any]) -> tuple[int, ...]:
        """Indices, checked. Raises `ConfigError` for one that is not in [0, d_sae) or comes twice."""
        found: list[int] = []
        for each in given:
            try:
                feature = operator.index(each)
            except TypeError:
                raise ConfigError(f"a feature must be a whole-number index, got {each!r}.") from None
            if isinstance(each, bool) or not 0 <= feature < self.d_sae:
                raise ConfigError(
                    f"feature {each} does not exist: the SAE at {self.hook_in} has d_sae {self.d_sae}, so its "
                    "features are "
                    f"0 to {self.d_sae - 1}."
                )
            found.append(feature)
        if len(set(found)) < len(found):
            raise ConfigError(f"a feature is given twice in {found}; name each one once.")
        if found:
            self._check_decoder(found[0])
        return tuple(found)

    def rows(self, features: tuple[int, ...]) -> torch.Tensor:
        """`[k, d_out]`: what one unit of each feature adds to the reconstruction, before the scale."""
        rows = self.sae.W_dec[list(features)]
        if getattr(self.sae.cfg, "rescale_acts_by_decoder_norm", False):
            rows = rows / rows.norm(dim=-1, keepdim=True)
        return rows

    def acts(
        self, x: torch.Tensor, features: tuple[int, ...] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Activations `[m, k]` of `features` (None: all) at `x` `[m, d_in]`, and the scale `[m, 1]`, None for 1.

        In the SAE's dtype, on its device. Where an architecture allows it, only these features are computed; then the
        SAE's own hook points behind its input do not run.
        """
        sae: Any = self.sae
        with self._flat():
            if features is not None and type(sae) in (*_ELEMENTWISE, *_THRESHOLD):
                chosen = list(features)
                inner = sae.process_sae_in(self._to_sae(x))
                pre = inner @ sae.W_enc[:, chosen] + sae.b_enc[chosen]
                found = sae.activation_fn(pre)
                if type(sae) in _THRESHOLD:
                    found = found * (pre > sae.threshold[chosen]).to(found.dtype)
                return found, self._scale()
            found = self._encode(x)
            return found if features is None else found[:, list(features)], self._scale()

    def through(self, x: torch.Tensor, edit: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        """The reconstruction `[m, d_out]` of `x` `[m, d_in]`, its activations `[m, d_sae]` changed by `edit` first."""
        sae: Any = self.sae
        with self._flat():
            acts = self._encode(x)
            out = sae.decode(acts if edit is None else edit(acts))
            if isinstance(sae, SkipTranscoder):
                out = out + self._to_sae(x) @ sae.W_skip.T
            return out

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        acts = self.sae.encode(self._to_sae(x))
        return acts.to_dense() if acts.is_sparse else acts

    def _to_sae(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.device, self.sae.W_dec.dtype)

    def _scale(self) -> torch.Tensor | None:
        """Of the token just encoded; the SAE keeps it for `decode`, which does not follow."""
        scale: torch.Tensor | None = None
        state: dict[str, Any] = vars(self.sae)
        if (coefficient := state.pop("x_norm_coeff", None)) is not None:
            scale = 1 / coefficient
        if (deviation := state.pop("ln_std", None)) is not None:
            scale = deviation
            state.pop("ln_mu", None)
        return None if isinstance(self.sae, Transcoder) else scale  # its output is not scaled back

    @contextlib.contextmanager
    def _flat(self) -> Iterator[None]:
        """The SAE takes flat activations: its own reshaping remembers the first head width that it sees."""
        sae: Any = self.sae
        if not sae.hook_z_reshaping_mode:
            yield
            return
        saved = sae.reshape_fn_in, sae.reshape_fn_out, sae.d_head
        sae.turn_off_forward_pass_hook_z_reshaping()
        try:
            yield
        finally:
            sae.reshape_fn_in, sae.reshape_fn_out, sae.d_head = saved
            sae.hook_z_reshaping_mode = True

    @torch.no_grad()
    def _check_decoder(self, feature: int) -> None:
        x = torch.linspace(-1, 1, self.d_in, device=self.device)[None]
        _, scale = self.acts(x)
        off = torch.zeros(1, self.d_sae, device=self.device, dtype=self.sae.W_dec.dtype)
        on = off.clone()
        on[0, feature] = 1
        difference = self.through(x, lambda _: on) - self.through(x, lambda _: off)
        expected = self.rows((feature,)) * (1 if scale is None else scale)
        error, row = (difference - expected).float().norm(), expected.float().norm()
        rounding = 4 * torch.finfo(self.sae.W_dec.dtype).eps * self.through(x, lambda _: off).float().norm()
        if not error <= 1e-2 * row + rounding:
            raise ModelError(
                f"the decoder of a {type(self.sae).__name__} does not add W_dec's rows, so what a feature adds to the "
                "activation is not known; only `splice` and `record` can use this SAE."
            )
