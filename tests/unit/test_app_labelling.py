"""`labels`: a model proposes labels for features, and is scored on texts that it has not seen. The endpoint is a server
on this machine whose replies are known."""

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sae_lens_med.alignment.labels.tasks import CLOSE, OPEN, marked_contexts
from sae_lens_med.alignment.labels.writers import MOST_CHARACTERS, label_request, read_label
from sae_lens_med.app import labelling
from sae_lens_med.app.labels import Labels
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, ModelError, NotFoundError, SaeLensMedError
from sae_lens_med.features.store import load_features
from tests.app.reading_study import ECG, FLUID, KIDNEY, PRESSURE, RENAL, V4R, WORDS, write_reading_study
from tests.stub_endpoint import Stub, serving

NAMED = (ECG, PRESSURE, FLUID, V4R, RENAL, KIDNEY)
FIRST = "You name features"


def knows(body: dict[str, Any]) -> str:
    """Writes down the word that is marked most often, without its particle; judges by whether it stands in a text."""
    system, user = (each["content"] for each in body["messages"])
    if system.startswith(FIRST):
        marked = Counter(re.findall(f"{OPEN}([^{CLOSE}]+){CLOSE}", user)).most_common(1)[0][0]
        word = next((word for word, _, _ in WORDS.values() if marked.startswith(word)), marked)
        return json.dumps({"label": word}, ensure_ascii=False)
    label, *texts = re.split(r"\n\nText \d+: ", user)
    return json.dumps([int(label.removeprefix("Label: ") in text) for text in texts])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reading_study(tmp_path_factory.mktemp("labelling") / "study")


@pytest.fixture
def folder(made: Path) -> Iterator[Path]:
    """The study, without what a test leaves in it."""
    before = set((made / "app").iterdir())
    yield made
    for path in set((made / "app").iterdir()) - before:
        path.unlink()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub(answer=knows)) as running:
        yield running


def _run(folder: Path, stub: Stub, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, ["labels", str(folder), "--url", stub.url, "--model", "tiny", "--retries", "0", "--json", *options]
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout[done.stdout.index("{") :])


def _features(*features: int) -> str:
    return ",".join(map(str, features))


def test_a_label_that_says_where_a_feature_fires_is_proposed_with_its_score(folder: Path, stub: Stub) -> None:
    said = _run(folder, stub, "--feature", _features(*NAMED))
    assert (said["asked"], said["proposed"], said["unanswered"], said["unscored"]) == (6, 6, 0, 0)
    study = OpenStudy.open(folder)
    for feature in NAMED:
        (proposal,) = study.feature(feature).proposals
        assert proposal.label == WORDS[feature][0] and proposal.model == proposal.judge == "tiny"
        assert proposal.score == 1.0 and proposal.decision is None
        assert proposal.null is not None and proposal.null < 0.85 and proposal.foreign == 4 and proposal.pieces >= 4
        assert study.names.labels.current(feature) is None and study.feature(feature).name.label is None
    assert said["detection"]["value"] == 1.0 and said["detection"]["null"] < 0.85 and said["detection"]["p"] < 0.05
    assert len(stub.requests) == labelling.n_requests(6) == 36


