"""Concept sets: the packaged lexicon's quality, users' files and their errors, MedQuAD's concepts, annotated spans."""

import csv
import gzip
import json
import re
from pathlib import Path

import pytest

from sae_lens_med.concepts.annotated import concepts_in_spans, mentions_in_spans
from sae_lens_med.concepts.matching import ConceptMatcher, Mention
from sae_lens_med.concepts.sets import (
    CATEGORIES,
    Concept,
    ConceptSet,
    form_key,
    load_concepts,
    load_lexicon,
    load_medquad_concepts,
)
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError
from sae_lens_med.records import McqItem, Span

LEXICON = load_lexicon()
MATCHER = ConceptMatcher(LEXICON)

# Everyday Korean in which a careless lexicon finds medicine: verbs, idioms, other meanings of short names.
EVERYDAY = """
그렇게 하지 않는다 | 하지 마세요 | 아직 남아 있다 | 남아서 일했다 | 복수 전공 | 복수의 기관 | 영업을 양수한 자
제대로 된 설명 | 군대에서 제대했다 | 기도하는 마음 | 자살을 기도하였다 | 이 구역에서 | 구역별로 나누다
사지 않았다 | 책을 사지 못했다 | 문맥상 맞다 | 글의 문맥을 보면 | 업무를 관장하는 부서 | 박물관 관장이 말했다
사람을 대하는 태도 | 이에 대하여 | 삼천 명이 왔다 | 3천명이 모였다 | 해수욕장 | 할 요량으로 | 피로 물든
난관에 부딪히다 | 우리나라 사람 | 신장 170 cm | 이자를 갚았다 | 직장 생활 | 직장인 | 회장이 말했다
보건소 소장 | 위장 전입 | 간장을 넣다 | 비장한 각오 | 치수를 재다 | 여러 가지 등을 | 코드를 고치다
암호를 풀다 | 암기하다 | 간단한 방법 | 간호사가 왔다 | 간접 비용 | 눈치가 빠르다 | 배우는 학생 | 배달이 왔다
목적을 정하다 | 발표하다 | 손님이 왔다 | 귀하의 의견 | 위하여 일하다 | 위원회 | 폐기하다 | 폐지되었다
뇌물을 받다 | 피해를 보다 | 두 통의 편지 | 다리미로 옷을 다린다 | 어깨동무 | 가슴앓이 | 머리말을 쓰다
감기는 눈꺼풀도 | 산부인과 의사 | 피부과 진료 | 소아과 병원 | 정신과 의원 | 내과 의사 | 치과 의사 | 성인군자
여성부 장관 | 남성복 매장 | 노인정 | 아동복 | 유아교육과 | 혈압계를 샀다 | 체온계가 있다 | 수술실 간호사
응급실로 갔다 | 약국 개설자 | 면허를 받은 자 | 과태료를 내다 | 보건복지부장관에게 | 고혈압약국 | 당뇨병원
암센터에서 | 통증클리닉 | 의료기관을 개설하다 | 국민건강보험공단 | 연구 방법 | 이 물질의 특성 | 정상이었다
다음과 같다 | 가장 적절한 것은 | 병원에 왔다 | 옳은 것은 | 결과는 다음과 같다
"""
EVERYDAY_ENGLISH = """
this aids the choice | in the face of doubt | piles of paper | room temperature | a point of confusion
he was backed | all of the above | it is what it is | the mail came | a painless choice | manual | heartily agreed
molar conductivity
"""
# 감기는 눈꺼풀도: "cold" there cannot be told from the verb "close" by endings alone.
MEANT = {"감기는 눈꺼풀도": {"upper-respiratory-infection", "eyelid"}}


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for line in text.strip().splitlines() for phrase in line.split("|")]


# --- the lexicon ------------------------------------------------------------------------------------------------------


def test_the_lexicon_is_large_in_every_category() -> None:
    assert len(LEXICON) >= 400
    assert set(LEXICON.counts()) == set(CATEGORIES)
    assert min(LEXICON.counts().values()) >= 25


def test_the_lexicon_is_sorted_and_bilingual() -> None:
    keys = [(concept.category, concept.id) for concept in LEXICON]
    assert keys == sorted(keys)
    for concept in LEXICON:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", concept.id), concept.id
        assert any(re.search("[가-힣]", form) for form in concept.forms), concept.id
        assert any(not re.search("[가-힣]", form) for form in concept.forms), concept.id


