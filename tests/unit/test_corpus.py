"""The recipe's text as sequences: what is cut where, what is held out, what the seed decides."""

import json
from pathlib import Path

import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.training.activations import Corpus, corpus
from sae_lens_med.training.recipe import load_recipe
from tests.tiny import tiny_tokenizer

CONTEXT = 16


def write(folder: Path, name: str, texts: list[str]) -> None:
    lines = [json.dumps({"id": f"{name}{i}", "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "short", [f"환자 {i}" for i in range(40)])
    write(tmp_path, "long", [" ".join(f"p{i}q{j}" for j in range(20)) for i in range(6)])
    return tmp_path


def read(folder: Path, *overrides: str, seed: int = 7, bos: bool = True) -> Corpus:
    given = [f"data.folder={folder}", "data.sources=[short.jsonl, long.jsonl]", f"context_size={CONTEXT}"]
    return corpus(load_recipe("tiny", [*given, *overrides]), tiny_tokenizer(bos), seed)


@pytest.mark.parametrize("bos", [True, False])
def test_every_token_of_a_text_is_in_one_sequence_that_begins_with_bos(folder: Path, bos: bool) -> None:
    tokenizer = tiny_tokenizer(bos)
    found = read(folder, bos=bos)
    sequences = [*found.train, *found.heldout]
    begins = (tokenizer.bos_token_id,) if bos else ()
    assert all(len(s) <= CONTEXT and s[: len(begins)] == begins and len(s) > len(begins) for s in sequences)
    want = []
    for line in "".join((folder / f"{name}.jsonl").read_text() + "\n" for name in ("short", "long")).splitlines():
        ids, room = tokenizer(json.loads(line)["text"], add_special_tokens=False).input_ids, CONTEXT - len(begins)
        want += [begins + tuple(ids[at : at + room]) for at in range(0, len(ids), room)]
    assert sorted(sequences) == sorted(want)
    assert found.counts["sequences"] == len(want) and found.counts["tokens"] == sum(map(len, want))
    assert found.counts["texts"] == 46


def test_the_order_and_what_is_held_out_are_the_seeds(folder: Path) -> None:
    first, again, other = read(folder, "data.heldout=0.25"), read(folder, "data.heldout=0.25"), read(folder, seed=8)
    assert first == again
    n = len(first.train) + len(first.heldout)
    assert len(first.heldout) == round(0.25 * n)
    assert set(first.heldout).isdisjoint(first.train)  # no two of these texts are alike
    assert {*first.train, *first.heldout} == {*other.train, *other.heldout}
    assert set(first.heldout) != set(other.heldout)
    # the hash is of the order, too: another seed is another text
    assert first.sha256 != other.sha256
    assert read(folder, "data.heldout=0.5").sha256 == first.sha256


def test_a_source_gives_a_random_part_of_its_rows_where_it_is_limited(folder: Path) -> None:
    limited = "data.sources=[{path: short.jsonl, max_rows: 10}, long.jsonl]"
    found, other = read(folder, limited), read(folder, limited, seed=8)
    assert found.counts["texts"] == other.counts["texts"] == 16
    assert {*found.train, *found.heldout} != {*other.train, *other.heldout}
    assert read(folder, "data.sources=[{path: short.jsonl, max_rows: 1000}]").counts["texts"] == 40


def test_a_text_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl does not exist; say where it is with --set data\.folder=PATH"):
        read(folder, "data.sources=[none.jsonl]")
