"""Registered hypotheses against planted truth: each finds its own and only its own, and none finds noise too often."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import DataError, StudyError
from sae_lens_med.knowledge_map import answering, shape
from sae_lens_med.knowledge_map.answering import answer_hypotheses, read_answers, write_answers
from sae_lens_med.knowledge_map.geometry import scaled
from sae_lens_med.knowledge_map.hypotheses import (
    Answer,
    Hypothesis,
    Material,
    Part,
    answered,
    registered,
    sentence_of,
    verdict_of,
)
from sae_lens_med.knowledge_map.hypothesis_tests import TESTS
from sae_lens_med.knowledge_map.report import write_map_page
from tests.synthetic_map import PLANTS, made_material, made_reads, scaled_reads, write_map_folder

LABELLED = ("symptoms", "diseases", "drugs")


def early() -> Material:
    """What H6, which reads the rows, has something to say of: with the draws that a q below 0.05 needs."""
    return made_material(["early"], draws=199, domains=LABELLED)


def verdicts(material: Material) -> dict[str, str]:
    return {each.hypothesis.id: each.verdict for each in answered(material, TESTS)}


@pytest.mark.parametrize("plant", [*PLANTS, "nothing"])
def test_each_hypothesis_finds_what_was_planted_for_it_and_nothing_else(plant: str) -> None:
    material = early() if plant == "early" else made_material([plant] if plant in PLANTS else [], rows=False)
    found = {name for name, verdict in verdicts(material).items() if verdict == "supported"}
    assert found == ({PLANTS[plant]} if PLANTS.get(plant) else set())


def test_languages_that_meet_in_the_middle_and_stay_together_have_no_small_p() -> None:
    material = made_material(["rising"], rows=False, domains=LABELLED)
    (part,) = TESTS["H7"](material)
    assert part.p is not None and part.p > 0.05
    assert part.beside["first third"] < 0.5 < part.beside["middle third"]


class TestNoise:
    """B studies of noise: exact permutation tests reject as often as they say."""

    @pytest.mark.parametrize(
        ("hypothesis", "plants", "domains"),
        [
            ("H1", (), ("age",)),
            ("H1", ("line",), ("age",)),
            ("H2", (), ("age",)),
            ("H3", (), ("progression",)),
            ("H4", (), ("drugs",)),
            ("H7", (), ("symptoms", "diseases")),
        ],
    )
    def test_noise_is_supported_in_seven_of_a_hundred_studies_at_most(
        self, hypothesis: str, plants: tuple[str, ...], domains: tuple[str, ...]
    ) -> None:
        studies = 40
        hits = 0
        for seed in range(studies):
            reads = made_reads(plants, seed, domains=domains, random_models=0)
            parts = TESTS[hypothesis](Material(reads, (), 99, seed))
            hits += verdict_of(parts) == "supported"
        assert hits <= 0.07 * studies

    def test_p_of_steps_and_of_shifted_profiles_is_below_five_per_cent_in_about_five_of_a_hundred(self) -> None:
        rng = np.random.default_rng(0)
        p = []
        for _ in range(1000):
            profiles = rng.exponential(size=(4, 12))
            null = shape.shifted_centres(profiles, 199, rng)
            value = float(shape.centre_of_mass(profiles).mean())
            p.append((1 + int((null <= value).sum())) / 200)
        assert 0.03 <= np.mean(np.array(p) < 0.05) <= 0.07


def test_a_massive_dimension_changes_no_answer() -> None:
    material = made_material(["ring"], rows=False)
    before, after = (answered(each, TESTS) for each in (material, scaled_reads(material, 3, 1e3, 1e5)))
    for one, other in zip(before, after, strict=True):
        assert one.verdict == other.verdict
        for a, b in zip(one.parts, other.parts, strict=True):
            assert a.value is None or b.value == pytest.approx(a.value, abs=1e-6)
            assert a.p is None or b.p == pytest.approx(a.p)


class TestShape:
    def test_participation_ratio_counts_equal_directions(self) -> None:
        rng = np.random.default_rng(0)
        q = np.linalg.qr(rng.normal(size=(50, 50)))[0]
        x = q[:, :7] - q[:, :7].mean(0)
        expected = np.linalg.eigvalsh(np.cov(x.T))
        assert shape.participation_ratio((x + 5) @ (x + 5).T) == pytest.approx(
            expected.sum() ** 2 / (expected**2).sum()
        )
        assert shape.participation_ratio(np.zeros((4, 4))) == 0

    def test_a_spline_beats_a_line_on_a_curve_and_not_on_a_line_nor_on_a_step_at_18(self) -> None:
        values = np.arange(10.0, 100.0)
        t = (values - 10) / 89
        rng = np.random.default_rng(0)
        noise = 0.01 * rng.normal(size=(90, 3))
        of = {
            "curve": np.stack([np.cos(4 * t), np.sin(4 * t), 0 * t], 1),
            "line": np.stack([t, -2 * t, 0 * t], 1),
            "step": np.stack([values >= 18, values < 18, 0 * t], 1).astype(float),
            "digit": np.stack([values % 10 == 3, values % 10 > 6, 0 * t], 1).astype(float),
        }
        gain = {
            name: float(shape.gains(scaled(x + noise, standardise=False)[None], values)[0]) for name, x in of.items()
        }
        assert gain["curve"] > 0.2
        for name in ("line", "step", "digit"):
            assert gain[name] < 0.02, name

    def test_the_null_of_the_curve_is_what_refitting_swapped_frames_gives(self) -> None:
        rng = np.random.default_rng(0)
        values = np.arange(10.0, 80.0)
        a, b = rng.normal(size=(2, 1, 70, 5))
        drawn = shape.curve(a, b, values, 5, np.random.default_rng(1)).null[:, 0]
        swaps = np.random.default_rng(1).integers(0, 2, size=(6, 7))[1:]
        for swap, value in zip(swaps, drawn, strict=True):
            other = swap[(values // 10 - 1).astype(int)].astype(bool)[:, None]
            one, two = np.where(other, b[0], a[0]), np.where(other, a[0], b[0])
            expected = shape.gains(one[None], values)[0] - shape.gains(two[None], values)[0]
            assert value == pytest.approx(expected)

    def test_steps_at_multiples_of_ten_do_not_count_and_one_that_is_longer_stands_out(self) -> None:
        values = np.arange(10.0, 80.0)
        rng = np.random.default_rng(0)
        x = np.cumsum(rng.normal(size=(70, 4)), axis=0)
        x[values >= 18] += 30
        x[values >= 20] += 500
        starts, z = shape.step_z(x[None], None, values)
        assert set(starts) == {v for v in range(10, 79) if v % 10 not in (0, 9)}
        assert starts[np.argmax(z[0])] == 17

    def test_what_the_spelling_tells_is_taken_off_a_circle(self) -> None:
        angle = 2 * np.pi * np.arange(8) / 8
        ring = np.stack([np.cos(angle), np.sin(angle)], 1)
        ranks, groups = np.arange(8)[None], np.zeros(8, dtype=np.int64)
        other = np.random.default_rng(0).normal(size=(8, 6))
        alone = shape.partial_circle(ring[None], other, ranks, groups).values[0]
        spelled = shape.partial_circle(ring[None], ring, ranks, groups).values[0]
        assert alone > 0.2 > 0.01 > abs(spelled)

    def test_names_that_share_a_stem_are_no_neighbours(self) -> None:
        names = ["metoprolol", "atenolol", "ramipril", "lisinopril", "heparin"]
        shared = shape.sharing_a_stem(names, 4)
        assert {(i, j) for i, j in zip(*np.nonzero(np.triu(shared, 1)), strict=True)} == {(0, 1), (2, 3)}
        x = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [-1, -1]], dtype=float)
        distances = np.linalg.norm(x[:, None] - x[None], axis=2)
        labels = np.array([0, 0, 1, 1, 2])
        found = shape.label_excess(distances, labels, shared, labels[None])
        assert np.isnan(found).all(), "without its stem, nobody has a neighbour of its label"

    @pytest.mark.parametrize(
        ("profile", "expected"),
        [([9, 4, 4, 1, 1, 4, 4], 0.75), ([9, 1, 1, 1, 1, 4, 4], 0.0), ([9, 0, 0, 1, 1, 4, 4], 0)],
    )
    def test_a_dip_is_below_the_lower_end_and_the_embedding_is_no_end(
        self, profile: list[float], expected: float
    ) -> None:
        assert shape.dip(np.array(profile, dtype=float)) == pytest.approx(expected)

    def test_half_samples_spread_as_means_of_the_whole_do(self) -> None:
        rng = np.random.default_rng(0)
        x = rng.normal(size=400)
        halves = shape.half_samples([400], lambda rows: float(x[rows[0]].mean()), 2000, rng)
        assert halves.std() == pytest.approx(x.std() / 20, rel=0.08)

    def test_thirds_need_six_blocks(self) -> None:
        assert shape.thirds(19) == (slice(1, 7), slice(7, 13), slice(13, 19))
        with pytest.raises(DataError, match="6 blocks"):
            shape.thirds(6)


class TestVerdict:
    GOOD = Part("ko", 1.0, 0.0, 0.1, 0.01)

    @pytest.mark.parametrize(
        ("parts", "verdict"),
        [
            ([GOOD], "supported"),
            ([GOOD, replace(GOOD, p=0.05)], "not supported"),
            ([GOOD, replace(GOOD, fails=({"en": "x", "ko": "가"},))], "not supported"),
            ([GOOD, Part("en", None, fails=({"en": "x", "ko": "가"},))], "not testable here"),
            ([], "not testable here"),
        ],
    )
    def test_every_part_has_to_pass(self, parts: list[Part], verdict: str) -> None:
        assert verdict_of(parts) == verdict

    def test_what_is_supported_alone_but_not_among_all_is_a_lead(self) -> None:
        answer = Answer(registered()[0], "supported", (self.GOOD,), 0.01, 0.07, "", {})
        assert not answer.stands and "a lead, not a finding" in sentence_of(answer)["en"]
        assert replace(answer, q=0.02).stands and "a lead" not in sentence_of(replace(answer, q=0.02))["en"]

    def test_every_sentence_is_in_both_languages_and_says_what_may_not_be_concluded(self) -> None:
        for answer in answered(made_material(["ring"], rows=False), TESTS):
            for said in (answer.sentence, answer.hypothesis.claim, answer.hypothesis.rule):
                assert any("가" <= c <= "힣" for c in said["ko"]) and not any("가" <= c <= "힣" for c in said["en"])
            if answer.verdict != "not testable here":
                assert answer.sentence["en"].endswith(answer.hypothesis.not_concluded["en"])

    def test_seven_are_registered_and_each_has_a_test(self) -> None:
        assert [each.id for each in registered()] == [f"H{k}" for k in range(1, 8)] == list(TESTS)
        assert Hypothesis.from_dict(registered()[0].to_dict()) == registered()[0]

    def test_one_language_alone_cannot_answer_for_both(self) -> None:
        reads = made_reads(("step",), languages=("en",))
        found = verdicts(Material(reads, (), 99, 0))
        assert found["H2"] == found["H7"] == "not testable here"
        assert found["H1"] == "not supported"


class TestFolder:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_map_folder(tmp_path_factory.mktemp("hypotheses") / "map", early())

    @pytest.fixture
    def own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The made lists in the place of the packaged ones."""
        from tests.synthetic_map import made_lists

        monkeypatch.setattr(answering, "packaged_lists", made_lists)

    def test_answers_are_those_of_the_material_and_survive_the_file(self, folder: Path, own: None) -> None:
        answers = answer_hypotheses(folder)
        assert {each.hypothesis.id for each in answers if each.verdict == "supported"} == {"H6"}
        write_answers(folder, answers)
        assert read_answers(folder) == answers

    def test_other_lists_are_refused(self, folder: Path) -> None:
        with pytest.raises(DataError, match="--concepts and --templates"):
            answer_hypotheses(folder)

    def test_the_command_writes_answers_and_pages(self, folder: Path, own: None) -> None:
        ended = CliRunner().invoke(app, ["map", "answer", str(folder)])
        assert ended.exit_code == 0, ended.output
        assert "H6 Knowledge sits in the first half of the model. Supported." in ended.output
        assert "지식은 모델의 앞쪽 절반에 있다. 지지됨." in ended.output
        told = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
        assert [each["hypothesis"]["id"] for each in told] == [f"H{k}" for k in range(1, 8)]
        assert {path.name for path in folder.glob("*.html")} == {"map.html", "map.ko.html"}

    def test_a_folder_of_something_else_or_half_a_map_is_refused(self, folder: Path, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="no knowledge map"):
            answer_hypotheses(tmp_path)
        (tmp_path / "manifest.json").write_bytes((folder / "manifest.json").read_bytes())
        with pytest.raises(StudyError, match=r"map.json is missing"):
            answer_hypotheses(tmp_path)

    def test_the_page_says_everything_without_a_script(self, folder: Path, own: None) -> None:
        write_answers(folder, answer_hypotheses(folder))
        english, korean = (path.read_text(encoding="utf-8") for path in write_map_page(folder))
        for page in (english, korean):
            assert "<script" not in page and page.count("<svg") == 1 + 3 and "default-src 'none'" in page
            assert "<image" not in page, "a strict page shows no image"
        assert "1 of 7 are supported" in english and "What may not be concluded" in english
        assert "가설 7개 가운데 1개가 지지되었고" in korean and "결론 내릴 수 없는 것" in korean
        assert "symptoms by system" in english and "증상(계통별)" in korean
