"""Korean texts of the metrics, by their English: names, what they mean, their nulls, and the parts of their notes."""

METRIC_TEXTS = {
    # Titles.
    "Explanation retrieval (MRR, R@k)": "해설 검색(MRR, R@k)",
    "Matched minus mismatched similarity": "자기 해설과 다른 해설의 유사도 차",
    "Overlap of feature sets": "특징 집합의 겹침",
    "Features that stand for concepts (AUROC, held-out F1)": "개념에 대응하는 특징(AUROC, 평가용 문항의 F1)",
    "Coverage of the expert's concepts": "전문가 개념의 포괄도",
    "Where the expert looks": "전문가가 보는 곳",
    "Comprehensiveness (AOPC)": "포괄성(AOPC)",
    "Sufficiency (normalised faithfulness)": "충분성(정규화한 충실도)",
    "Expert-concept causal agreement": "전문가 개념과 인과 효과의 일치",
    "Steering specificity": "조종의 특이성",
    "Fidelity of the chain of thought": "사고 과정의 충실성",
    "Representational similarity (RSA)": "표상 유사성(RSA)",
    "Quality of feature labels (detection, fuzzing)": "특징 이름의 품질(탐지, 퍼징)",
    "Monosemanticity": "단일 의미성",
    "Clinicians' ratings": "임상의 평가",
    "Verdict per feature": "특징별 판정",
    # Values.
    "accuracy paper": "논문 규칙으로 읽은 정확도",
    "deferral area": "유보 곡선의 평균 정확도",
    "retrieval mrr": "해설 검색 MRR",
    "retrieval at 1": "해설 검색 R@1",
    "retrieval at 5": "해설 검색 R@5",
    "retrieval at 10": "해설 검색 R@10",
    "matched minus mismatched": "자기 해설과 다른 해설의 유사도 차",
    "overlap jaccard": "가중 자카드 지수",
    "overlap precision at 20": "상위 20개 특징의 정밀도",
    "overlap recall at 20": "상위 20개 특징의 재현율",
    "concept auroc z": "개념별 최고 특징의 z",
    "concept f1": "개념 특징의 F1",
    "concept coverage": "개념 포괄도",
    "plausibility auprc": "전문가 표시 구간의 AUPRC",
    "comprehensiveness": "포괄성",
    "sufficiency": "충분성",
    "causal agreement excess": "개념과 인과 효과의 상관(대리 특징을 넘는 몫)",
    "steering specificity": "조종의 특이성",
    "reasoning agreement": "추론 개념과 인과 효과의 상관",
    "rsa": "표상 유사성",
    "rsa partial": "표상 유사성(편상관)",
    "labels detection": "특징 이름 탐지",
    "labels fuzzing": "특징 이름 퍼징",
    "monosemanticity": "단일 의미성",
    "ratings contrast": "평가의 차이",
    "ratings kappa": "Cohen의 카파",
    "ratings krippendorff": "Krippendorff의 알파",
    # In a study's report.
    "share of questions answered correctly; an unanswered question counts as wrong": (
        "맞힌 문항의 비율. 답하지 않은 문항은 오답으로 셉니다"
    ),
    "similarity of question and own explanation, minus the mean over the others of the stratum": (
        "질문과 자기 해설의 유사도에서 같은 층에 속한 다른 해설과의 유사도 평균을 뺀 값"
    ),
    "mean reciprocal rank of each item's own explanation among all explanations": (
        "모든 해설 가운데 자기 해설이 놓인 순위의 역수 평균"
    ),
    "share of questions whose own explanation is the nearest": "자기 해설이 가장 가까운 질문의 비율",
    "share of questions whose own explanation is among the 5 nearest": "자기 해설이 가장 가까운 5개 안에 드는 비율",
    "share of questions whose own explanation is among the 10 nearest": "자기 해설이 가장 가까운 10개 안에 드는 비율",
    # Meanings.
    "How high the own explanation ranks among all when they are sorted by similarity to the question.": (
        "해설을 질문과의 유사도로 정렬할 때 자기 해설이 얼마나 위에 오는가."
    ),
    "Similarity of question and own explanation, less the mean over the other explanations of its stratum.": (
        "질문과 자기 해설의 유사도에서 같은 층에 속한 다른 해설과의 유사도 평균을 뺀 값."
    ),
    "How much of the strongest features question and own explanation share (weighted Jaccard, P@k, R@k).": (
        "질문과 자기 해설이 가장 강한 특징을 얼마나 공유하는가(가중 자카드 지수, P@k, R@k)."
    ),
    "How well single features tell which questions name a concept, the best of all features for each.": (
        "단일 특징이 어떤 질문에 개념이 나오는지를 얼마나 잘 구별하는가. 개념마다 가장 좋은 특징을 씁니다."
    ),
    "Mean over the concepts that explanations name of the held-out F1 of the feature chosen for each.": (
        "해설에 나오는 개념마다 고른 특징의 F1을 선택에 쓰지 않은 문항에서 구하여 평균한 값."
    ),
    "Whether the tokens through which the features move the answer are those the expert marked.": (
        "특징이 답을 움직이는 토큰이 전문가가 표시한 토큰인가."
    ),
    "How much of the answer's probability goes when the features shared with the explanation are removed.": (
        "해설과 공유된 특징을 제거하면 답의 확률이 얼마나 줄어드는가."
    ),
    "Share of the answer's margin that the features shared with the explanation keep up alone.": (
        "해설과 공유된 특징만 남겼을 때 유지되는 답의 여유(margin) 비율."
    ),
    "Whether the concepts that the expert names are those whose features move the answer more.": (
        "전문가가 언급한 개념이 그 특징이 답을 더 많이 움직이는 개념인지."
    ),
    "How far a concept's feature moves the option that names it, over what it does to all other tokens.": (
        "개념의 특징이 다른 모든 토큰에 미치는 영향에 비해 그 개념의 보기를 얼마나 움직이는가."
    ),
    "Whether the model's own reasoning drives its answer: early answering, hints owned up to, concepts.": (
        "모델이 스스로 쓴 추론이 답을 이끄는가: 조기 응답, 힌트를 인정하는지, 개념."
    ),
    "Whether questions far apart in features have explanations far apart in wording, beyond shared wording of the "
    "questions and length.": ("질문의 표현과 길이를 제외하고도, 특징이 먼 질문들은 해설의 표현도 서로 먼가."),
    "Whether a judge who reads a feature's label can tell the texts on which the feature fires.": (
        "특징의 이름을 읽은 판정자가 그 특징이 활성화되는 글을 구별할 수 있는가."
    ),
    "Mean similarity of the questions on which a feature fires, against that of any two questions.": (
        "한 특징이 활성화되는 질문들 사이의 평균 유사도를 임의의 두 질문 사이의 유사도와 비교한 값."
    ),
    "How well raters agree (Cohen's kappa, Krippendorff's alpha), and whether they prefer the true rationale to a "
    "shuffled one.": (
        "평가자들이 얼마나 일치하는가(Cohen의 카파, Krippendorff의 알파), 그리고 섞은 근거보다 실제 근거를 선호하는가."
    ),
    "Which features are both named by explanations and moving the answer: mentioned x causal, feature by feature.": (
        "해설에 언급되면서 답도 움직이는 특징은 무엇인가: 특징마다 언급 여부와 인과 여부."
    ),
    # Nulls.
    "Explanations permuted within strata of language, subject and gold letter; chance is H_n / n for MRR and k / n for "
    "R@k.": ("언어, 과목, 정답 글자로 나눈 층 안에서 해설을 섞음. 무작위 수준은 MRR에서 H_n / n, R@k에서 k / n입니다."),
    "Explanations permuted within strata of language, subject and gold letter; the mean of the null is 0.": (
        "언어, 과목, 정답 글자로 나눈 층 안에서 해설을 섞음. 귀무 평균은 0입니다."
    ),
    "Explanations permuted within strata of language, subject and gold letter and among neighbours in length, at the "
    "texts' own lengths; beside it the hypergeometric chance.": (
        "언어, 과목, 정답 글자로 나눈 층에서 길이가 비슷한 것끼리 글의 길이를 맞추어 해설을 섞음. 초기하분포의 "
        "무작위 수준도 함께 보입니다."
    ),
    "Concept labels permuted within strata of subject and length; the best feature is chosen again each time.": (
        "과목과 길이로 나눈 층 안에서 개념 표지를 섞고, 매번 가장 좋은 특징을 다시 고름."
    ),
    "Concept labels permuted; feature and threshold are chosen again each time.": (
        "개념 표지를 섞고, 매번 특징과 임곗값을 다시 고름."
    ),
    "The expert's spans shifted around the text, random spans of equal lengths, and other items' saliency at the "
    "same relative places; the hardest counts.": (
        "전문가가 표시한 구간을 글 안에서 옮긴 것, 길이가 같은 무작위 구간, 같은 상대 위치에 놓은 다른 문항의 중요도. "
        "이 가운데 가장 엄격한 것을 씁니다."
    ),
    "The same for other features of the question that fire as strongly, drawn over the whole study.": (
        "같은 질문에서 같은 세기로 활성화되는 다른 특징에서의 같은 값. 연구 전체에 걸쳐 뽑습니다."
    ),
    "The same for other features of the question that fire as strongly; all features give 1, none give 0.": (
        "같은 질문에서 같은 세기로 활성화되는 다른 특징에서의 같은 값. 모든 특징이면 1, 아무 특징도 없으면 0입니다."
    ),
    "Naming rates permuted among concepts, and what is left of the expert's weights among the questions of each.": (
        "언급률을 개념들 사이에서 섞고, 전문가 가중치의 나머지를 각 개념의 질문들 사이에서 섞음."
    ),
    "Random directions of equal norm, and random live features.": "크기가 같은 무작위 방향과, 활성화되는 무작위 특징.",
    "Answering without reasoning; no hint owned up to; concepts permuted.": (
        "추론 없이 답함, 힌트를 인정하지 않음, 개념을 섞음."
    ),
    "Mantel test: items moved within strata; studentised where something is partialled out.": (
        "Mantel 검정: 층 안에서 문항을 섞음. 편상관에서는 스튜던트화한 통계량을 씁니다."
    ),
    "Labels shuffled among features; guessing is 0.5.": "특징들 사이에서 이름을 섞음. 추측하면 0.5입니다.",
    "Activations shuffled between questions within strata of neighbours in length, length taken out; its level is "
    "about the mean cosine of the corpus.": (
        "길이가 이웃한 질문들의 층 안에서 활성값을 섞고 길이를 뺌. 그 수준은 대략 전체 질문의 평균 코사인 유사도입니다."
    ),
    "Ratings permuted among items; the arm of shuffled rationales.": "문항들 사이에서 평가를 섞음, 섞은 근거의 비교군.",
    "Mentioned: explanations of like length permuted within strata; causal: the feature's rank among others that fire "
    "as strongly; both corrected over features.": (
        "언급: 층 안에서 길이가 비슷한 해설을 섞음. 인과: 같은 세기로 활성화되는 다른 특징들 가운데의 순위. 둘 다 "
        "특징에 걸쳐 보정합니다."
    ),
}

