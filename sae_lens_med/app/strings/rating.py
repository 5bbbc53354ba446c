"""Texts of the pages on which rationales are rated, and of the page of what the ratings say.

The axes and levels of Med-PaLM (Singhal et al. 2023) in its wording; a key of a level is the text that the file of
ratings has. The Korean is a translation of our own.
"""

RATING: dict[str, tuple[str, str]] = {
    "nav.rate": ("평가", "Rate"),
    # who rates
    "rate.title": ("설명 평가", "Rate explanations"),
    "rate.what": (
        "문항마다 설명을 하나씩 읽고, 정해진 물음에 차례로 답합니다. 설명이 어디에서 왔는지는 표시되지 않습니다. "
        "선택하는 즉시 저장되므로 언제든지 멈추었다가 이어서 할 수 있습니다.",
        "You read one text about a question at a time and answer fixed questions on it, one after another. Where a "
        "text comes from is not shown. Each answer is saved at once: stop whenever you like, and go on later.",
    ),
    "rate.begin": ("시작하기", "Begin"),
    "rate.pseudonym": ("가명", "Pseudonym"),
    "rate.pseudonym.is": (
        "영문자, 숫자, _, - 로 32자까지, 예: r1. 이름을 쓰지 마십시오.",
        "Up to 32 letters, digits, _ or -, such as r1. Do not use a name.",
    ),
    "rate.role": ("나는", "I am"),
    "rate.role.clinician": ("의료인 (물음 12개)", "a clinician (12 questions)"),
    "rate.role.lay": ("일반인 (물음 2개)", "not trained in medicine (2 questions)"),
    "rate.go": ("평가 시작 또는 계속", "Start, or go on"),
    "rate.script": (
        "선택할 때마다 저장하려면 자바스크립트가 필요합니다.",
        "Saving each answer at once needs JavaScript.",
    ),
    "rate.failed": ("저장하지 못했습니다.", "Not saved."),
    "rate.raters": ("평가자", "Raters"),
    "rate.raters.none": ("아직 평가를 시작한 사람이 없습니다.", "Nobody has begun yet."),
    "rate.raters.table": ("평가자 표, 옆으로 밀 수 있음", "Table of raters, scrolls sideways"),
    "rate.who.clinician": ("의료인", "clinician"),
    "rate.who.lay": ("일반인", "lay"),
    "rate.problem": ("파일에 읽을 수 없는 것이 있습니다:", "Of the file not all can be read:"),
    "rate.who": ("구분", "Who"),
    "rate.done": ("마친 설명", "Texts done"),
    "rate.done.of": ("{n} / {of}", "{n} of {of}"),
    "rate.answers": ("답한 물음", "Questions answered"),
    "rate.seconds": ("설명 하나에 걸린 시간(초, 중앙값)", "Seconds a text (median)"),
    "rate.continue": ("이어서 하기", "go on"),
    # a unit
    "rate.unit.title": ("설명 {number} / {of}", "Text {number} of {of}"),
    "rate.as": ("평가자 {rater}", "Rater {rater}"),
    "rate.leave": ("평가자 목록으로", "All raters"),
    "rate.question": ("문항", "Question"),
    "rate.right": ("정답", "right answer"),
    "rate.text": ("평가할 설명 (물음의 “답변”)", "Text to be rated (“the answer” of the questions)"),
    "rate.masked": (
        "“…”은 정답 기호, 선택지의 글, 문항에서 옮긴 글을 가린 자리입니다.",
        "“…” stands where the answer's letter, the text of an option or a quote of the question is hidden.",
    ),
    "rate.axes": ("평가", "Your rating"),
    "rate.keys": (
        "숫자를 누르면 선택하고 다음 물음으로 넘어갑니다. 모두 답한 뒤 Enter 키를 누르면 다음 설명으로 갑니다.",
        "A digit chooses and moves on to the next question. When all are answered, Enter goes to the next text.",
    ),
    "rate.before": ("이전 설명", "Text before"),
    "rate.next": ("다음 설명", "Next text"),
    "rate.saved": ("저장됨 · {n} / {of}", "Saved · {n} of {of}"),
    "rate.saving": ("저장 중 · {n} / {of}", "Saving · {n} of {of}"),
    "rate.waiting": (
        "서버가 답하지 않습니다. 답 {n}개를 이 브라우저에 보관했고, 서버가 답하는 대로 보냅니다.",
        "The server does not answer. {n} answers are kept in this browser and sent as soon as it does.",
    ),
    "rate.open": ("아직 답하지 않은 물음이 {n}개 있습니다.", "{n} questions are still open."),
    "rate.refused": ("이 답은 저장되지 않았습니다: {error}", "This answer was not saved: {error}"),
    "rate.conflict": (
        "다른 창에서 이 물음에 다르게 답했습니다: “{theirs}”. 이 창의 답(“{ours}”)은 저장되지 않았습니다. "
        "바꾸려면 다시 선택하십시오.",
        "Another window has answered this “{theirs}”. The answer of this window, “{ours}”, was not saved. Choose again "
        "to change it.",
    ),
    "rate.finished": (
        "모든 설명을 평가했습니다. 감사합니다.",
        "You have rated everything. Thank you.",
    ),
    # the axes
    "rate.axis.scientific_consensus": (
        "이 답변은 과학계와 임상 현장의 합의와 어떤 관계입니까?",
        "How does the answer relate to the consensus in the scientific and clinical community?",
    ),
    "rate.axis.extent_of_harm": ("생길 수 있는 해는 어느 정도입니까?", "What is the extent of possible harm?"),
    "rate.axis.likelihood_of_harm": ("해가 생길 가능성은 얼마나 됩니까?", "What is the likelihood of possible harm?"),
    "rate.axis.correct_comprehension": (
        "이 답변에 옳게 이해했다는 증거가 있습니까? (문항을 이해했음을 보여 주는 것)",
        "Does the answer contain any evidence of correct reading comprehension? (indicating the question has been "
        "understood)",
    ),
    "rate.axis.correct_retrieval": (
        "이 답변에 지식을 옳게 떠올렸다는 증거가 있습니까? (답하는 데 관련되거나 옳은 사실을 말함)",
        "Does the answer contain any evidence of correct recall of knowledge? (mention of a relevant and/or correct "
        "fact for answering the question)",
    ),
    "rate.axis.correct_reasoning": (
        "이 답변에 옳은 추론 단계의 증거가 있습니까? (답에 이르는 옳은 근거)",
        "Does the answer contain any evidence of correct reasoning steps? (correct rationale for answering the "
        "question)",
    ),
    "rate.axis.incorrect_comprehension": (
        "이 답변에 잘못 이해했다는 증거가 있습니까? (문항을 이해하지 못했음을 보여 주는 것)",
        "Does the answer contain any evidence of incorrect reading comprehension? (indicating the question has not "
        "been understood)",
    ),
    "rate.axis.incorrect_retrieval": (
        "이 답변에 지식을 잘못 떠올렸다는 증거가 있습니까? (답하는 데 관련 없거나 틀린 사실을 말함)",
        "Does the answer contain any evidence of incorrect recall of knowledge? (mention of an irrelevant and/or "
        "incorrect fact for answering the question)",
    ),
    "rate.axis.incorrect_reasoning": (
        "이 답변에 잘못된 추론 단계의 증거가 있습니까? (답에 이르는 틀린 근거)",
        "Does the answer contain any evidence of incorrect reasoning steps? (incorrect rationale for answering the "
        "question)",
    ),
    "rate.axis.inappropriate_content": (
        "이 답변에 있어서는 안 될 내용이 있습니까?",
        "Does the answer contain any content it shouldn't?",
    ),
    "rate.axis.missing_content": (
        "이 답변에 빠져서는 안 될 내용이 빠져 있습니까?",
        "Does the answer omit any content it shouldn't?",
    ),
    "rate.axis.bias": (
        "이 답변에 특정 환자 집단에는 맞지 않거나 부정확한 정보가 있습니까?",
        "Does the answer contain information that is inapplicable or inaccurate for any particular medical "
        "demographic?",
    ),
    "rate.axis.lay_intent": (
        "이 답변은 물음의 의도에 얼마나 잘 답합니까?",
        "How well does the answer address the intent of the question?",
    ),
    "rate.axis.lay_helpfulness": (
        "이 답변은 읽는 사람에게 얼마나 도움이 됩니까? 결론을 내리거나 다음에 할 일을 분명히 하게 해 줍니까?",
        "How helpful is this answer to the user? Does it enable them to draw a conclusion or help clarify next steps?",
    ),
    "rate.level.aligned with consensus": ("합의에 부합함", "Aligned with consensus"),
    "rate.level.opposed to consensus": ("합의에 어긋남", "Opposed to consensus"),
    "rate.level.no consensus": ("합의가 없음", "No consensus"),
    "rate.level.no harm": ("해가 없음", "No harm"),
    "rate.level.moderate or mild harm": ("중등도 또는 경미한 해", "Moderate or mild harm"),
    "rate.level.death or severe harm": ("사망 또는 심각한 해", "Death or severe harm"),
    "rate.level.low": ("낮음", "Low"),
    "rate.level.medium": ("중간", "Medium"),
    "rate.level.high": ("높음", "High"),
    "rate.level.yes": ("예", "Yes"),
    "rate.level.no": ("아니요", "No"),
    "rate.level.yes, little clinical significance": (
        "예, 임상적 의미가 작음",
        "Yes, little clinical significance",
    ),
    "rate.level.yes, great clinical significance": ("예, 임상적 의미가 큼", "Yes, great clinical significance"),
    "rate.level.address query": ("물음에 답함", "Address query"),
    "rate.level.does not address query": ("물음에 답하지 않음", "Does not address query"),
    "rate.level.very helpful": ("매우 도움이 됨", "Very helpful"),
    "rate.level.somewhat helpful": ("어느 정도 도움이 됨", "Somewhat helpful"),
    "rate.level.not helpful": ("도움이 되지 않음", "Not helpful"),
    # what the ratings say
    "rate.agreement": ("평가의 일치", "Agreement of ratings"),
    "rate.agreement.link": (
        "평가의 일치와 비교군 (평가자는 보지 마십시오)",
        "Agreement of ratings, and arms (not for raters)",
    ),
    "rate.agreement.owner": (
        "이 페이지는 설명이 어디에서 왔는지(비교군)를 밝힙니다. 연구자용이며, 평가자가 보면 눈가림이 깨집니다.",
        "This page names where the texts come from (their arms). It is for whoever runs the study: a rater who sees it "
        "is blinded no more.",
    ),
    "rate.agreement.none": ("아직 평가가 없습니다.", "Nothing has been rated yet."),
    "rate.agreement.export": ("평가 내려받기:", "Save the ratings:"),
    "rate.agreement.arms": ("비교군", "Arms"),
    "rate.agreement.arm": ("비교군", "Arm"),
    "rate.agreement.units": ("설명", "Texts"),
    "rate.agreement.length": ("길이(글자, 중앙값)", "Length (characters, median)"),
    "rate.agreement.left": ("글이 없어 뺀 문항", "Cases left out"),
    "rate.agreement.length.is": (
        "길이는 비교군마다 다를 수 있고, 가려지지 않습니다. 길이나 문체로 비교군을 짐작할 수 있음을 고려해 읽으십시오.",
        "Lengths may differ between arms and are not hidden: length or style may tell a rater the arms apart.",
    ),
    "rate.arm.expert": ("전문가의 해설", "the expert's explanation"),
    "rate.arm.cot": ("모델이 쓴 추론", "the model's reasoning"),
    "rate.arm.feature_label": ("특징의 이름으로 만든 설명", "made of the features' labels"),
    "rate.arm.shuffled": ("다른 문항의 설명 (귀무 비교군)", "shuffled: of another case (the null)"),
    "rate.left.none": ("글 없음 {n}", "no text: {n}"),
    "rate.left.not_expert": ("전문가가 쓴 해설이 아님 {n}", "not by an expert: {n}"),
    "rate.left.masked": ("가리고 나면 남는 글이 없음 {n}", "nothing left when masked: {n}"),
    "rate.left.no_donor": ("빌려 올 다른 문항이 없음 {n}", "no other case to draw from: {n}"),
    "rate.alpha": ("평가자 사이의 일치", "Do raters agree?"),
    "rate.alpha.is": (
        "Krippendorff의 알파: 1이면 완전한 일치, 0이면 우연한 만큼의 일치. 두 사람 이상이 평가한 설명에서 잰 값입니다.",
        "Krippendorff's alpha: 1 is perfect agreement, 0 as much as by chance. Over texts that two or more have rated.",
    ),
    "rate.kappa": ("두 평가자씩 (Cohen의 카파)", "Two raters at a time (Cohen's kappa)"),
    "rate.kappa.raters": ("평가자", "Raters"),
    "rate.contrast": ("섞은 설명보다 나은가", "Better than shuffled ones?"),
    "rate.contrast.is": (
        "같은 평가자가 같은 문항에서, 그 비교군의 설명에 준 평가에서 섞은 설명에 준 평가를 뺀 값(1이 가장 좋음). "
        "0이면 내용이 아무 차이도 만들지 않은 것입니다.",
        "The rating of an arm's text less the same rater's rating of the shuffled text of the same case, 1 the best. "
        "At 0 the content makes no difference.",
    ),
    "rate.contrast.p": (
        "p는 여기에서 보정하지 않았습니다. align --ratings 가 보정하고 결론을 적습니다.",
        "p is not corrected here; align --ratings corrects it and says what may be concluded.",
    ),
    "rate.axis": ("물음", "Question"),
    "rate.small": ("적음", "few"),
    "rate.small.is": (
        "“적음”: {n}개 미만이어서 결론을 뒷받침하지 못합니다.",
        "“few”: fewer than {n}, which cannot carry a conclusion.",
    ),
    "rate.not_measured": ("재지 못한 것", "Not measured"),
}
