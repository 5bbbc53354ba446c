"""The tables of a map: what is packaged is whole, what a user brings is checked at the door."""

import json
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.lists import LANGUAGES, packaged_lists, read_lists

CONCEPT = {"domain": "drugs", "concept": "aspirin", "en": "aspirin", "labels": {"class": "a"}}
TEMPLATE = {"domain": "drugs", "frame": "medical", "language": "en", "text": "He took {}."}


def written(folder: Path, concepts: list[dict[str, Any]], templates: list[dict[str, Any]]) -> tuple[Path, Path]:
    paths = folder / "concepts.jsonl", folder / "templates.jsonl"
    for path, rows in zip(paths, (concepts, templates), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


class TestPackaged:
    def test_every_domain_has_three_templates_in_both_languages(self) -> None:
        lists = packaged_lists()
        assert lists.domains == ("symptoms", "diseases", "drugs", "age", "dosage", "progression")
        for domain in lists.domains:
            for language in LANGUAGES:
                assert len(lists.of(domain, language)) >= 20
                assert len(lists.templates_of(domain, language, "medical")) >= 3

    def test_numbers_have_plain_frames(self) -> None:
        lists = packaged_lists()
        for domain in ("age", "dosage"):
            for language in LANGUAGES:
                assert len(lists.templates_of(domain, language, "plain")) >= 3

    def test_every_label_is_shared(self) -> None:
        lists = packaged_lists()
        for domain in (each for each in lists.domains if not lists.is_ordered(each)):
            for name in lists.label_sets(domain):
                labels = [each.labels[name] for each in lists.of(domain, "ko")]
                assert min(map(labels.count, labels)) >= 4

    def test_a_name_stands_for_one_concept_of_its_domain(self) -> None:
        for language in LANGUAGES:
            for domain in packaged_lists().domains:
                forms = [each.forms[language] for each in packaged_lists().of(domain, language)]
                assert len(set(forms)) == len(forms)


class TestOwn:
    def test_are_read(self, tmp_path: Path) -> None:
        lists = read_lists(*written(tmp_path, [CONCEPT, CONCEPT | {"concept": "heparin", "en": "heparin"}], [TEMPLATE]))
        assert [each.concept for each in lists.of("drugs", "en")] == ["aspirin", "heparin"]
        assert lists.of("drugs", "ko") == ()

    @pytest.mark.parametrize(
        ("concept", "template", "said"),
        [
            ({"label": {}}, {}, "no field 'label'; did you mean labels?"),
            ({"en": None}, {}, "neither 'ko' nor 'en'"),
            ({"value": 3}, {}, "either 'labels' or a 'value'"),
            ({"labels": {}}, {}, "either 'labels' or a 'value'"),
            ({"labels": {"class": ""}}, {}, "must map names of label sets to labels"),
            ({"labels": None, "value": True}, {}, "'value' must be a number"),
            ({"labels": None, "value": "many"}, {}, "'value' must be a number, got 'many'"),
            ({"labels": None, "value": "nan"}, {}, "'value' must be a number, got 'nan'"),
            ({"labels": "a word"}, {}, "must map names of label sets to labels, got 'a word'"),
            ({"domain": " "}, {}, "'domain' must be a text"),
            ({"domain": "../drugs"}, {}, "'domain' names files"),
            ({"domain": "a\\b"}, {}, "'domain' names files"),
            ({"domain": "dr\nugs"}, {}, "'domain' names files"),
            ({"domain": "약" * 40}, {}, "may have 100 bytes"),
            ({}, {"text": "He took it."}, "one slot {}, it has 0"),
            ({}, {"text": "{} or {}"}, "one slot {}, it has 2"),
            ({}, {"language": "fr"}, "one of ko, en, got 'fr'"),
            ({}, {"frame": "legal"}, "one of medical, plain, got 'legal'"),
            ({}, {"domain": "drug"}, "the domain 'drug', of which there are no concepts"),
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, concept: Any, template: Any, said: str) -> None:
        with pytest.raises(DataError) as caught:
            read_lists(*written(tmp_path, [CONCEPT | concept], [TEMPLATE | template]))
        assert said in str(caught.value)

    def test_of_a_spreadsheet_are_read(self, tmp_path: Path) -> None:
        """Its cells hold texts only, and nothing where a language has no name."""
        concepts, templates = tmp_path / "c.csv", tmp_path / "t.csv"
        concepts.write_text(
            "domain,concept,ko,en,labels,value\nage,17,17,17,,17\nage,18.5,,18.5,,18.5\n"
            'drugs,heparin,헤파린,,"{""class"": ""a""}",\n',
            encoding="utf-8",
        )
        templates.write_text("domain,frame,language,text\nage,medical,en,He is {}.\n", encoding="utf-8")
        lists = read_lists(concepts, templates)
        assert [(each.value, each.forms) for each in lists.of("age", "en")] == [
            (17.0, {"ko": "17", "en": "17"}),
            (18.5, {"en": "18.5"}),
        ]
        assert [(each.labels, each.forms) for each in lists.of("drugs", "ko")] == [({"class": "a"}, {"ko": "헤파린"})]

    def test_a_language_of_which_nothing_can_be_read_is_refused(self, tmp_path: Path) -> None:
        lists = read_lists(*written(tmp_path, [CONCEPT], [TEMPLATE, TEMPLATE | {"language": "ko"}]))
        assert lists.places(LANGUAGES) == [("drugs", "en")]
        with pytest.raises(DataError, match="no domain has concepts and medical templates in ko"):
            lists.places(("ko",))

    def test_a_concept_twice(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="'aspirin' stands 2 times in 'drugs'; name it once"):
            read_lists(*written(tmp_path, [CONCEPT, CONCEPT], [TEMPLATE]))

    def test_label_sets_that_differ(self, tmp_path: Path) -> None:
        other = CONCEPT | {"concept": "x", "labels": {"kind": "a"}}
        with pytest.raises(DataError, match="'drugs' have different labels"):
            read_lists(*written(tmp_path, [CONCEPT, other], [TEMPLATE]))

    def test_an_unknown_domain_is_refused_with_those_there_are(self) -> None:
        with pytest.raises(DataError, match="no domain 'drug'; did you mean drugs\\? There are: symptoms"):
            packaged_lists().only(["drug"])
