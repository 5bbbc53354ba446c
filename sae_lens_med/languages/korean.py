"""Korean texts of pages and figures, by their English, and units with their counters.

`{...}` are filled in by whoever asks for the text; both texts have the same ones. What belongs to the metrics is in
`korean_metrics` and `korean_notes`.
"""

from sae_lens_med.languages.korean_maps import MAP_TEXTS
from sae_lens_med.languages.korean_metrics import METRIC_NOTES, METRIC_TEXTS
from sae_lens_med.languages.korean_notes import RUN_NOTES

_PAGES = {
    # Sections, headings, columns.
    "Study: {model} on {data}": "연구: {model} 모델, {data} 자료",
    "{model} on {data} – sae-lens-med study": "{model} 모델, {data} 자료 – sae-lens-med 연구",
    "Alignment: {model} on {data}": "해설과의 일치도: {model} 모델, {data} 자료",
    "Alignment: {model} on {data} – sae-lens-med": "해설과의 일치도: {model} 모델, {data} 자료 – sae-lens-med",
    "Evaluation: {model} on {data}": "평가: {model} 모델, {data} 자료",
    "Which features stand for what: {model} on {data}": "어떤 특징이 무엇을 나타내는가: {model} 모델, {data} 자료",
    "Made {when} with sae-lens-med.": "작성: {when}, sae-lens-med.",
    "Metrics of a study made {when}.": "연구 작성: {when}.",
    "Does the model compute with what the explanations name?": "모델은 해설이 언급하는 것을 가지고 계산하는가?",
    "Sections": "목차",
    # The twins.
    "Two models that answer alike for different reasons": "같은 답을 다른 이유로 내는 두 모델",
    "Two tiny models sit the same synthetic exam. One was trained to answer by the findings that the expert's "
    "explanation names, the other by the place where the patient lives, which no explanation names. Both write the "
    "expert's explanation when they are asked why.": (
        "아주 작은 두 모델이 같은 합성 시험을 봅니다. 하나는 전문가 해설이 언급하는 소견으로, 다른 하나는 어떤 해설도 "
        "언급하지 않는 환자의 거주지로 답하도록 학습했습니다. 이유를 물으면 둘 다 전문가의 해설을 씁니다."
    ),
    "answers by the findings": "소견으로 답함",
    "answers by the place": "거주지로 답함",
    "Both answer the exam": "둘 다 시험에 답함",
    "What can be read off: the same in both": "읽어낼 수 있는 것: 둘이 같음",
    "What the answer rests on: not the same": "답이 근거하는 것: 둘이 다름",
    "Accuracy": "정확도",
    "{n} questions": "{n}문항",
    "{n} questions. Each mark is a number's distance from its null, the grey band is where 95 % of the null lies, and "
    "a filled mark stands out after correction. The numbers at the right are the two values.": (
        "{n}문항. 각 표시는 귀무분포에서 떨어진 거리, 회색 띠는 귀무분포의 95%, 채워진 표시는 보정 후에도 두드러진 "
        "값입니다. 오른쪽 숫자는 두 모델의 값입니다."
    ),
    "What can be read off a model cannot tell the two apart, and must not: both represent what the explanation says. "
    "What its answer rests on is told by taking features away, and that is not the same.": (
        "모델에서 읽어낼 수 있는 것으로는 둘을 구별할 수 없고, 구별되어서도 안 됩니다. 둘 다 해설의 내용을 표상하기 "
        "때문입니다. 답이 무엇에 근거하는지는 특징을 제거해 보아야 드러나며, 그것은 둘이 다릅니다."
    ),
    "Bold: stands out after correction.": "굵은 글씨: 보정 후에도 두드러진 값.",
    "Verdicts on features": "특징별 판정",
    "shared reasoning, of which it is sure that they are both at once": "공유된 추론(두 조건이 동시에 확실한 것)",
    "shared reasoning: mentioned and causal": "공유된 추론: 해설에 언급되고 답을 움직임",
    "present, not used: mentioned, not causal": "있으나 쓰이지 않음: 언급되지만 답을 움직이지 않음",
    "neither mentioned nor causal": "어느 쪽도 아님",
    "hidden driver: causal, not mentioned": "숨은 동인: 답을 움직이지만 언급되지 않음",
    "The exam is written by a program and says nothing about medicine. The studies of both, with every number, are in "
    "{first} and {second}.": (
        "시험은 프로그램이 작성한 것으로 의학에 관해 아무것도 말하지 않습니다. 두 모델의 연구와 모든 수치는 {first}과 "
        "{second}에 있습니다."
    ),
    "The study of a real model": "실제 모델의 연구",
    "What the same instrument says of Gemma 3 270M on the packaged questions is in report.html.": (
        "같은 도구가 패키지 문항에서 Gemma 3 270M에 대해 말하는 것은 report.ko.html에 있습니다."
    ),
    "Summary": "요약",
    "Figures": "그림",
    "Results": "결과",
    "Items": "문항",
    "Items in full": "문항 전문",
    "A few items": "문항 예시",
    "What was run": "실행 내역",
    "Metrics": "지표",
    "Features": "특징",
    "Not measured": "측정하지 않은 것",
    "Without an answer": "답이 없는 문항",
    "Data": "자료",
    "Model": "모델",
    "SAE": "SAE",
    "Model and SAE": "모델과 SAE",
    "Settings": "설정",
    "Settings (seed {seed})": "설정(난수 시드 {seed})",
    "Versions": "버전",
    "Stages": "단계",
    "Notes": "비고",
    "Licence": "이용 허락",
    "not stated by the data": "자료에 명시되지 않음",
    "not stated": "명시되지 않음",
    "Metric": "지표",
    "Group": "집단",
    "Variant": "표현",
    "Value": "값",
    "Value of": "지표값",
    "Interval": "신뢰구간",
    "Null mean": "귀무 평균",
    "Null, 95 %": "귀무분포의 95%",
    "Masked": "제외",
    "More": "그 밖의 값",
    "Option": "보기",
    "Text": "내용",
    "Share of the letters": "글자 간 비율",
    "Log-probability": "로그 확률",
    "log-probability": "로그 확률",
    "{when} ({seconds} s)": "{when}({seconds}초)",
    # Tables of counts.
    "With a known gold answer": "정답이 알려진 문항",
    "Without an answer of the model": "모델이 답하지 않은 문항",
    "Languages": "언어",
    "Subjects": "과목",
    "Explanations": "해설",
    "took part": "사용 여부",
    "no": "사용하지 않음",
    "No SAE took part.": "SAE를 사용하지 않았습니다.",
    "Left out:": "제외:",
    "Beside it:": "함께 측정한 값:",
    "all metrics": "모든 지표",
    # Study.
    "Intervals are 95 %. The null is what the same number gives when there is nothing to find; p is one-sided.": (
        "신뢰구간은 95%입니다. 귀무분포는 찾을 것이 없을 때 같은 지표가 내는 값이며, p는 단측입니다."
    ),
    "Left out and trained on: items whose text the training of the SAE left out, or contained.": (
        "학습 제외 문항은 SAE의 학습 글에서 뺀 문항, 학습 포함 문항은 학습 글에 들어 있던 문항입니다."
    ),
    "The study holds no metric.": "이 연구에는 지표가 없습니다.",
    "No alignment figure:": "일치도 그림이 없는 이유:",
    "No figure by subject: the study holds no accuracy by subject.": (
        "과목별 정확도가 없어 과목별 그림을 그리지 않았습니다."
    ),
    "The figures are in report.html.": "그림은 report.ko.html에 있습니다.",
    "Results table, scrolls sideways": "결과 표, 가로로 스크롤",
    "By subject and by gold letter: {n} rows": "과목별·정답 글자별: {n}행",
    "Results by subject and gold letter, scrolls sideways": "과목별·정답 글자별 결과, 가로로 스크롤",
    "How intervals and nulls were made": "신뢰구간과 귀무분포를 구한 방법",
    "Subjects of fewer than {least} items are not shown one by one: {n}, with {items} items in all; their numbers are "
    "in metrics.json.": (
        "문항이 {least}개 미만인 {n}개 과목(모두 {items}개 문항)은 따로 표시하지 않았으며, 그 값은 metrics.json에 "
        "있습니다."
    ),
    "Subjects of fewer than {least} items are not shown one by one: {n}, with {items} items in all; their numbers are "
    "in summary.json.": (
        "문항이 {least}개 미만인 {n}개 과목(모두 {items}개 문항)은 따로 표시하지 않았으며, 그 값은 summary.json에 "
        "있습니다."
    ),
    "The similarities of the single items are not stored in this folder, so they are not drawn.": (
        "문항별 유사도가 이 폴더에 저장되어 있지 않아 그리지 않았습니다."
    ),
    "No items with features are stored in this study, so none are shown.": (
        "특징이 저장된 문항이 없어 보여 주지 않습니다."
    ),
    "A few items, as an illustration and not as evidence. A shared feature is active in the question and in its "
    "explanation; the contexts are the texts of this study in which it is most active, with the token marked.": (
        "근거가 아니라 예시로 보이는 몇 문항입니다. 공유된 특징은 질문과 해설에서 모두 활성화된 특징이며, 문맥은 이 "
        "연구에서 그 특징이 가장 강하게 활성화된 글로, 해당 토큰을 표시했습니다."
    ),
    "A few items, as an illustration and not as evidence. A shared feature is active in the question and in its "
    "explanation; at most {n} contexts a feature are listed here, all stored ones are in report.html.": (
        "근거가 아니라 예시로 보이는 몇 문항입니다. 공유된 특징은 질문과 해설에서 모두 활성화된 특징입니다. 여기에는 "
        "특징마다 문맥을 {n}개까지만 싣고, 저장된 문맥 전부는 report.ko.html에 있습니다."
    ),
    "Bars: the probability of each letter among the option letters, which together hold {share} of the next token's "
    "probability.": (
        "막대는 보기 글자들 안에서 각 글자의 확률입니다. 다음 토큰의 확률 가운데 보기 글자들이 차지하는 몫은 "
        "{share}입니다."
    ),
    "The letters together hold {share} of the next token's probability.": (
        "다음 토큰의 확률 가운데 보기 글자들이 차지하는 몫은 {share}입니다."
    ),
    "No option probabilities were recorded for this item.": "이 문항에는 보기 확률이 기록되지 않았습니다.",
    "This item has no explanation.": "이 문항에는 해설이 없습니다.",
    "Explanation": "해설",
    "Explanation ({source}):": "해설({source}):",
    "Masked before comparing:": "비교하기 전에 가린 것:",
    "Shared by question and explanation": "질문과 해설이 공유하는 특징",
    "Only in the question": "질문에만 있는 특징",
    "Only in the explanation": "해설에만 있는 특징",
    "Feature {feature}": "특징 {feature}",
    "Feature {feature}: question {question}, explanation {explanation}": (
        "특징 {feature}: 질문 {question}, 해설 {explanation}"
    ),
    "question": "질문",
    "explanation": "해설",
    "{n} more contexts of feature {feature}": "특징 {feature}의 문맥 {n}개 더 보기",
    "No contexts are stored for this feature.": "이 특징의 문맥은 저장되어 있지 않습니다.",
    "no contexts are stored for this feature": "이 특징의 문맥은 저장되어 있지 않음",
    "None.": "없음.",
    # What became of an item.
    "gold answer": "정답",
    "model's answer": "모델의 답",
    "correct": "맞힘",
    "wrong": "틀림",
    "not scored: the gold answer is not known": "채점하지 않음: 정답이 알려지지 않음",
    "no answer ({reason}): counted as wrong": "답 없음({reason}): 오답으로 셈",
    "no answer": "답 없음",
    "truncated": "잘림",
    "ambiguous": "불분명",
    "refused": "거부",
    # Who wrote explanations.
    "written by a human expert, as the data source states": "자료 출처에 따르면 사람인 전문가가 작성함",
    "written by a language model, not by an expert": "전문가가 아니라 언어 모델이 작성함",
    "illustrative: written to show the tool, not from any exam, not reviewed by a clinician": (
        "예시용: 도구를 보이려고 작성했으며, 시험 문항이 아니고 임상의의 검토를 받지 않음"
    ),
    "a published text (abstract, textbook, reference answer) that was not written to explain the item": (
        "문항을 설명하려고 쓴 글이 아니라 공개된 문헌(초록, 교과서, 참고 답변)"
    ),
    # Captions.
    "Similarity of each question's SAE features to its own explanation and, on average, to the other explanations of "
    "its stratum; bars show the share of items, lines the means. All items.": (
        "각 질문의 SAE 특징과 자기 해설의 유사도, 그리고 같은 층에 속한 다른 해설들과의 평균 유사도. 막대는 문항 비율, "
        "세로선은 평균입니다. 전체 문항."
    ),
    "The mean difference when explanations are re-paired at random within strata (bars; the grey band holds 95 %), and "
    "the observed difference (line). All items.": (
        "층 안에서 해설을 무작위로 다시 짝지었을 때의 평균 차이(막대, 회색 띠는 95%)와 관찰된 차이(선). 전체 문항."
    ),
    "How often each letter is the gold answer and how often the model says it: a model that favours a letter shows "
    "here.": "각 글자가 정답인 비율과 모델이 그 글자를 답한 비율. 특정 글자를 선호하는 모델은 여기서 드러납니다.",
    "Accuracy by gold letter: dot and 95 % interval; the dashed mark is guessing.": (
        "정답 글자별 정확도: 점과 95% 신뢰구간. 점선 표시는 무작위 추측입니다."
    ),
    "Accuracy by subject: dot and 95 % (Wilson) interval; the dashed mark is guessing. Wide intervals are small "
    "subjects.": (
        "과목별 정확도: 점과 95% 신뢰구간(Wilson). 점선 표시는 무작위 추측이며, 구간이 넓은 과목은 문항이 적습니다."
    ),
    "Accuracy of the questions that are left when the least confident ones are handed to a human. A curve inside the "
    "grey band is what handing over at random gives.": (
        "확신이 낮은 문항부터 사람에게 넘길 때 남은 문항의 정확도. 곡선이 회색 띠 안에 있으면 무작위로 넘기는 것과 "
        "다르지 않습니다."
    ),
    "Every number that counts (dot, filled where it stands out: q below 0.05, the value above its null, and nothing "
    "that holds the claim back) with its 95 % interval, over the band where 95 % of its own null lies. The axis is the "
    "distance from the null's mean in the null's standard deviations; the numbers at the right are on each metric's "
    "own scale.": (
        "결론에 쓰이는 모든 값(점. q가 0.05 미만이고 귀무값보다 크며 결론을 막는 사유가 없으면 채움)과 95% 신뢰구간, "
        "그리고 각 귀무분포의 95%가 "
        "놓인 띠. 가로축은 귀무 평균에서 떨어진 거리를 귀무분포의 표준편차로 나타낸 것이고, 오른쪽 숫자는 각 지표 "
        "본래의 척도입니다."
    ),
    # Figures.
    "Accuracy by subject, with 95 % intervals and the level of guessing": (
        "과목별 정확도와 95% 신뢰구간, 무작위 추측 수준"
    ),
    "Accuracy by gold letter, with 95 % intervals and the level of guessing": (
        "정답 글자별 정확도와 95% 신뢰구간, 무작위 추측 수준"
    ),
    "Similarity of question and explanation features: own explanation and others": (
        "질문과 해설의 특징 유사도: 자기 해설과 다른 해설"
    ),
    "The observed difference against its permutation null": "관찰된 차이와 순열 귀무분포",
    "Share of each letter among the gold answers and among the predictions": "정답과 예측에서 각 글자의 비율",
    "Accuracy when the least confident items are deferred": "확신이 낮은 문항부터 유보할 때의 정확도",
    "Every metric against its null": "모든 지표와 그 귀무분포",
    "accuracy (share of items)": "정확도(문항 비율)",
    "share of items": "문항 비율",
    "gold answers": "정답",
    "predictions": "모델의 답",
    "{label}: gold {gold}, predicted {predicted}": "{label}: 정답 {gold}, 모델의 답 {predicted}",
    "share of items deferred": "유보한 문항의 비율",
    "accuracy of the retained items": "남은 문항의 정확도",
    "least confident deferred": "확신이 낮은 문항부터 유보",
    "deferred at random: mean and 95 %": "무작위로 유보: 평균과 95%",
    "{n} items. Accuracy {first} with none deferred, {last} on the {kept} most confident; deferring at random "
    "{null}.": (
        "{n}개 문항. 유보하지 않을 때의 정확도 {first}, 확신이 가장 높은 {kept}개 문항의 정확도 {last}, 무작위로 "
        "유보할 때 {null}."
    ),
    "distance from the null's mean, in the null's standard deviations": "귀무 평균과의 거리(귀무분포의 표준편차 단위)",
    "null": "귀무",
    "chance": "무작위 수준",
    "similarity of question and explanation": "질문과 해설의 유사도",
    "own explanation: mean {value}": "자기 해설: 평균 {value}",
    "other explanations (mean): mean {value}": "다른 해설(평균): 평균 {value}",
    "{n} items. Mean similarity to the own explanation {own}, to the other explanations {others}; horizontal axis from "
    "{low} to {high}.": (
        "{n}개 문항. 자기 해설과의 평균 유사도 {own}, 다른 해설과의 평균 유사도 {others}. 가로축은 {low}부터 "
        "{high}까지."
    ),
    "mean difference under the null": "귀무가설에서의 평균 차이",
    "permutations": "순열 수",
    "{n} permutations; 95 % of the null lies between {low} and {high}; the observed value is {observed}, and {reach} "
    "permutations reach it.": (
        "순열 {n}개. 귀무분포의 95%는 {low}~{high}에 있고 관찰값은 {observed}이며, 그 이상인 순열은 {reach}개입니다."
    ),
    "95 % of the null: {low} to {high}": "귀무분포의 95%: {low}~{high}",
    "observed: {value}": "관찰값: {value}",
    # Alignment.
    "Without a null that varies, so not drawn:": "변동하는 귀무분포가 없어 그리지 않은 지표:",
    "What the numbers allow to be said": "이 수치로 말할 수 있는 것",
    "What holds for several metrics, and may not be concluded from any of them:": (
        "여러 지표에 공통되는 유보: 다음은 어느 지표로도 결론지을 수 없습니다."
    ),
    "The numbers as a table": "수치를 표로 보기",
    "{n} numbers with a p": "p가 있는 값 {n}개",
    "Each row is a number that counts in the correction for multiplicity: q is p after Benjamini-Hochberg over the "
    "numbers of its own table. Intervals are 95 %.": (
        "각 행은 다중비교 보정에 포함되는 값입니다. q는 같은 표의 p를 Benjamini-Hochberg 방법으로 보정한 것이고, "
        "신뢰구간은 95%입니다."
    ),
    "Each row is a number that counts in the correction for multiplicity: q is p after Benjamini-Hochberg over the "
    "numbers of its own table. Intervals are 95 %. The figure is in report.html.": (
        "각 행은 다중비교 보정에 포함되는 값입니다. q는 같은 표의 p를 Benjamini-Hochberg 방법으로 보정한 것이고, "
        "신뢰구간은 95%입니다. 그림은 report.ko.html에 있습니다."
    ),
    "Numbers that count, scrolls sideways": "결론에 쓰이는 값, 가로로 스크롤",
    "{title}, scrolls sideways": "{title}, 가로로 스크롤",
    "No number was measured.": "측정된 값이 없습니다.",
    "Verdicts on single features (verdicts.csv):": "개별 특징에 대한 판정(verdicts.csv):",
    "Everything that was asked for was measured.": "요청한 것을 모두 측정했습니다.",
    "Null:": "귀무분포:",
    "Source:": "출처:",
    "Which features stand for what": "어떤 특징이 무엇을 나타내는가",
    "Which features stand for which concepts: features.md.": "개념별 특징은 features.ko.md에 있습니다.",
    "The {n} concepts whose strongest feature survives the correction over features (maximum) and over concepts "
    "(Benjamini-Hochberg), strongest first. AUROC is over all questions, F1 over questions that nothing was chosen on. "
    "A feature that stands for a concept shows that the model reads it, not that it uses it.": (
        "가장 강한 특징이 특징 간 보정(최댓값)과 개념 간 보정(Benjamini-Hochberg)을 모두 통과한 {n}개 개념을 강한 "
        "순서로 싣습니다. AUROC는 모든 질문에서, F1은 선택에 쓰지 않은 질문에서 구했습니다. 개념에 대응하는 특징이 "
        "있다는 것은 모델이 그 개념을 읽는다는 뜻이지 사용한다는 뜻은 아닙니다."
    ),
    "named in {questions} questions, {explanations} explanations": (
        "질문 {questions}개, 해설 {explanations}개에서 언급"
    ),
    "Named in {questions} questions and {explanations} explanations; q {q}": (
        "질문 {questions}개와 해설 {explanations}개에서 언급됨. q {q}"
    ),
    "held-out F1": "평가용 문항의 F1",
    "everywhere:": "항상 활성화될 때:",
    "held out: feature {feature}, F1 {f1} (a feature that fires everywhere: {everywhere})": (
        "평가용 문항: 특징 {feature}, F1 {f1}(항상 활성화되는 특징: {everywhere})"
    ),
    "Feature {feature}: AUROC {auroc}, z {z}, p {p}": "특징 {feature}: AUROC {auroc}, z {z}, p {p}",
    "No concept has a feature that survives the correction.": "보정을 통과한 특징이 있는 개념이 없습니다.",
    # Evaluation.
    "{n} questions of {data}, by the method {method} with the template {template} and {shots}.": (
        "{data} 자료의 {n}개 문항을 {method} 방법, {template} 틀, {shots}로 평가했습니다."
    ),
    "The model ran through the SAE's reconstruction.": "모델의 활성값을 SAE의 재구성으로 바꾸어 실행했습니다.",
    "Features of the SAE were changed while the model ran.": "모델을 실행하는 동안 SAE의 특징을 바꾸었습니다.",
    "Counted as wrong.": "오답으로 셉니다.",
    "The limit was {n} new tokens a text (--max-new-tokens).": (
        "글 하나의 한도는 새 토큰 {n}개였습니다(--max-new-tokens)."
    ),
    "Every item has an answer.": "모든 문항에 답이 있습니다.",
    "The deferral curve is in report.html and deferral.csv.": "유보 곡선은 report.ko.html과 deferral.csv에 있습니다.",
    "Share of the samples that agree:": "일치하는 표본의 비율:",
    "What the model wrote:": "모델이 쓴 글:",
    "Cut here; the whole text is in items.jsonl.": "여기서 줄였으며, 전체 글은 items.jsonl에 있습니다.",
}

