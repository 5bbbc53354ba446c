"""Reports of a realistic study folder: the numbers are those of the records, and untrusted text stays text."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae_lens_med.errors import StudyError
from sae_lens_med.records import ItemResult, McqItem, MetricValue, Provenance
from sae_lens_med.runs.files import DISCLAIMER, DISCLAIMER_KO
from sae_lens_med.study.report import write_report
from sae_lens_med.study.verdict import conclusion, number

PAYLOAD = '<script>alert("x")</script>'
SUBJECTS = ("소화기내과", "INFECTIOUS DISEASES AND TROPICAL MEDICINE (ADULTS)", "doctor")
N = 60


def make_items(source: str | None = "illustrative") -> list[McqItem]:
    rng = np.random.default_rng(3)
    return [
        McqItem(
            id=f"case_{i:03d}",
            subject=SUBJECTS[i % 3],
            language="ko",
            question=f"{30 + i}세 남자가 3일 전부터 시작된 황달과 오른쪽 윗배 통증으로 병원에 왔다. "
            "혈압 110/70 mmHg, 맥박 96회/분, "
            "체온 38.6℃이었다. 혈액검사 결과는 다음과 같다. 가장 먼저 시행할 처치는?\n"
            "백혈구 15,200/mm3, 총빌리루빈 6.4 mg/dL",
            options=("내시경 역행 담췌관 조영술", "복강경 담낭절제술", "간생검", "경과 관찰", "인터페론 투여"),
            answer=int(rng.integers(5)),
            explanation=None
            if source is None
            else "발열, 황달, 오른쪽 윗배 통증은 급성 담관염을 시사한다. 항생제와 담관 감압이 우선이다.\n"
            * (i % 3 + 1),
            explanation_source=source,  # type: ignore[arg-type]  # the parametrised value is one of the literals
            provenance={"dataset": "sample", "split": "all", "licence": "CC BY 4.0"},
        )
        for i in range(N)
    ]


def make_results(items: list[McqItem]) -> list[ItemResult]:
    rng = np.random.default_rng(4)
    results = []
    for i, item in enumerate(items):
        logits = rng.normal(size=5) + np.array([1.2, 0.4, 0, 0, -0.5])
        logprobs = logits - np.log(np.exp(logits).sum()) - 0.05
        prediction = None if i == 7 else "ABCDE"[int(np.argmax(logprobs))]
        results.append(
            ItemResult(
                item.id,
                item.subject,
                item.gold_letter,
                prediction,
                None if prediction is None else tuple(float(x) for x in logprobs),
                prediction == item.gold_letter,
                reason="no_answer" if prediction is None else None,
            )
        )
    return results


def accuracy(results: list[ItemResult], group: str = "all") -> MetricValue:
    n, k = len(results), sum(bool(r.correct) for r in results)
    p, z = k / n, 1.959964
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = ((middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n))
    return MetricValue(
        "accuracy", p, (0, 1), n, interval=interval, group=group, variant="model", notes="Wilson interval."
    )


def make_metrics(results: list[ItemResult], difference: float, null: np.ndarray, p: float) -> list[MetricValue]:
    metrics = [accuracy(results)]
    metrics += [accuracy([r for r in results if r.subject == s], f"subject={s}") for s in SUBJECTS]
    metrics += [accuracy([r for r in results if r.gold == g], f"gold={g}") for g in "ABCDE"]
    low, high = (float(q) for q in np.quantile(null, [0.025, 0.975]))
    for variant, value, d_z, mrr in (
        ("sae", difference, 0.4123, 0.13571),
        ("raw", 0.00017, 0.3, 0.1),
        ("pca", 0.0123, 0.31, 0.11),
        ("tfidf", 0.0523, 0.6421, 0.2468),
    ):
        metrics.append(
            MetricValue(
                "alignment/matched_minus_mismatched",
                value,
                (-2, 2),
                N,
                interval=(value - 0.011, value + 0.012),
                null_mean=float(null.mean()),
                null_interval=(low, high),
                p=p,
                variant=variant,
                masked={"activation_sinks": 31, "option_text_chars": 5210},
                extra={"d_z": d_z, "permutations": 999.0},
                notes="Bootstrap over items; null by permutation within subject.",
            )
        )
        metrics.append(
            MetricValue("alignment/retrieval_mrr", mrr, (0, 1), N, null_mean=0.0779, p=0.004, variant=variant)
        )
    return metrics


def use(feature: int, stem: float, explanation: float) -> dict[str, Any]:
    return {"feature": feature, "stem": stem, "explanation": explanation}


def write_study(folder: Path, *, source: str | None = "illustrative", p: float = 0.003) -> Path:
    """A whole study folder, as the records write themselves."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    items = make_items(source)
    results = make_results(items)
    matched = rng.normal(0.34, 0.06, N).astype(np.float32)
    mismatched = rng.normal(0.30, 0.03, N).astype(np.float32)
    null = rng.normal(0, 0.008, 999).astype(np.float32)
    metrics = make_metrics(results, float((matched - mismatched).mean()), null, p)
    if source is None:
        metrics = [m for m in metrics if m.name == "accuracy"]
    provenance = Provenance(
        created="2026-01-02T03:04:05+00:00",
        versions={"sae-lens-med": "0.1.0", "torch": "2.13.0", "python": "3.11.2"},
        model={"name": "gemma-3-270m", "source": "wheel", "sha256": "ab" * 32, "dtype": "float32"},
        sae={
            "source": "sae-lens-med-gemma-3-270m-res",
            "sae_id": "layer_9",
            "sha256": "cd" * 32,
            "hook_name": "blocks.9.hook_out",
        },
        data={"source": "sample", "split": None, "sha256": "ef" * 32, "n_items": N},
        settings={"shots": 0, "sink_multiple": 5.0, "permutations": 999},
        seed=0,
    )
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "format": 1,
                "provenance": provenance.to_dict(),
                "stages": {"collect": {"done": "2026-01-02T03:04:05+00:00", "seconds": 71.4}},
                "notes": ["2 rows were skipped."],
            }
        )
    )
    write_lines(folder / "questions.jsonl", [item.to_dict() for item in items])
    write_lines(folder / "items.jsonl", [result.to_dict() for result in results])
    (folder / "metrics.json").write_text(json.dumps([m.to_dict() for m in metrics]))
    if source is not None:
        save_file({"matched": matched, "mismatched_mean": mismatched, "null": null}, folder / "alignment.safetensors")
        write_shown(folder, [item.id for item in items[:3]] + [items[7].id])
    return folder


