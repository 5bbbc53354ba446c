"""Texts of labels that a model has proposed."""

LABELS: dict[str, tuple[str, str]] = {
    "proposed.title": ("제안된 이름", "Proposed labels"),
    "proposed.lead": (
        "모델이 제안한 이름입니다. 사람이 받아들이기 전에는 이름으로 쓰이지 않습니다.",
        "A model proposes these. None is used as a label before a person accepts it.",
    ),
    "proposed.badge": ("제안", "proposed"),
    "proposed.score": (
        "판별 점수 {score} · 다른 특징의 이름으로는 {null} · 글 {pieces}개",
        "detection {score} · with labels of other features {null} · {pieces} texts",
    ),
    "proposed.score.alone": (
        "판별 점수 {score} · 비교할 다른 이름 없음 · 글 {pieces}개",
        "detection {score} · no other labels to compare with · {pieces} texts",
    ),
    "proposed.score.none": ("판별 점수 없음: 남겨 둔 글이 너무 적음", "no detection score: too few held-out texts"),
    "proposed.score.is": (
        "판별 점수: 이름만 읽은 판정자가, 이름을 만들 때 쓰지 않은 글에서 이 특징이 활성인지를 맞힌 균형 정확도입니다. "
        "0.5는 찍는 것과 같습니다. 특징이 모델 안에서 하는 일을 말하지는 않습니다.",
        "Detection: the balanced accuracy with which a judge who reads the label alone tells in which texts the "
        "feature fires, on texts that the label was not made from; 0.5 is guessing. It does not say what the feature "
        "does in the model.",
    ),
    "proposed.same": ("쓴 모델이 스스로 매긴 점수", "scored by the model that wrote it"),
    "proposed.by": ("쓴 모델", "written by"),
    "proposed.judge": ("점수를 매긴 모델", "scored by"),
    "proposed.author": ("결정하는 사람", "Who decides"),
    "proposed.accept": ("받아들이기", "Accept"),
    "proposed.reject": ("물리치기", "Reject"),
    "proposed.accept.this": ("이름으로 받아들이기: {label}", "Accept as the label: {label}"),
    "proposed.reject.this": ("물리치기: {label}", "Reject: {label}"),
    "proposed.saved": ("저장했습니다.", "Saved."),
    "proposed.failed": ("저장하지 못했습니다:", "Not saved:"),
    "proposed.nobody": ("결정하는 사람의 이름을 먼저 적어 주세요.", "First write who decides."),
    "proposed.script": ("결정하려면 자바스크립트가 필요합니다.", "Deciding needs JavaScript."),
    "proposed.decided": ("결정된 제안", "Proposals that were decided on"),
    "proposed.accepted": ("받아들임", "accepted"),
    "proposed.rejected": ("물리침", "rejected"),
    "proposed.origin": ("모델이 제안한 이름을 받아들임", "proposed by a model, accepted"),
    "proposed.waiting": ("결정을 기다리는 제안 {n}개", "{n} proposed labels wait for a decision"),
    "proposed.nothing": (
        "결정을 기다리는 제안이 없습니다. 제안을 받는 명령:",
        "No proposal waits for a decision. What makes some:",
    ),
    "proposed.table": ("제안된 이름의 표", "Table of proposed labels"),
    "proposed.column.detection": ("판별 점수", "Detection"),
    "proposed.column.null": ("다른 이름으로", "With other labels"),
    "proposed.column.model": ("모델", "Model"),
}