def test_no_form_names_two_concepts_of_the_lexicon() -> None:
    owner: dict[str, str] = {}
    for concept in LEXICON:
        for form in concept.forms:
            assert owner.setdefault(form_key(form)[0], concept.id) == concept.id, form


def test_no_form_of_the_lexicon_is_too_short_to_mean_one_thing() -> None:
    for concept in LEXICON:
        for form in concept.forms:
            letters = sum(c.isalnum() for c in form)
            assert letters >= (2 if re.search("[가-힣]", form) else 3), (concept.id, form)


def test_every_form_of_the_lexicon_is_found_as_its_concept() -> None:
    for concept in LEXICON:
        for form in concept.forms:
            assert [(m.concept_id, m.start, m.end) for m in MATCHER.find(form)] == [(concept.id, 0, len(form))], form


@pytest.mark.parametrize("text", _phrases(EVERYDAY))
def test_everyday_korean_names_no_concept(text: str) -> None:
    assert {mention.concept_id for mention in MATCHER.find(text)} == MEANT.get(text, set())


@pytest.mark.parametrize("text", _phrases(EVERYDAY_ENGLISH))
def test_everyday_english_names_no_concept(text: str) -> None:
    assert MATCHER.find(text) == ()


# --- users' files -----------------------------------------------------------------------------------------------------

ROWS = [
    {"concept": "두통", "category": "symptom", "ko": ["두통", "머리 아픔"], "en": ["headache"]},
    {"concept": "발열", "category": "symptom", "ko": ["발열"]},
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["concept", "category", "ko", "en"])
            writer.writeheader()
            for row in rows:
                writer.writerow({k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()})
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_users_file_is_the_same_set_in_either_form(tmp_path: Path) -> None:
    sets = [load_concepts(write(tmp_path / name, ROWS)) for name in ("c.jsonl", "c.csv")]
    assert sets[0].concepts == sets[1].concepts
    assert sets[0].concepts[0] == Concept("두통", "symptom", ("두통", "머리 아픔", "headache"))
    assert sets[0].sha256 == sets[1].sha256 != LEXICON.sha256
    assert sets[0].source == str(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"concept": "a", "category": "b", "kor": ["x"]}, "row 3: there is no field 'kor'; did you mean ko"),
        ({"concept": "a", "category": "b"}, "row 3: field 'ko': there is no form here or in 'en'"),
        ({"concept": "", "category": "b", "ko": ["x"]}, "row 3: field 'concept': must be a non-empty string"),
        ({"concept": "a", "category": None, "ko": ["x"]}, "row 3: field 'category': must be a non-empty string"),
        ({"concept": "a", "category": "b", "ko": ["기침", " "]}, "row 3: field 'ko': the form ' ' contains no letter"),
        ({"concept": "a", "category": "b", "en": [1]}, "row 3: field 'en': must be a list of strings"),
        ({"concept": "두통", "category": "b", "en": ["x"]}, "row 3: field 'concept': '두통' is already in row 1"),
        ({"concept": "a", "category": "b", "en": ["Headache"]}, "row 3: field 'en': the form 'Headache' already names"),
        ({"concept": "a", "category": "b", "ko": ["발열"]}, "row 3: field 'ko': the form '발열' already names '발열'"),
        (
            {"concept": "a", "category": "b", "en": ["X-ray", "x ray"]},
            "row 3: field 'en': the form 'x ray' is given twice",
        ),
    ],
)
def test_a_bad_row_names_row_and_field(tmp_path: Path, row: dict[str, object], message: str) -> None:
    path = write(tmp_path / "c.jsonl", [*ROWS, row])
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        load_concepts(path)


def test_a_row_that_is_no_json_and_a_missing_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("{oops\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1: not a JSON object"):
        load_concepts(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match="no such file"):
        load_concepts(tmp_path / "none.jsonl")


def test_an_empty_cell_of_csv_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("concept,category,ko,en\na,b,기침||오한,\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1: field 'ko': the form '' contains no letter"):
        load_concepts(tmp_path / "c.csv")


