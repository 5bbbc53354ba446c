"""lm-evaluation-harness drives this package's models, with an SAE attached and interventions on, on any of its tasks.

    sae-lens-med lm-eval --model sae_lens_med --tasks kormedmcqa --num_fewshot 5 \\
        --model_args pretrained=gemma-3-270m,sae=RELEASE/ID,intervention=FILE,dtype=float32

    import sae_lens_med.evaluation.lm_eval.model                    # makes the name known
    lm_eval.simple_evaluate(model="sae_lens_med", model_args={...}, tasks=[...])
    lm_eval.simple_evaluate(model=SaeLensMedLM(bridge, hooks=steer(sae, {123: 5.0})), tasks=[...])

lm-eval 0.4.13 looks for no plug-ins: a model's name is known once its class has been imported, hence the command of
this package, which imports it and hands the rest of the line to lm-eval's own.

`SaeLensMedLM` is lm-eval's own `HFLM` on the transformers model inside the bridge (`MedBridge.plain`), so that
tokenisation, chat templates, truncation, rolling windows, batches and stop strings are lm-eval's for every task, and
without SAE and interventions its numbers are those of `--model hf` up to rounding. Hooks are put on for each call of
the model and taken off after it. They learn what each position is from `passes`: its token, its place in the text,
what is padding, what the model wrote itself; in log-likelihoods nothing is. Which part of a question a token belongs
to is not known to lm-eval, so a file whose positions name parts is refused.

Needs the extra `[eval]`. Out of scope: several processes or devices, adapters (peft), encoder-decoder models.
"""

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sae_lens_med.errors import ConfigError, MissingExtraError, ModelError, nearest
from sae_lens_med.evaluation.hooks import spliced
from sae_lens_med.features.statistics import FeatureStatistics
from sae_lens_med.interventions import attached, read_interventions
from sae_lens_med.models.bridge import MedBridge, load_model
from sae_lens_med.models.hf_hooks import HookFn, hook_places, require_place
from sae_lens_med.models.passes import Pass, in_pass
from sae_lens_med.models.residuals import CAUSAL, ready
from sae_lens_med.records import PARTS
from sae_lens_med.runs.parsing import parse_json
from sae_lens_med.runs.provenance import versions
from sae_lens_med.saes.releases import LoadedSae, load_sae

try:
    from lm_eval.api.registry import register_model
    from lm_eval.models import huggingface
except ModuleNotFoundError as error:
    raise MissingExtraError("lm-eval", "eval", "the adapter to lm-evaluation-harness") from error

HFLM: Any = huggingface.HFLM
"""Without its type: the decorator that registers a class hides it."""

NAME = "sae_lens_med"
"""After lm-eval's `--model`."""

OF_HFLM = (
    "add_bos_token",
    "chat_template_args",
    "enable_thinking",
    "logits_cache",
    "max_length",
    "prefix_token_id",
    "softmax_dtype",
    "think_end_token",
    "truncation",
)
"""Settings of `HFLM` that are handed on."""

OWN = (
    "pretrained",
    "sae",
    "error_term",
    "intervention",
    "statistics",
    "device",
    "dtype",
    "revision",
    "batch_size",
    "max_batch_size",
)


