"""`map attributes` of models whose mechanism is known: a planted bias is found, what must matter is not called one."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import StudyError
from sae_lens_med.evaluation.method import Method
from sae_lens_med.knowledge_map.attributes import answers
from sae_lens_med.knowledge_map.attributes.answers import Asker
from sae_lens_med.knowledge_map.attributes.carriers import Carriers, CarrierSettings
from sae_lens_med.knowledge_map.attributes.effects import AttributeRow
from sae_lens_med.knowledge_map.attributes.run import AttributeMap, AttributeSettings, map_attributes
from sae_lens_med.knowledge_map.attributes.sycophancy import hint_pairs, hinted
from sae_lens_med.knowledge_map.attributes.vignettes import VignetteLists
from sae_lens_med.models.bridge import load_model
from sae_lens_med.records import McqItem
from sae_lens_med.runs.files import write_jsonl
from sae_lens_med.saes.releases import load_sae
from tests.attribute_lists import BIASED, exam_lists, hint_lists, known_lists
from tests.known_model import known_model, known_sae
from tests.tiny import save_tiny_model, tiny_model

ENGLISH = AttributeSettings(("en",), draws=199, random_sets=39, features=2)


def said(found: AttributeMap, about: str) -> list[str]:
    return [claim.what for claim in found.claims if claim.about == about]


def row(found: AttributeMap, attribute: str, measure: str = "margin") -> AttributeRow:
    return next(each for each in found.rows if (each.attribute, each.measure) == (attribute, measure))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AttributeMap]:
    folder = tmp_path_factory.mktemp("known") / "out"
    return folder, map_attributes(known_model(), known_lists(), folder, ENGLISH, sae=known_sae(), progress=False)


class TestKnownModel:
    def test_the_planted_bias_is_found_and_nothing_else_is_called_one(self, known: tuple[Path, AttributeMap]) -> None:
        found = known[1]
        assert said(found, "origin") == ["bias", "carried"]
        assert said(found, "hobby") == ["not_shown"]
        assert said(found, "finding") == ["follows"]
        assert said(found, "all") == ["gate"]

    def test_its_size_is_that_of_the_weights(self, known: tuple[Path, AttributeMap]) -> None:
        """A word that speaks for A stands where one for B stood: of the margins of four right answers, those of A and
        B move by one word's logit and a third of it, those of C and D not at all."""
        items = [v.item("#") for v in known_lists().asked("irrelevant", "en")]
        scores = Asker(known_model(), Method("letter")).scores(items)
        # "#" speaks for nobody; each vignette has two words for its right answer, so one is half of what they add.
        margins = [s[i.answer or 0] - np.delete(s, i.answer or 0).mean() for i, s in zip(items, scores, strict=True)]
        word = float(np.mean(margins)) / 2
        assert row(known[1], "origin").value == pytest.approx(word * (4 / 3) / 2, rel=5e-3)  # but for the norm
        assert row(known[1], "hobby").value < 1e-4
        assert row(known[1], "origin", "signed").value == pytest.approx(0, abs=1e-4)

    def test_the_features_that_carry_it_are_those_of_the_weights(self, known: tuple[Path, AttributeMap]) -> None:
        [carrier] = [each for each in known[1].carriers if each.about == "origin"]
        assert set(carrier.features) == set(BIASED)
        assert carrier.share == pytest.approx(1, abs=1e-3) and carrier.carried
        assert carrier.null_high is not None and carrier.null_high < 1e-3
        assert carrier.cost == pytest.approx(0, abs=1e-4)  # no relevant vignette has them

    def test_no_question_serves_both_to_choose_features_and_to_test_them(
        self, known: tuple[Path, AttributeMap]
    ) -> None:
        lines = (known[0] / "answers.partial.jsonl").read_text().splitlines()[1:]
        asked = [entry["id"].partition(" without ") for line in lines for entry in json.loads(line)]
        alone = {name for name, _, features in asked if features and "," not in features}
        together = {name for name, _, features in asked if "," in features}
        assert alone and together and not alone & together

    def test_told_apart_and_used_are_two_things(self, known: tuple[Path, AttributeMap]) -> None:
        cells = {cell.attribute: (cell.told_apart, cell.used, cell.en) for cell in known[1].table}
        assert cells == {
            "origin": (True, True, "told apart and used"),
            "hobby": (True, False, "told apart, not shown to be used"),
        }

    def test_the_files_say_the_same(self, known: tuple[Path, AttributeMap]) -> None:
        folder, found = known
        assert AttributeMap.from_dict(json.loads((folder / "attributes.json").read_text())) == found
        lines = list(csv.DictReader((folder / "attributes.csv").open()))
        margins = {line["about"]: float(line["value"]) for line in lines if line["measure"] == "margin"}
        assert margins == {name: row(found, name).value for name in ("origin", "hobby")}
        assert {line["measure"] for line in lines if line["kind"] == "features"} == {"told_apart", "drop", "cost"}
        picture = (folder / "attributes.svg").read_text()
        assert picture.startswith("<svg") and "origin margin (en)" in picture

    def test_every_claim_is_said_in_korean_too(self, known: tuple[Path, AttributeMap]) -> None:
        for claim in known[1].claims:
            assert any("가" <= character <= "힣" for character in claim.ko)
            assert not any("가" <= character <= "힣" for character in claim.en)

    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
        self, known: tuple[Path, AttributeMap], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        whole = answers.Asker._run

        def stops(self: Asker, items: list[McqItem], without: tuple[int, ...], key: str) -> None:
            calls.append(len(items))
            if len(calls) == 7:
                raise KeyboardInterrupt
            whole(self, items, without, key)

        def counted(self: Asker, items: list[McqItem], without: tuple[int, ...], key: str) -> None:
            calls.append(len(items))
            whole(self, items, without, key)

        monkeypatch.setattr(answers.Asker, "_run", stops)
        out = tmp_path / "out"
        with pytest.raises(KeyboardInterrupt):
            map_attributes(known_model(), known_lists(), out, ENGLISH, sae=known_sae(), progress=False)
        calls[6:] = []  # the seventh was not answered
        monkeypatch.setattr(answers.Asker, "_run", counted)
        map_attributes(known_model(), known_lists(), out, ENGLISH, sae=known_sae(), progress=False)
        for name in ("attributes.json", "attributes.csv", "attributes.svg"):
            assert (out / name).read_bytes() == (known[0] / name).read_bytes()
        once = [json.loads(line) for line in (out / "answers.partial.jsonl").read_text().splitlines()[1:]]
        ids = [entry["id"] for line in once for entry in line]
        assert len(ids) == len(set(ids)) == sum(calls)  # what was answered was not asked again

    def test_another_model_or_other_vignettes_are_refused(self, known: tuple[Path, AttributeMap]) -> None:
        with pytest.raises(StudyError, match="lists"):
            map_attributes(known_model(), known_lists(12), known[0], ENGLISH, sae=known_sae(), progress=False)


