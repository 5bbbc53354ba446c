"""Korean texts of knowledge maps, by their English: the page, its figures, and the names of what is read off."""

MAP_TEXTS = {
    # Headings.
    "Knowledge map: {model}": "지식 지도: {model}",
    "Knowledge map: {model} – sae-lens-med": "지식 지도: {model} – sae-lens-med",
    "Which layer makes what available?": "어느 층에서 무엇을 읽어낼 수 있는가?",
    "The map": "지도",
    "Registered hypotheses": "미리 정해 둔 가설",
    "Method by method": "방법별",
    "What may not be concluded": "결론 내릴 수 없는 것",
    "Features that carry it": "이를 나르는 특징",
    "The map as a table": "표로 본 지도",
    "How it was tested": "검정 방법",
    # Figures.
    "depth (0: embedding)": "깊이(0: 임베딩)",
    "Knowledge map, domain by depth": "지식 지도, 영역과 깊이",
    "Each row is a read-out of a domain, each column a depth. The darker a cell, the further its value lies above what "
    "permuted labels give; a hatched cell does not stand out: q is not below 0.05, or the value is not above the "
    "spelling, the embedding, every model with permuted weights and the plain frame.": (
        "행은 한 영역에서 읽어낸 값, 열은 깊이입니다. 칸이 짙을수록 뒤섞은 이름표의 값보다 높습니다. 빗금 친 칸은 "
        "두드러지지 않습니다. q가 0.05 이상이거나, 철자, 임베딩, 가중치를 뒤섞은 모델, 의료와 무관한 문장 "
        "가운데 하나를 넘지 못했습니다."
    ),
    "Line: the value. Band: from the mean to the 95 % quantile of its null. Marks: depths that stand out.": (
        "선: 값. 띠: 귀무분포의 평균부터 95% 분위수까지. 표시: 두드러지는 깊이."
    ),
    "{name}, by depth": "{name}, 깊이별",
    "{name}: stands out at depth {depths}; largest {value} at depth {best}.": (
        "{name}: 깊이 {depths} 에서 두드러짐. 가장 큰 값 {value}, 깊이 {best}."
    ),
    "{name}: stands out nowhere; largest {value} at depth {best}.": (
        "{name}: 두드러지는 곳 없음. 가장 큰 값 {value}, 깊이 {best}."
    ),
    # Tables.
    "Domain": "영역",
    "Read-out": "읽어낸 값",
    "Language": "언어",
    "Largest": "최댓값",
    "At depth": "깊이",
    "Stands out at": "두드러지는 깊이",
    "nowhere": "없음",
    "Spelling": "철자",
    "Embedding": "임베딩",
    "Permuted weights": "뒤섞은 가중치",
    "p of the best": "최댓값의 p",
    "The map as a table, scrolls sideways": "표로 본 지도, 옆으로 밀어 봅니다",
    "Parts of {id}, scrolls sideways": "{id}의 검정, 옆으로 밀어 봅니다",
    "Features, scrolls sideways": "특징, 옆으로 밀어 봅니다",
    "The map as a figure, scrolls sideways": "그림으로 본 지도, 옆으로 밀어 봅니다",
    "{name}, scrolls sideways": "{name}, 옆으로 밀어 봅니다",
    "Part": "부분",
    "Controls": "대조",
    "Does not hold": "성립하지 않는 것",
    "Statistic": "통계량",
    "Rule": "판정 규칙",
    "Label": "이름표",
    "Feature": "특징",
    "Held-out AUROC": "평가용 AUROC",
    "Null, 95 % of the largest": "최댓값의 귀무 95%",
    "supported": "지지됨",
    "not supported": "지지되지 않음",
    "not testable here": "이 지도로는 검정 불가",
    "The hypotheses have not been answered yet; run: sae-lens-med map answer DIR": (
        "가설에 아직 답하지 않았습니다. 명령: sae-lens-med map answer DIR"
    ),
    "{supported} of {n} are supported, {untestable} cannot be tested here.": (
        "가설 {n}개 가운데 {supported}개가 지지되었고, {untestable}개는 이 지도로 검정할 수 없습니다."
    ),
    "Claims of others, written down with statistic, null and rule in a file that every map is asked by (its hash: "
    "{hash}). q is p after Benjamini-Hochberg over the hypotheses.": (
        "다른 이들의 주장을 통계량, 귀무가설, 판정 규칙과 함께 파일로 적어 두고 모든 지도에 똑같이 묻습니다"
        "(해시: {hash}). q는 가설 전체에 대한 Benjamini-Hochberg 보정 뒤의 p입니다."
    ),
    "The features whose held-out AUROC for a label has q below 0.05, strongest first; at most {n}.": (
        "평가용 개념에서 이름표에 대한 AUROC의 q가 0.05보다 작은 특징. 강한 것부터 {n}개까지."
    ),
    # What may not be concluded.
    "A read-out shows what a layer makes available, not what the model uses.": (
        "읽어낸 값은 층이 제공하는 것을 보여 줄 뿐, 모델이 쓰는 것을 보여 주지 않습니다."
    ),
    "Concepts, labels and texts were written for this package and reviewed by no clinician.": (
        "개념, 이름표, 글은 이 패키지를 위해 쓴 것이며 어떤 임상의도 검토하지 않았습니다."
    ),
    "The lists are the user's own: {source}.": "목록은 사용자가 준 것입니다: {source}.",
    "Cells that stand out are not the largest effects: with many permutations a tiny effect has a tiny p.": (
        "두드러지는 칸이 효과가 큰 칸인 것은 아닙니다. 순열이 많으면 작은 효과도 p가 작습니다."
    ),
    "One model was measured; nothing is said of others, nor of larger ones of its family.": (
        "한 모델만 쟀습니다. 다른 모델이나 같은 계열의 더 큰 모델에 대해서는 아무것도 말하지 않습니다."
    ),
    "Values of different read-outs, or of label sets with different numbers of labels, do not compare.": (
        "읽어낸 값의 종류가 다르거나 이름표의 수가 다르면 값을 서로 견줄 수 없습니다."
    ),
    # Names: domains, label sets, read-outs, languages. What a user's own lists call theirs stays as it is.
    "symptoms": "증상",
    "diseases": "질환",
    "drugs": "약",
    "age": "나이",
    "dosage": "용량",
    "progression": "병의 단계",
    "{domain} by {labels}": "{domain}({labels}별)",
    "system": "계통",
    "specialty": "진료과",
    "mechanism": "기전",
    "silhouette": "실루엣",
    "nearest": "최근접 이웃",
    "decade r2": "빼 둔 10년 구간의 R²",
    "order": "순서",
    "circle minus line": "원 − 직선",
    "retrieval": "언어 간 검색",
    "saliency": "기울기",
    "lesion kl": "층 제거: KL",
    "lesion margin": "층 제거: 여유",
    "lesion flips": "층 제거: 바뀐 답",
    "patching concept": "활성 이식: 개념",
    "patching last": "활성 이식: 끝",
    "Korean": "한국어",
    "English": "영어",
    "Korean and English": "한국어·영어",
    "geometry": "기하",
    "lesion": "층 제거",
    "patching": "활성 이식",
    # Beside the values of hypotheses.
    "ages": "나이",
    "permuted weights, largest": "뒤섞은 가중치의 최댓값",
    "p of 37 to 38": "37에서 38의 p",
    "p of 64 to 65": "64에서 65의 p",
    "characters": "철자",
    "embedding": "임베딩",
    "doses": "용량",
    "specialty less spelling": "진료과 − 철자",
    "participation ratio": "참여 비율",
    "nearest neighbours": "최근접 이웃",
    "first third": "앞쪽 3분의 1",
    "middle third": "가운데 3분의 1",
    "last third": "뒤쪽 3분의 1",
    "permuted pairs, 95 %": "뒤섞은 짝, 95%",
    "stages": "단계",
    "steps": "걸음",
    "mechanisms": "기전",
    "domains": "영역",
}
