"""A model behind an endpoint, on a stub: what goes wrong is tried again or said, nothing is lost, no key leaks."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, ModelError, StudyError
from sae_lens_med.evaluation.endpoint import Endpoint, Reply, Unanswered, without_controls
from sae_lens_med.evaluation.endpoint_run import Prices, evaluate_endpoint
from sae_lens_med.evaluation.generation import sample_seed
from sae_lens_med.evaluation.method import Method
from sae_lens_med.evaluation.results import read_evaluation
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import McqItem
from tests.stub_endpoint import Stub, completion, cut_off, drip, drip_headers, serving, stall
from tests.unit.test_layers import REFUSE

DATA = load_items("sample", limit=6)
REPOSITORY = Path(__file__).parents[2]
BUSY = (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with serving(Stub()) as found:
        yield found


def endpoint(stub: Stub, **changes: Any) -> Endpoint:
    settings = {"timeout": 5.0, "first_wait": 0.0, "retries": 2, "parallel": 2} | changes
    return Endpoint(stub.url, "tiny", **settings)


def chat(text: str = "hello") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def gold(body: dict[str, Any]) -> str:
    """What a model that knows the sample answers."""
    text = body["messages"][0]["content"]
    item = next(item for item in DATA.items if item.question.strip() in text)
    return f"생각해 보면 그렇다.\n정답: {item.gold_letter}"


def evaluate(stub: Stub, method: Method | str = "cot", output: Path | None = None, **changes: Any) -> Any:
    given = {name: changes.pop(name) for name in ("timeout", "retries", "parallel", "extra") if name in changes}
    return evaluate_endpoint(
        endpoint(stub, **given), changes.pop("items", DATA), method, output=output, progress=False, **changes
    )


# --- one request ------------------------------------------------------------------------------------------------------


def test_a_reply_with_its_tokens(stub: Stub) -> None:
    stub.script = [(200, completion("hello there"), {})]
    assert endpoint(stub, extra={"top_p": 0.5}).ask(chat()) == Reply("hello there", "stop", 10, 2)
    assert stub.requests == [{"path": "/v1/chat/completions", "model": "tiny", "top_p": 0.5, **chat()}]
    assert stub.keys == [None]


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        (503, b"", {}),
        (500, {"error": "x"}, {}),
        (200, b"<html>", {}),
        (200, b'{"choices": [{"mess', {}),
        (200, b"[" * 100_000, {}),
        (200, {"choices": []}, {}),
        (200, {"choices": None}, {}),
        (200, {"answer": 1}, {}),
        (200, [], {}),
        (200, {"choices": [{"message": None}]}, {}),
        cut_off,
        stall,
        drip,
        drip_headers,
    ],
    ids=lambda fault: fault.__name__ if callable(fault) else f"{fault[0]} {str(fault[1])[:12]}",
)
def test_what_may_pass_is_tried_again(stub: Stub, fault: Any) -> None:
    stub.script = [fault]
    start = time.monotonic()
    assert endpoint(stub, timeout=0.4).ask(chat()).text == "정답: A"
    assert len(stub.requests) == 2 and time.monotonic() - start < 1.5
    stub.script = [fault] * 2
    with pytest.raises(Unanswered) as error:
        endpoint(stub, timeout=0.2, retries=1).ask(chat())
    assert "\n" not in str(error.value) and "tiny at http://127.0.0.1" in str(error.value)


def test_waits_are_those_that_the_server_asks_for(stub: Stub) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    for asked, least in (("0.3", 0.3), (soon, 0.0), ("soon", 0.0), ("-5", 0.0), ("nan", 0.0)):
        stub.script = [(429, {}, {"Retry-After": asked})]
        start = time.monotonic()
        endpoint(stub).ask(chat())
        assert least <= time.monotonic() - start < 2


def test_what_cannot_pass_is_said_at_once(stub: Stub) -> None:
    for status, message in (
        (401, r"refused: status 401 \(no\); name the environment variable that holds its key"),
        (404, r"refused: status 404 \(no\); check the base URL and the model's name"),
        (307, "the base URL has moved"),
    ):
        stub.script = [(status, {"error": {"message": "no"}}, {"Location": "http://127.0.0.1:9/"})]
        with pytest.raises(ModelError, match=message) as error:
            endpoint(stub).ask(chat())
        assert not isinstance(error.value, Unanswered)
    stub.script = [(200, {"error": {"message": "busy"}}, {})] * 2
    with pytest.raises(Unanswered, match=r"not a chat completion \(busy\); check"):
        endpoint(stub, retries=1).ask(chat())
    stub.requests.clear()
    stub.script = [(400, {"error": {"message": "too\nlong \x1b[31m"}}, {})]
    with pytest.raises(Unanswered, match=r"status 400 \(too long \[31m\)\.$"):
        endpoint(stub).ask(chat())
    assert len(stub.requests) == 1


def test_the_forms_of_a_reply(stub: Stub) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    cases: list[tuple[Any, Reply]] = [
        (completion("cut", "length"), Reply("cut", "length", 10, 1)),
        (completion(None), Reply("", "stop", 10, 0)),
        (completion("B", reasoning_content=" because "), Reply("<think>\nbecause\n</think>\n\nB", "stop", 10, 1)),
        (completion(None, "length", reasoning="be"), Reply("<think>\nbe", "length", 10, 0)),
        (completion(None, refusal="I cannot."), Reply("I cannot.", "stop", 10, 0)),
        ({"choices": [{"message": {"content": parts}}], "usage": None}, Reply("ab", "stop")),
        ({"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": "9"}}, Reply("x", "stop")),
        (completion("정답:\x00 \x1b[31mB\ud800\r\n\t."), Reply("정답: [31mB\ufffd\n\t.", "stop", 10, 3)),
    ]
    for raw, expected in cases:
        stub.script = [(200, raw, {})]
        assert endpoint(stub).ask(chat()) == expected
    assert without_controls("a\u202eb\u2066c\x9bd") == "abcd"


def test_a_reply_without_end_is_not_read_to_its_end(stub: Stub) -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * 100_000)

    stub.script = [endless] * 3
    with pytest.raises(Unanswered, match="its reply is longer than 4,000,000 bytes"):
        endpoint(stub).ask(chat())


# --- the key ----------------------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_stands_nowhere(stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with_key = endpoint(stub, key_variable="MY_KEY")
    stub.answer = lambda body: "your key is sk-secret. 정답: A"
    stub.models = {"data": [{"id": "tiny", "owned_by": "sk-secret"}]}
    result = evaluate_endpoint(with_key, DATA, "cot", output=tmp_path / "run", progress=False)
    assert set(stub.keys) == {"Bearer sk-secret"} and len(result.results) == 6
    stub.script = [(401, {"error": {"message": "no such key: sk-secret"}}, {})]
    with pytest.raises(ModelError, match="no such key: .*check the key in the environment variable MY_KEY") as error:
        with_key.ask(chat())
    assert "sk-secret" not in str(error.value) + repr(with_key)
    for path in (tmp_path / "run").iterdir():
        assert b"sk-secret" not in path.read_bytes()
    with pytest.raises(ConfigError, match="unencrypted to example.org"):
        replace(with_key, base_url="http://example.org/v1")
    with serving(Stub()) as other:
        stub.script = [(307, {}, {"Location": other.url})]
        with pytest.raises(ModelError, match="has moved"):
            with_key.ask(chat())
        assert other.keys == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "ftp://x"}, "begins with http"),
        ({"base_url": "localhost:8000/v1"}, "begins with http"),
        ({"base_url": "http://[::1"}, "is not a URL"),
        ({"base_url": "http://x:99999999/v1"}, "is not a URL"),
        ({"base_url": "https://me:secret@example.org"}, "contains a password"),
        ({"base_url": "https://example.org/v1?key=secret"}, "ends before any '\\?'"),
        ({"model": " "}, "name of a model"),
        ({"timeout": 0}, "timeout > 0"),
        ({"timeout": float("nan")}, "timeout > 0"),
        ({"parallel": 0}, "parallel >= 1"),
        ({"parallel": 10**9}, "1,024 requests at a time"),
        ({"timeout": 1e300}, "86,400 seconds"),
        ({"retries": 1.5}, "retries >= 0"),
        ({"retries": 10**6}, "100 retries"),
        ({"key_variable": "NO_SUCH_VARIABLE_HERE"}, "no variable NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_settings_are_checked(changes: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"base_url": "https://example.org/v1", "model": "m"}
    with pytest.raises(ConfigError, match=message) as error:
        Endpoint(**settings | changes)
    assert "secret" not in str(error.value) and "\n" not in str(error.value)


# --- an evaluation ----------------------------------------------------------------------------------------------------


def test_a_model_that_knows_is_right(stub: Stub, tmp_path: Path) -> None:
    stub.answer = gold
    found = evaluate(stub, "cot", tmp_path / "run", shots=(), prices=Prices(1.0, 2.0))
    assert found.metrics[0].value == 1.0 and not found.reasons
    assert found.usage == {
        "prompt_tokens": 60,
        "generated_tokens": 30,
        "not_counted": 0,
        "price_per_million": {"prompt": 1.0, "generated": 2.0},
        "cost": pytest.approx(120e-6),
    }
    assert read_evaluation(tmp_path / "run") == found
    first = find_templates("cot").of(DATA.items[0]).render(DATA.items[0]).text
    sent = {request["messages"][0]["content"]: request for request in stub.requests}
    assert len(sent) == 6 and sent[first]["temperature"] == 0 and sent[first]["max_tokens"] == 1024
    assert sent[first]["messages"] == [{"role": "user", "content": first}]
    model = found.provenance.model
    assert (model["name"], model["source"], model["served"]) == ("tiny", "endpoint", {"id": "tiny", "owned_by": "me"})


def test_a_truncated_answer_is_no_answer(stub: Stub) -> None:
    stub.script = [(200, completion("그러므로", "length"), {})] * 6
    assert evaluate(stub).reasons == {"truncated": 6}


def test_stop_strings_end_what_comes_back(stub: Stub) -> None:
    stub.answer = lambda body: "B. 아니다 Q: next"
    found = evaluate(stub, "generate")
    assert {result.text for result in found.results} == {"B"}
    assert stub.requests[0]["stop"] == [".", "Q:", "\n\n", "</s>"]  # the protocol takes four
    stub.answer = lambda body: "<think>\nOne. Two.\n</think>\n\nB. Three."
    thinking = Method("generate", chat=True, enable_thinking=True)
    found = evaluate(stub, thinking)
    assert {result.text for result in found.results} == {"<think>\nOne. Two.\n</think>\n\nB"}
    assert stub.requests[-1]["chat_template_kwargs"] == {"enable_thinking": True} and "stop" not in stub.requests[-1]


def test_samples_vote_and_have_seeds_of_their_own(stub: Stub) -> None:
    stub.answer = lambda body: f"정답: {'AB'[body['seed'] % 2]}"
    items = DATA.items[:2]
    found = evaluate(stub, Method("self-consistency", samples=5), items=items, seed=3)
    for item, result in zip(items, found.results, strict=True):
        expected = ["AB"[sample_seed(3, item.id, k) % 2**31 % 2] for k in range(5)]
        assert list(result.sample_predictions) == expected
        assert result.confidence == max(expected.count("A"), expected.count("B")) / 5
        assert result.tokens == {"prompt": 50, "generated": 10}
    assert {request["temperature"] for request in stub.requests} == {0.7} and len(stub.requests) == 10


def test_several_are_asked_at_a_time(stub: Stub) -> None:
    stub.pause = 0.1
    evaluate(stub, parallel=3)
    assert stub.most_at_once == 3


def test_one_question_without_a_reply_costs_no_other(stub: Stub, tmp_path: Path) -> None:
    stub.script = [(400, {"error": {"message": "too long"}}, {})]
    with pytest.raises(
        ModelError, match=r"1 of 6 questions got no reply \(.*too long\)\); the others are kept: the same"
    ):
        evaluate(stub, output=tmp_path / "run")
    asked = len(stub.requests)
    assert len(evaluate(stub, output=tmp_path / "run").results) == 6
    assert len(stub.requests) == asked + 1
    assert not (tmp_path / "run" / "items.partial.jsonl").exists()


def test_a_server_that_answers_nobody_is_not_asked_for_ever(stub: Stub) -> None:
    stub.script = [(500, {}, {})] * 1000
    items = [replace(DATA.items[0], id=f"q{i}") for i in range(40)]
    with pytest.raises(ModelError, match="5 requests in a row got no reply"):
        evaluate(stub, items=items, retries=0)
    assert len(stub.requests) < 12


def test_other_settings_or_another_server_do_not_go_on(stub: Stub, tmp_path: Path) -> None:
    stub.script = [(400, {}, {})]
    with pytest.raises(ModelError):
        evaluate(stub, output=tmp_path / "run")
    others: list[dict[str, Any]] = [{"seed": 1}, {"extra": {"top_p": 0.9}}, {"method": "generate"}]
    others.append({"items": DATA.items[:5]})
    for changes in others:
        with pytest.raises(StudyError, match="was started with other settings"):
            evaluate(stub, **({"method": "cot", "output": tmp_path / "run"} | changes))
    stub.models = {"data": [{"id": "tiny", "owned_by": "me", "max_model_len": 4096}]}
    with pytest.raises(StudyError, match=r"model\.served"):
        evaluate(stub, output=tmp_path / "run")
    # When it was started, at which address, and how fast it is asked, are no other run.
    stub.models = {"data": [{"id": "tiny", "owned_by": "me", "created": 1}]}
    with serving(Stub(models=stub.models)) as moved:
        assert len(evaluate(moved, output=tmp_path / "run", parallel=1, timeout=9.0).results) == 6
        assert len(moved.requests) == 1
    # What is finished is read, also when the server has gone; other settings are still refused.
    assert len(evaluate(moved, output=tmp_path / "run").results) == 6
    with pytest.raises(StudyError, match="seed: 0 -> 1"):
        evaluate(moved, output=tmp_path / "run", seed=1)


def test_a_server_that_says_nothing_of_itself(stub: Stub) -> None:
    for models in (None, {"data": []}, {"data": "x"}, [1]):
        stub.models = models
        assert evaluate(stub).provenance.model["served"] is None


def test_what_an_endpoint_cannot_do(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the method letter needs log-probabilities of options, which an endpoint"):
        evaluate(stub, "letter")
    with pytest.raises(ConfigError, match="the field 'temperature' of a request is decided by the method"):
        evaluate(stub, extra={"temperature": 1})
    evaluate(stub, extra={"temperature": None, "max_tokens": None, "max_completion_tokens": 9})
    assert "temperature" not in stub.requests[-1] and stub.requests[-1]["max_completion_tokens"] == 9
    openly = McqItem("o1", "s", "en", "Is fever bad?", (), None)
    asked = len(stub.requests)
    with pytest.raises(DataError, match="accuracy needs questions with options, but 'o1' is one of the open questions"):
        evaluate(stub, items=[openly])
    assert len(stub.requests) == asked


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(stub: Stub, tmp_path: Path) -> None:
    where = ["evaluate", "-d", "sample", "--limit", "6", "--endpoint", stub.url, "--endpoint-model", "tiny"]
    prices = ["--endpoint-price-in", "1", "--endpoint-price-out", "2"]
    done = CliRunner().invoke(app, [*where, *prices, "--method", "cot", "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "tiny on sample, 6 items" in done.output
    assert "Tokens: 60 of prompts, 12 generated; cost: 0.0001." in done.output
    for more, message in (
        ([], "the method letter needs log-probabilities"),
        (["--method", "cot", "--sae", "x"], "--sae is for a model that runs here"),
        (["--method", "cot", "--endpoint-price-in", "1"], "a cost needs both prices"),
        (["--method", "cot", "--endpoint-extra", "[1]"], "must be a JSON object"),
        (["--method", "cot", "--endpoint-extra", "{"], "is not JSON"),
    ):
        found = CliRunner().invoke(app, [*where, *more, "-o", str(tmp_path / "other")])
        assert message in str(found.exception), found.output
    nothing = CliRunner().invoke(app, ["evaluate", "-d", "sample", "-o", str(tmp_path / "other")])
    assert "no model is named; give one with --model" in str(nothing.exception)
    alone = CliRunner().invoke(app, ["evaluate", "-d", "sample", "-m", "x", "--endpoint-model", "y", "-o", "z"])
    assert "--endpoint-model is for a model behind an endpoint" in str(alone.exception)


def test_it_loads_no_torch_and_an_interrupt_keeps_what_there_is(stub: Stub, tmp_path: Path) -> None:
    """In a process of its own, stopped while it waits for a reply that will not come."""
    stub.script = [(200, completion("정답: A"), {})] * 3 + [stall] * 3
    command = ["evaluate", "-d", "sample", "--limit", "6", "--endpoint", stub.url, "--endpoint-model", "tiny"]
    command += ["--method", "cot", "--endpoint-concurrency", "1", "-o", str(tmp_path / "run")]
    refuse = REFUSE.replace(', "matplotlib"', "")
    code = f"{refuse}\nsys.argv[1:] = {command!r}\nfrom sae_lens_med.cli import main\nmain()\n"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True)
    partial = tmp_path / "run" / "items.partial.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (partial.exists() and len(partial.read_text().splitlines()) == 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130, said
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 4
    stub.script = []
    asked = len(stub.requests)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.exception
    assert len(stub.requests) == asked + 3
    lines = (tmp_path / "run" / "items.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [item.id for item in DATA.items]


@pytest.mark.parametrize(
    "url", ["http://x/ v1", "http://한글.kr/v1", "http://x/경로", "http://a..b/v1", "http://" + "a" * 300 + "/v1"]
)
def test_a_url_that_no_request_can_begin_with_is_refused_before_one_is_made(url: str) -> None:
    with pytest.raises(ConfigError, match="ASCII without spaces"):
        Endpoint(url, "m")
