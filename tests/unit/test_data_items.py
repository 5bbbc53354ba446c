"""Items from local files, the Hub and the sample: what is right comes through whole, what is wrong is named."""

import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.data import LoadedItems, kormedmcqa, load_items, load_kormedmcqa, load_sample
from sae_lens_med.data.kormedmcqa import COUNTS
from sae_lens_med.errors import DataError
from sae_lens_med.records import EXPLANATION_SOURCES, McqItem, Span, require_explanation_sources
from tests.unit.data_rows import GEN, KOR, one, write

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"


# --- what is right ------------------------------------------------------------------------------------------------


def test_the_two_schemas(tmp_path: Path) -> None:
    assert one(tmp_path, KOR | {"rationale_r1": "근거"}) == McqItem(
        "k1",
        "doctor",
        "ko",
        "질문?",
        ("가", "나", "다", "라", "마"),
        2,
        "근거",
        "model",
        provenance={"dataset": "a.jsonl"},
    )
    row = GEN | {"explanation": "Because.", "explanation_source": "illustrative", "year": 2021, "licence": "CC0"}
    row |= {
        "question_spans": [{"label": "premise", "start": 0, "end": 5}],
        "explanation_spans": [{"start": 1, "end": 3}],
    }
    got = one(tmp_path, row)
    assert got.question_spans == (Span(0, 5, "premise"),) and got.explanation_spans == (Span(1, 3),)
    assert (got.answer, got.language, got.explanation_source) == (0, "en", "illustrative")
    assert got.provenance == {"dataset": "a.jsonl", "year": "2021", "licence": "CC0"}


def test_what_a_row_does_not_say(tmp_path: Path) -> None:
    bare = {"question": "열이 난다?", "options": ["예", "아니오"], "answer": None}
    got = one(tmp_path, bare)
    assert (got.id, got.subject, got.language, got.answer) == ("a-00001", "unspecified", "ko", None)
    keyed = {k: v for k, v in KOR.items() if k != "id"} | {"year": 2020, "period": 1, "q_number": 7, "cot": ""}
    got = one(tmp_path, keyed)
    assert (got.id, got.explanation) == ("doctor-2020-1-7", None)
    assert one(tmp_path, KOR | {"cot": "풀이"}).explanation_source == "expert"
    assert one(tmp_path, GEN | {"explanation": "E"}, explanation_source="model").explanation_source == "model"
    assert one(tmp_path, GEN | {"explanation": "E"}).explanation_source is None
    casi = {"id": "casimedicos-en-dev-000", "lang": "en", "specialty": "S", "question": "Q?", "options": ["a", "b"]}
    casi |= {"answer": 2, "explanation": "E", "question_spans": [], "explanation_spans": []}
    got = one(tmp_path, casi)
    assert (got.explanation_source, got.subject, got.provenance["licence"]) == ("expert", "S", "CC BY 4.0")


def test_the_same_items_from_every_kind_of_file(tmp_path: Path) -> None:
    span = [{"label": "claim", "start": 0, "end": 2}]
    rows = [GEN | {"explanation": 'Quote " and , and\nline', "explanation_source": "model", "explanation_spans": span}]
    rows += [
        GEN | {"id": "g2", "answer": 3, "explanation": "E", "explanation_source": "expert", "explanation_spans": []}
    ]
    plain = write(tmp_path / "a.jsonl", *rows)
    packed = write(tmp_path / "b.jsonl.gz", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    table = tmp_path / "d.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as handle:  # as Excel saves it, with a byte-order mark
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: json.dumps(v) if isinstance(v, list) else v for k, v in r.items()}  # lists in a cell are JSON
            for r in rows
        )

    def plain_items(loaded: LoadedItems) -> list[dict[str, Any]]:
        return [i.to_dict() | {"provenance": {}} for i in loaded.items]

    loaded = [load_items(str(p)) for p in (plain, packed, tmp_path / "c.parquet", table)]
    assert all(plain_items(x) == plain_items(loaded[0]) for x in loaded[1:])
    assert len(loaded[0].items) == 2 and loaded[0].bad_rows == ()


