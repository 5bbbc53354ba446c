"""Run every item's texts through the model once and keep what the SAE's features do at each token.

Each item gives two texts, each run on its own: the question prompt (stem and options, up to the answer slot), and the
masked explanation, never after the question. For the activation x at a token, at the SAE's hook, in float32:

    c = encode(x)               kept where > 0
    norm = ||x||₂               error_norm = ||x - decode(c)||₂

**Excluded tokens**, which no metric counts, are of two kinds: special tokens (ids that the tokenizer calls special,
BOS among them) and activation sinks, tokens with `norm > sink_multiple * m`. m is the median norm over the tokens that
are not special of the first 32 items, in the order of the data, both texts. It is measured once, with the first shard,
and kept in the manifest, so that the rule does not move with batch, shard or interruption. The manifest counts both
kinds.

What comes out does not depend on `batch_tokens`: texts are padded on the right, and every number belongs to one token
(float32 rounding remains, below 1e-5 of the norm; a model in bfloat16 rounds more coarsely, and so do its batches).

Several processes (`distributed`) take the shards in turn and write them apart; rank 0 measures the sink rule for all
and joins the shards by the manifest. The folder is that of one process, byte for byte where the machines are alike.

With shots, the tokens before the measured item are run and not stored.

In the place of the question prompt another may stand: the question with what a model wrote after it, whose tokens are
the part `reasoning` (`evaluation.written`).

Out of scope: transcoders (they do not reconstruct what they read), SAEs with negative activations.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import ProgressColumn, Task
from rich.text import Text

from sae_lens_med import distributed
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import DataError, UnfitItemsError
from sae_lens_med.features.reading import encoded, read_at_hook
from sae_lens_med.features.rules import CALIBRATION_ITEMS, require_sae, require_settings, special_ids
from sae_lens_med.features.store import (
    TEXTS,
    Arrays,
    is_complete,
    join_shards,
    nothing_fires,
    open_collection,
    write_apart,
)
from sae_lens_med.models.bridge import MedBridge, default_batch_tokens
from sae_lens_med.models.residuals import ResidualReader
from sae_lens_med.models.sinks import SINK_MULTIPLE, sink_rule
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
from sae_lens_med.records import PARTS, BoolArray, McqItem, Prompt, require_unique_ids
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.saes.releases import LoadedSae

SHARD_ITEMS = 64
"""Items of a shard: what an interruption can cost."""

_MEAN_OVER = {"question": PARTS.index("stem"), "explanation": PARTS.index("explanation")}
"""The part of each text whose mean residual is kept."""


@dataclass(frozen=True, slots=True)
class _Text:
    """One text to run; only the tokens from `first` on are stored."""

    item: int
    name: str
    prompt: Prompt
    first: int
    masked: dict[str, int]
    """What leakage masking took out of this text."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.prompt.token_ids

    @property
    def label(self) -> str:
        return f"item {self.prompt.item_id!r}: the {self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class _TextActs:
    """What one text gives, for its stored tokens."""

    data: npt.NDArray[np.float32]
    indices: npt.NDArray[np.int32]
    active: npt.NDArray[np.int64]
    """Per token, how many features are active."""
    norm: npt.NDArray[np.float32]
    error_norm: npt.NDArray[np.float32]
    special: BoolArray
    sink: BoolArray
    raw_mean: npt.NDArray[np.float32]
    n_counted: int
    """Tokens that `raw_mean` is over; it is zeros when there are none."""


