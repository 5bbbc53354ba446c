"""Texts of the pages that run the model: edited features, edited questions."""

STEERING: dict[str, tuple[str, str]] = {
    # from a case and a feature
    "steer.link": ("끄면?", "What if off?"),
    "steer.link.long": ("이 특징이 꺼진다면?", "What if this feature were off?"),
    "steer.in_case": ("문항 {number}에서 끄면?", "What if off in case {number}?"),
    "steer.edit.link": ("문항을 고쳐 다시 묻기", "Edit the question and ask again"),
    # the page
    "steer.title": ("특징을 바꾸면 답이 바뀔까? · 문항 {number}", "What if features were different? · Case {number}"),
    "steer.lead": (
        "질문의 글자들에서 특징을 끄거나 높이거나 낮추고, 모델의 답이 바뀌는지 봅니다. 같은 방식으로 바꾼 무작위 "
        "특징들의 결과를 나란히 보여 줍니다.",
        "Features are switched off, raised or lowered at the words of the question, to see whether the model's answer "
        "changes. Beside them stand random features that are changed in the same way.",
    ),
    "steer.back": ("문항 {number} 로 돌아가기", "Back to case {number}"),
    "steer.question": ("질문", "Question"),
    "steer.features": ("바꿀 특징", "Features to change"),
    "steer.nothing": ("아직 고른 특징이 없습니다. 아래에서 고르십시오.", "No feature is chosen yet; choose one below."),
    "steer.how": ("무엇을", "What"),
    "steer.how.off": ("끄기", "switch off"),
    "steer.how.amplify": ("높이기", "raise"),
    "steer.how.suppress": ("낮추기", "lower"),
    "steer.how.clamp": ("고정하기", "hold"),
    "steer.strength": ("세기 (연구 전체 최댓값의 배수)", "Strength (multiples of the maximum in the study)"),
    "steer.strength.number": ("세기, 숫자로", "Strength, as a number"),
    "steer.remove": ("빼기", "remove"),
    "steer.add": ("특징 더하기", "Add a feature"),
    "steer.add.number": ("번호로", "By its number"),
    "steer.add.do": ("더하기", "Add"),
    "steer.add.choose": ("이 질문에서 켜지는 특징", "features that fire in this question"),
    "steer.tokens": ("이어 쓰는 글", "Text that is written on"),
    "steer.tokens.none": ("쓰지 않음", "none"),
    "steer.tokens.n": ("토큰 {n}개까지", "up to {n} tokens"),
    "steer.run": ("실행", "Run"),
    "steer.cancel": ("취소", "Cancel"),
    "steer.script": (
        "모델을 실행하려면 자바스크립트가 필요합니다. 읽기는 없이도 됩니다.",
        "Running the model needs JavaScript; reading does not.",
    ),
    "steer.none": (
        "이 서버는 모델을 실행하지 않습니다. --no-model 없이 다시 시작하면 여기서 실행할 수 있습니다.",
        "This server runs no model. Start it again without --no-model to run it here.",
    ),
    "steer.uncollected": (
        "특징과 색인이 있어야 바꾼 효과를 잴 수 있습니다.",
        "The effect of an edit is measured by the study's features and their index, which are not there.",
    ),
    "steer.open_question": (
        "선택지가 없는 문항이라 비교할 답이 없습니다.",
        "An open question has no options, so there is no answer to compare.",
    ),
    # what happens
    "steer.status.sent": ("보내는 중…", "Sending…"),
    "steer.status.queued": ("차례를 기다립니다. 앞에 {n}건.", "Waiting; {n} before this one."),
    "steer.status.loading": (
        "모델을 여는 중입니다. 처음 한 번은 수십 초가 걸립니다.",
        "The model is being opened; the first time this takes tens of seconds.",
    ),
    "steer.status.opened": ("계산하는 중…", "Running…"),
    "steer.status.band": ("무작위 특징 {k} / {n}묶음", "Random features: set {k} of {n}"),
    "steer.status.token": ("이어 쓰는 중…", "Writing on…"),
    "steer.status.done": ("끝났습니다.", "Done."),
    "steer.status.cancelling": ("취소하는 중…", "Cancelling…"),
    "steer.status.lost": ("연결이 끊겼습니다. 다시 잇는 중…", "The connection is lost; trying again…"),
    "steer.status.refused": ("실행하지 못했습니다:", "It could not be run:"),
    "steer.problem.cancelled": ("취소되었습니다.", "Cancelled."),
    "steer.problem.unread": ("보는 사람이 없어 멈추었습니다.", "Stopped, as nobody was reading it."),
    "steer.problem.closed": ("서버가 끝났습니다.", "The server has ended."),
    "steer.problem.time": ("시간 한도를 넘어 멈추었습니다.", "Stopped at the limit of time."),
    "steer.problem.start": (
        "모델을 위한 프로세스를 시작하지 못했습니다:",
        "A process for the model could not be started:",
    ),
    "steer.problem.ended": (
        "모델의 프로세스가 스스로 끝났습니다. 메모리가 모자랄 때 흔합니다. 다시 실행하면 새로 열립니다.",
        "The model's process ended by itself, most often for want of memory; running again opens it anew.",
    ),
    "steer.problem.model": ("모델이 답하지 못했습니다:", "The model could not answer:"),
    "steer.problem.memory": (
        "이 컴퓨터의 메모리가 이 모델에 모자랍니다. 더 큰 컴퓨터에서 서버를 시작하십시오.",
        "The memory of this machine does not suffice for this model; start the server on a larger one.",
    ),
    "steer.problem.unexpected": (
        "모델의 프로세스에서 뜻밖의 오류가 났습니다. 서버의 터미널에 더 적혀 있습니다:",
        "Something unexpected happened in the model's process, of which the server's terminal says more:",
    ),
    "steer.problem.uncounted": (
        "이 질문에는 세는 토큰이 없어 특징을 바꿀 자리가 없습니다.",
        "No token of this question counts, so there is none at which features could be edited.",
    ),
    "steer.problem.short": (
        "이 질문에는 세는 토큰이 없습니다. 더 길게 적으십시오.",
        "No token of this question counts; write a longer one.",
    ),
    # what was found
    "steer.found": ("바뀐 것", "What changed"),
    "steer.waiting": ("실행하면 여기에 결과가 나옵니다.", "What is found stands here when it has run."),
    "steer.said.same": ("답은 그대로 {answer} 입니다.", "The answer stays {answer}."),
    "steer.said.changed": ("답이 바뀌었습니다: {before} → {after}.", "The answer changes: {before} → {after}."),
    "steer.said.probability": ("{letter} 의 확률 {before} → {after}.", "Probability of {letter}: {before} → {after}."),
    "steer.said.outside": (
        "무작위 특징 {n}묶음의 범위 밖입니다. 같은 방식으로 바꾼 무작위 특징은 이만큼 움직이지 못했습니다.",
        "This is outside the band of {n} sets of random features: none of them, changed in the same way, moved the "
        "answer so far in this direction.",
    ),
    "steer.said.less": (
        "무작위 특징 {n}묶음의 범위 밖이지만, 덜 움직인 쪽입니다. 같은 방식으로 바꾼 무작위 특징은 모두 답을 같은 "
        "방향으로 이보다 더 움직였습니다.",
        "This is outside the band of {n} sets of random features, but on the side of no change: each of them, changed "
        "in the same way, moved the answer further in one direction.",
    ),
    "steer.said.too_few": (
        "견줄 무작위 특징이 {n}묶음뿐이어서 범위 안인지 밖인지 말하지 않습니다. {least}묶음은 있어야 합니다.",
        "There are only {n} sets of random features to compare with: whether this is inside or outside of their band "
        "is not said with fewer than {least}.",
    ),
    "steer.said.few": (
        "무작위 특징 {n}묶음의 범위 밖이지만, 묶음이 적어 우연히도 {chance} 는 이렇게 나옵니다. 이 특징 때문이라고 "
        "말할 수 없습니다.",
        "This is outside the band of {n} sets of random features, but they are so few that by chance {chance} lie "
        "outside: it cannot be said to be these features.",
    ),
    "steer.said.inside": (
        "무작위 특징 {n}묶음의 범위 안입니다. 무작위 특징으로도 이만큼은 움직이므로, 이 특징에 대해 "
        "말해 주는 것이 없습니다.",
        "This is inside the band of {n} sets of random features: random ones move the answer as far, so it says "
        "nothing of these features.",
    ),
    "steer.said.silent": (
        "이 질문에서는 달라진 것이 없습니다. 끈 특징이 켜지지 않거나 세기가 0입니다.",
        "Nothing is changed in this question: what is switched off does not fire in it, or the strength is 0.",
    ),
    "steer.said.first": (
        "한 문항의 결과입니다. 모델이 늘 이렇게 답한다는 뜻이 아닙니다.",
        "This is one question; it does not say that the model always answers so.",
    ),
    "steer.band.silent": (
        "켜지지 않는 특징에는 견줄 무작위 특징이 없습니다.",
        "There are no random features to compare with features that do not fire.",
    ),
    "steer.band.alone": (
        "비슷한 세기로 켜지는 다른 특징이 모자라 견줄 무작위 특징이 없습니다. 효과가 큰지 작은지 말할 수 없습니다.",
        "Too few other features fire as strongly to stand beside these: whether the effect is large cannot be said.",
    ),
    "steer.band.few": (
        "비슷한 세기로 켜지는 다른 특징이 적어 무작위 묶음이 {n}개뿐입니다.",
        "Few other features fire as strongly: there are only {n} random sets.",
    ),
    "steer.band.n": (
        "무작위 {n}묶음 · 한 방향 p 는 {one} 보다, 두 방향 p 는 {two} 보다 작을 수 없습니다. 여기서는 두 방향 p = {p}.",
        "{n} random sets: p cannot be below {one} in one direction, {two} in both. Here, in both: p = {p}.",
    ),
    "steer.band.how": (
        "무작위 특징은 끌 때는 이 질문에서 비슷한 세기로 켜지는 것(여럿을 함께 바꿀 때는 끄는 특징 자신도 뽑힐 수 "
        "있음), 높이거나 낮추거나 고정할 때는 연구 전체에서 비슷하게 자주, 비슷한 세기로 켜지는 것입니다. 비교하는 "
        "값은 {letter} 의 로그 오즈 변화입니다: {change}, "
        "무작위 {low} ~ {high}.",
        "Random features fire about as strongly in this question where features are switched off (of several that are "
        "edited together, these themselves may be drawn), and as often and strongly over the study where they are "
        "raised, lowered or held. Compared is the change of the log odds of "
        "{letter}: {change}, random {low} to {high}.",
    ),
    "steer.table": ("선택지의 확률", "Probabilities of the options"),
    "steer.option": ("선택지", "Option"),
    "steer.before": ("전", "Before"),
    "steer.after": ("후", "After"),
    "steer.random": ("무작위", "Random"),
    "steer.bars": ("그림", "Drawn"),
    "steer.legend.before": ("바꾸기 전", "before"),
    "steer.legend.after": ("바꾼 뒤", "after"),
    "steer.legend.band": ("무작위 특징의 범위", "band of random features"),
    "steer.texts": ("이어 쓴 글", "What the model writes on"),
    # an edited question
    "edited.title": ("문항을 고쳐 다시 묻기 · 문항 {number}", "An edited question · Case {number}"),
    "edited.lead": (
        "질문이나 선택지를 고쳐 모델에 다시 묻습니다. 원래 문항은 그대로 남습니다.",
        "Edit the question or an option and ask the model again. The original stays as it is.",
    ),
    "edited.stem": ("질문", "Question"),
    "edited.option": ("선택지 {letter}", "Option {letter}"),
    "edited.too_long": ("너무 길어 여기서 고칠 수 없습니다.", "Too long to be edited here."),
    "edited.run": ("다시 묻기", "Ask again"),
    "edited.reset": ("원래대로", "Undo the edits"),
    "edited.differences": ("글에서 바뀐 것", "What changed in the text"),
    "edited.removed": ("뺀 글: ", "removed: "),
    "edited.added": ("더한 글: ", "added: "),
    "edited.features": ("특징에서 바뀐 것", "What changed in the features"),
    "edited.features.is": (
        "질문의 글자들에서 가장 센 값. 전 → 후. 조금만 고쳐도 여러 특징이 바뀔 수 있습니다.",
        "The strongest value at the words of the question, before → after. Small edits change many features.",
    ),
    "edited.kind.came": ("새로 켜짐", "Came"),
    "edited.kind.went": ("꺼짐", "Went"),
    "edited.kind.rose": ("세짐", "Rose"),
    "edited.kind.fell": ("약해짐", "Fell"),
    "edited.gold": (
        "원래 문항의 정답은 {gold}. 고친 문항에서도 맞는지는 사람이 판단해야 합니다.",
        "In the original {gold} is right; whether it still is, a person has to judge.",
    ),
    "edited.keep": ("고친 문항 남기기", "Keep the edited question"),
    "edited.keep.is": (
        "연구 폴더의 {file} 에 한 줄로 더해집니다. 모든 명령이 문항으로 읽습니다.",
        "It is added as a row to {file} in the study's folder, which every command reads as questions.",
    ),
    "edited.keep.answer": ("고친 문항의 정답", "Right answer of the edited question"),
    "edited.keep.unknown": ("모름", "not known"),
    "edited.keep.author": ("이름", "Your name"),
    "edited.keep.save": ("남기기", "Keep"),
    "edited.kept": ("남겼습니다:", "Kept:"),
    "edited.failed": ("남기지 못했습니다:", "It could not be kept:"),
}
