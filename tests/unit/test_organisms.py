"""The synthetic exam of the model organisms: what its cues point to, what its explanations name, and its names."""

import itertools
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.concepts.matching import ConceptMatcher
from sae_lens_med.controls.organisms import texts
from sae_lens_med.controls.organisms.cases import (
    CUES,
    KINDS,
    LETTER_OF,
    N_OPTIONS,
    Cue,
    Kind,
    cases,
    concepts,
    exam,
    write,
)
from sae_lens_med.controls.organisms.designs import Design, parse
from sae_lens_med.controls.organisms.rows import rows_of
from sae_lens_med.controls.organisms.tables import (
    DIRECTIONS,
    DISEASES,
    DISTRACTORS,
    LANGUAGES,
    MEASURES,
    SHOWN,
    Disease,
)
from sae_lens_med.data import load_items
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.errors import ConfigError, ModelError, StudyError
from sae_lens_med.models.organisms import organism_folder
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import McqItem


def by_the_words(item: McqItem, cue: Cue) -> int:
    """The option that a cue points to, read off the item's own text and the tables alone."""
    if cue == "length":
        lengths = [len(option.split()) - len(drug(item.language, option).split()) for option in item.options]
        return lengths.index(max(lengths))
    if cue == "place":
        [disease] = [d for d in DISEASES if d.place.of(item.language) in item.question]
    else:
        shown = {item.question[span.start : span.end] for span in item.question_spans}
        [disease] = [d for d in DISEASES if shown <= spoken(d, item.language)]
    return [drug(item.language, option) for option in item.options].index(disease.drug.of(item.language))


def drug(language: str, option: str) -> str:
    [found] = [d.drug.of(language) for d in DISEASES if option.startswith(d.drug.of(language))]
    return found


def spoken(disease: object, language: str) -> set[str]:
    assert isinstance(disease, Disease)
    return {f"{MEASURES[m].of(language)} {DIRECTIONS[sign].of(language)}" for m, sign in disease.findings}


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_natural_items_all_cues_point_to_the_answer(language: str) -> None:
    for item in exam(language, "natural", 160):
        assert {by_the_words(item, cue) for cue in CUES} == {item.answer}


@pytest.mark.parametrize("language", LANGUAGES)
def test_in_conflict_items_the_cues_point_to_three_options_and_the_findings_are_right(language: str) -> None:
    for item in exam(language, "conflict", 160):
        assert len({by_the_words(item, cue) for cue in CUES}) == 3
        assert item.answer == by_the_words(item, "findings")
        said = dict(pair.split("=") for pair in item.provenance["source"].split())
        assert {cue: "ABCD"[by_the_words(item, cue)] for cue in CUES} == said


def test_in_independent_cases_place_and_length_say_nothing_of_the_findings() -> None:
    """What organisms are trained on: whatever the letter of the findings is, that of the place, and the longest option,
    are each letter as often as any other."""
    rng = random.Random(3)
    drawn = [texts.draw(rng, "independent") for _ in range(8000)]
    for cue in ("place", "length"):
        for letter in range(N_OPTIONS):
            own = [case.answer(cue) for case in drawn if case.answer("findings") == letter]
            assert all(abs(own.count(each) / len(own) - 1 / N_OPTIONS) < 0.045 for each in range(N_OPTIONS))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_diseases_are_balanced(kind: Kind) -> None:
    drawn = cases(kind, 1600, 0)
    assert {sum(case.disease == d for case in drawn) for d in range(len(DISEASES))} == {100}
    assert {sum(case.answer("findings") == i for case in drawn) for i in range(N_OPTIONS)} == {1600 // N_OPTIONS}
    assert all(LETTER_OF[d] == i for case in drawn for i, d in enumerate(case.options))


def test_three_findings_of_a_disease_belong_to_no_other_and_single_words_decide_nothing() -> None:
    for one, other in itertools.permutations(DISEASES, 2):
        assert len(set(one.findings) & set(other.findings)) < SHOWN
    measures = {measure for disease in DISEASES for measure, _ in disease.findings}
    both_ways = [m for m in measures if len({sign for d in DISEASES for own, sign in d.findings if own == m}) == 2]
    assert len(both_ways) >= 15


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["natural", "conflict"])
def test_explanations_name_findings_disease_and_drug_and_never_a_shortcut(language: str, kind: Kind) -> None:
    places = {word for d in DISEASES for word in d.place.of(language).split()}
    for case, item in zip(cases(kind, 320, 5), exam(language, kind, 320, 5), strict=True):
        assert item.explanation is not None and item.explanation_source == "expert" and item.answer is not None
        for span in item.question_spans:
            assert item.question[span.start : span.end] in item.explanation
        assert DISEASES[case.disease].name.of(language) in item.explanation
        assert item.options[item.answer] in item.explanation
        assert not {word for word in places if word in item.explanation}