# With something to be seen in it: a text of fillers alone is no text.
TEXT = st.text(
    alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\u115f\u1160\u3164\uffa0\u2800"),
    min_size=1,
    max_size=30,
).filter(
    lambda text: (
        any(c.isprintable() and not c.isspace() for c in text)
        and text.strip().casefold() not in ("nan", "<na>", "na", "n/a", "none", "null")
    )
)


@settings(max_examples=60, deadline=None)
@given(TEXT, st.lists(TEXT, min_size=2, max_size=26), TEXT, st.sampled_from(EXPLANATION_SOURCES), st.data())
def test_any_text_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    question: str,
    options: list[str],
    explanation: str,
    source: str,
    data: st.DataObject,
) -> None:
    answer = data.draw(st.integers(1, len(options)))
    row = {"question": question, "options": options, "answer": answer, "explanation": explanation}
    got = one(tmp_path_factory.mktemp("r"), row | {"explanation_source": source})
    assert (got.question, list(got.options), got.answer, got.explanation) == (
        question,
        options,
        answer - 1,
        explanation,
    )
    assert McqItem.from_dict(json.loads(json.dumps(got.to_dict()))) == got


def test_several_files_limit_and_identity(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jsonl", GEN), write(tmp_path / "b.jsonl", GEN | {"id": "g2", "licence": "CC0"})
    both = load_items(f"{a},{b}")
    assert [i.id for i in both.items] == ["g1", "g2"] and both.licence == "CC0"
    assert [i.id for i in load_items(f"{a}, {b}", limit=1).items] == ["g1"]
    assert load_items(f"{a},{b}").sha256 == both.sha256 != load_items(f"{b},{a}").sha256
    with pytest.raises(DataError, match=r"a.jsonl: this file is named twice; name each file once"):
        load_items(f"{a},{b},{tmp_path}/../{tmp_path.name}/a.jsonl")
    comma = write(tmp_path / "c,d.jsonl", GEN)
    assert len(load_items(comma).items) == 1
    with pytest.raises(DataError, match="must be at least 1, got 0"):
        load_items(a, limit=0)


# --- what is wrong ------------------------------------------------------------------------------------------------

BAD = [
    (KOR | {"answer": 6}, r"field 'answer': 6 is outside the 5 options \(the first is 1\)"),
    (KOR | {"answer": -1}, r"field 'answer': -1 is outside"),
    (KOR | {"answer": None}, r"field 'answer': must be a whole number from 1 to 5 or a letter from A to E, got None"),
    (GEN | {"answer": "D"}, r"field 'answer': 'D' is outside the 3 options \(the first is A\)"),
    (GEN | {"answer": 2.5}, r"field 'answer': must be a whole number"),
    (GEN | {"answer": [1, 2]}, r"field 'answer': must be a whole number"),
    (GEN | {"answer": True}, r"field 'answer': must be a whole number"),
    ({k: v for k, v in GEN.items() if k != "answer"}, r"field 'answer': missing"),
    (GEN | {"question": "  "}, r"field 'question': is empty"),
    (GEN | {"question": 5}, r"field 'question': must be a string, got 5"),
    ({k: v for k, v in GEN.items() if k != "question"}, r"field 'question': missing"),
    ({k: v for k, v in KOR.items() if k != "E"}, r"field 'E': missing"),
    (KOR | {"B": ""}, r"field 'B': is empty"),
    ({k: v for k, v in GEN.items() if k != "options"}, r"field 'options': missing; add a list"),
    (GEN | {"options": ["a", " "]}, r"field 'options': option B must be a non-empty string, got ' '"),
    (GEN | {"options": ["a"]}, r"field 'options': 2 to 26 options are allowed, got 1"),
    (GEN | {"options": {"A": "x"}}, r"field 'options': must be a list of strings, got \{'A': 'x'\}"),
    (KOR | {"options": ["a", "b"]}, r"field 'options': the row also has the columns A, B, C, D, E"),
    (GEN | {"explantion": "x"}, r"field 'explantion': unknown column; did you mean explanation"),
    (
        GEN | {"explanation": "x", "explanation_source": "me"},
        r"field 'explanation_source': must be one of expert, model, illustrative, ",
    ),
    (GEN | {"explanation_source": "model"}, r"field 'explanation_source': is set, but the row has no explanation"),
    (GEN | {"explanation": 3, "explanation_source": "model"}, r"field 'explanation': must be a string, got 3"),
    (KOR | {"cot": "a", "rationale_r1": "b"}, r"field 'cot': the row also has 'rationale_r1'"),
    (GEN | {"question_spans": [{"start": 0, "end": 7}]}, r"field 'question_spans': \[0, 7\) is outside a text of 6"),
    (GEN | {"question_spans": [[0, 2]]}, r"field 'question_spans': a span is \{start, end, label\}"),
    (GEN | {"lang": "de"}, r"field 'lang': must be one of ko, en, es, fr, it, got 'de'"),
    (GEN | {"id": " "}, r"field 'id': is empty"),
    (GEN | {"id": "ok"}, r"field 'id': 'ok' was already used by .*a.jsonl: row 1"),
    (["a list"], r"not a JSON object but a list"),
    (GEN | {"question": "\ud800 half a pair"}, r"field 'question': the text is not UTF-8"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_and_can_be_skipped(tmp_path: Path, row: Any, message: str) -> None:
    rows = [GEN | {"id": "ok"}, row, GEN | {"id": "also ok"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl: row 2: " + message) as error:
        load_items(str(path))
    assert str(error.value).endswith("fix the row, or leave it out with --skip-bad-items.")
    assert "\n" not in str(error.value)
    loaded = load_items(str(path), skip_bad_rows=True)
    assert [i.id for i in loaded.items] == ["ok", "also ok"]
    assert len(loaded.bad_rows) == 1 and "a.jsonl: row 2: " in loaded.bad_rows[0]


def test_bytes_that_are_not_utf8_name_their_row(tmp_path: Path) -> None:
    good = json.dumps(KOR | {"id": "k2"}, ensure_ascii=False).encode() + b"\n"
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + json.dumps(KOR, ensure_ascii=False).encode().replace(b"\xec\xa7\x88", b"\xec\xa7") + b"\n")
    with pytest.raises(DataError, match=r"a\.jsonl: row 2: field 'question': the text is not UTF-8"):
        load_items(str(path))
    assert len(load_items(str(path), skip_bad_rows=True).items) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: the file has no rows"),
        ("a.csv", b"id,question,answer\n", "a.csv: the file has no rows"),
        ("a.csv", b"id,id\n1,2\n", "the header names a column twice"),
        ("a.csv", b'question,options,answer\n"q,x', r"a.csv: row 1: not valid CSV \(unexpected end of data\)"),
        ("a.csv", b"question,options,answer\nq,x\n", "row 1: 2 cells where the header has 3 columns"),
        ("a.csv", b"question,options,answer\nq,x;y,1\n", "field 'options': must be a list written as JSON, got 'x;y'"),
        ("a.csv", b'question,options,answer\nq,"[""x"",""y""]",1.5\n', "must be a whole number from 1 to 2 or a"),
        ("a.jsonl", b"{'id': 1}\n", r"row 1: not a JSON object \(Expecting property name"),
        ("a.jsonl", b"[" * 200_000, "row 1: not a JSON object"),
        ("a.jsonl", b'[{"question": "q?"}]', "a.jsonl: the file is one JSON list; write one JSON object a line, as"),
        ("a.jsonl", b'\n[\n{"question": "q?"},\n{}\n]\n', "a.jsonl: the file is one JSON list; write one JSON object"),
        ("a.jsonl", b'{\n "question": "q?"\n}\n', "a.jsonl: the file is one JSON object over several lines; write"),
        ("a.jsonl", b'[{"question": "q?"}]\n{}\n', "row 1: not a JSON object but a list"),
        ("a.jsonl.gz", b"no gzip", "not a complete gzip file"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 999, mtime=0)[:-9], "not a complete gzip file"),
        ("a.parquet", b"no parquet", r"not a readable parquet file .*; write it again"),
        ("a.txt", b"x", r"a.txt: this file type is not supported; use a .jsonl, .csv, .tsv, .parquet or .xlsx file"),
        ("a.json", b"[]", r"a.json: this file type is not supported; write one JSON object a line, as .jsonl"),
        ("a.xls", b"", r"a.xls: this file type is not supported; save it as .xlsx or .csv"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_items(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no.jsonl: no such file; use a .jsonl"):
        load_items(str(tmp_path / "no.jsonl"))
    with pytest.raises(
        DataError, match="'smaple' is not a data source; did you mean sample; use sample, kormedmcqa:doctor"
    ):
        load_items("smaple")
    with pytest.raises(DataError, match="sample: this source does not take split"):
        load_items("sample", "test")
    with pytest.raises(
        DataError, match="^explanations are by one of expert, model, .*, got 'exprt'; did you mean expert.$"
    ):
        load_items("sample", explanation_source="exprt")
    path = write(tmp_path / "a.jsonl", GEN | {"answer": 9})
    with pytest.raises(DataError, match="none of the 1 rows is usable; the first problem is: .*row 1: field 'answer'"):
        load_items(path, skip_bad_rows=True)


# --- the sample and the real files --------------------------------------------------------------------------------


def test_the_sample_is_illustrative_throughout() -> None:
    loaded = load_items("sample")
    assert len(loaded.items) >= 60 and len({i.subject for i in loaded.items}) >= 10
    assert {i.explanation_source for i in loaded.items} == {"illustrative"}
    assert {len(i.options) for i in loaded.items} == {5} and {i.language for i in loaded.items} == {"ko"}
    assert all("illustrative" in i.provenance["dataset"] for i in loaded.items)
    assert len(load_sample(limit=3).items) == 3


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development data ../shared/data is not here")
def test_the_real_files() -> None:
    kor = load_items(str(SHARED / "kormedmcqa_train_shared.jsonl"))
    assert len(kor.items) == 1205 and {i.explanation_source for i in kor.items} == {"model"}
    by_subject = {s: sum(i.subject == s for i in kor.items) for s in ("doctor", "pharm", "nurse", "dentist")}
    assert by_subject == {"doctor": 674, "pharm": 227, "nurse": 203, "dentist": 101}
    casi = load_items(",".join(str(SHARED / f"casimedicos_en_{s}.jsonl") for s in ("train", "dev")))
    assert len(casi.items) == 436 and {i.explanation_source for i in casi.items} == {"expert"}
    assert casi.licence == "CC BY 4.0" and {i.language for i in casi.items} == {"en"}
    assert sum(len(i.explanation_spans) + len(i.question_spans) for i in casi.items) == 1682 + 1608 + 274 + 222


# --- the Hub's layout ---------------------------------------------------------------------------------------------


def hub(config: str) -> dict[str, list[dict[str, Any]]]:
    """A data set with the published schema and counts; few-shot rows repeat dev and carry `cot`."""
    splits: dict[str, list[dict[str, Any]]] = {}
    for period, (split, n) in enumerate(COUNTS[config].items()):
        splits[split] = [
            {"subject": config, "year": 2020, "period": period, "q_number": i, "question": f"{split} {i}?"}
            | dict(zip("ABCDE", "가나다라마", strict=True))
            | {"answer": i % 5 + 1, "cot": ""}
            for i in range(n)
        ]
    splits["fewshot"] = [row | {"cot": f"풀이 {i}"} for i, row in enumerate(splits["dev"][:5])]
    return splits


def test_hub_counts_and_sources() -> None:
    test = load_kormedmcqa("doctor", loader=hub)
    assert len(test.items) == 435 and test.split == "test" and test.licence == "CC BY-NC 2.0"
    assert test.items[7].id == "doctor-2020-2-7" and test.items[7].explanation is None
    shots = load_kormedmcqa("doctor", "fewshot", loader=hub)
    assert [i.explanation for i in shots.items] == [f"풀이 {i}" for i in range(5)]
    assert {i.explanation_source for i in shots.items} == {"expert"}
    dev = load_kormedmcqa("doctor", "dev", loader=hub)
    assert {i.id for i in shots.items} <= {i.id for i in dev.items}
    whole = load_kormedmcqa("all", loader=hub)
    assert len(whole.items) == 3009 and [i.subject for i in whole.items[::1000]] == [
        "doctor",
        "nurse",
        "pharm",
        "dentist",
    ]
    # 2,494 doctor rows are 2,489 questions (arXiv 2403.01469, the Hub's notice 3).
    assert sum(COUNTS["doctor"].values()) == 2494
    assert sum(sum(c.values()) - c["fewshot"] for c in COUNTS.values()) == 7469


def test_through_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset` opens a folder in the Hub's layout (parquet files, configs in README.md) the same way."""
    for split, rows in hub("dentist").items():
        (tmp_path / "dentist").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "dentist" / f"{split}.parquet")
    files = "".join(f"  - split: {s}\n    path: dentist/{s}.parquet\n" for s in COUNTS["dentist"])
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: dentist\n  data_files:\n{files}---\n")
    monkeypatch.setattr(kormedmcqa, "HUB_ID", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = load_items("kormedmcqa:dentist", "fewshot")
    direct = load_kormedmcqa("dentist", "fewshot", loader=hub)
    assert [i.question for i in loaded.items] == [i.question for i in direct.items]
    assert loaded.items[4].id == "dentist-2020-1-4" and loaded.items[4].explanation == "풀이 4"


def test_a_changed_hub_data_set_is_refused() -> None:
    def changed(change: Any) -> Any:
        def loader(config: str) -> Any:
            splits = hub(config)
            change(splits)
            return splits

        return loader

    cases = [
        (lambda s: s["test"].pop(), "split test has 434 rows instead of 435"),
        (lambda s: s.pop("fewshot"), "has the splits train, dev, test instead of train, dev, test, fewshot"),
        (lambda s: [r.pop("cot") for r in s["train"]], "split train has missing or extra columns: cot"),
        (lambda s: s["fewshot"][2].update(q_number=9999, question="new"), "split fewshot: row 3 is not a row of dev"),
    ]
    for change, message in cases:
        with pytest.raises(DataError, match=message):
            load_kormedmcqa("doctor", loader=changed(change))
    with pytest.raises(DataError, match=r"row 4: field 'answer': 7 is outside"):
        load_kormedmcqa("doctor", loader=changed(lambda s: s["test"][3].update(answer=7)))


def test_unknown_config_and_split() -> None:
    with pytest.raises(DataError, match=r"no config 'docter'; use one of doctor, .*; did you mean doctor\?"):
        load_items("kormedmcqa:docter")
    with pytest.raises(DataError, match=r"no split 'validation'; use one of train, dev, test, fewshot"):
        load_items("kormedmcqa:doctor", "validation")


def test_offline_with_a_cold_cache_is_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: the libraries read these settings when they are imported."""
    code = (
        "from sae_lens_med.data import load_items\nfrom sae_lens_med.errors import DataError\n"
        "try:\n    load_items('kormedmcqa:nurse')\nexcept DataError as e:\n    print(e)\n"
    )
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("\n") == 1
    assert "could not reach 'sean0042/KorMedMCQA' on the Hugging Face Hub and no cached copy" in done.stdout
    assert (
        "use a .jsonl, .csv, .tsv, .parquet or .xlsx file (the first three also with .gz) in the KorMedMCQA schema"
        in done.stdout
    )


# --- answers, and from where a file counts them --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "index"),
    [
        (3, 2),
        ("3", 2),
        (" 3 ", 2),
        (3.0, 2),
        ("3.0", 2),
        ("3번", 2),
        ("3 번", 2),
        ("③", 2),
        ("(3)", 2),
        ("⑶", 2),
        ("3.", 2),
    ]
    + [
        ("３", 2),
        ("C", 2),
        ("c", 2),
        ("(C)", 2),
        ("[c]", 2),
        ("C.", 2),
        ("C)", 2),
        ("Ｃ", 2),
        ("ⓒ", 2),
        ("e", 4),
        ("①", 0),
    ],
)
def test_an_answer_however_it_is_written(tmp_path: Path, written: Any, index: int) -> None:
    assert one(tmp_path, KOR | {"answer": written}).answer == index
    cell = str(written)
    text = "question,options,answer\nq," + '"[""v"",""w"",""x"",""y"",""z""]",' + f'"{cell}"\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert load_items(str(tmp_path / "a.csv")).items[0].answer == index


@pytest.mark.parametrize("written", ["F", "⑥", "6번", "C, D", "ac", "3-4", "정답", "12345678901", [3], {"a": 1}, True])
def test_what_is_no_answer(tmp_path: Path, written: Any) -> None:
    with pytest.raises(DataError, match=r"row 1: field 'answer': "):
        one(tmp_path, KOR | {"answer": written})


def test_a_letter_that_is_the_text_of_another_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'B' is the letter of option 2 and the text of option 1"):
        one(tmp_path, GEN | {"options": ["B", "C", "A"], "answer": "B"})
    assert one(tmp_path, GEN | {"options": ["A", "B", "C"], "answer": "B"}).answer == 1


@pytest.mark.parametrize("missing", ["nan", "NaN", "NA", "None", "null", "<NA>", "", None, float("nan")])
def test_an_answer_that_is_missing_is_not_known(tmp_path: Path, missing: Any) -> None:
    assert one(tmp_path, GEN | {"answer": missing}).answer is None
    got = one(tmp_path, GEN | {"explanation": missing, "explanation_source": missing, "subject": missing or None})
    assert (got.explanation, got.subject) == (None, "unspecified")
    assert one(tmp_path, GEN | {"options": ["nan", "None", "NA"]}).options == ("nan", "None", "NA")


def counted(path: Path, *answers: int, n: int = 4) -> str:
    rows = (
        {"id": f"q{i}", "question": f"질문 {i}?", "options": list("wxyz")[:n], "answer": a}
        for i, a in enumerate(answers)
    )
    return write(path, *rows)


def test_a_file_that_counts_from_0_is_refused_as_a_file(tmp_path: Path) -> None:
    path = counted(tmp_path / "a.jsonl", 0, 1, 2, 3, 0)
    for skip in (False, True):  # leaving out the rows with 0 would shift the others by one
        with pytest.raises(
            DataError, match=r"a.jsonl: 2 of its 5 answers are 0, .*--answers-from 0, .*--answers-from 1"
        ):
            load_items(path, skip_bad_rows=skip)
    assert [i.answer for i in load_items(path, answers_from=0).items] == [0, 1, 2, 3, 0]
    with pytest.raises(DataError, match=r"2 rows cannot be used: .*row 1: field 'answer': 0 is outside .*row 5"):
        load_items(path, answers_from=1)
    assert [i.answer for i in load_items(path, answers_from=1, skip_bad_rows=True).items] == [0, 1, 2]
    # One slip in a file that counts from 1 is the fault of a row, and in one that counts from 0 it still does.
    with pytest.raises(DataError, match=r"row 1: field 'answer': 0 is outside the 4 options \(the first is 1\)"):
        load_items(counted(tmp_path / "b.jsonl", 0, 1, 4, 2, 4))
    with pytest.raises(DataError, match="3 of its 5 answers are 0"):
        load_items(counted(tmp_path / "c.jsonl", 0, 0, 4, 2, 0), skip_bad_rows=True)
    with pytest.raises(DataError, match=r"no answer is 0, and 2 are as high as there are options"):
        load_items(counted(tmp_path / "d.jsonl", 4, 1, 4), answers_from=0)
    assert [i.answer for i in load_items(counted(tmp_path / "e.jsonl", 1, 2, 3)).items] == [0, 1, 2]
    # Letters and ordinals are what they are, wherever bare numbers begin.
    rows = [GEN | {"id": str(i), "answer": a} for i, a in enumerate([0, "B", "②", "2번", 2])]
    assert [i.answer for i in load_items(write(tmp_path / "f.jsonl", *rows), answers_from=0).items] == [0, 1, 1, 1, 2]
    with pytest.raises(DataError, match="counted from 0 or from 1, got 2"):
        load_items(path, answers_from=2)


# --- what is wrong with a file as a whole --------------------------------------------------------------------------


def test_columns_that_nothing_reads(tmp_path: Path) -> None:
    rows = [GEN | {"id": str(i), "score": 1, "explantion": "x"} for i in range(3)]
    path = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(DataError) as error:
        load_items(path, skip_bad_rows=True)
    assert str(error.value) == (
        f"{path}: nothing reads the columns score, explantion (do you mean explanation?); rename or delete them, or "
        "leave them out with --extra-columns ignore."
    )
    loaded = load_items(path, extra_columns="ignore")
    assert len(loaded.items) == 3 and loaded.ignored_columns == ("score", "explantion")
    assert loaded.sha256 == load_items(write(tmp_path / "a.jsonl", *(GEN | {"id": str(i)} for i in range(3)))).sha256
    with pytest.raises(DataError, match="one of refuse, ignore, got 'drop'"):
        load_items(path, extra_columns="drop")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"frage": "q", "options": ["a", "b"], "answer": 1}, "but none is 'question'; add it"),
        ({"questions": "q", "options": ["a", "b"], "answer": 1}, "but none is 'question'; rename questions"),
        ({"question": "q", "options": ["a", "b"], "label": 1}, "but none is 'answer'; add it"),
        ({"question": "q", "answer": 1}, "but no options; add the column options"),
        ({"question": "q", **dict.fromkeys("ABCD", "x"), "answer": 1}, "but E is missing"),
    ],
)
def test_a_column_that_no_row_has_is_told_once(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=f"a.jsonl: its columns are .*{message}"):
        load_items(write(tmp_path / "a.jsonl", row, row, row), skip_bad_rows=True)


def test_all_bad_rows_are_listed_at_once(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", GEN, GEN, GEN | {"id": "e", "question": " "}, GEN | {"id": "ok"})
    b = write(tmp_path / "b.jsonl", GEN | {"id": "o", "options": ["x"]}, GEN | {"id": "fine"})
    with pytest.raises(DataError) as error:
        load_items(f"{a},{b}")
    said = str(error.value)
    assert "3 rows cannot be used: " in said and "--skip-bad-items" in said and "\n" not in said
    for problem in (
        "a.jsonl: row 2: field 'id': 'g1' was",
        "a.jsonl: row 3: field 'question'",
        "b.jsonl: row 1: field",
    ):
        assert problem in said
    loaded = load_items(f"{a},{b}", skip_bad_rows=True)
    assert [i.id for i in loaded.items] == ["g1", "ok", "fine"] and len(loaded.bad_rows) == 3
    many = write(tmp_path / "c.jsonl", GEN | {"id": "ok"}, *(GEN | {"id": str(i), "question": ""} for i in range(80)))
    with pytest.raises(DataError, match="80 rows cannot be used: .*; and 30 more; fix the rows"):
        load_items(many)


def test_items_are_excluded_by_their_ids(tmp_path: Path) -> None:
    rows = [GEN, GEN | {"id": "empty", "question": ""}, GEN | {"id": "g1"}, {k: v for k, v in GEN.items() if k != "id"}]
    path = write(tmp_path / "a.jsonl", *rows)
    loaded = load_items(path, exclude=["empty", "g1"])
    assert [i.id for i in loaded.items] == ["a-00004"] and len(loaded.bad_rows) == 3
    with pytest.raises(DataError, match="there is no item 'a-0004' to exclude; did you mean a-00004"):
        load_items(path, exclude=["empty", "g1", "a-0004"])
    assert [i.id for i in load_items("sample", exclude=["sample-001"], limit=1).items] == ["sample-002"]
    # How it was read is enough to read it again.
    again = load_items(loaded.source, loaded.split, **loaded.reading)
    assert again == loaded and loaded.reading == {"exclude": ("empty", "g1")}


def test_two_files_of_one_name_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    bare = {k: v for k, v in GEN.items() if k != "id"}
    paths = [write(tmp_path / folder / "t.jsonl", bare) for folder in "xy"] + [write(tmp_path / "u.jsonl", bare)]
    items = load_items(",".join(paths)).items
    assert [i.id for i in items] == ["x/t.jsonl-00001", "y/t.jsonl-00001", "u-00001"]
    assert [i.provenance["dataset"] for i in items] == ["x/t.jsonl", "y/t.jsonl", "u.jsonl"]
    link = tmp_path / "link.jsonl"
    link.symlink_to(paths[2])
    with pytest.raises(DataError, match="link.jsonl: this file is named twice"):
        load_items(f"{paths[2]},{link}")


def test_whose_explanations_are_is_asked_where_it_matters(tmp_path: Path) -> None:
    """Loading does not ask; a study does, and names the option that says it."""
    unsaid = one(tmp_path, GEN | {"id": "u1", "explanation": "E"})
    with pytest.raises(DataError, match=r"f: 1 explanations .* 'u1' first; say it for all with --explanation-source"):
        require_explanation_sources([one(tmp_path, GEN), unsaid], "f")
    require_explanation_sources([one(tmp_path, GEN), one(tmp_path, KOR | {"cot": "풀이"})], "f")