class SaeLensMedLM(HFLM):
    """`HFLM` with an SAE and interventions.

    Args:
        pretrained: what `load_model` opens, or a `MedBridge`. SAEs and hooks on the bridge itself have no effect.
        sae: what `load_sae` opens, or a `LoadedSae`. Without an intervention, its reconstruction takes the place of
            the activation at its hook; special tokens pass unchanged.
        error_term: True: add what the reconstruction lacks. With an intervention: None (default) leaves the
            activation as it is before the intervention acts on it, True or False put the reconstruction there first.
        intervention: a file that `read_interventions` reads. An entry without `sae` is for the SAE above, others open
            theirs.
        statistics: a file that `FeatureStatistics.save` wrote, of the SAE above, for entries in units of a feature's
            maximum or mean.
        hooks: further `(hook_name, fn)` pairs, from Python only; they run after the others.
        device: by default cuda where there is one, as in lm-eval; of a `MedBridge`, its own.
        dtype: float32, bfloat16 or float16.
        revision: of the Hub repository.
        batch_size: lm-eval's: a number, `auto` or `auto:N`.
        max_batch_size: lm-eval's, for `auto`.
        settings: `OF_HFLM`.

    Raises `ConfigError` for a setting that is unknown or makes no sense, `ModelError` for a model that is spread over
    several devices, and what `load_model`, `load_sae`, `read_interventions` and the hooks of its entries raise.
    """

    def __init__(
        self,
        pretrained: str | MedBridge | None = None,
        sae: str | LoadedSae | None = None,
        error_term: bool | None = None,
        intervention: str | None = None,
        statistics: str | None = None,
        hooks: Sequence[tuple[str, HookFn]] = (),
        device: str | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int = 64,
        **settings: Any,
    ) -> None:
        for name in settings:
            if name not in OF_HFLM:
                known = (*OWN, *OF_HFLM)
                raise ConfigError(
                    f"--model {NAME} has no setting {name!r}{nearest(name, known)}; its settings are "
                    f"{', '.join(known)}."
                )
        if pretrained is None:
            raise ConfigError(f"--model {NAME} needs a model; add --model_args pretrained=NAME,...")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun's and accelerate's
            raise ConfigError(f"--model {NAME} runs in one process; start it without torchrun or accelerate.")
        if isinstance(pretrained, MedBridge):
            model = pretrained
        else:
            place = device or ("cuda" if torch.cuda.is_available() else "cpu")
            model = load_model(str(pretrained), place, dtype, revision=revision)
        plain = ready(model)
        if plain is None:
            raise ModelError(
                f"lm-eval cannot drive {model.provenance['name']} here, because it is spread over devices or was given "
                "other weights after it was opened; open it again on one device."
            )
        steering = _Steering(model, sae, error_term, intervention, statistics)
        self.fwd_hooks: list[tuple[str, HookFn]] = [*steering.pairs(), *hooks]
        for name, _ in self.fwd_hooks:
            require_place(name, hook_places(plain))
        self._about = {
            "model": model.provenance,
            **steering.about,
            "hooks": [name for name, _ in self.fwd_hooks],
            "versions": versions(),
        }
        self._scored: dict[tuple[int, ...], set[tuple[int, int]]] = {}
        """Input of a request to score, without zeros at the end -> its length, and where its context ends."""
        super().__init__(
            pretrained=plain,
            backend="causal",
            tokenizer=copy.deepcopy(model.text_tokenizer),  # HFLM may give it a padding token
            batch_size=batch_size,
            max_batch_size=max_batch_size,
            **settings,
        )
        self.pretrained = model.provenance["name"]

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes beside its results: model, SAE and intervention with their hashes, and versions."""
        return {
            "model_num_parameters": self.model.num_parameters(),
            "model_dtype": str(self.model.dtype),
            NAME: self._about,
        }

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        # HFLM pads with token 0, which some models write, and passes no mask.
        self._scored = {}
        for _, context, answer in requests:
            ids = (context + answer)[-(self.max_length + 1) :][:-1]
            self._scored.setdefault(_without_zeros(ids), set()).add((len(ids), len(ids) - len(answer)))
        return super()._loglikelihood_tokens(requests, *args, **kwargs)

    def _model_call(self, inps: torch.Tensor, attn_mask: Any = None, labels: Any = None) -> torch.Tensor:
        n = inps.shape[1]
        columns = torch.arange(n, device=inps.device)
        rows = [self._scored.get(_without_zeros(row), {(n, -1)}) for row in inps.tolist()]
        lengths, ends = (torch.tensor([max(row)[k] for row in rows], device=inps.device)[:, None] for k in (0, 1))
        # Two requests with the same tokens may differ in where the answer begins; lm-eval runs them as one.
        last = None if any(len(row) > 1 for row in rows) else columns == ends
        with attached(self.model, self.fwd_hooks), _told(self.model, columns < lengths, last):
            return super()._model_call(inps, attn_mask=attn_mask, labels=labels)

    def _model_generate(
        self, context: torch.Tensor, max_length: int, stop: list[str], **generation_kwargs: Any
    ) -> torch.Tensor:
        real = generation_kwargs["attention_mask"].bool()
        last = torch.arange(real.shape[1], device=real.device).expand_as(real) == real.shape[1] - 1
        with _masked_attention(self.model), attached(self.model, self.fwd_hooks), _told(self.model, real, last):
            return super()._model_generate(context, max_length, stop, **generation_kwargs)


register_model(NAME)(SaeLensMedLM)


class _Steering:
    """What the settings put on the model, and what is written down about it."""

    def __init__(
        self,
        model: MedBridge,
        sae: str | LoadedSae | None,
        error_term: bool | None,
        intervention: str | None,
        statistics: str | None,
    ) -> None:
        self._model = model
        self._special_ids: list[int] = model.text_tokenizer.all_special_ids
        self._sae = self._open(sae) if isinstance(sae, str) else sae
        self._error_term = error_term
        for name, value in (("error_term", error_term), ("statistics", statistics)):
            if value is not None and self._sae is None:
                raise ConfigError(f"{name} belongs to an SAE; add sae=RELEASE/ID as well, or leave it out.")
        if error_term is not None and not isinstance(error_term, bool):
            raise ConfigError(f"error_term must be True or False, got {error_term!r}.")
        self._entries = read_interventions(intervention) if intervention is not None else ()
        self._statistics: FeatureStatistics | None = None
        if statistics is not None and self._sae is not None:
            self._statistics = FeatureStatistics.load(Path(statistics), self._sae)
        self.about: dict[str, Any] = {
            "sae": None if self._sae is None else self._sae.identity,
            "error_term": error_term,
            "interventions": [entry.to_dict() for entry in self._entries],
            "special_ids": self._special_ids,
        }

    def pairs(self) -> list[tuple[str, HookFn]]:
        """The hooks, in the order in which they act."""
        found: list[tuple[str, HookFn]] = []
        if self._sae is not None and (self._error_term is not None or not self._entries):
            found += spliced(self._model, self._sae, bool(self._error_term))
        others: dict[str, LoadedSae] = {}
        for number, entry in enumerate(self._entries, 1):
            where = f"intervention {number} ({entry.kind})"
            if _names_parts(parse_json(entry.positions)):
                raise ConfigError(
                    f"{where} acts on parts of the prompt, which lm-eval does not report; use other positions, or "
                    "`sae-lens-med intervene`."
                )
            if entry.sae is None and self._sae is None:
                raise ConfigError(f"{where} does not name an SAE; add `sae: RELEASE/ID` to it, or pass sae=RELEASE/ID.")
            if entry.sae is not None and entry.sae not in others:
                others[entry.sae] = self._open(entry.sae)
            chosen = self._sae if entry.sae is None else others[entry.sae]
            assert chosen is not None
            of_chosen = self._statistics if self._sae is not None and chosen.is_that_of(self._sae.identity) else None
            found += entry.pairs(chosen, statistics=of_chosen, special_ids=self._special_ids)
        if others:
            self.about["other_saes"] = {name: loaded.identity for name, loaded in others.items()}
        return found

    def _open(self, ref: str) -> LoadedSae:
        return load_sae(ref, str(self._model.cfg.device or "cpu"))


def _names_parts(positions: Any) -> bool:
    """Whether what `read_positions` takes has a part of the prompt in it."""
    if isinstance(positions, str):
        return positions in PARTS
    if isinstance(positions, list):
        return any(map(_names_parts, positions))
    return isinstance(positions, dict) and ("parts" in positions or any(map(_names_parts, positions.values())))


def _without_zeros(ids: list[int]) -> tuple[int, ...]:
    """Without the zeros at the end."""
    n = len(ids)
    while n and ids[n - 1] == 0:
        n -= 1
    return tuple(ids[:n])


@contextlib.contextmanager
def _masked_attention(hf_model: Any) -> Iterator[None]:
    """`CAUSAL` attention does not take a mask, and lm-eval pads at the left to generate."""
    if hf_model.config._attn_implementation != CAUSAL:
        yield
        return
    hf_model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        hf_model.set_attn_implementation(CAUSAL)


@contextlib.contextmanager
def _told(hf_model: torch.nn.Module, real: torch.Tensor, last: torch.Tensor | None) -> Iterator[None]:
    """Tell hooks what the columns of each forward pass are.

    Of the prompts, `[batch, n]`: `real`, False at padding, and `last`, True at the token before the answer, or None.
    """
    other = PARTS.index("other")
    scopes: list[contextlib.ExitStack] = []

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        cache = kwargs.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        end = start + ids.shape[1]

        def of_columns(prompts: torch.Tensor, afterwards: bool) -> torch.Tensor:
            each = prompts.repeat_interleave(len(ids) // len(prompts), 0)  # several beams of each
            return torch.nn.functional.pad(each, (0, max(0, end - each.shape[1])), value=afterwards)[:, :end]

        every = of_columns(real, True)
        this = Pass(
            token_ids=ids,
            position=(every.long().cumsum(-1) - 1).clamp(min=0)[:, start:],
            part=torch.full_like(ids, other),
            real=every[:, start:],
            generated=start >= real.shape[1],
            last=None if last is None else of_columns(last, False)[:, start:],
        )
        scope = contextlib.ExitStack()
        scope.enter_context(in_pass(this))
        scopes.append(scope)

    def after(_module: Any, _args: Any, _output: Any) -> None:
        if scopes:  # none when `before` itself raised
            scopes.pop().close()

    with contextlib.ExitStack() as handles:
        # On the model itself: before the hooks of its layers.
        handles.callback(hf_model.register_forward_pre_hook(before, with_kwargs=True).remove)
        handles.callback(hf_model.register_forward_hook(after, always_call=True).remove)
        yield