# --- concepts and sets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "b", ("x",)), "the id is empty"),
        (("a", " ", ("x",)), "the category is empty"),
        (("a", "b", ()), "it has no forms"),
        (("a", "b", ("--",)), "contains no letter or digit"),
        (("a", "b", ("X-Ray", "x ray")), "two forms read 'xray'"),
    ],
)
def test_a_concept_checks_itself(values: tuple[str, str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Concept(*values)


def test_a_set_checks_itself_and_has_subsets() -> None:
    concept = Concept("a", "b", ("x",), ("C0000001",))
    assert Concept.from_dict(concept.to_dict()) == concept
    with pytest.raises(DataError, match="the concept 'a' appears twice"):
        ConceptSet((concept, concept), "s")
    with pytest.raises(DataError, match="it has no concepts"):
        ConceptSet((), "s")
    drugs = LEXICON.subset(categories=["drug"])
    assert set(drugs.counts()) == {"drug"}
    assert drugs.source == f"lexicon ({len(drugs)} of {len(LEXICON)})"
    assert LEXICON.subset(ids=["fever", "cough"]).ids == ("fever", "cough")
    with pytest.raises(ConfigError, match="no concept with the id 'fevers'; did you mean fever"):
        LEXICON.subset(ids=["fevers"])
    with pytest.raises(ConfigError, match="no concept with the category 'zzz'; it has"):
        LEXICON.subset(categories=["zzz"])


def test_medquad_keeps_cuis_and_drops_synonyms_that_read_alike(tmp_path: Path) -> None:
    row = {
        "name": "A1C test",
        "cui": ["C0456984"],
        "semantic_types": ["T033"],
        "semantic_groups": ["Disorders"],
        "synonyms": ["HbA1C test", "a1c-test", "Glycohemoglobin test"],
    }
    path = tmp_path / "m.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(row).encode()))
    assert load_medquad_concepts(path).concepts == (
        Concept("A1C test", "Disorders", ("A1C test", "HbA1C test", "Glycohemoglobin test"), ("C0456984",)),
    )
    path.write_bytes(gzip.compress(json.dumps(row | {"synonyms": "x"}).encode()))
    with pytest.raises(DataError, match="row 1: field 'synonyms': must be a list of strings"):
        load_medquad_concepts(path)


# --- annotated spans --------------------------------------------------------------------------------------------------


def annotated_item() -> McqItem:
    return McqItem(
        id="i",
        subject="s",
        language="en",
        question="Fever and cough since Monday, no headache.",
        options=("a", "b"),
        answer=0,
        explanation="Pneumonia is likely.",
        explanation_source="expert",
        question_spans=(Span(0, 12, "premise"), Span(30, 41, "premise")),
        explanation_spans=(Span(0, 19, "claim"),),
    )


def test_concepts_of_annotated_spans() -> None:
    found = concepts_in_spans([annotated_item()], MATCHER)
    assert found.by_item == {"i": ("fever", "headache", "pneumonia")}  # the first span cuts "cough"
    assert set(found.concepts.ids) == {"fever", "headache", "pneumonia"}
    assert concepts_in_spans([annotated_item()], MATCHER, ["claim"]).by_item == {"i": ("pneumonia",)}
    with pytest.raises(ConfigError, match="has the label 'premises'; did you mean premise"):
        concepts_in_spans([annotated_item()], MATCHER, ["premises"])
    with pytest.raises(DataError, match="name none of the 1 concepts"):
        concepts_in_spans([annotated_item()], ConceptMatcher(LEXICON.subset(ids=["gout"])))


def test_a_mention_counts_when_it_lies_within_one_span() -> None:
    mentions = (Mention("a", 0, 4), Mention("b", 3, 9))
    assert mentions_in_spans(mentions, [Span(0, 5), Span(5, 9)]) == (Mention("a", 0, 4),)


# --- real data --------------------------------------------------------------------------------------------------------


def test_coverage_of_real_questions_and_explanations(shared_data: Path) -> None:
    korean = load_items(str(shared_data / "kormedmcqa_train_shared.jsonl")).items
    english = load_items(",".join(str(shared_data / f"casimedicos_en_{s}.jsonl") for s in ("train", "dev"))).items
    assert (len(korean), len(english)) == (1205, 436)
    assert sum(bool(MATCHER.find(item.question)) for item in korean) / 1205 > 0.7
    assert sum(bool(MATCHER.find(item.explanation or "")) for item in english) / 436 > 0.9
    spans = concepts_in_spans(english, MATCHER, ["premise"])
    assert sum(map(bool, spans.by_item.values())) / 436 > 0.9


def test_medquads_concepts_are_read_whole(shared_data: Path) -> None:
    concepts = load_medquad_concepts(shared_data / "medquad_concepts.jsonl.gz")
    assert len(concepts) == 6498
    assert all(concept.codes for concept in concepts)
