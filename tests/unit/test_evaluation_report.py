"""The report of an evaluation: what was run, what came out, why items have no answer; whole in both languages."""

from dataclasses import replace
from pathlib import Path

from sae_lens_med.evaluation.accuracy import ACCURACY, ACCURACY_PAPER, accuracy_metrics, reason_counts
from sae_lens_med.evaluation.deferral import deferral_area, deferral_curve
from sae_lens_med.evaluation.report import REPORTS, write_evaluation_report
from sae_lens_med.evaluation.sentences import MEANINGS, REASONS
from sae_lens_med.records import ItemResult, McqItem, Provenance
from tests.unit.test_report import PAYLOAD, Page

LETTERS = "ABCDE"


def made(n: int = 40) -> tuple[list[McqItem], list[ItemResult]]:
    """Every third item is right, every eighth cut off; subjects of 34 and of 6 items."""
    items, results = [], []
    for i in range(n):
        subject = "rare" if i >= n - 6 else "doctor"
        item = McqItem(f"q{i}", subject, "ko", f"질문 {i}?", tuple(f"보기 {k}" for k in LETTERS), i % 5)
        letter = None if i % 8 == 7 else LETTERS[i % 5 if i % 3 == 0 else (i + 1) % 5]
        items.append(item)
        results.append(
            ItemResult(
                item.id,
                subject,
                item.gold_letter,
                letter,
                None,
                letter == item.gold_letter,
                reason="truncated" if letter is None else None,
                samples=(f"정답: {letter}", "글"),
                sample_predictions=(letter, None),
                confidence=0.5 if i % 2 else 1.0,
            )
        )
    return items, results


def write(folder: Path, items: list[McqItem], results: list[ItemResult]) -> dict[str, str]:
    metrics = accuracy_metrics(items, results, permutations=50, extractors=(ACCURACY, ACCURACY_PAPER))
    area = deferral_area(results, permutations=50)
    provenance = Provenance(
        created="2026-01-01T00:00:00+00:00",
        versions={"sae-lens-med": "0"},
        model={"name": "tiny"},
        sae=None,
        data={"source": "exam.jsonl"},
        settings={"method": "self-consistency", "template": "cot", "shots": ["a", "b"], "max_new_tokens": 77},
        seed=0,
    )
    paths = write_evaluation_report(
        folder,
        items,
        results,
        [*metrics, *([] if area is None else [area])],
        provenance,
        reasons=reason_counts(results),
        curve=deferral_curve(results),
    )
    assert tuple(path.name for path in paths) == REPORTS
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def test_it_says_what_was_run_and_what_came_out(tmp_path: Path) -> None:
    items, results = made()
    right = sum(bool(r.correct) for r in results)
    pages = write(tmp_path, items, results)
    page = Page(pages["report.html"])
    for text in (page.text, pages["report.md"].replace("\\", "")):
        assert "40 questions of exam.jsonl, by the method self-consistency with the template cot and 2 solved" in text
        assert f"tiny answered {right} of 40 questions correctly: accuracy {right / 40:.4f} (95 % interval" in text
        assert "Mean accuracy when the least confident items are deferred" in text
        for name in (ACCURACY, ACCURACY_PAPER, "deferral_area"):
            assert f"{name}: {MEANINGS[name].en}." in text
        assert "truncated: 5 items (the token limit cut the text off before an answer; raise --max-new-tokens)" in text
        assert "The limit was 77 new tokens a text (--max-new-tokens)" in text
        assert "Subjects of fewer than 10 items are not shown one by one: 1, with 6 items in all" in text
        assert "subject=doctor" in text and "subject=rare" not in text
    assert not page.open and pages["report.html"].count("<svg") == 2, "by subject, and the deferral curve"
    assert [value for _, name, value in page.attributes if name == "class" and "badge" in value].count(
        "badge right"
    ) == 2


def test_the_korean_page_says_the_same(tmp_path: Path) -> None:
    pages = write(tmp_path, *made())
    text = Page(pages["report.ko.html"]).text
    assert '<html lang="ko">' in pages["report.ko.html"]
    assert "잘림: 5개 문항" in text and REASONS["truncated"].ko in text and "--max-new-tokens" in text
    assert "exam.jsonl 자료의 40개 문항을" in text and "풀이 예시 2개" in text
    assert "확신이 낮은 문항부터 유보" in text and "논문 규칙으로 읽은 정확도 (accuracy_paper)" in text
    for english in ("Counted as wrong", "Interval", "gold answer", "share of items", "guessing"):
        assert english not in text


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    items, results = made(12)
    items[0] = replace(items[0], id=PAYLOAD, question=f"{PAYLOAD}\n# x", options=(PAYLOAD, "b", "c", "d", "e"))
    results[0] = replace(results[0], id=PAYLOAD, samples=(f'{PAYLOAD}" onclick="x', "b"))
    for name, text in write(tmp_path, items, results).items():
        if name.endswith("html"):
            page = Page(text)
            assert "script" not in page.tags and not page.open and page.text.count(PAYLOAD) >= 4
            assert not any(attribute.startswith("on") for _, attribute, _ in page.attributes)
        else:
            assert "\n# x" not in text and "<script" not in text.replace("\\<script", "")


def test_without_answers_reasons_or_confidences(tmp_path: Path) -> None:
    items, results = made(12)
    bare = [replace(item, answer=None) for item in items]
    quiet = [
        replace(
            r, gold=None, correct=None, prediction="A", reason=None, samples=(), sample_predictions=(), confidence=None
        )
        for r in results
    ]
    text = write(tmp_path, bare, quiet)["report.md"]
    assert "no item has a known gold answer" in text and "Every item has an answer" in text


def test_what_no_file_can_hold_is_shown_as_its_code(tmp_path: Path) -> None:
    items, results = made(12)
    items[0] = replace(items[0], question="\ud800 \x1b[2J", subject="\u202e")
    for text in write(tmp_path, items, results).values():
        assert "ud800" in text and "x1b" in text and "u202e" in text
        assert "\x1b" not in text and "\u202e" not in text
