"""Reports in Korean: whole, with counters, and as safe as the English ones; the catalogue has every text there is."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sae_lens_med
from sae_lens_med.alignment import METRICS
from sae_lens_med.alignment.ablation import MATCHED_NULL
from sae_lens_med.alignment.similarities import how_similar
from sae_lens_med.cli import app
from sae_lens_med.languages import ENGLISH, KOREAN
from sae_lens_med.languages.korean import NOTES, TEXTS
from sae_lens_med.metrics.metric import few
from sae_lens_med.records import MetricValue
from sae_lens_med.study.alignment_report import gave_nothing
from sae_lens_med.study.claims import value_name
from sae_lens_med.study.measure import run_alignment
from sae_lens_med.study.measured import AlignmentFolder
from sae_lens_med.study.report import write_report
from tests import synthetic_study
from tests.unit.test_report import PAYLOAD, Page, read_lines, write_lines, write_study

PACKAGE = Path(sae_lens_med.__file__).parent
HANGUL = re.compile("[가-힣]")


def package_texts() -> set[str]:
    """What templates give to `t`, and code to `Language.text`."""
    found: set[str] = set()
    for path in (PACKAGE / "templates").glob("*.j2"):
        found |= set(re.findall(r'\bt\("([^"]*)"\)', path.read_text(encoding="utf-8")))
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        says = path.parent.name in ("study", "evaluation", "plots") or path.name == "pages.py"
        for node in ast.walk(tree) if says else ():
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = ast.unparse(node.func)
                if called in ("say", "language.text") and isinstance(node.args[0].value, str):
                    found.add(node.args[0].value)
    return found


def alignment_notes() -> set[str]:
    """Every sentence that the metrics may note: the texts in the code of `alignment/` that are neither docstrings nor
    errors nor what a metric's entry says, with something in the place of each value."""
    found: set[str] = set()
    for path in sorted((PACKAGE / "alignment").rglob("*.py")):
        if path.name in SAYS_NOTHING:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        notes = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.keyword) and each.arg == "notes"}
        queue: list[ast.AST] = [tree]
        while queue:
            node = queue.pop()
            called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Raise) or called in ("Metric", "Sentence", "Claim", "replace") or "Error" in called:
                continue
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a docstring
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                texts = [" ".join(text.split()) for text in possible(node)]
                found |= {text for text in texts if id(node) in notes or is_sentence(text)}
                if not isinstance(node, ast.BinOp):
                    continue
            queue += ast.iter_child_nodes(node)
    return found


def is_sentence(text: str) -> bool:
    long = text.count(" ") > (2 if text.endswith(".") else 5)
    return long and text[0].isalnum() and "{" not in text


SAYS_NOTHING = ("judges.py", "reasoning_texts.py", "ratings_file.py")
"""They hold prompts, and errors of files."""