def collect(
    model: MedBridge,
    loaded_sae: LoadedSae,
    items: Sequence[McqItem],
    *,
    output: Path,
    batch_tokens: int | None = None,
    sink_multiple: float = SINK_MULTIPLE,
    shots: Sequence[McqItem] = (),
    prompts: Mapping[str, Prompt] | None = None,
    about_prompts: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Collect the SAE's feature activations for every token of every item's question and explanation.

    Args:
        model: the model; it is run up to the SAE's hook only, without what is attached to it (`reader`).
        loaded_sae: the SAE, in float32, with its identity. Any SAELens SAE with activations >= 0.
        items: unique ids; an item without an explanation, or of whose explanation the masks leave nothing, gives its
            question alone.
        output: folder for the shards; new, empty, or holding the same collection, which is then finished.
        batch_tokens: most tokens of a batch, padding included (a longer text is a batch of its own). Changes speed and
            memory, not the result, so that it may change when a collection is resumed.
        sink_multiple: a token is a sink when its norm is above this multiple of the median norm; > 1.
        shots: solved items that stand before each question.
        prompts: by item id, what stands in the place of its question prompt (`evaluation.written.written_prompts`),
            shots included.
        about_prompts: JSON values that say what `prompts` are; recorded in the manifest.
        progress: show a progress bar on stderr.

    Returns `output`, for `store.load_features`. Every 64 items a shard is written; after an interruption (Ctrl-C,
    power) the same call goes on behind the last one, and the folder ends up the same, byte for byte.

    Raises `StudyError` when `output` holds something else or was collected with other settings, `UnfitItemsError` for
    all items with a text longer than the model's context, `DataError` for no items, `ConfigError` for a setting out of
    range, `ReleaseError` for an SAE that cannot be used here, `ModelError` for a hook that does not exist, does not fit
    or gives numbers that are not finite, `DistributedError` when another process of the job ended.
    """
    with distributed.initialised():
        batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
        about = {} if about_prompts is None else {"prompts": dict(about_prompts)}
        return _collect(
            model, loaded_sae, items, Path(output), batch_tokens, sink_multiple, shots, prompts, about, progress
        )


def _collect(
    model: MedBridge,
    loaded_sae: LoadedSae,
    items: Sequence[McqItem],
    output: Path,
    batch_tokens: int,
    sink_multiple: float,
    shots: Sequence[McqItem],
    prompts: Mapping[str, Prompt] | None,
    about: Mapping[str, Any],
    progress: bool,
) -> Path:
    require_settings(batch_tokens, sink_multiple)
    if not items:
        raise DataError("there are no items to collect features from.")
    require_unique_ids(list(items), "the items to collect")
    model.require_hook(loaded_sae.hook_name)
    require_sae(loaded_sae)
    texts = _texts(model, items, shots, prompts)
    settings = {**_settings(model, loaded_sae, items, shots, texts, sink_multiple), **about}
    me = distributed.ranks()
    reader, never = ResidualReader(model, [loaded_sae.hook_name]), special_ids(model)

    def read(some: Sequence[_Text]) -> Iterator[tuple[_Text, torch.Tensor]]:
        return read_at_hook(reader, loaded_sae, some, batch_tokens)

    def special(text: _Text) -> BoolArray:
        return np.isin(text.token_ids[text.first :], never)

    first = [t for t in texts if t.item < CALIBRATION_ITEMS]
    collection = open_collection(output, settings, len(items), SHARD_ITEMS)
    if not is_complete(collection.values):
        collection.hold()
    manifest = collection.values
    # The rule needs the first items' norms before anything is counted; their activations are held meanwhile.
    held: list[tuple[_Text, torch.Tensor]] = []
    todo: list[int] = []
    if me.first:
        if manifest["exclusion"] is None:
            collection.begin()
            held = list(read(first))
            norms = [_numpy(x.norm(dim=-1), np.float32)[~special(text)] for text, x in held]
            n_first = len({text.item for text, _ in held})
            rule = sink_rule(norms, sink_multiple, f"the first {n_first} items")
            manifest["exclusion"] = rule | {"calibration_items": n_first}
            collection.write()
        todo = join_shards(collection)
    exclusion, todo = distributed.broadcast_object([manifest["exclusion"], todo])
    own = todo[me.rank :: me.world_size]
    n_own = sum(min(SHARD_ITEMS, len(items) - index * SHARD_ITEMS) for index in own)
    with progress_bar(progress and me.first, _Speed()) as bar:
        total = n_own if me.world_size > 1 else len(items)
        task = bar.add_task("features", total=total, completed=total - n_own)
        for index in own:
            start, stop = index * SHARD_ITEMS, min((index + 1) * SHARD_ITEMS, len(items))
            chunk = [t for t in texts if start <= t.item < stop]
            share = {item: 1 / sum(t.item == item for t in chunk) for item in range(start, stop)}
            found: dict[tuple[int, str], _TextActs] = {}
            # The first items run apart whenever the shard is made: the same batches give the same roundings.
            begun = (held or read(first)) if index == 0 else ()
            rest = [t for t in chunk if t.item >= CALIBRATION_ITEMS]
            for text, x in chain(begun, read(rest)):
                found[text.item, text.name] = _features(loaded_sae, text, x, special(text), exclusion["sink_threshold"])
                bar.advance(task, share[text.item])
            held = []
            _write(output, index, [item.id for item in items[start:stop]], start, chunk, found)
            if me.first:
                join_shards(collection)
    distributed.barrier()
    if me.first:
        join_shards(collection)
        if silent := nothing_fires(output):
            warnings.warn(silent, stacklevel=2)
    distributed.barrier()
    return output


@torch.no_grad()
def _features(loaded_sae: LoadedSae, text: _Text, x: torch.Tensor, special: BoolArray, threshold: float) -> _TextActs:
    """Encode one text's activations `x` `[n_stored, d_in]`, of which `special` `[n_stored]` are special tokens."""
    data, indices, active, errors = [], [], [], []
    for part, acts in encoded(loaded_sae, x, text.label):
        errors.append((part - loaded_sae.sae.decode(acts)).norm(dim=-1))
        fires = acts > 0
        data.append(acts[fires])
        indices.append(fires.nonzero()[:, 1])
        active.append(fires.sum(1))
    norm = _numpy(x.norm(dim=-1), np.float32)
    sink = (norm > threshold) & ~special
    content = np.array(text.prompt.token_parts[text.first :]) == _MEAN_OVER[text.name]
    counted = content & ~(special | sink)
    mean = x[torch.from_numpy(counted).to(x.device)].mean(0) if counted.any() else torch.zeros_like(x[0])
    return _TextActs(
        data=_numpy(torch.cat(data), np.float32),
        indices=_numpy(torch.cat(indices), np.int32),
        active=_numpy(torch.cat(active), np.int64),
        norm=norm,
        error_norm=_numpy(torch.cat(errors), np.float32),
        special=special,
        sink=sink,
        raw_mean=_numpy(mean, np.float32),
        n_counted=int(np.count_nonzero(counted)),
    )


def require_fit(model: MedBridge, items: Sequence[McqItem], shots: Sequence[McqItem] = ()) -> None:
    """Raise `UnfitItemsError`, which names all of them, for items whose texts are longer than the model's context."""
    _texts(model, items, shots, None)


def _texts(
    model: MedBridge, items: Sequence[McqItem], shots: Sequence[McqItem], prompts: Mapping[str, Prompt] | None
) -> list[_Text]:
    """Every text, in item order, question first."""
    tokenizer = model.text_tokenizer
    texts = []
    for index, item in enumerate(items):
        question = question_prompt(item, tokenizer, shots=shots) if prompts is None else prompts[item.id]
        begins = min((span.start for span in question.part_spans), default=0)
        first = next(i for i, (_, end) in enumerate(question.char_spans) if end > begins) if shots else 0
        texts.append(_Text(index, "question", question, first, {}))
        if item.explanation is not None and not mask_leakage(item).nothing_left:
            explanation, masked = explanation_prompt(item, tokenizer)
            counts = {
                "option_text_chars": masked.n_option_chars,
                "stem_quote_chars": masked.n_stem_chars,
                "answer_marks": masked.n_answer_marks,
            }
            texts.append(_Text(index, "explanation", explanation, 0, counts))
    unfit = {
        text.prompt.item_id: f"the {text.name} has {n} tokens, but {model.provenance['name']} reads at most "
        f"{model.cfg.n_ctx}"
        for text in texts
        if (n := len(text.prompt.token_ids)) > model.cfg.n_ctx
    }
    if unfit:
        raise UnfitItemsError(unfit)
    return texts


def _settings(
    model: MedBridge,
    loaded_sae: LoadedSae,
    items: Sequence[McqItem],
    shots: Sequence[McqItem],
    texts: Sequence[_Text],
    sink_multiple: float,
) -> dict[str, Any]:
    """Everything that the activations depend on."""
    return {
        "model": dict(model.provenance),
        "sae": {**loaded_sae.identity, "d_sae": int(loaded_sae.sae.cfg.d_sae)},
        "n_items": len(items),
        "items_sha256": json_sha256([item.to_dict() for item in items]),
        "shots": [shot.id for shot in shots],
        # The tokens as layout, masks and tokenizer make them: neither the items nor the weights say those.
        "prompts_sha256": json_sha256([[t.prompt.to_dict(), t.first] for t in texts]),
        "sink_multiple": sink_multiple,
    }


def _write(
    output: Path,
    index: int,
    ids: Sequence[str],
    start: int,
    chunk: Sequence[_Text],
    found: dict[tuple[int, str], _TextActs],
) -> None:
    """The shard `index`, of the items `start` and after, whose texts are `chunk` in order."""
    acts = [found[t.item, t.name] for t in chunk]
    lengths = [len(a.norm) for a in acts]
    spans = np.array([span for t in chunk for span in t.prompt.char_spans[t.first :]], dtype=np.int32)
    d_in = len(acts[0].raw_mean)
    arrays: Arrays = {
        "data": np.concatenate([a.data for a in acts]),
        "indices": np.concatenate([a.indices for a in acts]),
        "indptr": np.concatenate([[0], np.cumsum(np.concatenate([a.active for a in acts]))]),
        "token_item": np.repeat([t.item for t in chunk], lengths),
        "token_part": np.array([part for t in chunk for part in t.prompt.token_parts[t.first :]]),
        "token_text": np.repeat([TEXTS.index(t.name) for t in chunk], lengths),
        "token_id": np.array([i for t in chunk for i in t.prompt.token_ids[t.first :]]),
        "char_start": spans[:, 0],
        "char_end": spans[:, 1],
        "norm": np.concatenate([a.norm for a in acts]),
        "error_norm": np.concatenate([a.error_norm for a in acts]),
        "excluded": np.concatenate([a.special | a.sink for a in acts]),
        "raw_mean_stem": np.zeros((len(ids), d_in)),
        "raw_mean_explanation": np.zeros((len(ids), d_in)),
        "has_explanation": np.zeros(len(ids), dtype=bool),
    }
    rows: list[dict[str, Any]] = [{"id": name, **dict.fromkeys(TEXTS)} for name in ids]
    for text, a in zip(chunk, acts, strict=True):
        row = text.item - start
        rows[row][text.name] = text.prompt.text
        arrays["raw_mean_stem" if text.name == "question" else "raw_mean_explanation"][row] = a.raw_mean
        if text.name == "explanation":
            arrays["has_explanation"][row] = a.n_counted > 0
    counts = {
        "n_tokens": sum(lengths),
        "n_active": len(arrays["data"]),
        "special_tokens": sum(int(np.count_nonzero(a.special)) for a in acts),
        "activation_sinks": sum(int(np.count_nonzero(a.sink)) for a in acts),
        "option_text_chars": sum(t.masked.get("option_text_chars", 0) for t in chunk),
        "stem_quote_chars": sum(t.masked.get("stem_quote_chars", 0) for t in chunk),
        "answer_marks": sum(t.masked.get("answer_marks", 0) for t in chunk),
    }
    write_apart(output, index, arrays, rows, counts)


def _numpy(values: torch.Tensor, kind: type[np.generic]) -> npt.NDArray[Any]:
    return values.detach().cpu().numpy().astype(kind)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f} items/s")
