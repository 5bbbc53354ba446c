"""A finished study in Korean for the pages to show, made by hand: what fires where is known.

Every word is a token. Feature `ECG` fires on every word that begins with "심전도", in question and explanation;
`PRESSURE` on "혈압" in questions alone; `FLUID` on "수액" in explanations alone; `V4R` on "V4R", and twice as strongly
as `LEAD` does; `RENAL` on "신부전" and `KIDNEY`, weaker, too. The other features fire here and there, and on every word
`SINK`, which no metric counts, all of the first forty do. The last cases are hostile (`HOSTILE`).
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import sparse

from sae_lens_med.app.index import build_index
from sae_lens_med.data.leakage import mask_leakage
from sae_lens_med.evaluation.sentences import find
from sae_lens_med.features.store import CollectedFeatures
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import OPTION_LETTERS, PARTS, FeatureActs, ItemResult, McqItem
from sae_lens_med.study import verdict
from sae_lens_med.study.measure import run_alignment
from sae_lens_med.study.measured import AlignmentFolder
from tests.synthetic_study import D_IN, D_SAE, write_study

ECG, PRESSURE, FLUID, V4R, LEAD, RENAL, KIDNEY = 3, 4, 5, 6, 7, 8, 9
WORDS = {
    ECG: ("심전도", ("stem", "explanation"), 6.0),
    PRESSURE: ("혈압", ("stem",), 4.0),
    FLUID: ("수액", ("explanation",), 5.0),
    V4R: ("V4R", ("stem", "explanation"), 8.0),
    LEAD: ("V4R", ("stem", "explanation"), 4.0),
    RENAL: ("신부전", ("stem", "explanation"), 7.0),
    KIDNEY: ("신부전", ("stem",), 3.0),
}
STEMS = (
    "64세 남성이 흉통으로 왔다. 혈압 82/50 mmHg 이고 심전도에서 II, III, aVF 유도와 V4R 유도에 ST분절 상승이 있다. "
    "처치는?",
    "76세 여성이 실신하였다. 심전도에서 방실차단이 있고 혈압은 90/60 mmHg 이다. 다음 처치는?",
    "58세 남성이 신부전으로 왔다. 소변량이 줄고 혈압 150/90 mmHg 이다. 우선 시행할 검사는?",
    "30세 여성이 기침과 열로 왔다. 흉부 사진에 침윤이 있다. 진단은?",
)
EXPLANATIONS = (
    "V4R 상승은 우심실 경색을 뜻하며 심전도만으로 알 수 있다. 전부하가 중요하므로 수액을 빠르게 준다.",
    "심전도에서 심방과 심실이 따로 뛰므로 완전방실차단이다. 심박동기가 필요하다.",
    "급성 신부전에서는 먼저 요로 폐쇄를 배제한다. 수액 상태도 살핀다.",
    "열과 침윤이 함께 있으면 폐렴이다. 배양 뒤에 항생제를 쓴다.",
)
OPTIONS = ("니트로글리세린 투여", "생리식염수 주입", "복부 초음파", "관찰")
HOSTILE = {
    "script": "<script>alert(1)</script> & <b>굵게</b> \" ' <img src=x onerror=alert(2)> 처치는?",
    "controls": "널\x00문자와 \u202e거꾸로\u202c 그리고\r\n줄바꿈이 있는 문항이다. 혈압은?",
    "long": "선택지가 아주 긴 문항이다. 처치는?",
    "letters": "선택지가 스물여섯 개인 문항이다. 처치는?",
    "unexplained": "해설이 없는 문항이다. 심전도 소견은?",
    "ungraded": "정답이 없는 문항이다. 혈압은?",
    "unanswered": "모델이 답하지 않은 문항이다. 혈압은?",
}
SINK = "스물여섯"
N = 48
"""Cases before the hostile ones."""


def _own_words(rng: np.random.Generator) -> str:
    """Findings with numbers that no other case has, so that no two cases are near-duplicates."""
    temperature, pulse, white, red, salt = rng.uniform((36, 50, 3_000, 9, 120), (40, 130, 20_000, 17, 150))
    return (
        f"체온 {temperature:.2f}도, 맥박 {pulse:.1f}회/분, 백혈구 {white:.1f}/mm³, 혈색소 {red:.2f} g/dL, "
        f"나트륨 {salt:.2f} mmol/L 였다."
    )


def _items() -> list[McqItem]:
    items, rng = [], np.random.default_rng(7)
    for i in range(N):
        kind = i % len(STEMS)
        items.append(
            McqItem(
                id=f"case-{i:03d}",
                subject=("cardiology", "nephrology")[kind == 2],
                language="ko",
                question=f"{STEMS[kind]} {_own_words(rng)}",
                options=OPTIONS,
                answer=(1, 3, 2, 3)[kind],
                explanation=f"{EXPLANATIONS[kind]} {_own_words(rng)}",
                explanation_source="expert",
                provenance={"licence": "made for tests"},
            )
        )
    for name, stem in HOSTILE.items():
        item = McqItem(
            id=f"../{name}<&>",
            subject='odd <subject> "quoted"',
            language="ko",
            question=stem,
            options=OPTIONS,
            answer=0,
            explanation=f"{stem} 라는 문항의 설명이다. <i>심전도</i>",
            explanation_source="expert",
        )
        if name == "long":
            item = replace(item, options=("짧다", "긴 " * 50_000 + "끝", "보통", "관찰"))
        if name == "letters":
            item = replace(item, options=tuple(f"{letter}번 선택" for letter in OPTION_LETTERS))
        if name == "unexplained":
            item = replace(item, explanation=None, explanation_source=None)
        if name == "ungraded":
            item = replace(item, answer=None)
        items.append(item)
    return items


def _result(item: McqItem, number: int) -> ItemResult:
    name = item.id.removeprefix("../").removesuffix("<&>")
    gold = item.gold_letter
    if name == "unanswered":
        return ItemResult(item.id, item.subject, gold, None, None, False, reason="truncated")
    answer = item.answer or 0
    predicted = answer if number % 3 == 0 else (answer + 1) % len(item.options)
    sure = -0.2 - 0.02 * (number % 7)
    logprobs = tuple(sure if k == predicted else -3.0 - 0.1 * k for k in range(len(item.options)))
    correct = None if gold is None else predicted == answer
    return ItemResult(item.id, item.subject, gold, OPTION_LETTERS[predicted], logprobs, correct)


def _features(items: list[McqItem], seed: int) -> CollectedFeatures:
    rng = np.random.default_rng(seed)
    columns: list[tuple[int, int, float]] = []
    item_of, part_of, text_of, starts, ends, excluded = [], [], [], [], [], []
    texts: dict[str, dict[str, str]] = {}

    def token(i: int, part: str, start: int, end: int, text: str) -> None:
        row = len(item_of)
        for feature, (word, parts, value) in WORDS.items():
            if part in parts and text.startswith(word):
                columns.append((row, feature, value * (0.6 + 0.4 * rng.random())))
        if text == SINK:
            columns.extend((row, feature, 900.0) for feature in range(40))
        else:
            for feature in rng.choice(np.arange(20, D_SAE), 2, replace=False):
                columns.append((row, int(feature), float(rng.gamma(1.5))))
        item_of.append(i)
        part_of.append(PARTS.index(part))
        text_of.append(int(part == "explanation"))
        starts.append(start)
        ends.append(end)
        excluded.append(text == SINK)

    for i, item in enumerate(items):
        rendered = find_templates("letter").of(item).render(item)
        written = {"question": rendered.text}
        for span in rendered.spans:
            part = "stem" if span.label == "stem" else "option"
            words = list(re.finditer(r"\S+", rendered.text[span.start : span.end]))
            for word in words[:4_000]:
                token(i, part, span.start + word.start(), span.start + word.end(), word[0])
        if item.explanation is not None:
            masked = mask_leakage(item).text
            written["explanation"] = masked
            for word in re.finditer(r"\S+", masked):
                token(i, "explanation", word.start(), word.end(), word[0])
        texts[item.id] = written
    n = len(item_of)
    rows, indices, values = (np.array(each) for each in zip(*columns, strict=True))
    acts = sparse.csr_array((values.astype(np.float32), (rows, indices)), shape=(n, D_SAE))
    acts.sort_indices()
    has = np.array([item.explanation is not None for item in items])
    raw = rng.normal(size=(len(items), D_IN)).astype(np.float32)
    return CollectedFeatures(
        acts=FeatureActs(
            item_ids=tuple(item.id for item in items),
            acts=acts,
            token_item=np.array(item_of, dtype=np.int32),
            token_part=np.array(part_of, dtype=np.uint8),
            token_id=np.zeros(n, dtype=np.int32),
            char_start=np.array(starts, dtype=np.int32),
            char_end=np.array(ends, dtype=np.int32),
            norm=np.ones(n, dtype=np.float32),
            error_norm=np.zeros(n, dtype=np.float32),
            excluded=np.array(excluded),
        ),
        token_text=np.array(text_of, dtype=np.uint8),
        texts=texts,
        raw_mean_stem=raw,
        raw_mean_explanation=raw + rng.normal(size=raw.shape).astype(np.float32),
        has_explanation=has,
        manifest={},
    )


def number_of(name: str) -> int:
    """The case of `HOSTILE` with this name."""
    return N + list(HOSTILE).index(name)


def write_reading_study(folder: Path, seed: int = 0) -> Path:
    """The study, with what `align` measures without a model, and with its index."""
    items = _items()
    results = tuple(_result(item, number) for number, item in enumerate(items))
    write_study(folder, tuple(items), _features(items, seed), results)
    concepts = folder.parent / "concepts.jsonl"
    concepts.write_text(
        '{"concept": "심전도", "category": "검사", "ko": ["심전도"], "en": ["electrocardiogram"]}\n'
        '{"concept": "신부전", "category": "질환", "ko": ["신부전"], "en": ["renal failure"]}\n',
        encoding="utf-8",
    )
    run_alignment(folder, ("retrieval", "difference", "concepts"), permutations=99, concepts=str(concepts))
    _similarities(folder, items)
    build_index(folder, progress=False)
    return folder


def _similarities(folder: Path, items: list[McqItem]) -> None:
    """Case by case, with the mean that was measured: the first case is the nearest to its explanation."""
    measured = find(AlignmentFolder(folder).metrics, verdict.DIFFERENCE, "all", "sae")
    assert measured is not None
    explained = np.array([number for number, item in enumerate(items) if item.explanation is not None])
    spread = np.linspace(0.2, -0.2, len(explained))
    mismatched = np.full(len(explained), 0.3, dtype=np.float32)
    arrays = {
        "matched": (mismatched + spread + measured.value).astype(np.float32),
        "mismatched_mean": mismatched,
        "items": explained.astype(np.int32),
        "null": np.linspace(-0.05, 0.05, 99).astype(np.float32),
    }
    save_file(arrays, folder / "alignment.safetensors")
