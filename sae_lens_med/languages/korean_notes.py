"""Korean of what the metrics note that run the model, and of ratings and labels, by its English.

A part of a note ends at a full stop or a semicolon (`Language.note`), so each part stands here by itself.
"""

RUN_NOTES = {
    # What is left out, or cannot be.
    "not measured": "측정하지 않음",
    "they are not compared": "비교하지 않음",
    "plausibility is not measured": "전문가가 보는 곳을 측정하지 않음",
    "steering is not measured": "조종을 측정하지 않음",
    "causal agreement is not measured": "인과 효과의 일치를 측정하지 않음",
    "alpha is not measured": "알파를 측정하지 않음",
    "no verdicts": "판정 없음",
    "it is not measured": "측정하지 않음",
    "Ablation: {n} of {all} explained items": "제거: 해설이 있는 문항 {all}개 가운데 {n}개",
    "items left out of the SAE's training text come first, the rest is drawn by the seed": (
        "SAE의 학습에서 제외된 문항을 먼저 쓰고 나머지는 시드로 뽑음"
    ),
    "Ablation: {n} items are not measured: {reason}": "제거: 문항 {n}개는 측정하지 않음. 이유: {reason}",
    "no aligned feature fires in the question": "해설과 일치하는 특징이 질문에서 활성화되지 않음",
    "nothing to remove": "제거할 것이 없음",
    # What features shared with the explanation do.
    "sufficiency is not measured": "충분성을 측정하지 않음",
    "Steering: {n} of {all} pairs of item and concept, drawn by the seed": (
        "조종: 문항과 개념의 쌍 {all}개 가운데 시드로 뽑은 {n}개"
    ),
    "pairs of one concept share its feature": "한 개념의 쌍들은 같은 특징을 공유함",
    "No concept has features that stand for it": "대응하는 특징이 있는 개념이 없음",
    "No option names a concept that has a feature": "특징이 있는 개념을 언급하는 보기가 없음",
    "null: features of the same question that fire as strongly, drawn over the whole study": (
        "귀무분포: 같은 질문에서 같은 세기로 활성화되는 특징을 연구 전체에 걸쳐 뽑음"
    ),
    "Group '{group}': what the aligned features do is not measured, because {reason}": (
        "집단 '{group}': 해설과 일치하는 특징의 효과를 측정하지 않음. 이유: {reason}"
    ),
    "at {n} features the aligned ones have {ratio} times the summed activation of their stand-ins, outside of {low} to "
    "{high}": "특징 {n}개에서 해설과 일치하는 특징의 활성 합이 대리 특징의 {ratio}배로, {low}~{high}를 벗어남",
    "{share} of the stand-ins are other features than the aligned ones, fewer than {least}: too few other features of "
    "the questions fire as strongly": (
        "대리 특징 가운데 {share}만이 해설과 일치하는 특징이 아니어서 {least}보다 적음. 질문에서 같은 세기로 활성화되는"
        " 다른 특징이 너무 적음"
    ),
    "Group '{group}': no measured item has a known answer": "집단 '{group}': 정답을 아는 측정 문항이 없음",
    # Whether anything goes through the features.
    "no causal number is given": "인과 수치를 제시하지 않음",
    "Group '{group}': {n} measured items have a known answer, too few to see whether the features move it": (
        "집단 '{group}': 정답을 아는 측정 문항이 {n}개뿐이어서 특징이 답을 움직이는지 볼 수 없음"
    ),
    "Group '{group}': all features together speak against the right answer: they move {measured}": (
        "집단 '{group}': 모든 특징을 합하면 정답에 불리하게 작용함: {measured}"
    ),
    "Group '{group}': all features together move {measured}, which is not told from 0": (
        "집단 '{group}': 모든 특징을 합한 효과가 0과 구별되지 않음: {measured}"
    ),
    "Group '{group}': without what the SAE misses, the features give {share} of the margin that removing them takes (95"
    " % interval {low} to {high}), not surely more than {least}: the answer goes through what the SAE misses": (
        "집단 '{group}': SAE가 재구성하지 못한 부분을 빼면 특징이 주는 여유는 특징을 제거할 때 잃는 여유의 {share}배("
        "95% 신뢰구간 {low}~{high})로, {least}보다 크다고 할 수 없음. 답이 SAE가 재구성하지 못한 부분을 통해 나옴"
    ),
    "the margin of the right answer by {mean} logits (95 % interval {low} to {high})": (
        "정답의 여유 {mean} 로짓(95% 신뢰구간 {low}~{high})"
    ),
    "The answer may have left these tokens before this layer": "답이 이 층보다 앞에서 이미 이 토큰들을 떠났을 수 있음",
    # Steering.
    "Logits of the target's margin per nat of change of all other tokens, averaged over concepts": (
        "다른 모든 토큰의 변화 1 nat당 대상 보기의 여유(로짓), 개념에 걸친 평균"
    ),
    "null: random directions of equal length": "귀무분포: 길이가 같은 무작위 방향",
    "p is the larger of that and the p of the shift against random live features": (
        "p는 그 값과, 활성화되는 무작위 특징에 견준 이동의 p 가운데 큰 쪽"
    ),
    # Agreement.
    "Causal agreement: {n} pairs of item and concept are left out: no other feature of the question fires as strongly "
    "as the concept's": "인과 효과의 일치: 개념의 특징만큼 강하게 활성화되는 다른 특징이 질문에 없어 쌍 {n}개를 제외함",
    "Group '{group}': {n} pairs of item and concept count (items with two concepts that have features), fewer than "
    "{least}": "집단 '{group}': 세는 문항과 개념의 쌍이 {n}개로(특징이 있는 개념이 둘인 문항), {least}개보다 적음",
    "Group '{group}': the experts name every concept that has features, or none, or all move the answer alike": (
        "집단 '{group}': 전문가가 특징이 있는 개념을 모두 언급하거나 전혀 언급하지 않거나, 모두가 답을 똑같이 움직임"
    ),
    "Correlation over pairs of item and concept within items": "문항 안에서, 문항과 개념의 쌍에 걸친 상관",
    "null: naming rates permuted among concepts, and what is left of the expert's weights among the items of each": (
        "귀무분포: 언급률을 개념들 사이에서 섞고, 전문가 가중치의 나머지를 각 개념의 문항들 사이에서 섞음"
    ),
    "null: mention rates permuted among concepts, and what is left of the mentions among the items of each": (
        "귀무분포: 언급률을 개념들 사이에서 섞고, 언급의 나머지를 각 개념의 문항들 사이에서 섞음"
    ),
    "{n} pairs of item and concept count, fewer than {least}, so the reasoning's concepts are not compared with what "
    "moves the answer": (
        "세는 문항과 개념의 쌍이 {n}개로 {least}개보다 적어, 추론의 개념을 답을 움직이는 것과 비교하지 않음"
    ),
    # Verdicts by rank.
    "causal means that removing the feature moves the answer more than removing others does that fire as strongly "
    "there": (
        "인과란 그 특징을 제거할 때, 그곳에서 같은 세기로 활성화되는 다른 특징을 제거할 때보다 답이 더 움직인다는 뜻임"
    ),
    "{n} of those were removed": "그런 특징 {n}개를 제거해 봄",
    "{n} features that are not tested fire in {items} of the items that were not used to choose, fewer than the "
    "{least} that a test needs": (
        "선택에 쓰지 않은 문항 {items}개에서 활성화되는, 검정하지 않는 특징이 {n}개로 검정에 필요한 {least}개보다 적음"
    ),
    "null: as many features of each kind, unrelated, among those chosen alike": (
        "귀무분포: 같은 방법으로 고른 특징 안에서, 종류마다 같은 수의 서로 관련 없는 특징"
    ),
    # Where the expert looks.
    "Group '{group}': no item has premises that the expert marked in the question": (
        "집단 '{group}': 전문가가 전제를 표시한 문항이 없음"
    ),
    "Group '{group}': no item has words of the question for concepts that the explanation names": (
        "집단 '{group}': 해설이 언급하는 개념을 가리키는 낱말이 질문에 있는 문항이 없음"
    ),
    "Spans: {what}": "구간: {what}",
    "premises that the expert marked in the question": "전문가가 질문에 표시한 전제",
    "words of the question for concepts that the explanation names": "해설이 언급하는 개념을 가리키는 질문의 낱말",
    "null: the hardest of shifted spans, random spans and other items' saliency at the same relative places": (
        "귀무분포: 옮긴 구간, 무작위 구간, 같은 상대 위치에 놓은 다른 문항의 중요도 가운데 넘기 가장 어려운 것"
    ),
    "Plausibility: the marked premises are nearly the whole case, so they are told from the closing question only": (
        "전문가가 보는 곳: 표시된 전제가 증례의 거의 전부이므로 마지막 물음과만 구별됨"
    ),
    # Causal agreement.
    "No concept of the questions has features of its own": "질문의 개념에 고유한 특징이 없음",
    # Verdicts.
    "Verdicts: {n} features chosen on {chosen} items, tested on {tested} others": (
        "판정: 특징 {n}개를 문항 {chosen}개에서 고르고 다른 문항 {tested}개에서 검정함"
    ),
    "Features chosen on one half of the items and tested on the other": (
        "문항의 절반에서 특징을 고르고 나머지 절반에서 검정함"
    ),
    "A share of 0 with few causal features is no evidence of absence": (
        "인과 특징이 적을 때 비율이 0이라는 것은 없다는 증거가 아님"
    ),
    # Reasoning.
    "No reasoning was run, so its fidelity is not measured": "추론을 실행하지 않아 충실성을 측정하지 않음",
    "{n} of {all} items have no reasoning beside the answer": "문항 {all}개 가운데 {n}개는 답 외에 추론이 없음",
    "No item has an answer after its reasoning, so early answering is not measured": (
        "추론 뒤에 답이 있는 문항이 없어 조기 응답을 측정하지 않음"
    ),
    "null: as much filler in the place of the reasoning, the two changing places within items": (
        "귀무분포: 추론 자리에 같은 길이의 채움 글을 두고 문항 안에서 둘을 맞바꿈"
    ),
    "No item was given a hint, so hint acknowledgement is not measured": (
        "힌트를 준 문항이 없어 힌트 인정을 측정하지 않음"
    ),
    "{n} of {all} answers moved to the hint, {elsewhere} to another option": (
        "답 {all}개 가운데 {n}개는 힌트로, {elsewhere}개는 다른 보기로 옮겨 감"
    ),
    "Hint acknowledgement is not measured": "힌트 인정을 측정하지 않음",
    "Of answers that moved to the hint": "힌트로 옮겨 간 답에서 구한 값",
    "null: the same rule on the reasoning without a hint": "귀무분포: 힌트 없는 추론에 같은 규칙을 적용함",
    "the rule finds words, so paraphrases are missed": "낱말을 찾는 규칙이므로 바꾸어 쓴 표현은 놓침",
    "The concepts of the reasoning are not compared: no concept's features were ablated": (
        "추론의 개념을 비교하지 않음: 특징을 제거해 본 개념이 없음"
    ),
    # Labels.
    "There is no judge, so labels are not scored": "판정자가 없어 특징 이름을 채점하지 않음",
    "name one, or let the model run": "판정자를 지정하거나 모델을 실행해야 함",
    "{n} labels, from {source}": "특징 이름 {n}개, 출처: {source}",
    "the concepts that features stand for": "특징이 나타내는 개념",
    "{n} of {all} labelled features have too few contexts for {kind}": (
        "이름이 있는 특징 {all}개 가운데 {n}개는 문맥이 적어 {kind}에 쓸 수 없음"
    ),
    "detection": "탐지",
    "fuzzing": "퍼징",
    "The judge {judge} gave no verdict on any of the {n} pieces for {kind}, so that was not measured": (
        "판정자({judge})가 {kind}에 쓰인 글 {n}개 가운데 어느 것도 판정하지 않아 측정하지 않음"
    ),
    "check that it answers with a JSON list of 0 and 1, or name another judge": (
        "0과 1의 JSON 목록으로 답하는지 확인하거나 다른 판정자를 지정해야 함"
    ),
    "Balanced accuracy": "균형 정확도",
    "judge: {judge}": "판정자: {judge}",
    "interval: percentile bootstrap over features": "신뢰구간: 특징에 대한 백분위수 부트스트랩",
    "null: labels shuffled among the features": "귀무분포: 특징들 사이에서 이름을 섞음",
    "all p are coarse: the least is 1 / (permutations + 1)": "모든 p는 성김. 가장 작은 값은 1 / (순열 수 + 1)",
    # Ratings.
    "There is no file of ratings": "평가 파일이 없음",
    "No shuffled rationales were rated: there is nothing that a rating of an arm can be compared with": (
        "섞은 근거를 평가한 것이 없어, 비교군의 평가를 견줄 대상이 없음"
    ),
    "Axis {axis}: nothing is rated twice, or all ratings are the same": (
        "평가 축 {axis}: 두 번 평가된 것이 없거나 모든 평가가 같음"
    ),
    "Axis {axis}: no rater rated {arm} and shuffled of the same item": (
        "평가 축 {axis}: 같은 문항의 {arm} 근거와 섞은 근거를 모두 평가한 사람이 없음"
    ),
    "Krippendorff's alpha": "Krippendorff의 알파",
    "interval: percentile bootstrap over rationales": "신뢰구간: 근거에 대한 백분위수 부트스트랩",
    "null: each rater's ratings permuted among the rationales that he or she rated": (
        "귀무분포: 평가자마다 자신이 평가한 근거들 사이에서 평가를 섞음"
    ),
    "Cohen's kappa": "Cohen의 카파",
    "null: the second rater's ratings permuted": "귀무분포: 둘째 평가자의 평가를 섞음",
    "Rating less the same rater's rating of a shuffled rationale, 1 the best": (
        "같은 평가자가 섞은 근거에 준 평가를 뺀 값. 1이 가장 좋음"
    ),
    "null: random signs": "귀무분포: 부호를 무작위로 바꿈",
    # Parts of what other metrics leave out.
    "RSA: the group '{group}' has too few items that can be exchanged": (
        "표상 유사성: 집단 '{group}'에는 서로 바꿀 수 있는 문항이 너무 적음"
    ),
    "Monosemanticity: nothing in the group '{group}' can be exchanged": (
        "단일 의미성: 집단 '{group}'에는 서로 바꿀 수 있는 것이 없음"
    ),
    "Monosemanticity needs at least two questions": "단일 의미성에는 질문이 두 개 이상 필요함",
    "Concepts: no concept is named by {n} questions of the group '{group}' and not by all": (
        "개념: 집단 '{group}'의 질문 {n}개 이상에 나오면서 모든 질문에 나오지는 않는 개념이 없음"
    ),
    # A study made again.
    "The stage {name} was made again: its files were not recorded": "단계 {name}: 다시 만듦. 파일이 기록되지 않았음",
    "The stage {name} was made again: what {others} gave is new": (
        "단계 {name}: 다시 만듦. {others} 단계의 결과가 새로움"
    ),
    "The stage {name} was made again: {reason}": "단계 {name}: 다시 만듦. 이유: {reason}",
    "{file} is missing": "{file} 파일이 없음",
    "{file} was changed since it was written": "{file} 파일이 기록된 뒤에 바뀌었음",
    "{metric} is missing or was changed in alignment/ since it was measured": (
        "alignment/의 {metric} 지표가 없거나 측정된 뒤에 바뀌었음"
    ),
}
