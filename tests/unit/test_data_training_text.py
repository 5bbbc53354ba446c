"""Training text: what is left out stays out, shapes are recognised, nothing is dropped without being counted."""

import gzip
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.training.activations import corpus
from sae_lens_med.training.recipe import load_recipe, parse_recipe
from sae_lens_med.training.text import is_left_out, training_text
from tests.tiny import tiny_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "data"


def item(item_id: str, question: str = "질문?", rationale: str | None = "근거. 정답: C") -> dict[str, object]:
    row: dict[str, object] = {"id": item_id, "subject": "doctor", "question": f"{question} {item_id}"}
    row |= dict(zip("ABCDE", ("가", "나", "다", "라", "마"), strict=True)) | {"answer": 3}
    return row if rationale is None else row | {"rationale_r1": f"{item_id} {rationale}"}


def write(path: Path, *rows: object) -> Path:
    text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_the_hash_is_the_one_that_releases_were_made_with() -> None:
    # Oracle: coreutils.
    for item_id in ("dentist_0000", "doctor_0673", "nurse_0001"):
        shown = subprocess.run(["sha256sum"], input=item_id.encode(), capture_output=True, check=True).stdout
        share = int(shown[:16], 16) / 2**64
        assert is_left_out(item_id) == (share < 1 / 3)
        assert is_left_out(item_id, share + 1e-9) and not is_left_out(item_id, share - 1e-9)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_leaves_out_more(item_id: str, a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert is_left_out(item_id, low) <= is_left_out(item_id, high)
    assert not is_left_out(item_id, 0.0) and is_left_out(item_id, 1.0)


def test_the_fraction_is_what_it_says() -> None:
    share = sum(is_left_out(f"doctor_{i:04d}", 0.25) for i in range(20_000)) / 20_000
    assert share == pytest.approx(0.25, abs=0.01)
    with pytest.raises(DataError, match=r"must be in \[0, 1\], got 1.5"):
        is_left_out("x", 1.5)


def test_left_out_items_go_with_their_rationales_and_the_rest_is_whole(tmp_path: Path) -> None:
    ids = [f"doctor_{i:04d}" for i in range(60)]
    items = write(tmp_path / "items.jsonl", *(item(i) for i in ids))
    qa = write(tmp_path / "qa.jsonl.gz", {"id": "q1", "source": "s", "question": "What is X ?", "answer": "X is Y."})
    result = training_text([items, str(qa)])
    out = [i for i in ids if is_left_out(i)]
    assert result.left_out_ids == tuple(out) and 0 < len(out) < 60
    texts = dict(zip(result.dataset["id"], result.dataset["text"], strict=True))
    assert set(texts) == {i for i in ids if i not in out} | {f"{i}/rationale" for i in ids if i not in out} | {"q1"}
    assert not [t for t in texts.values() if any(i in t for i in out)]
    assert texts["q1"] == "What is X ?\nX is Y."
    first = next(i for i in ids if i not in out)
    assert texts[first] == f"질문? {first}\nA. 가\nB. 나\nC. 다\nD. 라\nE. 마\n정답："
    kept = 60 - len(out)
    assert result.counts == {
        "left_out_items": len(out),
        "left_out_rationales": len(out),
        "same_as_left_out": 0,
        "duplicates": 0,
        "item": kept,
        "rationale": kept,
        "question_answer": 1,
        "characters": sum(map(len, texts.values())),
    }
    assert set(result.dataset["source"]) == {"items.jsonl", "qa.jsonl.gz"}


def test_a_text_that_repeats_a_left_out_one_is_left_out_too(tmp_path: Path) -> None:
    out = next(f"d{i}" for i in range(99) if is_left_out(f"d{i}"))
    kept = next(f"d{i}" for i in range(99) if not is_left_out(f"d{i}"))
    same = item(out, rationale=None) | {"question": "같은 질문"}
    items = write(tmp_path / "items.jsonl", same, same | {"id": kept})
    plain = write(tmp_path / "plain.jsonl", {"text": "평문"}, {"text": "평문"}, {"id": "b", "text": "다른 글"})
    result = training_text([items, plain])
    assert result.dataset["text"] == ["평문", "다른 글"] and result.dataset["id"] == ["plain.jsonl:1", "b"]
    assert (result.counts["same_as_left_out"], result.counts["duplicates"]) == (1, 1)


def test_the_hash_of_the_text_depends_on_the_text(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", {"text": "one"}, {"text": "two"})
    b = write(tmp_path / "b.jsonl", {"text": "two"}, {"text": "one"})
    assert training_text([a]).sha256 == training_text([a]).sha256 != training_text([b]).sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "ok"}, {"body": "x", "n": 1}], r"bad.jsonl: row 2 has the keys body, n, which is not a known form"),
        ([item("a") | {"explantion": "x"}], r"bad.jsonl: nothing reads the columns explantion; .*data.extra_columns"),
        ([{"text": "  "}], r"bad.jsonl: row 1: field 'text' must be a non-empty string, got '  '"),
        ([item("b", rationale=None) | {"D": None}], r"row 1: field 'D': missing"),
        ([{"id": "q", "question": "x", "answer": 3}], r"row 1: field 'answer' must be a non-empty string, got 3"),
        ([item("a"), item("a")], r"the item 'a' appears 2 times"),
        ([], r"bad.jsonl: the file has no rows"),
        (["text"], r"bad.jsonl: row 1: not a JSON object but a string; fix or remove the row"),
    ],
)
def test_what_is_not_training_text_is_refused(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        training_text([write(tmp_path / "bad.jsonl", *rows)], 0.0)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave no text to train on"):
        training_text([write(tmp_path / "a.jsonl", item("a"))], 1.0)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data ../shared/data is not here")
def test_the_real_sources() -> None:
    names = ("kormedmcqa_train_shared.jsonl", "kormedmcqa_dev_r1_reasoning.jsonl.gz", "medquad_en.jsonl.gz")
    result = training_text([SHARED / n for n in names])
    counts = result.counts
    assert counts["item"] + counts["left_out_items"] + counts["same_as_left_out"] == 1205
    assert counts["text"] == 1058 and counts["question_answer"] == 15_614
    assert len(result.left_out_ids) == counts["left_out_items"] == 393
    left_out = {json.loads(line)["id"]: json.loads(line) for line in (SHARED / names[0]).open(encoding="utf-8")}
    texts = "\n".join(result.dataset["text"])
    assert not [i for i in result.left_out_ids if left_out[i]["question"] in texts]
    # What `evaluate` reads, `train` reads: each item with its explanation, by the same id.
    path = SHARED / "casimedicos_en_dev.jsonl"
    items = load_items(str(path)).items
    expert = training_text([path], 0.0)
    assert expert.counts["item"] == len(items)
    assert set(expert.dataset["id"]) <= {i.id for i in items} | {f"{i.id}/rationale" for i in items}
    assert {i.explanation for i in items if i.explanation} <= set(expert.dataset["text"])


# --- every file that evaluate reads, and no two taken for one ------------------------------------------------------


def test_two_sources_of_one_name_are_two_sources(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a = write(tmp_path / "a" / "t.jsonl", *({"text": f"글 {i}"} for i in range(5)))
    b = write(tmp_path / "b" / "t.jsonl", *({"text": f"text {i}"} for i in range(7)))
    result = training_text([a, b])
    assert result.sources == ("a/t.jsonl", "b/t.jsonl")
    assert Counter(result.dataset["source"]) == {"a/t.jsonl": 5, "b/t.jsonl": 7}
    assert len(set(result.dataset["id"])) == 12
    with pytest.raises(DataError, match=r"t.jsonl: this file is named twice"):
        training_text([a, tmp_path / "b" / ".." / "a" / "t.jsonl"])


def test_held_out_sequences_are_not_trained_on(tmp_path: Path) -> None:
    """Each sequence once: with two sources of one name, and a part of one of them at random."""
    tokenizer = tiny_tokenizer()
    for folder, n in (("a", 30), ("b", 40)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "t.jsonl", *({"text": f"{folder} 글 {i}"} for i in range(n)))
    values = load_recipe("tiny").to_dict()
    values["data"] |= {"folder": str(tmp_path), "heldout": 0.3}
    values["data"]["sources"] = [{"path": "a/t.jsonl"}, {"path": "b/t.jsonl", "max_rows": 10}]
    found = corpus(parse_recipe(values, "test"), tokenizer, 0)
    assert len(found.train) + len(found.heldout) == 40
    assert not set(found.train) & set(found.heldout)
    assert sum(str(tokenizer.decode(list(ids))).startswith("b ") for ids in found.train + found.heldout) == 10


def test_generic_items_are_texts_by_the_ids_that_evaluate_gives(tmp_path: Path) -> None:
    rows = [
        {"question": f"Which {i}?", "options": ["x", "y", "z"], "answer": i % 3, "explanation": f"Because {i}."}
        for i in range(30)
    ]
    path = write(tmp_path / "items.jsonl", *rows)  # answers from 0: no text holds them
    result = training_text([path], 0.5)
    items = load_items(str(path), answers_from=0, explanation_source="model").items
    out = tuple(i.id for i in items if is_left_out(i.id, 0.5))
    assert result.left_out_ids == out and 0 < len(out) < 30
    assert result.counts["item"] == result.counts["rationale"] == 30 - len(out)
    assert not [t for t in result.dataset["text"] for i in items if i.id in out and i.question in t]


def test_bad_rows_of_text_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"text": "ok"}, {"text": ""}, "no row", {"text": 3}, {"text": "fine"})
    with pytest.raises(DataError, match=r"row 2: .*row 3: .*row 4: .*data.skip_bad_items"):
        training_text([path])
    result = training_text([path], skip_bad_rows=True)
    assert result.dataset["text"] == ["ok", "fine"] and result.counts["bad_rows"] == 3 == len(result.bad_rows)
    twice = write(tmp_path / "i.jsonl", item("a"), item("a", "다른 질문?"), item("b"))
    result = training_text([twice], 0.0, skip_bad_rows=True)
    assert list(result.dataset["id"]) == ["a", "a/rationale", "b", "b/rationale"]
    assert result.bad_rows == ("the item 'a' appears 2 times in the sources",)


def test_extra_columns_and_encodings_of_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("text;note\n한글 글;1\n".encode("cp949"))
    with pytest.raises(DataError, match="looks like cp949; read it with --set data.encoding=cp949, or"):
        training_text([path])
    with pytest.raises(DataError, match="t.csv: nothing reads the columns note"):
        training_text([path], encoding="cp949")
    result = training_text([path], encoding="cp949", extra_columns="ignore")
    assert result.dataset["text"] == ["한글 글"] and result.ignored_columns == ("note",)


def test_a_recipe_says_how_its_files_are_read() -> None:
    recipe = load_recipe("tiny", ["data.encoding=cp949", "data.extra_columns=ignore", "data.skip_bad_items=true"])
    assert (recipe.encoding, recipe.extra_columns, recipe.skip_bad_items) == ("cp949", "ignore", True)
    assert parse_recipe(recipe.to_dict(), "again") == recipe
    assert not {"encoding", "extra_columns", "skip_bad_items"} & set(load_recipe("tiny").to_dict()["data"])
    for wrong in ("data.encoding=3", "data.extra_columns=drop", "data.skip_bad_items=1"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0].rpartition(".")[2]):
            load_recipe("tiny", [wrong])
