"""Named data sets: each mapping against rows in the published columns, and the traps of each set."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_lens_med.data import load_items, load_named, named
from sae_lens_med.data.mappings import find_mapping, read_mapping, source_names
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import configs_dir

MEDQA = {
    "question": "Which drug?",
    "answer": "Nitrofurantoin",
    "options": {"A": "Ampicillin", "B": "Ceftriaxone", "C": "Doxycycline", "D": "Nitrofurantoin"},
    "meta_info": "step2&3",
    "answer_idx": "D",
    "metamap_phrases": ["drug"],
}
MEDQA_HF = {"id": "dev-1", "sent1": "Which drug?", "sent2": "", "label": 3}
MEDQA_HF |= {f"ending{i}": text for i, text in enumerate(MEDQA["options"].values())}
MEDMCQA = {
    "id": "e9ad",
    "question": "Which nerve?",
    "opa": "Ulnar",
    "opb": "Median",
    "opc": "Radial",
    "opd": "Axillary",
}
MEDMCQA |= {"cop": 0, "choice_type": "single", "exp": "Gray's, p. 5.", "subject_name": "Anatomy", "topic_name": None}
PUBMEDQA = {
    "pubid": 21645374,
    "question": "Do mitochondria play a role?",
    "context": {"contexts": ["First part.", "Second part."], "labels": ["BACKGROUND", "RESULTS"], "meshes": []},
    "long_answer": "They do, in part.",
    "final_decision": "yes",
}
MMLU = {"question": "Which bone?", "subject": "anatomy", "choices": ["Ulna", "Radius", "Femur", "Tibia"], "answer": 2}
MMMLU = {"Unnamed: 0": 4, "Question": "어느 뼈인가?", "A": "척골", "B": "요골", "C": "대퇴골", "D": "경골"}
MMMLU |= {"Answer": "C", "Subject": "anatomy"}
CASIMEDICOS = {
    "id": 274,
    "year": 2016,
    "question_id_specific": 73,
    "full_question": "Paciente con hemorragia. ¿Qué haría?",
    "full_answer": "La primera es la correcta.",
    "type": "DIGESTIVE SYSTEM",
    "options": {"1": "Endoscopia", "2": "Nada", "3": "Cirugía", "4": "Alta", "5": None},
    "correct_option": 1,
    "explanations": {"1": {"exist": True}},
    "lang": "es",
}
LIVEQA = {
    "QUESTION_ID": "TQ1",
    "ORIGINAL_QUESTION_SUBJECT": "",
    "ORIGINAL_QUESTION_MESSAGE": "",
    "NIST_PARAPHRASE": "",
    "NLM_SUMMARY": "What is noonan syndrome?",
    "REFERENCE_ANSWERS": [{"ANSWER": "A syndrome.", "AURL": "x"}, {"ANSWER": "It is inherited.", "AURL": "y"}],
}
MEDICATIONQA = {"Question": "how does rivatigmine work?", "Focus (Drug)": "rivastigmine", "Question Type": "Action"}
MEDICATIONQA |= {"Answer": "It inhibits an enzyme.", "Section Title": "12.1", "URL": "https://example.org"}


def write(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def one(tmp_path: Path, source: str, row: Mapping[str, Any]) -> McqItem:
    return load_items(f"{source}:{write(tmp_path / 'rows.jsonl', row)}").items[0]


def test_every_named_source_ships_and_is_sound() -> None:
    wanted = {"medqa", "medmcqa", "pubmedqa", "mmlu-clinical", "mmmlu-ko-clinical", "casimedicos"}
    assert set(source_names()) == wanted | {"liveqa", "medicationqa", "healthsearchqa"}
    for name in source_names():
        mapping = read_mapping(configs_dir() / "sources" / f"{name}.yaml")
        assert mapping.title and mapping.licence and mapping.cite and mapping.forms


# --- columns as published, from local files -----------------------------------------------------------------------


def test_medqa_in_both_publications(tmp_path: Path) -> None:
    got = one(tmp_path, "medqa", MEDQA)
    assert (got.question, got.options[3], got.answer, got.subject) == ("Which drug?", "Nitrofurantoin", 3, "step2&3")
    assert got.provenance["licence"].startswith("CC BY 4.0") and got.language == "en" and got.explanation is None
    assert one(tmp_path, "GBaker/MedQA-USMLE-4-options", MEDQA) == got
    hf = one(tmp_path, "medqa", MEDQA_HF)
    assert (hf.id, hf.question, hf.options, hf.answer) == ("dev-1", "Which drug?", got.options, 3)
    with pytest.raises(DataError, match=r"field 'answer': 'Aspirin' is not the text of the option that 'answer_idx'"):
        one(tmp_path, "medqa", MEDQA | {"answer": "Aspirin"})


def test_medmcqa_counts_from_0_and_its_test_split_has_no_answers(tmp_path: Path) -> None:
    got = one(tmp_path, "medmcqa", MEDMCQA)
    assert (got.answer, got.subject, got.explanation_source) == (0, "Anatomy", "reference")
    assert one(tmp_path, "medmcqa", MEDMCQA | {"cop": -1, "exp": None}).answer is None
    with pytest.raises(DataError, match="field 'cop': 7 names none of the 4 options"):
        one(tmp_path, "medmcqa", MEDMCQA | {"cop": 7})


def test_pubmedqa_reads_the_abstract_before_its_question(tmp_path: Path) -> None:
    got = one(tmp_path, "pubmedqa", PUBMEDQA)
    assert got.question == "First part.\nSecond part.\n\nDo mitochondria play a role?"
    assert (got.options, got.answer, got.id) == (("yes", "no", "maybe"), 0, "21645374")
    assert (got.explanation, got.explanation_source) == ("They do, in part.", "reference")
    # The authors' file: an object of rows by PubMed id.
    own = {"QUESTION": PUBMEDQA["question"], "CONTEXTS": PUBMEDQA["context"]["contexts"], "LABELS": ["BACKGROUND"]}
    own |= {"LONG_ANSWER": PUBMEDQA["long_answer"], "final_decision": "yes", "MESHES": [], "YEAR": "2011"}
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({"21645374": own, "2": own | {"final_decision": "maybe"}}), encoding="utf-8")
    loaded = load_items(f"pubmedqa:{path}")
    assert loaded.items[0].to_dict() == got.to_dict() and loaded.items[1].answer == 2
    assert any("'yes' is right for 0.500 of these questions (0.552 of the whole set)" in note for note in loaded.notes)


def test_mmlu_and_its_korean_translation_have_the_same_ids(tmp_path: Path) -> None:
    english, other = MMLU, MMLU | {"subject": "astronomy"}
    loaded = load_items(f"mmlu-clinical:{write(tmp_path / 'en.jsonl', english, other, english | {'answer': 0})}")
    korean = load_items(f"mmmlu-ko-clinical:{write(tmp_path / 'ko.jsonl', MMMLU, MMMLU | {'Answer': 'A'})}")
    assert [item.id for item in loaded.items] == [item.id for item in korean.items] == ["anatomy-0001", "anatomy-0002"]
    assert [item.answer for item in loaded.items] == [item.answer for item in korean.items] == [2, 0]
    assert {item.language for item in korean.items} == {"ko"}
    assert any("1 rows of other subjects were left out" in note for note in loaded.notes)


def test_casimedicos_in_its_languages(tmp_path: Path) -> None:
    got = one(tmp_path, "casimedicos:es", CASIMEDICOS)
    assert (got.language, got.answer, len(got.options), got.explanation_source) == ("es", 0, 4, "expert")
    assert (got.subject, got.id, got.provenance["licence"]) == ("DIGESTIVE SYSTEM", "274", "CC BY 4.0")
    bare = {key: value for key, value in CASIMEDICOS.items() if key != "lang"}
    assert one(tmp_path, "casimedicos:fr", bare).language == "fr"
    assert one(tmp_path, "casimedicos", bare).language == "en"
    annotated = {"id": "casimedicos-en-dev-000", "lang": "en", "specialty": "S", "question": "Q?", "answer": 2}
    annotated |= {"options": ["a", "b"], "explanation": "E", "explanation_spans": []}
    annotated |= {"question_spans": [{"label": "premise", "start": 0, "end": 2}]}
    asked = one(tmp_path, "casimedicos", annotated)
    plain = load_items(str(write(tmp_path / "rows.jsonl", annotated))).items[0]
    assert asked.question_spans == plain.question_spans != () and asked.answer == plain.answer == 1
    assert asked.explanation_source == plain.explanation_source == "expert"
    with pytest.raises(DataError, match=r"no variant 'de'; use one of casimedicos:en, .* or casimedicos:FILE"):
        load_items("casimedicos:de")


def test_open_questions_have_neither_options_nor_answer(tmp_path: Path) -> None:
    live = one(tmp_path, "liveqa", LIVEQA)
    assert live.is_open and live.answer is None and live.options == () and live.gold_letter is None
    assert (live.question, live.explanation) == ("What is noonan syndrome?", "A syndrome.\nIt is inherited.")
    medicine = one(tmp_path, "medicationqa", MEDICATIONQA)
    assert (medicine.explanation_source, medicine.subject) == ("reference", "Action")
    search = one(tmp_path, "healthsearchqa", {"id": "7", "question": "Is fever bad?"})
    assert search.explanation is None and McqItem.from_dict(search.to_dict()) == search
    # An ordinary file without options is still a mistake.
    with pytest.raises(DataError, match="its columns are question, answer, but no options"):
        load_items(str(write(tmp_path / "a.jsonl", {"question": "Q?", "answer": None})))


def test_a_csv_cell_holds_lists_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        'question,options,answer_idx\nWhich?,"{""A"": ""x"", ""B"": ""y""}",B\nWho?,"[""u"", ""v""]",A\n',
        encoding="utf-8",
    )
    items = load_items(f"medqa:{path}").items
    assert [(item.options, item.answer) for item in items] == [(("x", "y"), 1), (("u", "v"), 0)]


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_file_that_counts_from_the_other_end_is_refused_whole(tmp_path: Path) -> None:
    from_1 = [MEDMCQA | {"id": str(i), "cop": i} for i in (1, 2, 3, 4)]
    path = write(tmp_path / "a.jsonl", *from_1)
    for skip in (False, True):
        with pytest.raises(DataError, match=r"a.jsonl: its answers count from 1 \(row 4 has cop 4 of 4 options\)"):
            load_items(f"medmcqa:{path}", skip_bad_rows=skip)
    from_0 = [CASIMEDICOS | {"id": i, "correct_option": i} for i in (0, 1, 2)]
    with pytest.raises(DataError, match=r"its answers count from 0 \(row 1 has correct_option 0 of 4 options\)"):
        load_items(f"casimedicos:es:{write(tmp_path / 'b.jsonl', *from_0)}")
    assert [item.answer for item in load_items(f"medmcqa:{path}", answers_from=1).items] == [0, 1, 2, 3]
    # One wrong row in a file that counts as it should is that row's fault.
    mixed = write(tmp_path / "c.jsonl", MEDMCQA, MEDMCQA | {"id": "2", "cop": 4})
    with pytest.raises(DataError, match="row 2: field 'cop': 4 names none of the 4 options"):
        load_items(f"medmcqa:{mixed}")
    assert len(load_items(f"medmcqa:{mixed}", skip_bad_rows=True).items) == 1


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("medqa", {"question": "Q?", "answer": "x"}, "the columns answer, question are not those of medqa, which has"),
        ("medqa", MEDQA | {"answer_idx": "E"}, "row 1: field 'answer_idx': 'E' names none of the 4 options"),
        ("medqa", MEDQA | {"question": " "}, "row 1: field 'question': is empty"),
        ("medqa", MEDQA | {"options": {"A": "x"}, "answer_idx": "A", "answer": "x"}, "2 to 26 options are allowed"),
        ("medqa", MEDQA | {"options": "x;y"}, "field 'options': must be a list or an object written as JSON"),
        ("pubmedqa", PUBMEDQA | {"final_decision": "perhaps"}, "'perhaps' names none of the 3 options"),
        ("mmlu-clinical", MMLU | {"subject": "astronomy"}, "no row is of one of the subjects anatomy, "),
        ("liveqa", LIVEQA | {"NLM_SUMMARY": ""}, "row 1: field .* is empty"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path: Path, source: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        one(tmp_path, source, row)
    assert "\n" not in str(error.value)


def test_other_columns_are_named_and_not_used(tmp_path: Path) -> None:
    loaded = load_items(f"medmcqa:{write(tmp_path / 'a.jsonl', MEDMCQA | {'expl': 'lost?'})}")
    assert any("the mapping does not know were not used: expl" in note for note in loaded.notes)
    assert not any("were not used" in note for note in load_items(f"medqa:{write(tmp_path / 'b.jsonl', MEDQA)}").notes)


def test_a_file_in_another_encoding_and_items_left_out(tmp_path: Path) -> None:
    path = tmp_path / "ko.csv"
    path.write_bytes("Question,A,B,C,D,Answer,Subject\n어느 뼈?,척골,요골,대퇴골,경골,C,anatomy\n".encode("cp949"))
    with pytest.raises(DataError, match="looks like cp949"):
        load_items(f"mmmlu-ko-clinical:{path}")
    found = load_items(f"mmmlu-ko-clinical:{path}", encoding="cp949")
    assert found.items[0].options[2] == "대퇴골" and found.reading == {"encoding": "cp949"}
    rows = write(tmp_path / "two.jsonl", MEDMCQA, MEDMCQA | {"id": "2"})
    assert [item.id for item in load_items(f"medmcqa:{rows}", exclude=["2"]).items] == ["e9ad"]
    with pytest.raises(DataError, match="encoding and answers_from are of local files"):
        load_items("medmcqa", answers_from=1)
    # What is left out on purpose is no copy that lacks something.
    whole = rows_of(MEDMCQA, 4183, id=str)
    kept = load_named("medmcqa", exclude=["7"], loader=lambda config: {"validation": whole})
    assert len(kept.items) == 4182


def test_sources_and_splits_that_are_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", MEDQA)
    with pytest.raises(DataError, match="local files have no splits"):
        load_items(f"medqa:{path}", "test")
    with pytest.raises(DataError, match="medqa has no split 'validation'; use one of train, test"):
        load_items("medqa", "validation")
    with pytest.raises(DataError, match="medqa: this source does not take explanation_source"):
        load_items("medqa", explanation_source="expert")
    with pytest.raises(DataError, match="no.jsonl: no such file"):
        load_items(f"medqa:{tmp_path / 'no.jsonl'}")
    with pytest.raises(DataError, match="'medq' is not a data source; did you mean medqa, .*; use sample, .*medqa"):
        load_items("medq")
    bad = tmp_path / "twice.json"
    bad.write_text('{"1": {"QUESTION": "a", "QUESTION": "b"}}', encoding="utf-8")
    with pytest.raises(DataError, match="the key 'QUESTION' is given twice"):
        load_items(f"pubmedqa:{bad}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("licence:", "license:"), "there is no key 'license'; did you mean licence"),
        (lambda text: text.replace("as: letter", "as: letters"), "answer is read as 'letters'"),
        (lambda text: text.replace("default_split: test", "default_split: dev"), "default_split is 'dev'"),
        (lambda text: text.replace("language: en", "language: xx"), "the language 'xx' is none of ko, en"),
        (lambda text: text + "\n- [", "not a readable mapping"),
    ],
)
def test_a_mapping_with_a_mistake_is_one_sentence(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    text = (configs_dir() / "sources" / "medqa.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(change(text), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        read_mapping(tmp_path / "mine.yaml")
    assert "\n" not in str(error.value)


# --- the Hub's layout ---------------------------------------------------------------------------------------------


def rows_of(row: Mapping[str, Any], n: int, **changes: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{**row, **{name: change(i) for name, change in changes.items()}} for i in range(n)]


def test_counts_of_the_hub_are_checked() -> None:
    rows = rows_of(MEDQA, 1273)
    assert len(load_named("medqa", loader=lambda config: {"train": [], "test": rows}).items) == 1273
    with pytest.raises(DataError, match="medqa: split test has 1,272 questions instead of 1,273; the data set on the"):
        load_named("medqa", loader=lambda config: {"train": [], "test": rows[1:]})
    # Where the mapping is not certain, it is said.
    few = load_named("casimedicos:es", loader=lambda config: {"test": rows_of(CASIMEDICOS, 117, id=str)})
    assert any("split test has 117 questions instead of 125" in note for note in few.notes)
    with pytest.raises(DataError, match="has the splits train instead of train, validation, test"):
        load_named("casimedicos:es", loader=lambda config: {"train": []})


def test_subjects_of_the_hub_are_checked() -> None:
    mapping = find_mapping("mmlu-clinical")
    assert mapping is not None
    counts = mapping.splits["test"].subjects

    def loader(config: str | None) -> dict[str, list[dict[str, Any]]]:
        return {"test": rows_of(MMLU | {"subject": config}, counts[str(config)])}

    loaded = load_named("mmlu-clinical", loader=loader)
    assert len(loaded.items) == 1089 and loaded.items[135].id == "clinical_knowledge-0001"
    counts = dict(counts) | {"anatomy": 136, "college_biology": 143}
    with pytest.raises(DataError, match="anatomy 136 instead of 135; college_biology 143 instead of 144"):
        load_named("mmlu-clinical", loader=loader)


def test_a_split_without_answers_says_so() -> None:
    rows = rows_of(MEDMCQA, 6150, cop=lambda i: -1, id=str)
    loaded = load_named("medmcqa", "test", loader=lambda config: {"test": rows})
    assert all(item.answer is None for item in loaded.items)
    assert any("not published, so that nothing is scored on it; train, validation have" in n for n in loaded.notes)


def test_through_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets.load_dataset` opens a folder in the Hub's layout the same way; nested columns come back as objects."""
    for name, rows in (("pqa_labeled", rows_of(PUBMEDQA, 1000, pubid=lambda i: i)),):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "train.parquet")
    files = "  - split: train\n    path: pqa_labeled/train.parquet\n"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: pqa_labeled\n  data_files:\n{files}---\n")
    mapping = find_mapping("pubmedqa")
    assert mapping is not None
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(named, "find_mapping", lambda name: replace(mapping, hub=str(tmp_path)))
    loaded = load_items("pubmedqa", limit=3)
    assert len(loaded.items) == 3 and loaded.split == "train" and loaded.licence == "MIT"
    assert loaded.items[2].question.startswith("First part.\nSecond part.\n\nDo") and loaded.items[2].id == "2"
