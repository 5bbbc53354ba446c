"""Metric #13: pieces are what they are said to be, scores equal scikit-learn's formulas by hand, the null is a
permutation of labels; and the judge behind an endpoint, against a server on this machine."""

import asyncio
import json
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from sae_lens_med.alignment.labels.judges import OpenAiJudge, read_verdicts
from sae_lens_med.alignment.labels.measure import KeptVerdicts, label_metrics
from sae_lens_med.alignment.labels.scores import balanced_accuracy, read_labels, score_labels
from sae_lens_med.alignment.labels.tasks import CLOSE, OPEN, Kind, LabelTask, label_tasks
from sae_lens_med.errors import ConfigError, DataError, ModelError
from sae_lens_med.records import PARTS, FeatureActs

WORDS = ("fever", "rash", "cough", "insulin", "fracture", "anemia", "stroke", "asthma")


@dataclass(frozen=True)
class Case:
    """Collected features of texts of words; feature f fires on the word `WORDS[f]`."""

    acts: FeatureActs
    texts: dict[str, dict[str, str]]
    raw_mean_stem: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    raw_mean_explanation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    has_explanation: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))


def _case(n: int = 60, seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    rows, item_of, part_of, start, end, texts = [], [], [], [], [], {}
    for i in range(n):
        texts[f"q{i}"] = {}
        for part, kind in (("stem", "question"), ("explanation", "explanation")):
            words = [f"w{w}" for w in rng.integers(100, 999, size=24)]
            words[int(rng.integers(24))] = WORDS[int(rng.integers(len(WORDS)))]
            text, at = " ".join(words), 0
            texts[f"q{i}"][kind] = text
            for word in words:
                rows.append([(1 + rng.random()) * (word == name) for name in WORDS])
                item_of.append(i)
                part_of.append(PARTS.index(part))
                start.append(at)
                end.append(at + len(word))
                at += len(word) + 1
    tokens = len(rows)
    acts = FeatureActs(
        item_ids=tuple(texts),
        acts=sparse.csr_array(np.array(rows, np.float32)),
        token_item=np.array(item_of, np.int32),
        token_part=np.array(part_of, np.uint8),
        token_id=np.zeros(tokens, np.int32),
        char_start=np.array(start, np.int32),
        char_end=np.array(end, np.int32),
        norm=np.ones(tokens, np.float32),
        error_norm=np.zeros(tokens, np.float32),
        excluded=np.zeros(tokens, bool),
    )
    return Case(acts, texts)


@dataclass(frozen=True)
class Reader:
    """A judge that reads: yes where the label's word stands in the text, between the marks if there are any."""

    wrong: float = 0.0
    """Share of verdicts that it turns round."""
    name: str = "reader"

    def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
        rng = np.random.default_rng(0)
        found: list[tuple[float | None, ...]] = []
        for label, texts in asked:
            said = [(f"{OPEN}{label}{CLOSE}" if kind == "fuzzing" else label) in text for text in texts]
            found.append(tuple(float(yes ^ (rng.random() < self.wrong)) for yes in said))
        return found


def test_pieces_are_what_they_are_said_to_be() -> None:
    case = _case()
    for kind in ("detection", "fuzzing"):
        tasks = label_tasks(case, range(len(WORDS)), np.random.default_rng(1), kinds=(kind,), n_examples=6, window=30)
        assert [task.feature for task in tasks] == list(range(len(WORDS)))
        for task in tasks:
            word = WORDS[task.feature]
            truths = [example.truth for example in task.examples]
            assert sum(truths) * 2 == len(truths)
            for example in task.examples:
                if kind == "detection":
                    assert (word in example.text) == example.truth
                    assert OPEN not in example.text
                else:
                    assert word in example.text
                    assert (f"{OPEN}{word}{CLOSE}" in example.text) == example.truth
                    assert example.text.count(OPEN) == example.text.count(CLOSE) == 1


def test_left_out_items_and_parts_are_not_shown() -> None:
    case = _case()
    out = np.arange(60) < 40
    tasks = label_tasks(case, range(8), np.random.default_rng(1), exclude_items=out, parts=("explanation",), window=200)
    allowed = {case.texts[f"q{i}"]["explanation"] for i in range(40, 60)}
    assert tasks
    assert all(e.text.replace(OPEN, "").replace(CLOSE, "") in allowed for task in tasks for e in task.examples)
    with pytest.raises(ConfigError, match="feature 99 does not exist"):
        label_tasks(case, [99], np.random.default_rng(0))


def test_a_judge_that_reads_tells_true_labels_from_others() -> None:
    labels = dict(enumerate(WORDS))
    for kind in ("detection", "fuzzing"):
        tasks = label_tasks(_case(), range(8), np.random.default_rng(1), kinds=(kind,))
        scores = score_labels(tasks, labels, Reader(), 999, np.random.default_rng(2), foreign=None)
        np.testing.assert_array_equal(scores.balanced_accuracy, 1.0)
        np.testing.assert_array_equal(scores.auroc, 1.0)
        assert scores.p < 0.005
        assert scores.null.mean() == pytest.approx(scores.table.mean(), abs=0.02)
        # Labels that belong to the next feature are no better than any.
        moved = {f: WORDS[(f + 1) % 8] for f in range(8)}
        wrong = score_labels(tasks, moved, Reader(), 999, np.random.default_rng(2), foreign=None)
        assert wrong.value < 0.6
        assert wrong.p > 0.2


def test_few_foreign_labels_are_asked_once_and_recombined() -> None:
    tasks = label_tasks(_case(), range(8), np.random.default_rng(1), kinds=("detection",))
    scores = score_labels(tasks, dict(enumerate(WORDS)), Reader(0.1), 999, np.random.default_rng(2), foreign=3)
    asked = np.isfinite(scores.table)
    assert asked.sum() == 8 * 4
    assert (asked.sum(axis=0) == 4).all()
    assert (asked.sum(axis=1) == 4).all()
    # A draw takes one of the four cells of every feature: all own ones is one of 4^8 arrangements.
    assert len(scores.null) == 999
    assert scores.p < 0.01
    cells = np.array([scores.table[f, asked[f]] for f in range(8)])
    assert scores.null.mean() == pytest.approx(cells.mean(), abs=0.01)
    assert cells.min(axis=1).mean() <= scores.null.min() <= scores.null.max() <= cells.max(axis=1).mean()


def test_balanced_accuracy_counts_what_is_missing_as_wrong() -> None:
    truth = np.array([True, True, True, True, False, False])
    said = np.array([0.9, 0.5, np.nan, 1.0, 0.2, 0.7])
    assert balanced_accuracy(said, truth) == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert balanced_accuracy(np.ones(6), truth) == 0.5
    assert balanced_accuracy(np.ones(3), truth[:3]) == 0.5


def test_records_say_judge_and_null() -> None:
    labels = dict(enumerate(WORDS[:7])) | {7: "something else"}
    metrics, notes = label_metrics(_case(), labels, Reader(), foreign=None, draws=199)
    assert [m.name for m in metrics] == ["alignment/labels_detection", "alignment/labels_fuzzing"]
    for metric in metrics:
        assert (metric.n, metric.unit) == (8, "features")
        assert metric.value == pytest.approx(7.5 / 8)
        assert metric.p == 1 / 200
        assert "judge: reader" in metric.notes
    assert notes == ()
    none, notes = label_metrics(_case(n=1), labels, Reader())
    assert none == ()
    assert "too few contexts for detection" in notes[0]


def test_verdicts_outlive_an_interruption(tmp_path: Path) -> None:
    class Failing(Reader):
        """Answers so many labels, then never again."""

        def __init__(self, answers: int, name: str = "reader") -> None:
            super().__init__(name=name)
            self.left, self.asked = answers, 0

        def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
            self.left -= len(asked)
            if self.left < 0:
                raise ModelError("the judge went home.")
            self.asked += len(asked)
            return super().judge(kind, asked)

    class Curt(Reader):
        """One verdict, however many texts."""

        def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
            return [(1.0,) for _ in asked]

    def scored(judge: Any) -> Any:
        return label_metrics(_case(), dict(enumerate(WORDS)), judge, foreign=None, draws=99)

    file, patient = tmp_path / "verdicts.jsonl", Failing(10_000)
    expected = scored(patient)
    assert patient.asked == 2 * 8 * 8
    impatient, returned, idle = Failing(50), Failing(10_000), Failing(0)
    with pytest.raises(ModelError, match="went home"):
        scored(KeptVerdicts(impatient, file, progress=False))
    assert impatient.asked == 48  # three calls of 16
    with file.open("a", encoding="utf-8") as handle:
        handle.write('{"id": "torn')
    assert scored(KeptVerdicts(returned, file, progress=False)) == expected
    assert impatient.asked + returned.asked == patient.asked
    assert scored(KeptVerdicts(idle, file, progress=False)) == expected
    assert idle.asked == 0
    # Another judge, or one that answers badly, is asked for itself, and nothing wrong is kept.
    other = Failing(10_000, "other")
    assert "judge: other" in scored(KeptVerdicts(other, file, progress=False))[0][0].notes
    assert other.asked == patient.asked
    before = file.read_bytes()
    with pytest.raises(DataError, match="gave another number of verdicts"):
        KeptVerdicts(Curt(), file, progress=False).judge("detection", [("fever", ("a", "b"))])
    assert file.read_bytes() == before


def test_labels_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text('{"3": " fever \\n of children ", "12": "rash"}', encoding="utf-8")
    assert read_labels(file, d_sae=13) == {3: "fever of children", 12: "rash"}
    rows = tmp_path / "labels.csv"
    rows.write_text("feature,label\n3,fever\n12,rash\n", encoding="utf-8")
    assert read_labels(rows) == {3: "fever", 12: "rash"}
    for text, message in (
        ('{"3": "a", "3": "b"}', "the key .3. is given twice"),
        ('{"x": "a"}', "a whole number"),
        ('{"-1": "a"}', "a whole number"),
        ('{"30": "a"}', "from 0 to 12"),
        ('{"3": ""}', "is empty"),
        ('["a"]', "labels are a JSON object"),
        ("{", "not a JSON object of labels"),
        ("{}", "there are no labels"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_labels(file, d_sae=13)
    rows.write_text("feature,name\n3,fever\n", encoding="utf-8")
    with pytest.raises(DataError, match="row 1 has no field 'label'"):
        read_labels(rows)


def test_a_reply_is_read_or_it_is_no_verdict() -> None:
    assert read_verdicts("[1, 0, 1]", 3) == (1.0, 0.0, 1.0)
    assert read_verdicts("Text 1 fits [1].\n```json\n[true, false, 1]\n```", 3) == (1.0, 0.0, 1.0)
    for reply in ("[1, 0]", "[1, 0, 2]", "[1, 0, null]", "yes, no, yes", "", "[0.5, 1, 1]"):
        assert read_verdicts(reply, 3) == (None, None, None)


# --- an endpoint on this machine ------------------------------------------------------------------------------------


@dataclass
class Endpoint:
    """What the server was asked, and what it will answer next: (status, body, headers); then verdicts by reading."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    script: list[tuple[int, Any, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextmanager
def _serving(endpoint: Endpoint) -> Iterator[Endpoint]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                endpoint.requests.append({"path": self.path, **body})
                endpoint.keys.append(self.headers.get("Authorization"))
                status, answer, headers = endpoint.script.pop(0) if endpoint.script else (200, _reading(body), {})
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _reading(body: dict[str, Any]) -> dict[str, Any]:
    """What an endpoint answers whose model reads."""
    kind = "fuzzing" if OPEN in body["messages"][0]["content"] else "detection"
    label, *texts = body["messages"][1]["content"].split("\n\n")
    word = label.removeprefix("Label: ")
    wanted = f"{OPEN}{word}{CLOSE}" if kind == "fuzzing" else word
    return {"choices": [{"message": {"content": str([int(wanted in text) for text in texts])}}]}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with _serving(Endpoint()) as found:
        yield found


def _ask(judge: OpenAiJudge) -> list[tuple[float | None, ...]]:
    return judge.judge("detection", [("fever", ("a fever", "a rash")), ("rash", ("a fever", "a rash"))])


def test_the_endpoint_scores_labels_as_the_reader_does(endpoint: Endpoint) -> None:
    judge = OpenAiJudge(endpoint.url + "/", "tiny", extra={"max_tokens": 50})
    tasks: list[LabelTask] = label_tasks(_case(), range(8), np.random.default_rng(1), kinds=("fuzzing",))
    labels = dict(enumerate(WORDS))
    scores = score_labels(tasks, labels, judge, 99, np.random.default_rng(2), foreign=2)
    expected = score_labels(tasks, labels, Reader(), 99, np.random.default_rng(2), foreign=2)
    np.testing.assert_array_equal(scores.table, expected.table)
    assert len(endpoint.requests) == 8 * 3
    first = endpoint.requests[0]
    assert (first["path"], first["model"], first["temperature"]) == ("/v1/chat/completions", "tiny", 0)
    assert first["max_tokens"] == 50
    assert set(endpoint.keys) == {None}


def test_the_key_comes_from_the_environment(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    judge = OpenAiJudge(endpoint.url, "tiny", key_variable="JUDGE_KEY", parallel=1, retries=0)
    assert _ask(judge) == [(1.0, 0.0), (0.0, 1.0)]
    assert endpoint.keys == ["Bearer sk-secret"] * 2
    assert "sk-secret" not in repr(judge)
    endpoint.script = [(401, {"error": {"message": "no such key: sk-secret"}}, {})]
    with pytest.raises(ModelError, match="status 401 .no such key: .*JUDGE_KEY") as refused:
        _ask(judge)
    assert "sk-secret" not in str(refused.value)


def test_the_key_goes_nowhere_else(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(ConfigError, match="unencrypted to example.org"):
        OpenAiJudge("http://example.org/v1", "tiny")
    with _serving(Endpoint()) as other:
        endpoint.script = [(307, {}, {"Location": other.url})]
        with pytest.raises(ModelError, match="has moved"):
            _ask(OpenAiJudge(endpoint.url, "tiny", parallel=1, retries=0))
        assert other.requests == []


def test_what_may_pass_is_tried_again(endpoint: Endpoint) -> None:
    busy = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})
    endpoint.script = [busy, (503, b"", {}), busy]
    judge = OpenAiJudge(endpoint.url, "tiny", parallel=1, first_wait=0.0)
    assert _ask(judge) == [(1.0, 0.0), (0.0, 1.0)]
    assert len(endpoint.requests) == 5
    endpoint.script = [busy] * 3
    with pytest.raises(ModelError, match=r"did not answer after 3 tries \(status 429 \(slow down\)\)"):
        _ask(OpenAiJudge(endpoint.url, "tiny", parallel=1, first_wait=0.0, retries=2))


def test_other_answers_are_one_sentence(endpoint: Endpoint) -> None:
    judge = OpenAiJudge(endpoint.url, "tiny", parallel=1, first_wait=0.0, retries=1)
    for answer in (b"<html>", {"choices": []}, {"answer": 1}, []):
        endpoint.script = [(200, answer, {})] * 2  # a reply that was cut off may come whole the next time
        with pytest.raises(ModelError, match="not a chat completion"):
            judge.judge("detection", [("fever", ("a fever",))])
    endpoint.script = [(404, {"error": {"message": "no model"}}, {})]
    with pytest.raises(ModelError, match=r"status 404 \(no model\); check the base URL"):
        judge.judge("detection", [("fever", ("a fever",))])
    # Chatter is no verdict, and no error.
    endpoint.script = [(200, {"choices": [{"message": {"content": "I cannot tell."}}]}, {})] * 2
    assert _ask(judge) == [(None, None), (None, None)]
    nobody = OpenAiJudge("http://127.0.0.1:9/v1", "tiny", retries=1, first_wait=0.0)
    with pytest.raises(ModelError, match="did not answer after 2 tries"):
        _ask(nobody)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "ftp://x"}, "begins with http"),
        ({"base_url": "https://me:secret@example.org"}, "contains a password"),
        ({"model": " "}, "name of a model"),
        ({"timeout": 0}, "timeout > 0"),
        ({"key_variable": "NO_SUCH_VARIABLE_HERE"}, "no variable NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings: dict[str, Any] = {"base_url": "https://example.org/v1", "model": "m"}
    with pytest.raises(ConfigError, match=message) as error:
        OpenAiJudge(**settings | changes)
    assert "secret" not in str(error.value)


@contextmanager
def _trickling(head: bytes) -> Iterator[str]:
    """The URL of a server that sends `head`, and then a byte at a time without an end."""
    stop = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            with suppress(OSError):
                self.request.sendall(head)
                while not stop.wait(0.02):
                    self.request.sendall(b"a")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_reply_that_trickles_ends_at_its_deadline(head: bytes) -> None:
    told: list[str] = []
    with _trickling(head) as url:
        judge = OpenAiJudge(url, "slow", timeout=0.3, retries=1, first_wait=0.0, on_wait=told.append)
        begin = time.monotonic()
        with pytest.raises(ModelError, match=r"did not answer after 2 tries \(no whole answer in 0.3 s\)"):
            judge.judge("detection", [("fever", ("a", "b"))])
    assert time.monotonic() - begin < 5
    assert told == [f"the judge slow at {url} did not answer (no whole answer in 0.3 s); trying again in 0 s."]


def test_what_an_endpoint_says_is_shown_harmless(endpoint: Endpoint) -> None:
    said = "\x1b[2Jno\x1b]0;title\x07 such \u202emodel\x9b31m"
    endpoint.script = [(404, {"error": {"message": said}}, {})]
    with pytest.raises(ModelError) as refused:
        _ask(OpenAiJudge(endpoint.url, "tiny\x1b[31m", parallel=1, retries=0))
    assert "such" in str(refused.value)
    assert str(refused.value).isprintable()


def test_a_notebook_has_a_loop_of_its_own(endpoint: Endpoint) -> None:
    async def cell() -> list[tuple[float | None, ...]]:
        return _ask(OpenAiJudge(endpoint.url, "tiny"))

    assert asyncio.run(cell()) == [(1.0, 0.0), (0.0, 1.0)]


def test_a_judge_that_never_gives_a_verdict_is_said_and_asked_again(tmp_path: Path) -> None:
    class Silent(Reader):
        def judge(self, kind: Kind, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[float | None, ...]]:
            return [(None,) * len(texts) for _, texts in asked]

    labels = dict(enumerate(WORDS))
    file = tmp_path / "verdicts.jsonl"
    metrics, notes = label_metrics(_case(), labels, KeptVerdicts(Silent(), file, progress=False), draws=99)
    assert metrics == ()
    assert [note.split(";")[0] for note in notes] == [
        f"The judge reader gave no verdict on any of the {n} pieces for {kind}, so that was not measured"
        for kind, n in (("detection", 160), ("fuzzing", 80))
    ]
    # The same judge, mended: what was no verdict is not kept.
    metrics, notes = label_metrics(_case(), labels, KeptVerdicts(Reader(), file, progress=False), draws=99)
    assert len(metrics) == 2 and notes == ()