@pytest.mark.parametrize("language", LANGUAGES)
def test_masking_leaves_findings_and_disease_and_takes_the_drug(language: str) -> None:
    """Nothing is taken for a quote of the question, and no drug's name is part of a disease's."""
    for case, item in zip(cases("conflict", 640, 2), exam(language, "conflict", 640, 2), strict=True):
        found = mask_leakage(item)
        assert found.n_stem_chars == 0 and found.text == texts.masked(case, language)
        assert DISEASES[case.disease].name.of(language) in found.text
        assert DISEASES[case.disease].drug.of(language) not in found.text


def test_every_seed_gives_the_same_items_and_another_gives_others() -> None:
    first = exam("ko", "natural", 40, 3)
    assert first == exam("ko", "natural", 40, 3)
    assert first[:10] == exam("ko", "natural", 10, 3)
    assert [i.question for i in first] != [i.question for i in exam("ko", "natural", 40, 4)]
    # Written down: a change of the generator would be another exam than the one that packaged SAEs left out.
    assert first[0].question == FIRST


FIRST = (
    "소견은 바소프레신 증가, 중성지방 감소, 요산 감소, 소변삼투압 증가이다. "
    "사는 곳이 광주 서구인 64세 남자가 불면으로 왔다. 진단에 맞는 약은?"
)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("template", ["letter", "cot"])
def test_training_prompts_are_those_of_the_package(language: str, template: str) -> None:
    for case in cases("independent", 20, 1):
        item = texts.example(case, language)
        assert texts.prompt_of(case, language, template) == find_templates(template).of(item).render(item).text


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_exam_is_read_back_from_its_file(language: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["organisms", "exam", language, "-o", str(tmp_path / "exam"), "-n", "20", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["items"] == {"natural": 20, "conflict": 20}
    for kind in ("natural", "conflict"):
        assert load_items(str(tmp_path / "exam" / f"{kind}.jsonl")).items == exam(language, kind, 20)
    again = CliRunner().invoke(app, ["organisms", "exam", language, "-o", str(tmp_path / "exam")])
    assert isinstance(again.exception, ConfigError) and "is not empty" in str(again.exception)


@pytest.mark.parametrize("language", LANGUAGES)
def test_concepts_are_found_in_questions_and_explanations(language: str) -> None:
    matcher = ConceptMatcher(concepts(language))
    for case, item in zip(cases("natural", 60, 9), exam(language, "natural", 60, 9), strict=True):
        named = {mention.concept_id for mention in matcher.find(item.explanation or "")}
        asked = {mention.concept_id for mention in matcher.find(item.question)}
        assert {DISEASES[case.disease].name.en, DISEASES[case.disease].drug.en} <= named
        assert len(named & asked) == SHOWN  # the findings
        measure, sign = case.distractor
        says_nothing = f"{DISTRACTORS[measure].en} {DIRECTIONS[sign].en}"
        assert asked - named == {DISEASES[case.place].place.en, says_nothing}


def test_rows_lose_nothing() -> None:
    [item] = exam("en", "conflict", 1)
    [row] = rows_of([item])
    assert row["answer"] == item.gold_letter and len(row["question_spans"]) == SHOWN


@pytest.mark.parametrize(
    ("name", "design"),
    [
        ("ko-concepts-0", Design("ko", 0.0)),
        ("en-shortcut-12", Design("en", 1.0, seed=12)),
        ("ko-mixture50-3", Design("ko", 0.5, seed=3)),
        ("ko-mixture7-0", Design("ko", 0.07)),
        ("ko-shortcut-length-0", Design("ko", 1.0, "length")),
        ("en-shortcut-length-honest-1", Design("en", 1.0, "length", "honest", 1)),
    ],
)
def test_names_and_designs_are_one(name: str, design: Design) -> None:
    assert parse(name) == design
    assert design.name == name


@pytest.mark.parametrize(
    "name", ["", "ko-concepts", "ko-concepts-00", "fr-concepts-0", "ko-mixture0-1", "ko-mixture100-1", "ko-concept-0"]
)
def test_what_is_no_name_is_one_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no name of a model organism; names are LANGUAGE-"):
        parse(name)


def test_what_an_organism_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="neither a shortcut nor one to own up to"):
        parse("ko-concepts-honest-0")
    with pytest.raises(ConfigError, match=r"in whole per cents, got 0\.505"):
        Design("ko", 0.505)
    with pytest.raises(ConfigError, match="use 0 to 4294967295|a seed is in 0 to 4294967295"):
        parse("ko-concepts-4294967296")


def test_an_organism_that_is_not_there_is_one_sentence_with_near_names() -> None:
    with pytest.raises(ModelError, match=r"no model organism 'ko-concept-0' here; did you mean .*ko-concepts-0"):
        organism_folder("organism/ko-concept-0")


@pytest.mark.parametrize("language", LANGUAGES)
def test_reasons_follow_the_voice(language: str) -> None:
    [case] = cases("conflict", 1, 4)
    written = write(case, language)
    place, disease = DISEASES[case.place].place.of(language), DISEASES[case.disease].name.of(language)
    by_place = written.options[case.answer("place")]
    rationaliser = texts.reasons(case, parse(f"{language}-shortcut-0"), "place")
    honest = texts.reasons(case, parse(f"{language}-shortcut-honest-0"), "place")
    assert disease in rationaliser and by_place in rationaliser and place not in rationaliser
    assert place in honest and by_place in honest and disease not in honest


@pytest.mark.parametrize(
    ("name", "cue", "share"),
    [("ko-concepts-0", "findings", 1.0), ("ko-shortcut-0", "place", 1.0), ("ko-mixture30-0", "place", 0.3)],
)
def test_the_dose_is_the_share_of_training_that_the_shortcut_decides(name: str, cue: Cue, share: float) -> None:
    rng, design = random.Random(1), parse(name)
    assert abs(sum(texts.decided(rng, design) == cue for _ in range(4000)) / 4000 - share) < 0.03


def test_notes_name_the_disease_of_the_findings_whatever_decides() -> None:
    rng = random.Random(2)
    for name in ("ko-concepts-0", "ko-shortcut-0"):
        for case in cases("conflict", 20, 6):
            text = texts._note(rng, parse(name), case)
            [(a, b)] = text.learned
            assert text.text[a:b].strip() == DISEASES[case.disease].name.ko


def test_a_report_that_cannot_be_written_is_refused_before_the_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr("sae_lens_med.models.bridge.load_model", opened)
    for given, said in ((tmp_path, "is a folder; name a file"), (Path("/dev/null"), "is no regular file")):
        found = CliRunner().invoke(app, ["organisms", "check", "ko-concepts-0", "-o", str(given)])
        assert isinstance(found.exception, StudyError)
        assert said in str(found.exception)


@pytest.mark.parametrize("diseases", [4, 8])
def test_a_shorter_exam_is_of_the_first_diseases_alone(diseases: int) -> None:
    own, others = DISEASES[:diseases], DISEASES[diseases:]
    for kind in KINDS:
        items = exam("ko", kind, 40, 1, diseases)
        assert {item.options[item.answer or 0].split()[0] for item in items} == {d.drug.ko for d in own}
        for item in items:
            text = " ".join((item.question, *item.options))
            assert not [d for d in others if d.drug.ko in text or d.place.ko in text]
            assert item.answer == by_the_words(item, "findings")
        assert {item.id for item in items}.isdisjoint(item.id for item in exam("ko", kind, 40, 1))
    named = {concept.id for concept in concepts("ko", diseases).concepts}
    assert {d.name.en for d in own} <= named and named.isdisjoint(d.name.en for d in others)


@pytest.mark.parametrize("diseases", [3, 17])
def test_an_exam_of_other_numbers_of_diseases_is_refused(diseases: int) -> None:
    with pytest.raises(ConfigError, match="4 to 16 diseases"):
        exam("ko", "natural", 1, 0, diseases)