def write_shown(folder: Path, ids: list[str]) -> None:
    shown = [
        {
            "id": item_id,
            "shared": [use(1234, 3.2178, 2.0541), use(77, 0.00021, 1.5)],
            "stem_only": [use(9, 1.875, 0.0)],
            "explanation_only": [use(4001, 0.0, 4.4444), use(4002, 0.0, 1.25)],
        }
        for item_id in ids
    ]
    (folder / "item_features.json").write_text(json.dumps(shown))

    def context(i: int, token: str) -> dict[str, Any]:
        before, after = "…오른쪽 윗배 통증과 발열을 동반한", " 의심되어 담관 배액을 시행하였다. 다음 단계는"
        return {
            "value": 9.5 - i * 0.37,
            "item_id": f"case_{i:03d}",
            "part": "stem",
            "before": before,
            "token": token,
            "after": after,
        }

    examples = {
        "1234": [context(i, " 담관염이") for i in range(8)],
        "77": [context(i, "\n") for i in range(2)],
        "9": [context(i, " jaundice") for i in range(8)],
        "4001": [context(0, "황달")],
    }
    (folder / "examples.json").write_text(json.dumps(examples))


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Page(HTMLParser):
    """Tags, attributes, `<data>` values and visible text of a page."""

    void = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.text = "".join(self.texts)
        self.values = [v for tag, name, v in self.attributes if tag == "data" and name == "value"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.void and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]  # inside a tag
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path / "study")


def reports(study: Path) -> tuple[str, str]:
    markdown, html = write_report(study)
    assert (markdown, html) == (study / "report.md", study / "report.html")
    return markdown.read_text(encoding="utf-8"), html.read_text(encoding="utf-8")