METRIC_NOTES = {
    # Intervals and nulls.
    "Interval: Wilson, 95 %": "신뢰구간: Wilson, 95%",
    "Wilson interval": "Wilson 신뢰구간",
    "Null and p: exact, every item guessed among its options ({law})": (
        "귀무분포와 p: 모든 문항을 보기 가운데 추측하는 정확 분포({law})"
    ),
    "binomial": "이항분포",
    "Poisson-binomial, because the numbers of options differ": "보기 수가 서로 달라 포아송 이항분포",
    "letter_null and letter_p: the same predicted letters permuted over the items": (
        "letter_null과 letter_p: 같은 예측 글자를 문항들 사이에서 섞음"
    ),
    "Only {n} items: the interval is wide": "{n}개 문항뿐이라 신뢰구간이 넓음",
    "Interval: percentile bootstrap over items": "신뢰구간: 문항에 대한 백분위수 부트스트랩",
    "interval: percentile bootstrap over items": "신뢰구간: 문항에 대한 백분위수 부트스트랩",
    "null: explanations permuted within strata": "귀무분포: 층 안에서 해설을 섞음",
    "{n} items are near-duplicates, in {k} clusters: one of each cluster is measured": (
        "문항 {n}개가 거의 같은 문항이며 {k}개 묶음을 이룸. 묶음마다 하나만 측정함"
    ),
    "{n} subjects are read as {m}: spellings of one subject exchange": (
        "과목 이름 {n}개를 {m}개로 읽음. 같은 과목의 다른 표기끼리는 서로 바꿈"
    ),
    "Items exchange within {n} blocks": "문항은 {n}개 구획(block) 안에서만 서로 바꿈",
    "null: explanations permuted within strata and among neighbours in length, at the sums, lengths and scripts of the "
    "own pairs": ("귀무분포: 자기 쌍의 활성 합, 길이, 문자 종류에 맞추어 층 안에서 길이가 비슷한 것끼리 해설을 섞음"),
    "null: none, because too few items exchange to adjust for length": (
        "귀무분포: 없음(길이를 보정하기에는 서로 바꿀 문항이 너무 적음)"
    ),
    "n = {n} is small, so this cannot carry a claim": "n = {n}은 작아서 결론의 근거가 되지 못함",
    "n = {n} items is small, so this cannot carry a claim": "문항 {n}개는 적어서 결론의 근거가 되지 못함",
    "Similarity: cosine, adjusted for text length and script": "유사도: 글의 길이와 문자 종류를 보정한 코사인",
    "Similarity: cosine": "유사도: 코사인",
    "fewer than {n} items, so not adjusted for text length and script": (
        "문항이 {n}개 미만이라 글의 길이와 문자 종류를 보정하지 않음"
    ),
    "chance: hypergeometric, a floor": "무작위 수준: 초기하분포(하한)",
    "Ranks among the explanations of all items of the group": "순위: 집단의 모든 문항의 해설 가운데",
    "chance: a random order of them": "무작위 수준: 해설의 무작위 순서",
    "Mean over concepts of the largest standardised rank sum (the z of AUROC) over features": (
        "특징들 가운데 가장 큰 표준화 순위합(AUROC의 z)을 개념에 걸쳐 평균한 값"
    ),
    "null: labels permuted within strata of subject and length, the largest chosen again": (
        "귀무분포: 과목과 길이로 나눈 층 안에서 표지를 섞고 가장 큰 것을 다시 고름"
    ),
    "concepts_with_feature: Benjamini-Hochberg 5 % over concepts of the p corrected over features": (
        "특징이 있는 개념: 특징에 걸쳐 보정한 p를 개념에 걸쳐 Benjamini-Hochberg 5%로 보정"
    ),
    "concepts share questions, so no interval is given": "개념들이 질문을 공유하므로 신뢰구간을 내지 않음",
    "Feature and threshold chosen on half of the items, F1 on the others": (
        "문항의 절반에서 특징과 임곗값을 고르고 나머지에서 F1을 구함"
    ),
    "interval: percentile bootstrap over concepts, which share questions, so it is a rough one": (
        "신뢰구간: 개념에 대한 백분위수 부트스트랩(개념들이 질문을 공유하므로 어림)"
    ),
    "null: labels permuted within strata and halves, the choice made again": (
        "귀무분포: 층과 절반 안에서 표지를 섞고 다시 고름"
    ),
    "prevalence_f1: a feature that fires everywhere": "prevalence_f1: 항상 활성화되는 특징",
    "Partialled out: wording of the questions (TF-IDF), length of questions and of explanations": (
        "편상관으로 제거한 것: 질문의 표현(TF-IDF), 질문과 해설의 길이"
    ),
    "Nothing is partialled out": "편상관으로 제거한 것 없음",
    "null: items moved within strata": "귀무분포: 층 안에서 문항을 섞음",
    "p of the studentised statistic": "p는 스튜던트화한 통계량의 것",
    "pairs are not independent, so no interval is given": "쌍들이 독립이 아니므로 신뢰구간을 내지 않음",
    "Embedding: {name}": "임베딩: {name}",
    "null: activations moved between questions within strata, length taken out": (
        "귀무분포: 층 안에서 질문들 사이의 활성값을 옮기고 길이를 뺌"
    ),
    "explanations permuted within strata and among neighbours in length, at the sums, lengths and scripts of the own "
    "pairs": "층 안에서 길이가 이웃한 해설들을 섞고, 합, 길이, 문자를 원래 쌍의 것에 맞춤",
    "none, because too few items exchange to adjust for length": (
        "없음. 바꿀 수 있는 문항이 너무 적어 길이를 맞출 수 없음"
    ),
    "interval: percentile bootstrap over features, which share texts, so it is too narrow": (
        "신뢰구간: 특징에 대한 백분위수 부트스트랩(특징들이 글을 공유하므로 너무 좁음)"
    ),
    "null: activations moved between questions within strata": "귀무분포: 층 안에서 질문들 사이의 활성값을 섞음",
    "Drop of the probability of the model's own answer among the options, averaged over {sizes} removed features": (
        "보기 가운데 모델 자신의 답의 확률이 줄어든 정도를 제거한 특징 수({sizes})에 걸쳐 평균함"
    ),
    "1: as all features, 0: as none, of the right answer's margin over the other options": (
        "다른 보기에 대한 정답의 여유: 모든 특징이면 1, 없으면 0"
    ),
    "null: random features of the same question, matched in firing rate and strength there and over the study": (
        "귀무분포: 그 질문과 연구 전체에서 활성화 빈도와 세기가 비슷한 같은 질문의 무작위 특징"
    ),
    "Mean accuracy of the retained items over all shares deferred, least confident first": (
        "확신이 낮은 문항부터 유보할 때 남은 문항의 정확도를 모든 유보 비율에 걸쳐 평균한 값"
    ),
    "Null and p: confidences permuted within the subject": "귀무분포와 p: 과목 안에서 확신도를 섞음",
    "accuracy is what deferring at random gives": "정확도는 무작위로 유보할 때의 값",
    # What was compared, left out, not measured.
    "{kept} of {all} features compared; left out: {dense} dense, {script} script": (
        "{all}개 특징 가운데 {kept}개 특징을 비교함. 제외: 거의 항상 활성화되는 특징 {dense}개, 문자 종류를 따르는 "
        "특징 {script}개"
    ),
    "The pca baseline has {n} components": "PCA 기준선의 주성분은 {n}개",
    "Overlap: {n} features are active in at least one text; sets have at most {k}": (
        "겹침: 한 글에서라도 활성화되는 특징은 {n}개이고, 집합의 크기는 최대 {k}개"
    ),
    "Group '{group}' has {n} items with an explanation: alignment is not measured": (
        "집단 '{group}'에는 해설이 있는 문항이 {n}개뿐이라 일치도를 측정하지 않음"
    ),
    "Group '{group}': no two items share a subject, so explanations cannot be exchanged; matched minus mismatched is "
    "not measured, and retrieval has only its chance level": (
        "집단 '{group}': 과목이 같은 문항이 없어 해설을 서로 바꿀 수 없음. 유사도 차는 측정하지 않고, 해설 검색에는 "
        "무작위 수준만 있음"
    ),
    "RSA: explanations are compared by {name}": "표상 유사성: 해설을 비교한 방법은 {name}",
    "What partialling cannot take is what its measures of wording and length miss": (
        "표현과 길이의 척도가 놓친 것은 편상관으로 제거되지 않음"
    ),
    "Monosemanticity: with TF-IDF embeddings, features that fire on a word make texts alike that contain that word": (
        "단일 의미성: TF-IDF 임베딩에서는 한 단어에 활성화되는 특징이 그 단어가 든 글들을 비슷하게 만듦"
    ),
    "{title} (#{number}) was not measured: {reason}": "{title}({number}번): 측정하지 않음. 이유: {reason}",
    "{title} (#{number}) gave no value: {reason}": "{title}({number}번): 값이 나오지 않음. 이유: {reason}",
    "it does not say why": "이유가 기록되지 않음",
    "nothing that runs the model was asked for": "모델을 실행하는 지표를 요청하지 않음",
    "the model was not said to generate reasoning": "모델이 추론을 생성한다고 지정하지 않음",
    "fewer than two items have an explanation": "해설이 있는 문항이 두 개 미만임",
    "no question has annotated spans": "구간이 표시된 질문이 없음",
    "no file of ratings was given": "평가 파일이 없음",
    "no judge of feature labels was given, and nothing that runs the model was asked for": (
        "특징 이름의 판정자가 없고, 모델을 실행하는 지표를 요청하지 않음"
    ),
    # Notes of a study.
    "The SAE does not say which items its training text left out, so they are not reported apart": (
        "SAE에 학습에서 제외한 문항의 목록이 없어 따로 보고하지 않음"
    ),
    "None of the items is listed as left out of the SAE's training text, so groups are not reported apart": (
        "SAE의 학습에서 제외되었다고 기록된 문항이 없어 집단을 나누어 보고하지 않음"
    ),
    "Continued with other versions: {versions}": "다른 버전으로 이어서 실행함: {versions}",
    "Items left out of the SAE's training text are not distinguished: {reason}": (
        "SAE의 학습에서 제외된 문항을 구별하지 않음: {reason}"
    ),
    "the SAE's list is not the study's": "SAE의 목록이 연구의 목록과 다름",
}