def test_without_reliable_answers_the_same_effect_is_not_called_a_bias(tmp_path: Path) -> None:
    """The model without the features that decide relevant vignettes: origin moves its margin as before."""
    found = map_attributes(known_model(causal=BIASED), known_lists(), tmp_path / "out", ENGLISH, progress=False)
    assert row(found, "origin").stands_out and not row(found, "all", "right").stands_out
    assert said(found, "origin") == ["moved"] and said(found, "finding") == ["blind"]
    gate = next(claim for claim in found.claims if claim.what == "gate")
    assert gate.en.startswith("No reliable answer: only read-out and margin claims.") and "편향이라고 하지" in gate.ko
    assert not any("Bias" in claim.en for claim in found.claims)


def test_without_relevant_vignettes_no_bias_is_called(tmp_path: Path) -> None:
    lists = known_lists()
    only = VignetteLists(lists.values, lists.asked("irrelevant", "en"), (), "a test")
    found = map_attributes(known_model(), only, tmp_path / "out", ENGLISH, progress=False)
    assert said(found, "origin") == ["moved"] and said(found, "all") == ["gate"]


@pytest.mark.parametrize(
    ("twin", "region", "findings", "flips"),
    [("shortcut", "bias", "blind", 1.0), ("concepts", "not_shown", "follows", 0.0)],
)
def test_the_twin_that_answers_by_the_place_is_biased_by_region_and_the_other_is_not(
    tmp_path: Path, twin: str, region: str, findings: str, flips: float
) -> None:
    name = f"organism/ko-{twin}-0"
    settings = AttributeSettings(("ko",), draws=199, random_sets=39)
    found = map_attributes(
        load_model(name), exam_lists(), tmp_path / "out", settings, sae=load_sae(name), progress=False
    )
    assert said(found, "region")[0] == region and said(found, "findings") == [findings]
    assert row(found, "region", "flips").value == flips
    assert row(found, "all", "right").stands_out  # both answer: the gate says nothing of how
    [carrier] = found.carriers
    if twin == "shortcut":
        assert carrier.carried and carrier.share is not None and carrier.share > 0.3
        assert found.table[0].en == "told apart and used"
    else:
        assert carrier.drop is None and found.table[0].en == "told apart, not shown to be used"


@pytest.fixture(scope="module")
def hints(tmp_path_factory: pytest.TempPathFactory) -> AttributeMap:
    folder = tmp_path_factory.mktemp("hints") / "out"
    return map_attributes(known_model(), hint_lists(), folder, ENGLISH, sae=known_sae(), progress=False)


class TestHints:
    def test_the_claim_that_moves_the_answer_is_found_and_the_other_is_not(self, hints: AttributeMap) -> None:
        pushed, polite = hints.hints
        assert (pushed.hint, pushed.stands_out, polite.hint, polite.stands_out) == ("pushed", True, "polite", False)
        # A longer text dilutes what every word does: naming the option costs margin, whoever says it.
        assert pushed.value > pushed.null_high > pushed.null_mean > 0
        assert polite.value == pytest.approx(polite.null_mean, abs=1e-4)

    def test_its_feature_is_found_on_one_half_and_ablated_on_the_other(self, hints: AttributeMap) -> None:
        carriers = {each.about: each for each in hints.carriers}
        assert carriers["pushed"].features[0] == BIASED[0] and carriers["pushed"].n == 6
        assert carriers["pushed"].share == pytest.approx(1, abs=1e-3) and carriers["pushed"].carried
        assert carriers["polite"].drop is None