def test_every_metric_is_in_both_reports_with_its_numbers(study: Path) -> None:
    markdown, html = reports(study)
    values = Page(html).values
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    for raw in json.loads((study / "metrics.json").read_text()):
        metric = MetricValue.from_dict(raw)
        numbers = [metric.value, *(metric.interval or ()), *(metric.null_interval or ()), metric.null_mean, metric.p]
        for x in numbers:
            assert x is None or repr(x) in values, (metric.name, metric.variant, x)
        variant = {"sae": "SAE features", "raw": "raw activations", "pca": "PCA", "tfidf": "TF-IDF"}.get(
            metric.variant, "model"
        )
        unescape = [[cell.replace("\\", "") for cell in row] for row in rows]
        (row,) = [row for row in unescape if row[:3] == [metric.name, metric.group, variant]]
        assert row[3] == number(metric.value) and row[8] == str(metric.n)
        assert float(row[3]) == pytest.approx(metric.value, abs=5e-5)
        assert row[7] == ("–" if metric.p is None else number(metric.p))
        if metric.interval is not None:
            assert row[4] == f"{number(metric.interval[0])} to {number(metric.interval[1])}"
        if metric.masked:
            assert row[9] == "activation sinks 31, option text chars 5,210"
            assert row[10].startswith("d_z ") and row[10].endswith("permutations 999")


def test_option_probabilities_activations_and_contexts_are_the_stored_ones(study: Path) -> None:
    markdown, html = reports(study)
    page = Page(html)
    result = read_lines(study / "items.jsonl")[0]
    weights = np.exp(result["option_logprobs"])
    for logprob, share in zip(result["option_logprobs"], weights / weights.sum(), strict=True):
        assert repr(logprob) in page.values
        assert f"{share * 100:.1f} %" in page.text and f"{share * 100:.1f} % | {number(logprob)}" in markdown
    for activation in (3.2178, 0.00021, 4.4444, 9.5 - 0.37):
        assert repr(activation) in page.values and number(activation) in markdown
    assert html.count("<mark> 담관염이</mark>") == 8 * 4 and "<mark>⏎</mark>" in html
    assert "5 more contexts of feature 1234" in html
    assert markdown.count("【 담관염이】") == 3 * 4
    assert "No contexts are stored for this feature" in html
    assert "no answer (no answer): counted as wrong" in page.text and "counted as wrong: 1." in page.text


def test_what_was_run_is_said(study: Path) -> None:
    markdown, html = reports(study)
    page = Page(html)
    for text in (DISCLAIMER, DISCLAIMER_KO, "gemma-3-270m", "CC BY 4.0", "2026-01-02T03:04:05", "2.13.0", "layer_9"):
        assert text in page.text and text in markdown.replace("\\", "")
    assert page.text.index(DISCLAIMER_KO) < page.text.index("Summary") < page.text.index("Results")
    for text in ("ab" * 32, "cd" * 32, "ef" * 32, "sink_multiple", "2 rows were skipped.", "(71 s)"):
        assert text in page.text and text in markdown.replace("\\", "")


def test_the_page_is_whole_and_loads_nothing(study: Path) -> None:
    page = Page(reports(study)[1])
    assert not page.open, "every tag is closed"
    assert not {"script", "link", "img", "iframe", "object", "embed", "image", "use", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"src", "srcset", "data", "xlink:href", "action"}, (tag, name)
        assert name != "href" or value.startswith("#"), (tag, value)
    html = (study / "report.html").read_text(encoding="utf-8")
    html = html.replace('xmlns="http://www.w3.org/2000/svg"', "")  # a name, not an address
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", html)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in page.attributes:
        if name == "href":
            assert value[1:] in ids
        elif name == "aria-labelledby":
            assert set(value.split()) <= set(ids)


def test_every_figure_has_a_title_and_says_its_numbers(study: Path) -> None:
    html = reports(study)[1]
    figures = re.findall(r"<svg.*?</svg>", html, flags=re.S)
    assert len(figures) == 5
    for figure in figures:
        svg = ElementTree.fromstring(figure)
        title, desc = (svg.find(f"{{http://www.w3.org/2000/svg}}{tag}") for tag in ("title", "desc"))
        assert title is not None and title.text and desc is not None and desc.text
        assert svg.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}" and svg.get("role") == "img"
        assert "nan" not in figure and "inf" not in figure
    arrays_text = " ".join(figures)
    metrics = [MetricValue.from_dict(m) for m in json.loads((study / "metrics.json").read_text())]
    for metric in metrics:
        if metric.group.startswith("subject="):
            assert f"{metric.group.removeprefix('subject=')}: {metric.value:.3f}" in arrays_text
    (difference,) = [m for m in metrics if m.name.endswith("mismatched") and m.variant == "sae"]
    assert f"the observed value is {difference.value:.4f}" in arrays_text