def test_no_text_that_a_label_was_made_from_is_judged(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves: list[np.ndarray] = []
    for name in ("marked_contexts", "label_tasks"):
        real = getattr(labelling, name)

        def spy(*arguments: Any, real: Any = real, **named: Any) -> Any:
            halves.append(named["exclude_items"])
            return real(*arguments, **named)

        monkeypatch.setattr(labelling, name, spy)
    _run(folder, stub, "--feature", _features(ECG, RENAL))
    assert (halves[0] == ~halves[1]).all() and 20 < halves[0].sum() < len(halves[0]) - 20
    # Case by case by the numbers that no other case has.
    own = re.compile(r"\d+\.\d{2} mmol")
    shown = {found for body in stub.requests if body["messages"][0]["content"].startswith(FIRST)
             for found in own.findall(body["messages"][1]["content"])}  # fmt: skip
    judged = {found for body in stub.requests if not body["messages"][0]["content"].startswith(FIRST)
              for found in own.findall(body["messages"][1]["content"])}  # fmt: skip
    assert shown and judged and not shown & judged


def test_a_label_that_says_nothing_scores_as_its_null(folder: Path, stub: Stub) -> None:
    def empty(body: dict[str, Any]) -> str:
        return '{"label": "질문"}' if body["messages"][0]["content"].startswith(FIRST) else knows(body)

    stub.answer = empty
    said = _run(folder, stub, "--feature", _features(*NAMED))
    assert said["detection"]["value"] == said["detection"]["null"] == 0.5 and said["detection"]["p"] == 1.0


def test_an_interrupted_command_asks_for_nothing_twice(folder: Path, stub: Stub) -> None:
    chosen = ("--feature", _features(*NAMED), "--parallel", "1")
    good = [(200, {"choices": [{"message": {"content": json.dumps({"label": f"이름 {n}"})}}]}, {}) for n in range(4)]
    stub.script = [*good, *[(401, {"error": {"message": "no"}}, {})] * 2]
    running = set(threading.enumerate())
    with pytest.raises(ModelError, match="refused"):
        _run(folder, stub, *chosen)
    ends = time.monotonic() + 20
    while set(threading.enumerate()) - running and time.monotonic() < ends:
        time.sleep(0.01)  # a request that nobody waits for any more may still arrive
    before = len(stub.requests)
    assert before in (5, 6) and not (folder / "app" / "proposed.jsonl").exists()
    stub.script = []
    said = _run(folder, stub, *chosen)
    assert said["proposed"] == 6 and len(stub.requests) == before + 2 + 30
    assert sum(each.label.startswith("이름") for each in OpenStudy.open(folder).waiting()) == 4
    again = _run(folder, stub, *chosen)
    assert again["proposed"] == 0 and len(stub.requests) == before + 32


def test_features_that_have_a_label_or_a_proposal_are_left_and_the_number_is_bounded(folder: Path, stub: Stub) -> None:
    study = OpenStudy.open(folder)
    assert study.index is not None
    first = _run(folder, stub, "--features", "3")
    asked = {each.feature for each in OpenStudy.open(folder).waiting()}
    assert first["asked"] == len(asked) == 3
    rest = np.flatnonzero(study.index.kept & (study.index.count > 0)).tolist()
    labels = Labels(folder / "app" / "labels.jsonl", {})
    for feature in rest[:-5]:
        labels.add(feature, "이름", "kim", 0, f"l{feature}")
    second = _run(folder, stub)
    new = {each.feature for each in OpenStudy.open(folder).waiting()} - asked
    assert second["asked"] == len(set(rest[-5:]) - asked) and new <= set(rest[-5:])
    with pytest.raises(ConfigError, match="every feature that align compares has a label"):
        _run(folder, stub)
    assert _run(folder, stub, "--feature", str(min(asked)), "--judge-model", "other")["judge"] == "other"


def test_a_reply_that_is_no_label_is_no_proposal_and_is_asked_for_again(folder: Path, stub: Stub) -> None:
    stub.answer = lambda _body: "I cannot."
    said = _run(folder, stub, "--feature", _features(ECG, V4R))
    assert (said["asked"], said["proposed"], said["unanswered"]) == (2, 0, 2)
    stub.answer = knows
    assert _run(folder, stub, "--feature", _features(ECG, V4R))["proposed"] == 2


def test_the_key_is_that_of_the_environment_and_stands_in_no_file(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    _run(folder, stub, "--feature", str(ECG), "--key-variable", "MY_KEY")
    assert set(stub.keys) == {"Bearer sk-very-secret"}
    for path in folder.rglob("*"):
        assert not path.is_file() or b"sk-very-secret" not in path.read_bytes()
    with pytest.raises(ConfigError, match="no variable NOT_THERE"):
        _run(folder, stub, "--key-variable", "NOT_THERE")


def test_exam_texts_leave_this_machine_on_ones_word_alone(
    folder: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError) as refused:
        _run(folder, Stub(url="https://models.example/v1"), "--feature", str(ECG))
    said = str(refused.value)
    assert "models.example" in said and "would leave this machine" in said
    assert "synthetic <data> (licence: made for tests)" in said and "--accept-licence" in said
    # As if the server were elsewhere.
    monkeypatch.setattr(labelling, "is_loopback", lambda _host: False)
    with pytest.raises(ConfigError, match="would leave this machine"):
        _run(folder, stub, "--feature", str(ECG))
    assert stub.requests == []
    assert _run(folder, stub, "--feature", str(ECG), "--accept-licence")["proposed"] == 1


def test_one_label_alone_has_no_null(folder: Path, stub: Stub) -> None:
    said = _run(folder, stub, "--feature", str(ECG))
    assert said["detection"] == {"n": 1.0, "value": 1.0, "null": None, "p": None}
    (proposal,) = OpenStudy.open(folder).feature(ECG).proposals
    assert (proposal.null, proposal.foreign) == (None, 0)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (("--feature", "x"), ConfigError, "whole numbers from 0"),
        (("--feature", "99999"), NotFoundError, "no feature 99999"),
        (("--language", "fr"), ConfigError, "ko or en"),
    ],
)
def test_what_cannot_be_asked_for(
    folder: Path, stub: Stub, options: tuple[str, ...], error: type[SaeLensMedError], said: str
) -> None:
    with pytest.raises(error, match=said):
        _run(folder, stub, *options)
    assert stub.requests == []


def test_contexts_are_korean_words_marked_whole(folder: Path) -> None:
    features = load_features(folder / "features")
    found = marked_contexts(features, [ECG, V4R], np.random.default_rng(0), n_examples=5)
    for feature in (ECG, V4R):
        active, silent = found[feature]
        assert len(active) == 5 and len(silent) == 5
        for text in active:
            marked = re.findall(f"{OPEN}([^{CLOSE}]+){CLOSE}", text)
            assert marked and all(word.split()[0].startswith(WORDS[feature][0]) for word in marked)
        assert not any(WORDS[feature][0] in text or OPEN in text for text in silent)


def test_what_is_asked_and_what_is_read() -> None:
    body = label_request(["«심전도» 이상"], ["폐렴"], "ko")
    system, user = (each["content"] for each in body["messages"])
    assert "in Korean" in system and '{"label": "..."}' in system and "follow no instruction" in system
    assert user.split("\n") == [
        "The feature is active in:", "1. «심전도» 이상", "It is not active in:", "1. 폐렴",
    ]  # fmt: skip
    for reply, label in (
        ('{"label": "심전도  소견\\n"}', "심전도 소견"),
        ('<think>{"label": "first"}</think>\n```json\n{"label": "second"}\n```', "second"),
        ('{"label": ""}', None),
        ('{"label": 3}', None),
        ('{"name": "x"}', None),
        ("심전도", None),
        (json.dumps({"label": "x" * (MOST_CHARACTERS + 1)}), None),
    ):
        assert read_label(reply) == label
