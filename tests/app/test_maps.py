"""The knowledge map in the app: the table of cells, a cell with its controls and features, JSON, in a browser."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sae_lens_med.app.create import create_app
from sae_lens_med.app.maps.opened import OpenMap
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.settings import Settings
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.knowledge_map.answering import write_answers
from sae_lens_med.knowledge_map.hypotheses import Material, answered
from sae_lens_med.knowledge_map.hypothesis_tests import TESTS
from sae_lens_med.knowledge_map.measure import MapRow, corrected
from sae_lens_med.runs.files import write_json
from tests.app.conftest import Visits, serving
from tests.app.reading_study import ECG
from tests.app.test_hostile import AXE_TAGS
from tests.synthetic_map import made_reads, write_map_folder

ORIGIN = "http://127.0.0.1:8000"
DEPTHS = 10
HOSTILE = '<img src=x onerror=alert(1)> "drugs"'
CARRIER = {
    "domain": "drugs", "language": "ko", "labels": "mechanism", "label": "<b>statin</b>", "depth": 1, "feature": ECG,
    "auroc": 0.93, "auroc_null_high": 0.7, "p": 0.001, "q": 0.004, "sae": "", "top": ["심바스타틴"], "more": 1,
}  # fmt: skip


def rows() -> list[MapRow]:
    """Three rows: `drugs` stands out from depth 2 on but for one control at depth 5; the second has a hostile name."""
    flat = (0.0,) * DEPTHS
    first = MapRow(
        domain="drugs", language="ko", read_out="silhouette", labels="mechanism", scale="standardised",
        position="concept", n=48, values=(0.0, 0.05, *(0.1 * k for k in range(2, DEPTHS))),
        intervals=((0.0, 0.1),) * DEPTHS, null_mean=flat, null_high=(0.1,) * DEPTHS,
        p=(0.5, 0.4, *(0.001,) * (DEPTHS - 2)), p_best=0.001, characters=0.15,
        random=((*flat[:5], 0.6, *flat[6:]),),
    )  # fmt: skip
    second = replace(first, domain=HOSTILE, labels="", read_out="order", language="en", p=(1.0,) * DEPTHS)
    across = replace(first, language="ko-en", labels="", read_out="retrieval")
    return corrected([first, second, across])


def map_folder(folder: Path) -> Path:
    """A map whose hypotheses are answered, with one feature."""
    material = Material(made_reads(("ring",), domains=("progression",)), tuple(rows()), 99, 0)
    write_map_folder(folder, material, model="<i>model</i>")
    write_answers(folder, answered(material, TESTS))
    write_json(folder / "features.json", [CARRIER])
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenMap:
    return OpenMap.open(map_folder(tmp_path_factory.mktemp("maps") / "map"))


@pytest.fixture(scope="module")
def client(study: OpenStudy, opened: OpenMap) -> TestClient:
    return TestClient(create_app([study], Settings(), None, {1: opened}), ORIGIN, raise_server_exceptions=False)


@pytest.fixture
def open_page(browser: Any, study: OpenStudy, opened: OpenMap) -> Iterator[Visits]:
    with serving([study], Settings(), None, {1: opened}) as address:
        visits = Visits(browser, address)
        yield visits
        visits.close()


class TestCell:
    def test_what_it_does_not_beat_is_named(self, opened: OpenMap) -> None:
        assert opened.cell(0, 4).not_beaten == () and opened.cell(0, 4).stands_out
        assert opened.cell(0, 5).not_beaten == ("random",) and not opened.cell(0, 5).stands_out
        assert opened.cell(0, 1).not_beaten == ("null", "characters")
        assert opened.cell(0, 0).not_beaten == ("null", "characters", "embedding", "random")

    def test_its_colour_is_its_distance_from_the_null(self, opened: OpenMap) -> None:
        assert [opened.cell(0, depth).level for depth in (0, 3, 9)] == [0, 3, 6]

    def test_the_features_of_its_domain_depth_and_languages_carry_it(self, opened: OpenMap) -> None:
        assert [each.feature for each in opened.cell(0, 1).carriers] == [ECG]
        assert [each.feature for each in opened.cell(2, 1).carriers] == [ECG], "across languages: those of either"
        assert opened.cell(0, 4).carriers == () and opened.cell(1, 1).carriers == ()


class TestJson:
    def test_the_map_and_a_cell(self, client: TestClient) -> None:
        told = client.get("/1/api/map").json()
        assert [row["domain"] for row in told["rows"]] == ["drugs", HOSTILE, "drugs"]
        verdicts = {each["hypothesis"]["id"]: each["verdict"] for each in told["answers"]}
        assert verdicts["H3"] == "supported" and verdicts["H1"] == "not testable here"
        cell = client.get("/1/api/map/0/5").json()
        assert cell["value"] == pytest.approx(0.5) and cell["controls"]["random"] == 0.6
        assert cell["stands_out"] is False and cell["interval"] == [0.0, 0.1]

    @pytest.mark.parametrize(
        ("path", "status"),
        [("/1/api/map/3/0", 404), ("/1/api/map/0/10", 404), ("/1/api/map/-1/0", 422), ("/1/api/map/x/0", 422),
         ("/2/api/map", 404), ("/1/map/0/10", 404), ("/1/map/9999/0", 404)],
    )  # fmt: skip
    def test_what_is_not_there_is_said(self, client: TestClient, path: str, status: int) -> None:
        assert client.get(path).status_code == status

    def test_a_study_without_a_map_has_neither_page_nor_entry(self, study: OpenStudy) -> None:
        plain = TestClient(create_app([study], Settings()), ORIGIN, raise_server_exceptions=False)
        assert plain.get("/1/map").status_code == 404
        assert "/1/map" not in plain.get("/1/cases").text


class TestPages:
    def test_every_cell_is_a_link_and_hatched_where_it_does_not_stand_out(self, client: TestClient) -> None:
        page = client.get("/1/map?lang=en").text
        assert page.count('href="/1/map/') == 3 * DEPTHS
        cells = [part.split(">")[0] for part in page.split('href="/1/map/0/')[1:]]
        assert ["held" in cell for cell in cells] == [True, True, *[False] * 3, True, *[False] * 4]

    def test_names_of_lists_and_models_are_text(self, client: TestClient) -> None:
        for path in ("/1/map", "/1/map/1/3", "/1/map/0/1"):
            page = client.get(path).text
            assert "<img" not in page and "<b>statin" not in page and "<i>model" not in page

    def test_a_cell_leads_to_the_feature_of_this_study_that_carries_it(self, client: TestClient) -> None:
        page = client.get("/1/map/0/1?lang=en").text
        assert f'href="/1/features/{ECG}' in page and "심바스타틴" in page and "0.93" in page
        assert "map features" in client.get("/1/map/0/4").text, "without features the command is named"

    @pytest.mark.parametrize("other", [{"sae": "somewhere/else"}, {"depth": 3}, {"feature": 10**6}], ids=str)
    def test_a_feature_of_another_sae_is_named_but_no_link(
        self, study: OpenStudy, tmp_path: Path, other: dict[str, Any]
    ) -> None:
        folder = map_folder(tmp_path / "map")
        write_json(folder / "features.json", [CARRIER | other])
        client = TestClient(create_app([study], Settings(), None, {1: OpenMap.open(folder)}), ORIGIN)
        page = client.get(f"/1/map/0/{other.get('depth', 1)}").text
        assert "0.93" in page and 'href="/1/features/' not in page

    def test_the_answers_and_what_may_not_be_concluded_are_in_both_languages(self, client: TestClient) -> None:
        korean, english = client.get("/1/map?lang=ko").text, client.get("/1/map?lang=en").text
        assert "병의 단계는 원을 그린다." in korean and "검정할 수 없다" in korean and "지지됨" in korean
        assert "The stages of a disease go round in a circle." in english and "Not testable here" in english
        assert "not what the model uses" in english


class TestFolder:
    def test_a_map_beside_the_study_is_found(self, study_folder: Path, tmp_path: Path) -> None:
        own = tmp_path / "study"
        shutil.copytree(study_folder, own)
        assert OpenMap.beside(own) is None
        folder = map_folder(own / "map")
        (own / "map-features").mkdir()
        (folder / "features.json").rename(own / "map-features" / "features.json")
        found = OpenMap.beside(own)
        assert found is not None and [each.feature for each in found.carriers] == [ECG]

    @pytest.mark.parametrize(
        ("name", "text", "sentence"),
        [
            ("map.json", "[{}]", "map.json is damaged"),
            ("answers.json", "[1]", "answers.json is damaged"),
            ("features.json", '[{"domain": "drugs"}]', "features.json is damaged"),
            ("features.json", json.dumps([{**CARRIER, "feature": "3"}]), "whole numbers"),
            ("features.json", json.dumps([{**CARRIER, "auroc": "high"}]), "must be numbers"),
            ("features.json", json.dumps([{**CARRIER, "top": [1]}]), "must be texts"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path: Path, name: str, text: str, sentence: str) -> None:
        folder = map_folder(tmp_path / "map")
        (folder / name).write_text(text, encoding="utf-8")
        with pytest.raises(StudyError, match=sentence):
            OpenMap.open(folder)

    def test_the_command_takes_a_map_for_each_study(self, tmp_path: Path) -> None:
        from sae_lens_med.commands.serve import _maps

        folder = map_folder(tmp_path / "map")
        assert list(_maps([tmp_path / "a", tmp_path / "b"], [folder], [])) == [1]
        with pytest.raises(ConfigError, match="2 times for 1"):
            _maps([tmp_path / "a"], [folder, folder], [])
        with pytest.raises(ConfigError, match="--map-features"):
            _maps([tmp_path / "a"], [], [folder])


class TestBrowser:
    def test_from_the_menu_to_a_feature_without_a_script(self, open_page: Visits) -> None:
        page = open_page("/1/cases?lang=ko", java_script_enabled=False)
        page.get_by_role("link", name="지식 지도").click()
        page.get_by_role("link", name="0.05, 깊이 1, 실루엣 한국어, 두드러지지 않음").first.click()
        page.get_by_role("row", name="0.93").get_by_role("link").click()
        assert page.url.split("?")[0].endswith(f"/1/features/{ECG}")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("path", ["/1/map", "/1/map/0/1"])
    @pytest.mark.parametrize("width", [1280, 390])
    def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
        self, open_page: Visits, path: str, scheme: str, width: int
    ) -> None:
        package = pytest.importorskip("axe_playwright_python", reason="the audit needs axe-playwright-python")
        source = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
        page = open_page(path, color_scheme=scheme, size=(width, 844))
        page.evaluate(source)
        found = page.evaluate("tags => axe.run(document, {runOnly: tags})", AXE_TAGS)
        assert [(each["id"], [node["html"][:160] for node in each["nodes"]]) for each in found["violations"]] == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        small = "[...document.querySelectorAll('.map a')].filter(a => a.getBoundingClientRect().height < 24).length"
        assert page.evaluate(small) == 0
