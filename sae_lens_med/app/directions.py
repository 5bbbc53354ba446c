"""The optional parts of an index that are about the SAE's decoder alone: neighbours and logits.

    neighbours    per feature the `NEIGHBOURS` others with the largest cosine of their decoder rows
    logits        per feature that fires, the `TOKENS` tokens whose logits its direction raises most, and those that it
                  lowers most: d_f · W_U, without the final norm's gain and what the layers between do

Both go through the features in chunks, each of which is written as it comes.

Out of scope: what a feature does in a text (`attribution`, #16).
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from sae_lens_med.app.index import begin
from sae_lens_med.app.index_files import FEATURES, PARTIAL, PARTS
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.runs.arrays import ArrayFile
from sae_lens_med.runs.files import atomic_path, write_json
from sae_lens_med.runs.folder import RunFolder
from sae_lens_med.runs.partial import PartialResults
from sae_lens_med.runs.progress import progress_bar
from sae_lens_med.runs.written import hashes

if TYPE_CHECKING:
    import torch

NEIGHBOURS, TOKENS = 20, 10
_ROWS, _LOGIT_ROWS = 1024, 64
"""Features of a chunk."""
_BYTE = re.compile("<0x[0-9A-F]{2}>")


def find_neighbours(study: Path, side: ModelSide) -> bool:
    """Make the part `neighbours` where it is missing; return whether it was made. Raises as `attribution.attribute`."""
    import torch

    run = _run(study)
    if "neighbours" in run.parts:
        return False
    start, rows = perf_counter(), _decoder(side)
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
    k = min(NEIGHBOURS, len(unit) - 1)

    @torch.no_grad()
    def chunk(features: Sequence[int]) -> dict[str, Any]:
        cosines = unit[list(features)] @ unit.T
        cosines[range(len(features)), list(features)] = -2  # itself
        values, found = cosines.topk(k, dim=1)
        return {"features": found.tolist(), "cosines": [[round(v, 6) for v in row] for row in values.tolist()]}

    found, store = _in_chunks(run, side, "neighbours", list(range(len(unit))), _ROWS, chunk)
    arrays = {
        "features": np.array([row for each in found for row in each["features"]], dtype=np.int32),
        "cosines": np.array([row for each in found for row in each["cosines"]], dtype=np.float32),
    }
    with atomic_path(run.path / PARTS["neighbours"][0]) as temporary:
        save_file(arrays, temporary)
    _finish(run, "neighbours", start, store)
    return True


def find_logits(study: Path, side: ModelSide) -> bool:
    """Make the part `logits` where it is missing; return whether it was made. Raises as `attribution.attribute`, and
    `ConfigError` for an SAE whose directions are not those of the residual stream."""
    import torch

    run = _run(study)
    if "logits" in run.parts:
        return False
    start, rows = perf_counter(), _decoder(side)
    model: Any = side.model.original_model
    head = model.get_output_embeddings()
    weight = head.weight.detach().float()
    if weight.shape[1] != rows.shape[1]:
        raise ConfigError(
            f"the SAE's directions have {rows.shape[1]} numbers and the model's output embeddings {weight.shape[1]}, "
            "so that they raise no token by themselves; leave out --logits."
        )
    fires = np.flatnonzero(ArrayFile.open(run.path / FEATURES).read("count")).tolist()
    k = min(TOKENS, len(weight))

    @torch.no_grad()
    def chunk(features: Sequence[int]) -> dict[str, Any]:
        effects = rows[list(features)].to(weight) @ weight.T
        high, low = effects.topk(k, dim=1), effects.topk(k, dim=1, largest=False)
        return {
            name: [side_.indices.tolist(), [[round(v, 6) for v in row] for row in side_.values.tolist()]]
            for name, side_ in (("raised", high), ("lowered", low))
        }

    found, store = _in_chunks(run, side, "logits", fires, _LOGIT_ROWS, chunk)
    row_of = np.full(len(rows), -1, dtype=np.int32)
    row_of[fires] = np.arange(len(fires))
    tokens = {name: [row for each in found for row in each[name][0]] for name in ("raised", "lowered")}
    used = sorted({token for own in tokens.values() for row in own for token in row})
    place = {token: number for number, token in enumerate(used)}
    arrays: dict[str, Any] = {"row_of": row_of}
    for name, own in tokens.items():
        values = [row for each in found for row in each[name][1]]
        arrays[f"{name}_token"] = np.array([[place[t] for t in row] for row in own], dtype=np.int32).reshape(-1, k)
        arrays[f"{name}_value"] = np.array(values, dtype=np.float32).reshape(-1, k)
    with atomic_path(run.path / PARTS["logits"][0]) as temporary:
        save_file(arrays, temporary)
    write_json(run.path / PARTS["logits"][1], [token_string(side.model.text_tokenizer, token) for token in used])
    _finish(run, "logits", start, store)
    return True


def token_string(tokenizer: Any, token: int) -> str:
    """What a token is in a text: whole characters, or the bytes of a part of one (`<0xEC><0x8B>`); never empty."""
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if text and "\ufffd" not in text:
        return text
    name = str(tokenizer.convert_ids_to_tokens(token))
    if _BYTE.fullmatch(name) or any(character not in _BYTE_OF for character in name):
        return name
    return "".join(f"<0x{_BYTE_OF[character]:02X}>" for character in name)


def _byte_table() -> dict[str, int]:
    """Character -> byte, as byte-level tokenizers write bytes (GPT-2): those that print stand for themselves, the
    others for the characters from 256 on."""
    printing = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_table()


def _run(study: Path) -> RunFolder:
    _, _, run = begin(study)
    if "features" not in run.parts:
        raise StudyError(f"{run.path} holds no index yet; make it first.")
    return run


def _decoder(side: ModelSide) -> "torch.Tensor":
    """`[F, d_in]`, float32: what one unit of each feature adds."""
    from sae_lens_med.interventions.dictionary import Dictionary

    dictionary = Dictionary(side.loaded_sae)
    return dictionary.rows(tuple(range(dictionary.d_sae))).detach().float()


def _in_chunks(
    run: RunFolder,
    side: ModelSide,
    name: str,
    features: list[int],
    rows: int,
    chunk: Callable[[Sequence[int]], dict[str, Any]],
) -> tuple[list[dict[str, Any]], PartialResults]:
    """What `chunk` gives for `rows` features at a time, in order; what an earlier run has is not made again."""
    identity = {**run.kind.identity(run.values), "sae": side.loaded_sae.identity, "rows": rows}
    store = PartialResults(run.path / PARTIAL[name], identity)
    firsts = range(0, len(features), rows)
    with progress_bar(side.progress) as bar:
        task = bar.add_task(name, total=len(firsts), completed=len(store.done))
        for first in firsts:
            if str(first) not in store.done:
                store.append([{"id": str(first), **chunk(features[first : first + rows])}])
                bar.advance(task)
    return [store.done[str(first)] for first in firsts], store


def _finish(run: RunFolder, name: str, start: float, store: PartialResults) -> None:
    run.finish(name, perf_counter() - start, files=hashes(run.path, PARTS[name]))
    store.remove()
