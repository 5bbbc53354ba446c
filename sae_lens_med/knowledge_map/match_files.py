"""The files of a comparison (`match_run`): dictionaries at words, pairs, and tables for people."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy import sparse

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.matching import Match, MatchRow, stable
from sae_lens_med.knowledge_map.words import WordActs, Words, top_words
from sae_lens_med.runs.files import atomic_path, write_json
from sae_lens_med.runs.parsing import ParseError, read_json


def to_csv(rows: Sequence[MatchRow]) -> str:
    """A line for each row and threshold."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = ("first", "second", "what", "of", "lexical", "n_first", "n_second", "n_words", "n_texts")
    last = ("p", "q", "mean_r", "cosine", "stands_out")
    table.writerow([*names, "threshold", "share", "low", "high", "null_high", *last])
    for row in rows:
        for at, threshold in enumerate(row.thresholds):
            table.writerow(
                [*(getattr(row, name) for name in names), threshold, row.curve[at], row.curve_low[at]]
                + [row.curve_high[at], row.curve_null_high[at]]
                + ["" if getattr(row, name) is None else getattr(row, name) for name in last]
            )
    return text.getvalue()


def features_csv(
    found: Mapping[str, WordActs],
    matches: Mapping[tuple[str, str], Match],
    seeds: Sequence[Match],
    words: Words,
) -> str:
    """A line for each feature of the first that takes part, by falling r."""
    asked = [each for each in matches.values() if each.row.lexical == "kept" and each.row.what in ("second", "seed")]
    main = asked[0]
    forms = words.forms
    columns = {each.row.second: sparse.csc_array(found[each.row.second].acts) for each in asked}
    first = found[main.row.first]
    own = sparse.csc_array(first.acts)
    steady = stable(seeds, main.pairs[:, 0])
    by_feature = [{int(f): float(r) for (f, _), r in zip(each.pairs, each.r, strict=True)} for each in seeds]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = [f"r_{each.row.second}" for each in seeds]
    table.writerow(["feature", "partner", "r", "r_chosen", "lexical", *names, "stable", "words", "partner_words"])
    for at in np.argsort(-main.r, kind="stable"):
        feature, partner = map(int, main.pairs[at])
        table.writerow(
            [feature, partner, float(main.r[at]), float(main.chosen_r[at]), bool(first.lexical[feature])]
            + [each.get(feature, "") for each in by_feature]
            + ["" if steady is None else bool(steady[at])]
            + [" | ".join(top_words(own, forms, feature))]
            + [" | ".join(top_words(columns[main.row.second], forms, partner))]
        )
    return text.getvalue()


def save_words(path: Path, acts: WordActs) -> None:
    table = sparse.csr_array(acts.acts)
    arrays = {
        "data": table.data.astype(np.float32),
        "indices": table.indices.astype(np.int32),
        "indptr": table.indptr.astype(np.int64),
        "shape": np.array(table.shape, dtype=np.int64),
        "read": acts.read,
        "word_share": acts.word_share,
        "token_share": acts.token_share,
        **({} if acts.directions is None else {"directions": acts.directions.astype(np.float32)}),
    }
    with atomic_path(path) as temporary:
        save_file(arrays, temporary)


def load_words(path: Path, name: str, space: str) -> WordActs:
    a = load_file(path)
    acts = sparse.csr_array((a["data"], a["indices"], a["indptr"]), shape=tuple(a["shape"]))
    directions = a["directions"].astype(np.float64) if "directions" in a else None
    return WordActs(name, acts, a["read"], a["word_share"], a["token_share"], directions, space)


def write_pairs(path: Path, made: Match | None) -> None:
    if made is None:
        write_json(path, None)
        return
    pairs = {"pairs": made.pairs.tolist(), "chosen_r": made.chosen_r.tolist(), "r": made.r.tolist()}
    write_json(path, {"row": made.row.to_dict(), **pairs})


def read_pairs(path: Path) -> Match | None:
    try:
        value = read_json(path)
        if value is None:
            return None
        return Match(
            MatchRow.from_dict(value["row"]),
            np.array(value["pairs"], dtype=np.int64).reshape(-1, 2),
            np.array(value["chosen_r"], dtype=np.float64),
            np.array(value["r"], dtype=np.float64),
        )
    except (ParseError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); delete the folder and match again.") from error