def test_untrusted_text_never_becomes_markup(study: Path) -> None:
    items, results = read_lines(study / "questions.jsonl"), read_lines(study / "items.jsonl")
    items[0] |= {
        "id": PAYLOAD,
        "subject": PAYLOAD,
        "question": f"{PAYLOAD} ![](https://evil.example/x.png)\n# heading\n- point\n1. one\n```",
        "options": [PAYLOAD, "a|b", "[x](javascript:1)", "`c`", "**d**"],
        "explanation": f'{PAYLOAD}" onclick="x',
        "language": '"><script>',
    }
    results[0] |= {"id": PAYLOAD, "subject": PAYLOAD}
    write_lines(study / "questions.jsonl", items)
    write_lines(study / "items.jsonl", results)
    write_shown(study, [PAYLOAD])
    examples = json.loads((study / "examples.json").read_text())
    examples["9"] = [
        {"value": 1.5, "item_id": PAYLOAD, "part": PAYLOAD, "before": PAYLOAD, "token": PAYLOAD, "after": PAYLOAD}
    ]
    (study / "examples.json").write_text(json.dumps(examples))
    metrics = json.loads((study / "metrics.json").read_text())
    metrics.append(
        metrics[1] | {"group": f"subject={PAYLOAD}", "variant": PAYLOAD, "notes": PAYLOAD, "masked": {PAYLOAD: 1}}
    )
    (study / "metrics.json").write_text(json.dumps(metrics))
    manifest = json.loads((study / "manifest.json").read_text())
    manifest["notes"], manifest["provenance"]["settings"] = [PAYLOAD], {PAYLOAD: [PAYLOAD]}
    manifest["provenance"]["model"]["name"] = PAYLOAD
    (study / "manifest.json").write_text(json.dumps(manifest))

    markdown, html = reports(study)
    page = Page(html)
    assert "script" not in page.tags and not page.open
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert page.text.count(PAYLOAD) >= 20
    assert not re.search(r"(?<!\\)<(?!\d)", markdown), "no character opens a tag in Markdown"
    assert r"\!\[\](https://evil.example/x.png)" in markdown and r"\[x\](javascript:1)" in markdown
    assert r"> \# heading" in markdown and r"> \- point" in markdown and r"> 1\. one" in markdown
    assert r"a\|b" in markdown


def test_a_study_without_explanations_says_so(tmp_path: Path) -> None:
    markdown, html = reports(write_study(tmp_path / "study", source=None))
    for text in (markdown, Page(html).text):
        assert "Alignment was not measured: none of the items has an explanation." in text
        assert "No items with features are stored in this study" in text
        assert "only the accuracy above" in text
    assert html.count("<svg") == 3


def test_a_study_without_sae_or_probabilities_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", source=None)
    manifest = json.loads((study / "manifest.json").read_text())
    manifest["provenance"]["sae"] = None
    (study / "manifest.json").write_text(json.dumps(manifest))
    assert "no SAE took part" in reports(study)[0]
    (study / "metrics.json").write_text("[]")
    markdown, html = reports(study)
    assert "The study holds no metric." in markdown and "The study holds no metric." in html


def test_writing_twice_gives_the_same_bytes(study: Path) -> None:
    assert reports(study) == reports(study)


def _edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def damage(study: Path) -> None:
        path = study / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return damage


def _edit_line(name: str, line: int, change: dict[str, Any]) -> Callable[[Path], None]:
    def damage(study: Path) -> None:
        rows = read_lines(study / name)
        rows[line] |= change
        write_lines(study / name, rows)

    return damage


def _arrays(**changed: np.ndarray) -> Callable[[Path], None]:
    def damage(study: Path) -> None:
        base = {name: np.full(4, 0.5, np.float32) for name in ("matched", "mismatched_mean", "null")}
        save_file(base | changed, study / "alignment.safetensors")

    return damage


DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (lambda s: (s / "manifest.json").unlink(), r"manifest\.json is missing; run the study again"),
    (lambda s: (s / "metrics.json").unlink(), r"metrics\.json is missing"),
    (lambda s: (s / "items.jsonl").write_bytes(b"\xff\xfe"), r"items\.jsonl cannot be read .*utf-8"),
    (lambda s: (s / "questions.jsonl").write_text(""), r"questions\.jsonl is empty"),
    (lambda s: (s / "metrics.json").write_text("[{"), r"metrics\.json is not valid JSON"),
    (lambda s: (s / "metrics.json").write_text("[NaN]"), r"NaN is not a JSON number"),
    (lambda s: (s / "metrics.json").write_text("3"), r"metrics\.json is damaged"),
    (lambda s: (s / "examples.json").write_text('{"x": []}'), r"examples\.json is damaged"),
    (lambda s: (s / "examples.json").write_text('{"3": [{"value": 1}]}'), r"TopContext is missing the field 'item_id'"),
    (lambda s: (s / "item_features.json").write_text('[{"id": "case_000"}]'), r"is missing the field 'shared'"),
    (_edit_json("item_features.json", lambda v: [v[0] | {"id": "nobody"}]), r"'nobody' is not in questions\.jsonl"),
    (_edit_json("manifest.json", lambda v: v | {"format": 2}), r"its format is 2, but this version reads format 1"),
    (
        _edit_json("manifest.json", lambda v: {k: v[k] for k in ("format", "provenance")}),
        r"the key 'stages' is missing",
    ),
    (_edit_json("metrics.json", lambda v: [v[0] | {"value": "0.5"}]), r"metrics\.json is damaged"),
    (_edit_json("metrics.json", lambda v: [v[0] | {"group": None}]), r"must be strings"),
    (_edit_json("metrics.json", lambda v: [v[0] | {"masked": 3}]), r"masked and extra must be objects"),
    (
        _edit_json("manifest.json", lambda v: v | {"provenance": v["provenance"] | {"versions": "1"}}),
        r"must be objects",
    ),
    (
        _edit_json("manifest.json", lambda v: v | {"provenance": v["provenance"] | {"model": {}}}),
        r"model\.name and data",
    ),
    (_edit_json("item_features.json", lambda v: [v[0] | {"shared": [use(1, "x", 0)]}]), r"two activations"),  # type: ignore[arg-type]  # damaged on purpose
    (_edit_json("examples.json", lambda v: {"9": [v["9"][0] | {"token": None}]}), r"a context needs a number"),
    (_edit_json("metrics.json", lambda v: [v[0] | {"interval": [0.1]}]), r"interval needs 2 numbers, but has 1"),
    (_edit_json("metrics.json", lambda v: [v[0] | {"interval": ["a", "b"]}]), r"not a number"),
    (_edit_line("questions.jsonl", 4, {"answer": 9}), r"questions\.jsonl, line 5 is damaged: .*outside its 5 options"),
    (_edit_line("questions.jsonl", 1, {"id": "case_000"}), r"the id 'case_000' appears twice"),
    (_edit_line("items.jsonl", 2, {"id": "stranger"}), r"the item 'stranger' is not in questions\.jsonl"),
    (_edit_line("items.jsonl", 2, {"option_logprobs": [-1.0]}), r"'case_002' needs 5 option_logprobs"),
    (
        _edit_line("items.jsonl", 2, {"prediction": "Z", "correct": False}),
        r"prediction 'Z' is not one of its options ABCDE",
    ),
    (
        lambda s: write_lines(s / "items.jsonl", read_lines(s / "items.jsonl")[:-2]),
        r"2 of 60 items have no result, 'case_058'",
    ),
    (lambda s: (s / "alignment.safetensors").write_bytes(b"no"), r"alignment\.safetensors is damaged"),
    (lambda s: save_file({"null": np.zeros(3)}, s / "alignment.safetensors"), r"has no array 'matched'"),
    (_arrays(null=np.zeros(0, np.float32)), r"must be non-empty lists of finite numbers"),
    (_arrays(matched=np.array([np.nan] * 4, np.float32)), r"finite numbers"),
    (_arrays(matched=np.zeros(3, np.float32)), r"the first two of equal length"),
    (_arrays(), r"mean difference of 0\.0000 but metrics\.json says"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_folder_is_one_sentence(study: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(study)
    with pytest.raises(StudyError, match=message) as raised:
        write_report(study)
    assert str(study) in str(raised.value) and "\n" not in str(raised.value)
    assert not (study / "report.html").exists() and not (study / "report.md").exists()


def test_a_missing_folder(study: Path) -> None:
    with pytest.raises(StudyError, match="is not a study folder: run `sae-lens-med study"):
        write_report(study / "nowhere")


def test_control_characters_and_turns_of_direction_are_shown_as_codes(study: Path) -> None:
    path = study / "questions.jsonl"
    first = json.loads(path.read_text(encoding="utf-8").splitlines()[0]) | {"question": "\ud800a\x1b[2J\x9b\u202eb"}
    rest = path.read_text(encoding="utf-8").splitlines()[1:]
    path.write_text("\n".join([json.dumps(first), *rest]), encoding="utf-8")
    page, html = (written.read_text(encoding="utf-8") for written in write_report(study))
    assert not set(page + html) & set("\ud800\x1b\x9b\u202e")
    assert r"\ud800a\x1b[2J\x9b\u202eb" in html


def verdict_of(source: str | None = "expert", **changes: Any) -> tuple[str, str]:
    """The conclusion on 60 items; by default expert-written, p = 0.003 and above TF-IDF."""
    items = make_items(source)
    p, n, value = changes.get("p", 0.003), changes.get("n", N), changes.get("value", 0.04)
    sae = MetricValue("alignment/matched_minus_mismatched", value, (-2, 2), n, p=p, null_mean=0.0, extra={"d_z": 0.5})
    metrics = [sae]
    if (words := changes.get("words", 0.2)) is not None:
        metrics.append(replace(sae, variant="tfidf", value=0.3, extra={"d_z": words}))
    metrics += [replace(sae, group=group, n=n) for group in changes.get("groups", ())]
    said = conclusion(metrics, items, has_sae=True)
    return said.en, said.ko


def test_only_a_sound_study_is_called_aligned() -> None:
    en, ko = verdict_of()
    assert "resemble those of its own explanation more than those of re-paired explanations (p = 0.0030)" in en
    assert "자기 해설의 특징과 더 비슷하다는 것" in ko
    assert "similarity is not a causal test" in en and "인과 검정이 아님" in ko
    for absent in ("too few", "not an expert", "TF-IDF does as well", "illustrative", "no alignment"):
        assert absent not in en


@pytest.mark.parametrize(
    ("arguments", "english", "korean"),
    [
        ({"source": "model"}, "written by a language model, not an expert", "전문가가 아니라 언어 모델이 작성함"),
        ({"source": "illustrative"}, "any claim about medical reasoning: none is made", "의학적 추론에 관한 모든 주장"),
        ({"n": 20}, "20 items are too few", "20개 문항은 너무 적음"),
        (
            {"p": 0.05},
            "no alignment was shown on these 60 items (p = 0.0500)",
            "일치가 확인되지 않았다는 것(p = 0.0500",
        ),
        ({"p": None}, "was not tested against a null", "귀무분포와 비교하지 않음"),
        ({"value": -0.1}, "no alignment was shown", "일치가 확인되지 않았다는 것"),
        ({"words": 0.5}, "plain TF-IDF does as well or better", "단순 TF-IDF가 같거나 더 나음"),
        ({"words": None}, "no TF-IDF baseline was measured", "TF-IDF 기준선을 측정하지 않음"),
        ({"groups": ("trained_on",)}, "text that the SAE has not been trained on", "SAE가 학습하지 않은 글"),
        (
            {"groups": ("left_out", "trained_on")},
            "60 items left out of the SAE's training text",
            "학습에서 제외된 문항",
        ),
        ({"p": 0.2, "n": 20}, "only what these 20 items gave", "20개 문항에서 나온 수치 자체뿐"),
    ],
)
def test_each_weakness_is_said_in_both_languages(arguments: dict[str, Any], english: str, korean: str) -> None:
    en, ko = verdict_of(**arguments)
    assert english in en and korean in ko
    if not {"words", "groups"} & set(arguments) and arguments != {"source": "model"}:
        assert "resemble those of its own explanation" not in en


def test_groups_that_the_sae_was_trained_on_are_explained(study: Path) -> None:
    assert "Left out and trained on" not in reports(study)[1]
    metrics = json.loads((study / "metrics.json").read_text())
    (sae,) = [m for m in metrics if m["name"].endswith("mismatched") and m["variant"] == "sae"]
    metrics += [sae | {"group": "left_out", "n": 20, "value": 0.0111, "p": 0.3}, sae | {"group": "trained_on", "n": 40}]
    (study / "metrics.json").write_text(json.dumps(metrics))
    markdown, html = reports(study)
    for text in (markdown, Page(html).text):
        assert "Left out and trained on" in text
        assert "On 20 items left out of the SAE's training text" in text and "20 items are too few" in text