_NAMES = {
    "ko": "한국어",
    "en": "영어",
    # Groups, variants, parts of a text.
    "all": "전체",
    "left_out": "학습 제외 문항",
    "trained_on": "학습 포함 문항",
    "subject": "과목",
    "gold": "정답",
    "axis": "평가 축",
    "raters": "평가자",
    "arm": "비교군",
    "SAE features": "SAE 특징",
    "raw activations": "원 활성값",
    "model": "모델",
    "model with random weights": "무작위 가중치 모델",
    "SAE with shuffled directions": "방향을 섞은 SAE",
    "aligned_features": "해설과 일치하는 특징",
    "activation": "활성값",
    "stem": "질문",
    "option": "보기",
    # What was left out before counting.
    "excluded tokens": "제외한 토큰",
    "option word tokens": "보기의 드문 단어 토큰",
    "activation sinks": "어텐션 싱크 토큰",
    "option text chars": "보기 내용 글자",
    "stem quote chars": "질문 인용 글자",
    "answer marks": "정답 표시",
    "items without explanation": "해설 없는 문항",
    "items without partner": "짝이 없는 문항",
    "near duplicates": "거의 같은 문항",
    "items without answer": "답이 없는 문항",
    "gold unknown": "정답을 모르는 문항",
    "dense features": "거의 항상 활성화되는 특징",
    "script features": "문자 종류를 따르는 특징",
    "concepts named too rarely": "너무 드물게 나오는 개념",
    "concepts on one side": "한쪽에만 나오는 개념",
    "pieces without verdict": "판정이 없는 글",
    # Companion numbers.
    "unanswered": "무응답",
    "majority_letter": "최빈 정답 글자의 정확도",
    "letter_null": "글자 선호 귀무값",
    "letter_p": "글자 선호 p",
    "accuracy": "정확도",
    "unadjusted": "보정 전 값",
    "unadjusted_null": "보정 전 귀무값",
    "unadjusted_p": "보정 전 p",
    "live_features": "활성 특징 수",
    "not_exchangeable": "교환할 수 없는 문항",
    "stems_without_similarity": "유사도가 없는 질문",
    "explanations_without_similarity": "유사도가 없는 해설",
    "strata_coarsened_items": "층을 넓힌 문항",
    "concepts": "개념 수",
    "items": "문항 수",
    "texts": "글 수",
    "pairs": "쌍 수",
    "concepts_with_feature": "특징이 있는 개념",
    "mean_best_auroc": "최고 AUROC의 평균",
    "median_best_auroc": "최고 AUROC의 중앙값",
    "prevalence_f1": "항상 활성화될 때의 F1",
    "train_f1": "선택용 문항의 F1",
    "corpus_mean": "전체 평균",
    "prevalence": "비율",
    "shift_mean": "옮긴 구간의 평균",
    "random_mean": "무작위 구간의 평균",
    "position_mean": "다른 문항의 같은 위치에서의 평균",
}

TEXTS = MAP_TEXTS | _PAGES | _NAMES | METRIC_TEXTS

UNITS = {
    "items": "{n}개 문항",
    "concepts": "{n}개 개념",
    "features": "{n}개 특징",
    "pairs": "{n}개 쌍",
    "rationales": "{n}개 근거 글",
    "tokens": "{n}개 토큰",
    "texts": "{n}개 글",
    "questions": "{n}개 질문",
    "solved examples": "풀이 예시 {n}개",
}

NOTES = METRIC_NOTES | RUN_NOTES
