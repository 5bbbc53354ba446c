"""Sentences of errors that the pages can raise (`app.refusals`). The English one is the error's message, too."""

REFUSALS: dict[str, tuple[str, str]] = {
    # what there is not
    "refused.study": ("연구 {n}번은 없습니다. 여기에는 {of}개뿐입니다.", "there is no study {n} here, only {of}."),
    "refused.one_study": (
        "여기에는 연구가 하나뿐입니다. 비교하려면 서버를 연구 둘로 시작하십시오.",
        "one study is served here; to compare, start the server with two.",
    ),
    "refused.file": ("그런 파일이 없습니다: {name}.", "there is no file {name}."),
    "refused.file.of": (
        "그런 파일이 없습니다: {name}. 있는 것: {names}.",
        "there is no file {name}; there are {names}.",
    ),
    "refused.figure": (
        "연구 {study} 에는 그림 {name} 에 그릴 것이 없습니다.",
        "the study {study} has nothing for a figure {name}.",
    ),
    "refused.pairs": (
        "두 연구에는 파일 {name} 에 담을 것이 없습니다.",
        "the two studies have nothing for a file {name}.",
    ),
    "refused.case": (
        "이 연구의 문항은 {of}개이고 0부터 셉니다. {number}번은 없습니다.",
        "the study has {of} cases, numbered from 0, and no case {number}.",
    ),
    "refused.feature": (
        "이 SAE의 특징은 {of}개이고 0부터 셉니다. {feature}번은 없습니다.",
        "the SAE has {of} features, numbered from 0, and no feature {feature}.",
    ),
    "refused.features.unknown": (
        "이 연구에 어떤 특징이 있는지 적혀 있지 않습니다. 연구를 다시 실행해 특징을 모으십시오.",
        "nothing says which features this study has; run it again to collect them.",
    ),
    "refused.features.index": (
        "특징으로 문항을 고르려면 연구의 색인이 필요합니다. `sae-lens-med index` 로 만드십시오.",
        "cases by feature need the study's index; make it with `sae-lens-med index`.",
    ),
    "refused.map": (
        "여기에는 지도가 없습니다. `sae-lens-med map layers` 로 만들고 --map 으로 알려 주십시오.",
        "there is no map here; make one with `sae-lens-med map layers`, and name it with --map.",
    ),
    "refused.map.row": (
        "이 지도의 행은 {of}개이고 0부터 셉니다. {row}번은 없습니다.",
        "the map has {of} rows, numbered from 0, and no row {row}.",
    ),
    "refused.map.depth": (
        "이 모델의 깊이는 {of}개이고 0부터 셉니다. {depth}번은 없습니다.",
        "the model has {of} depths, numbered from 0, and no depth {depth}.",
    ),
    "refused.segment": (
        "문항 {number} 의 {part} 에는 {segment}번 자리가 없습니다.",
        "case {number} has no segment {segment} in {part}.",
    ),
    "refused.uncollected": (
        "이 연구의 특징을 모으지 않았습니다. 연구를 실행하십시오.",
        "the features of this study were not collected; run the study.",
    ),
    "refused.unread": (
        "이 문항의 특징을 읽을 수 없습니다. 연구를 다시 실행하십시오. ({reason})",
        "the features of this case cannot be read; run the study again. ({reason})",
    ),
    "refused.damaged": (
        "색인 파일이 손상되었습니다: {path} ({reason}). 색인을 다시 만드십시오.",
        "{path} is damaged: {reason}; index the study again.",
    ),
    "refused.read_only": (
        "{path} 에 쓸 수 없어({reason}) 아무것도 남기지 못했습니다. 자리를 비우거나 쓸 수 있는 사본에서 작업하십시오.",
        "{path} cannot be written ({reason}), so that nothing was kept; make room, or work on a copy that you may "
        "write to.",
    ),
    # labels
    "refused.label.newer": (
        "특징 {feature} 에는 개정 {revision} 보다 새로운 이름이 있습니다(지금은 {newest}). 그것을 본 뒤 다시 "
        "적으십시오.",
        "feature {feature} has a newer label than revision {revision} (it is {newest} now); look at it, then write "
        "yours again.",
    ),
    "refused.line.label": ("이름", "label"),
    "refused.line.author": ("적은 사람", "author"),
    "refused.line.id": ("항목의 id", "id"),
    "refused.line.empty": ("{what} 칸이 비어 있습니다. 적어 주십시오.", "the {what} is empty; write one."),
    "refused.line.long": (
        "{what} 칸이 {n}자입니다. {most}자까지 됩니다. 줄이십시오.",
        "the {what} has {n} characters, and {most} are allowed; shorten it.",
    ),
    "refused.line.surrogate": (
        "{what} 칸에 파일에 담을 수 없는 반쪽 글자(서로게이트)가 있습니다. 다시 적으십시오.",
        "the {what} has half of a surrogate pair, which no file can hold; write it again.",
    ),
    "refused.proposal": (
        "특징 {feature} 에는 그런 제안이 없습니다: {proposal}.",
        "feature {feature} has no proposed label {proposal}.",
    ),
    "refused.decision.id": (
        "이 결정의 id는 다른 결정의 것입니다. 페이지를 새로 고친 뒤 다시 결정하십시오.",
        "this decision has the id of another one; reload the page, and decide again.",
    ),
    "refused.decision.label": (
        "이 결정의 id는 다른 이름의 것입니다. 페이지를 새로 고친 뒤 다시 결정하십시오.",
        "this decision has the id of another label; reload the page, and decide again.",
    ),
    "refused.decided.accepted": (
        "이 제안은 {author} 님이 {day}에 이미 받아들였습니다. 특징을 다시 보십시오.",
        "{author} has accepted this proposal on {day} already; look at the feature again.",
    ),
    "refused.decided.rejected": (
        "이 제안은 {author} 님이 {day}에 이미 물리쳤습니다. 특징을 다시 보십시오.",
        "{author} has rejected this proposal on {day} already; look at the feature again.",
    ),
    "refused.decision.author": (
        "결정에는 1~{most}자의 이름과 id가 필요합니다.",
        "a decision needs an author and an id of 1 to {most} characters.",
    ),
    # steering
    "refused.no_model": (
        "이 서버는 모델을 실행하지 않습니다. 특징을 바꾸거나 고친 문항을 실행하려면 --no-model 없이 시작하십시오.",
        "this server runs no model; start it without --no-model to steer and to run edited questions.",
    ),
    "refused.busy": (
        "이미 {n}건이 모델을 기다립니다. 하나가 끝나면 다시 시도하십시오.",
        "{n} wait for the model already; try again when one of them is done.",
    ),
    "refused.run": (
        "그런 실행은 여기 없습니다: {run}. 오래전에 끝났을 수 있습니다. 다시 실행하십시오.",
        "there is no run {run} here; it may have ended long ago. Start it again.",
    ),
    "refused.edit.how": (
        "특징 {feature}: 할 수 있는 것: {hows}. 받은 값: {how}.",
        "feature {feature}: what is done is one of {hows}, got {how}.",
    ),
    "refused.edit.strength": (
        "특징 {feature}: 세기는 그 특징 최댓값의 0배에서 {most}배까지입니다. 받은 값: {strength}.",
        "feature {feature}: a strength lies between 0 and {most} times the feature's maximum, got {strength}.",
    ),
    "refused.edit.form": (
        "{given}: 특징을 바꾸는 말이 아닙니다. 12:off 나 9:amplify:2 처럼 번호, 할 일, 세기를 적으십시오.",
        "{given} is no edit of a feature; write its number, what is done and how strongly, such as 12:off or "
        "9:amplify:2.",
    ),
    "refused.edit.number": (
        "특징은 1개에서 {most}개까지 함께 바꿉니다. 받은 수: {n}.",
        "1 to {most} features are edited together, got {n}.",
    ),
    "refused.edit.twice": (
        "같은 특징이 두 번 나옵니다. 한 번씩만 적으십시오.",
        "a feature is named twice; name each one once.",
    ),
    "refused.edit.silent": (
        "특징 {feature}: 이 연구에서 한 번도 켜지지 않아 기준이 되는 최댓값이 없습니다. 끄는 것만 할 수 있습니다.",
        "feature {feature} never fires in this study, so there is no maximum to edit it by; it can only be switched "
        "off.",
    ),
    "refused.tokens": (
        "질문 뒤에는 0~{most}토큰을 이어 씁니다. 받은 수: {n}.",
        "0 to {most} tokens are written after a question, got {n}.",
    ),
    "refused.unindexed": (
        "연구 {study} 에는 색인된 특징이 없어 바꾼 효과를 잴 수 없습니다. 연구 페이지에 만드는 명령이 있습니다.",
        "the study {study} has no collected features with an index, by which an edit is measured; its page says which "
        "command makes them.",
    ),
    "refused.open": (
        "선택지가 없는 문항이라 비교할 답이 없습니다. 다른 문항을 고르십시오.",
        "an open question has no options, so there is no answer to compare; choose another case.",
    ),
    # edited questions
    "refused.edited.features": (
        "연구 {study} 에는 비교할 특징이 없습니다. 연구를 다시 실행하십시오.",
        "the study {study} has no collected features to compare with; run it again.",
    ),
    "refused.edited.options": (
        "문항 {number} 의 선택지는 {of}개인데 고친 선택지 {n}개를 받았습니다.",
        "case {number} has {of} options, got {n} edited ones.",
    ),
    "refused.edited.nothing": (
        "고친 것이 없습니다. 질문이나 선택지를 고치십시오.",
        "nothing was edited; change the question or an option.",
    ),
    "refused.edited.empty": ("{what}: 비어 있습니다. 적어 주십시오.", "the {what} is empty; write something."),
    "refused.edited.long": (
        "{what}: {n}자입니다. {most}자까지 됩니다. 줄이십시오.",
        "the {what} has {n} characters, and {most} are allowed; shorten it.",
    ),
    "refused.edited.surrogate": (
        "{what}: 파일에 담을 수 없는 반쪽 글자(서로게이트)가 있습니다. 다시 적으십시오.",
        "the {what} has half of a surrogate pair, which no file can hold; write it again.",
    ),
    "refused.edited.stem": ("질문", "stem"),
    "refused.edited.option": ("선택지 {letter}", "option {letter}"),
    "refused.kept.answer": (
        "정답은 다음 가운데 하나입니다: {letters}. 받은 값: {answer}.",
        "the right answer is one of {letters}, got {answer}.",
    ),
    # rating
    "refused.units.damaged": (
        "파일이 손상되었습니다: {path} ({reason}). 평가가 이 파일에 대한 것이므로 사본을 되돌려 놓으십시오.",
        "{path} is damaged: {reason}; bring back a copy of it, as the ratings are about it.",
    ),
    "refused.units.other": (
        "이 연구에 없는 문항 {item} 에 대한 파일입니다: {path}. 이 연구의 파일을 되돌려 놓으십시오.",
        "{path} is about the item {item}, which the study has not got; bring back its own.",
    ),
    "refused.units.few": (
        "평가할 글이 있는 문항이 {n}개인데 둘은 있어야 합니다. 전문가의 해설도, 모델의 추론(`sae-lens-med align`)도, "
        "특징의 색인(`sae-lens-med index`)도 모자랍니다.",
        "{n} cases of this study have a rationale that can be rated, and two are needed: it has no experts' "
        "explanations, no reasoning of the model (`sae-lens-med align`) and no index of features "
        "(`sae-lens-med index`) to make them of.",
    ),
    "refused.axis": (
        "{rater} 님에게 묻지 않는 물음입니다: {axis}. 묻는 것: {axes}.",
        "{rater} is not asked for {axis}; the axes are {axes}.",
    ),
    "refused.units.gone": (
        "{rater} 님이 평가한 글들이 이 연구의 것이 아닙니다. 원래 파일을 되돌려 놓으십시오.",
        "the units that {rater} rated are not those of the study any more; bring them back.",
    ),
    "refused.unit": ("평가하는 글 가운데 그런 것은 없습니다.", "there is no such unit among those that are rated."),
    "refused.role": (
        "{rater} 의 파일에 누가 평가하는지 적혀 있지 않습니다. 이 가명으로 다시 시작하십시오.",
        "the file of {rater} does not say who rates; begin again with this pseudonym.",
    ),
    "refused.rated.none": ("아직 평가가 없습니다.", "nothing has been rated yet."),
    "refused.formula": (
        "스프레드시트가 수식으로 읽을 id가 있습니다: {item}. 평가를 .jsonl 파일로 받으십시오.",
        "a spreadsheet would take the id {item} for a formula; write the ratings as .jsonl.",
    ),
    "refused.rater.taken": (
        "이미 있는 가명입니다: {rater} ({role}). 다른 가명을 고르십시오.",
        "{rater} is there already, as {role}; choose another pseudonym.",
    ),
    "refused.rater.earlier": (
        "전에 뽑은 글들을 평가한 가명입니다: {rater}. 다른 가명을 고르십시오.",
        "{rater} is there already, with ratings of units that were drawn before; choose another pseudonym.",
    ),
    "refused.rater.damaged": ("손상된 파일", "a damaged file"),
    "refused.rater.alike": (
        "대소문자만 다른 가명이 이미 있습니다: {rater}. 다른 가명을 고르십시오.",
        "there is a rater {rater} already; choose another pseudonym.",
    ),
    "refused.rater.none": (
        "그런 평가자가 없습니다: {rater}. 앞 페이지에서 가명을 고르십시오.",
        "there is no rater {rater}; choose a pseudonym on the page before.",
    ),
    "refused.rater.name": (
        "가명은 로마자, 숫자, _, - 로 된 1~32자입니다. 예: r1. 사람의 이름은 쓰지 마십시오.",
        "a pseudonym has 1 to 32 letters, digits, _ or -: such as r1; no names of people.",
    ),
    "refused.level": (
        "{axis} 의 단계가 아닙니다: {rating}. 단계: {levels}.",
        "{rating} is not a level of {axis}; its levels are {levels}.",
    ),
    "refused.rating.id": (
        "평가의 id는 로마자, 숫자, _, - 로 된 8~64자여야 합니다. 페이지를 새로 고치십시오.",
        "the id of a rating needs 8 to 64 letters, digits, _ or -; reload the page.",
    ),
    "refused.seconds": (
        "글을 보는 시간은 0~{most}초입니다. 받은 값: {seconds}. 페이지를 새로 고치십시오.",
        "a unit is looked at for 0 to {most} seconds, got {seconds}; reload the page.",
    ),
    "refused.revision": (
        "{axis} 에는 고칠 평가가 없습니다(개정 {revision}). 페이지를 새로 고치십시오.",
        "nothing was rated on {axis} before that revision {revision} would be; reload.",
    ),
    "refused.rated.otherwise": (
        "다른 창에서 이 물음에 다르게 답했습니다: “{rating}”. 그것을 보고, 바꾸려면 다시 답하십시오.",
        "another page has rated this axis “{rating}” meanwhile; look at it, then rate again if you want to change it.",
    ),
}