def test_a_sentence_that_helps_is_no_effect_of_a_wrong_hint() -> None:
    """The same pairs turned round: the effect has the other sign, and nothing of it is to be taken away."""
    lists = hint_lists()
    vignettes, hint = lists.asked("irrelevant", "en"), lists.hints[0]
    pairs = hint_pairs(vignettes, [hinted(each, lists.neutral("en"), hint) for each in vignettes])
    turned = [replace(pair, a=pair.b, b=pair.a) for pair in pairs]
    carriers = Carriers(Asker(known_model(), Method("letter"), sae=known_sae()), [], CarrierSettings(random_sets=20))
    assert carriers.find("en", "pushed", pairs, moved=True, signed=True).features[0] == BIASED[0]
    assert BIASED[0] not in carriers.find("en", "pushed", turned, moved=True, signed=True).features


def test_ablated_features_are_gone_at_the_stem_alone() -> None:
    """What is asked without the features of a word is what is asked with a word that has none."""
    vignette = known_lists().asked("irrelevant", "en")[0]
    asker = Asker(known_model(), Method("letter"), sae=known_sae())
    [ablated] = asker.scores([vignette.item("N")], without=(BIASED[0],))
    [whole] = asker.scores([vignette.item("N")])
    [other] = asker.scores([vignette.item("#")])
    np.testing.assert_allclose(ablated, other, atol=0.02)  # but for the norm, of which a word is a small part
    assert np.abs(whole - other).max() > 0.5


def test_a_model_without_letters_is_asked_by_option_texts(tmp_path: Path) -> None:
    settings = AttributeSettings(("en",), method="option-text", draws=19)
    found = map_attributes(tiny_model("qwen3"), known_lists(), tmp_path / "out", settings, progress=False)
    assert found.unit == "nats a character"
    assert all("nats a character" in claim.en for claim in found.claims if claim.what in ("not_shown", "moved"))
    assert not any(claim.what == "bias" for claim in found.claims)


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(app, ["map", "attributes", *arguments])
        return ended.exit_code, str(ended.exception or "") + ended.output

    def test_a_folder_of_a_model_as_text_and_as_json(self, tmp_path: Path) -> None:
        model = save_tiny_model(tmp_path / "model", "qwen3")
        arguments = ["-m", str(model), "-o", str(tmp_path / "out"), "--language", "ko", "--draws", "19"]
        code, text = self.run(*arguments)
        assert code == 0, text
        assert "No reliable answer" in text and "믿을 만한 답이 없음" in text and "reviewed by no clinician" in text
        ended = CliRunner().invoke(app, ["map", "attributes", *arguments, "--json"])
        assert json.loads(ended.stdout) == json.loads((tmp_path / "out" / "attributes.json").read_text())

    def test_tables_of_the_user(self, tmp_path: Path) -> None:
        values = [
            {"attribute": "diet", "role": "attribute", "value": "meat", "en": "A meat eater"},
            {"attribute": "diet", "role": "attribute", "value": "none", "en": "A vegetarian", "against": "meat"},
            *({"attribute": "bed", "role": "swap", "value": str(k), "en": f"A patient in bed {k}"} for k in range(9)),
        ]
        questions = [
            {"vignette": str(k), "language": "en", "kind": "irrelevant", "text": f"{{}} has {k} stones.",
             "options": ["x", "y"], "answer": "A"} for k in range(5)
        ]  # fmt: skip
        write_jsonl(tmp_path / "a.jsonl", values)
        write_jsonl(tmp_path / "v.jsonl", questions)
        model = save_tiny_model(tmp_path / "model", "llama")
        code, text = self.run("-m", str(model), "-o", str(tmp_path / "out"), "--attributes", str(tmp_path / "a.jsonl"),
                              "--vignettes", str(tmp_path / "v.jsonl"), "--draws", "19")  # fmt: skip
        assert code == 0, text
        assert "diet" in text and "there are no vignettes whose answer an attribute decides" in text

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--language", "fr"], "--language must be ko or en, got 'fr'"),
            (["--attributes", "a.jsonl"], "--attributes and --vignettes go together"),
            (["--hints", "a.jsonl"], "--hints with them"),
            (["--method", "cot"], "method must be one of letter, option-text, got 'cot'"),
            (["--draws", "3"], "draws must be from 19"),
            (["--random-sets", "3"], "random_sets must be from 20"),
        ],
    )
    def test_what_it_does_not_understand_is_said(self, tmp_path: Path, arguments: list[str], sentence: str) -> None:
        code, text = self.run("-m", "no-such-model", "-o", str(tmp_path / "out"), *arguments)
        assert code != 0 and sentence in text
        assert not (tmp_path / "out").exists()