def possible(node: ast.AST) -> list[str]:
    """The texts that an expression may be."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [[""] if isinstance(side, ast.Name) else possible(side) for side in (node.left, node.right)]
        return [left + right for left in sides[0] for right in sides[1]]
    if isinstance(node, ast.IfExp):
        return possible(node.body) + possible(node.orelse)
    if isinstance(node, ast.JoinedStr):
        texts = [""]
        for part in node.values:
            texts = [text + more for text in texts for more in possible(part)]
        return texts
    if isinstance(node, ast.FormattedValue):
        return ["'left_out'"] if node.conversion == ord("r") else possible(node.value)
    if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in ("few", "how_similar"):
        return [few(5), few(500)] if called == "few" else [how_similar(True), how_similar(False)]
    shown = ast.unparse(node)
    if shown == "MATCHED_NULL":
        return [MATCHED_NULL]
    return {"what": ["premises that the expert marked in the question"], "reason": ["nothing to remove"]}.get(
        shown, ["7"]
    )


def fields(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_every_text_is_in_the_catalogue_with_the_same_fields() -> None:
    texts = package_texts()
    assert len(texts) > 120
    assert texts <= set(TEXTS)
    for english, korean in [*TEXTS.items(), *NOTES.items()]:
        assert fields(english) == fields(korean), english


def test_every_metric_has_korean_names() -> None:
    for metric in METRICS:
        for text in (metric.title, metric.meaning, metric.null, *(value_name(name) for name in metric.confirmatory)):
            assert HANGUL.search(KOREAN.name(text)), text
    assert KOREAN.name("A toy") == "A toy", "what comes from outside stays as it is"


@pytest.mark.parametrize(
    ("n", "unit", "english", "korean"),
    [
        (4572, "features", "4,572 features", "4,572개 특징"),
        (12, "items", "12 items", "12개 문항"),
        (3, "concepts", "3 concepts", "3개 개념"),
        (1000000, "tokens", "1,000,000 tokens", "1,000,000개 토큰"),
        (7, "toys", "7 toys", "7 toys"),
    ],
)
def test_numbers_have_their_counters(n: int, unit: str, english: str, korean: str) -> None:
    assert ENGLISH.count(n, unit) == english
    assert KOREAN.count(n, unit) == korean


def test_notes_are_put_together_from_their_parts() -> None:
    note = "Interval: percentile bootstrap over items; null: explanations permuted within strata; n = 20 is small, so "
    note += "this cannot carry a claim. Similarity: cosine; fewer than 24 items, so not adjusted for text length and "
    note += "script."
    said = KOREAN.note(note)
    assert said is not None and "n = 20은 작아서" in said and "24개 미만" in said
    assert not re.search("[a-z]{4,}", said)
    assert KOREAN.note("RSA (#12) was not measured: no file of ratings was given.") == (
        "RSA(12번): 측정하지 않음. 이유: 평가 파일이 없음."
    )
    assert KOREAN.note("Something that nobody translated; null: items moved within strata.") is None
    assert ENGLISH.note(note) == note


def test_every_note_of_a_metric_is_in_the_catalogue() -> None:
    notes = alignment_notes()
    assert len(notes) > 90
    for said in (  # what is looked for, that the search finds it
        "There is no file of ratings.",
        "No item was given a hint, so hint acknowledgement is not measured.",
        "Group 'left_out': no measured item has a known answer; sufficiency is not measured.",
    ):
        assert said in notes
    for note in notes:
        korean = KOREAN.note(note)
        assert korean is not None, note
        words = set(re.findall("[A-Za-z_]{4,}", korean)) - AS_THEY_ARE
        assert not words, (note, words)


AS_THEY_ARE = {"Wilson", "Spearman", "Cohen", "Krippendorff", "Benjamini", "Hochberg", "AUROC", "prevalence_f", "JSON"}


def visible(html: str) -> str:
    return Page(html).text


def test_the_study_report_is_whole_in_korean(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    write_report(study)
    html = (study / "report.ko.html").read_text(encoding="utf-8")
    markdown = (study / "report.ko.md").read_text(encoding="utf-8")
    assert '<html lang="ko">' in html
    for text in (visible(html), markdown.replace("\\", "")):
        assert "60개 문항" in text
        assert "자기 해설과 다른 해설의 유사도 차: 60개 문항에서" in text, "a sentence names its metric"
        for english in package_texts() | {"SAE features", "subject=", "guessing", "What may be concluded"}:
            assert len(english.split()) < 3 or fields(english) or english not in text, english
    for heading in re.findall(r"<(?:h[245]|figcaption|th|summary|title|desc)\b[^>]*>([^<]+)<", html):
        outside = heading in ("p", "n", "SAE", *TEXTS.values()) or "_" in heading or heading.islower()
        assert outside or HANGUL.search(heading), heading
    values = {repr(v) for v in (m["value"] for m in json.loads((study / "metrics.json").read_text()))}
    assert values <= set(Page(html).values)


def test_untrusted_text_stays_text_in_korean_too(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    items, results = read_lines(study / "questions.jsonl"), read_lines(study / "items.jsonl")
    items[0] |= {"id": PAYLOAD, "subject": PAYLOAD, "question": PAYLOAD, "explanation": f'{PAYLOAD}" onclick="x'}
    results[0] |= {"id": PAYLOAD, "subject": PAYLOAD}
    write_lines(study / "questions.jsonl", items)
    write_lines(study / "items.jsonl", results)
    shown = json.loads((study / "item_features.json").read_text())
    (study / "item_features.json").write_text(json.dumps([shown[0] | {"id": PAYLOAD}]))
    manifest = json.loads((study / "manifest.json").read_text())
    manifest["notes"], manifest["provenance"]["model"]["name"] = [PAYLOAD, "{0} {model}"], PAYLOAD + "{data}"
    (study / "manifest.json").write_text(json.dumps(manifest))
    write_report(study)
    page = Page((study / "report.ko.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags and not page.open
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count(PAYLOAD) >= 6
    assert not re.search(r"(?<!\\)<(?!\d)", (study / "report.ko.md").read_text(encoding="utf-8"))


def test_small_subjects_are_counted_and_not_shown(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study")
    metrics = json.loads((study / "metrics.json").read_text())
    (own,) = [m for m in metrics if m["group"] == "subject=doctor"]
    metrics += [own | {"group": f"subject=tiny {i}", "n": 3} for i in range(4)]
    metrics.append(own | {"group": "subject=just enough", "n": 10})
    (study / "metrics.json").write_text(json.dumps(metrics))
    write_report(study)
    english, korean = (Page((study / name).read_text(encoding="utf-8")) for name in ("report.html", "report.ko.html"))
    assert "Subjects of fewer than 10 items are not shown one by one: 4, with 12 items in all" in english.text
    assert "문항이 10개 미만인 4개 과목(모두 12개 문항)" in korean.text
    for page in (english, korean):
        assert "tiny" not in page.text and "just enough" in page.text


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aligned")
    lexicon = folder / "concepts.jsonl"
    names = ("fever", "cough", "anemia", "jaundice")
    rows = [{"concept": name, "category": "sign", "en": [name]} for name in names]
    lexicon.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    study = synthetic_study.write_study(folder / "study", *synthetic_study.synthetic())
    run_alignment(study, permutations=99, concepts=str(lexicon))
    return study


def test_the_alignment_report_is_whole_in_korean(aligned: Path) -> None:
    html = (aligned / "alignment" / "report.ko.html").read_text(encoding="utf-8")
    text = visible(html)
    for metric in METRICS:
        assert KOREAN.name(metric.title) in text
    assert "해설 검색(MRR, R@k), 해설 검색 MRR: 60개 문항에서" in text
    for item in re.findall(r"<li[^>]*>(.*?)</li>", html.split('id="features"')[0], re.DOTALL):
        assert HANGUL.search(item), item
    assert "May be concluded" not in text and "Interval:" not in text and "was not measured" not in text


def test_the_alignment_report_begins_with_one_figure_and_says_shared_reservations_once(aligned: Path) -> None:
    html = (aligned / "alignment" / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 1 and html.index("<svg") < html.index("<table")
    text = visible(html)
    values = [MetricValue.from_dict(v) for v in json.loads((aligned / "alignment" / "metrics.json").read_text())]
    (mrr,) = [v for v in values if v.name == "alignment/retrieval_mrr" and v.variant == "sae" and v.group == "all"]
    assert f"{mrr.value:.4f} · null {mrr.null_mean:.4f}" in text
    for said in ("the model answers at chance", "no control that has learned nothing", "uses these features to answer"):
        assert text.count(said) == 1, said
    for table in re.findall(r"<table.*?</table>", html, re.DOTALL):
        assert html.index(table) > html.index("<details"), "details are folded"


def test_precision_and_recall_of_equal_sets_are_one_row(aligned: Path) -> None:
    html = (aligned / "alignment" / "report.html").read_text(encoding="utf-8")
    values: list[dict[str, Any]] = json.loads((aligned / "alignment" / "metrics.json").read_text())
    same = differ = 0
    for value in values:
        if value["name"] == "alignment/overlap_precision_at_20":
            twin = value | {"name": "alignment/overlap_recall_at_20"}
            same, differ = (same + 1, differ) if twin in values else (same, differ + 1)
    assert same, "the study has such a pair"
    assert html.count("overlap_precision_at_20 = alignment/overlap_recall_at_20") == same
    assert html.count("alignment/overlap_recall_at_20") == same + differ


def test_the_terminal_says_which_metrics_gave_nothing_and_why(aligned: Path) -> None:
    concepts = str(aligned.parent / "concepts.jsonl")
    shown = CliRunner().invoke(
        app, ["align", str(aligned), "--no-model", "--permutations", "99", "--concepts", concepts]
    )
    assert shown.exit_code == 0, shown.output
    nothing = shown.stdout.split("Metrics that gave nothing, and why:")[1]
    assert "  ratings: Clinicians' ratings (#15) was not measured: no file of ratings was given." in nothing
    assert "  overlap:" not in nothing and f"{aligned / 'alignment' / 'report.ko.html'}" in nothing


def test_metrics_that_gave_nothing_say_why(aligned: Path) -> None:
    folder = AlignmentFolder(aligned)
    nothing = gave_nothing(folder, {"ratings": "no ratings.", "overlap": "stale: it was measured."})
    assert nothing == {"ratings": "no ratings."}
    # Measured, and found nothing to measure: its note is the reason.
    folder.metrics = [v for v in folder.metrics if not METRICS["overlap"].owns(v.name)]
    assert gave_nothing(folder, {})["overlap"].startswith("Overlap of feature sets (#3) gave no value: Overlap: ")
