"""The methods of evaluation on tiny random models, against plain transformers on one unpadded text at a time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med import cli
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, ModelError, SaeLensMedError, StudyError, UnfitItemsError
from sae_lens_med.evaluation.generation import sample_seed, vote
from sae_lens_med.evaluation.method import METHODS, Method
from sae_lens_med.evaluation.methods import ask, run_method
from sae_lens_med.evaluation.report import REPORTS
from sae_lens_med.evaluation.run import evaluate, read_evaluation
from sae_lens_med.interventions import read_interventions
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine
from sae_lens_med.prompts.answers import paper, strict
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.saes.releases import load_folder
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae

DATA = load_items("sample", limit=6)
ITEMS = DATA.items
REPOSITORY = Path(__file__).parents[2]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
N_NEW = 6


@pytest.fixture(scope="module", params=["qwen3", "gemma3"])
def pair(request: pytest.FixtureRequest) -> tuple[MedBridge, Any]:
    """A model, and a transformers copy of it that nothing has wrapped."""
    model = tiny_model(request.param)
    return model, tiny_hf_model(request.param, len(model.text_tokenizer))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    """Qwen3 with a thinking template."""
    found = tiny_model("qwen3")
    found.text_tokenizer.chat_template = CHATML
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Where bytes are compared, sums must be too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(model: MedBridge, method: Method | str, items: Sequence[McqItem] = ITEMS, **kwargs: Any) -> list[ItemResult]:
    batch_tokens = kwargs.pop("batch_tokens", 4000)
    return run_method(Engine(model, batch_tokens=batch_tokens), items, method, progress=False, **kwargs)


def encoded(model: MedBridge, text: str) -> list[int]:
    ids: list[int] = model.text_tokenizer(text).input_ids
    return ids


def total(hf_model: Any, before: list[int], after: list[int]) -> float:
    with torch.no_grad():
        logprobs = hf_model(torch.tensor([before + after])).logits[0].float().log_softmax(-1)
    return float(sum(logprobs[len(before) + i - 1, token] for i, token in enumerate(after)))


# --- option-text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["character", "byte", "token"])
@pytest.mark.parametrize("n_shots", [0, 2])
def test_option_texts_against_one_pass_for_each(pair: tuple[MedBridge, Any], normalisation: str, n_shots: int) -> None:
    model, hf_model = pair
    shots, items = ITEMS[:n_shots], ITEMS[2:4]
    results = run(model, Method("option-text", normalisation=normalisation), items, shots=shots)
    for item, result in zip(items, results, strict=True):
        text = (
            "".join(f"{s.question}\n정답： {s.options[s.answer or 0]}\n\n" for s in shots) + f"{item.question}\n정답："
        )
        before = encoded(model, text)
        expected = []
        for option in item.options:
            whole = encoded(model, f"{text} {option}")
            assert whole[: len(before)] == before
            after = whole[len(before) :]
            length = {"character": len(option), "byte": len(option.encode()), "token": len(after)}[normalisation]
            expected.append(total(hf_model, before, after) / length)
        assert result.option_logprobs == pytest.approx(expected, abs=2e-5, rel=1e-5)
        assert result.prediction == "ABCDE"[max(range(5), key=expected.__getitem__)]
        assert (result.text, result.paper_prediction, result.confidence) == (None, None, None)


def test_option_texts_in_a_chat_follow_without_a_space(model: MedBridge) -> None:
    item = ITEMS[0]
    [result] = run(model, Method("option-text", chat=True, template="option-text-listed"), [item])
    [asked] = ask(model, [item], Method("option-text", chat=True, template="option-text-listed"))
    assert asked.prompt.text.endswith("</think>\n\n")
    before = list(asked.prompt.token_ids)
    hf_model = tiny_hf_model("qwen3", len(model.text_tokenizer))
    expected = [total(hf_model, before, encoded(model, option)) / len(option) for option in item.options]
    assert result.option_logprobs == pytest.approx(expected, abs=2e-5, rel=1e-5)


# --- generated answers ----------------------------------------------------------------------------------------------


def greedy(model: MedBridge, hf_model: Any, ids: list[int], n: int, stop: Sequence[str]) -> str:
    tokenizer, new = model.text_tokenizer, list[int]()
    while len(new) < n:
        with torch.no_grad():
            token = int(hf_model(torch.tensor([ids + new])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        new.append(token)
        text = tokenizer.decode(new, skip_special_tokens=True)
        if found := [text.index(s) for s in stop if s in text]:
            return text[: min(found)]
    return tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["generate", "cot"])
def test_greedy_text_against_one_token_at_a_time(pair: tuple[MedBridge, Any], name: str) -> None:
    model, hf_model = pair
    method = Method(name, max_new_tokens=N_NEW)
    items = ITEMS[1:3]
    results = run(model, method, items, shots=ITEMS[:1])
    for item, asked, result in zip(items, ask(model, items, method, ITEMS[:1]), results, strict=True):
        assert ITEMS[0].explanation is not None and result.text is not None
        assert (ITEMS[0].explanation in asked.prompt.text) == (name == "cot")
        assert result.text == greedy(model, hf_model, list(asked.prompt.token_ids), N_NEW, asked.stop)
        assert result.paper_prediction == paper(result.text)
        found = strict(result.text, item.options, truncated=len(encoded(model, result.text)) >= N_NEW)
        assert result.prediction == found.letter
        assert result.correct == (found.letter == item.gold_letter)
        assert (result.prediction is None) == (result.reason is not None)


def test_a_stop_string_takes_the_place_of_the_templates(model: MedBridge) -> None:
    whole = run(model, Method("generate", max_new_tokens=12, stop=("\0",)), ITEMS[:1])[0].text
    assert whole
    cut = run(model, Method("generate", max_new_tokens=12, stop=(whole[3],)), ITEMS[:1])[0].text
    assert cut == whole[: whole.index(whole[3])]


def test_thinking_on_and_off(model: MedBridge) -> None:
    [off] = ask(model, ITEMS[:1], Method("cot", chat=True))
    [on] = ask(model, ITEMS[:1], Method("cot", chat=True, enable_thinking=True))
    assert off.prompt.text == on.prompt.text + "<think>\n\n</think>\n\n"
    # With thinking on, the stop strings do not end the thought.
    free = run(model, Method("generate", chat=True, enable_thinking=True, max_new_tokens=12, stop=("\0",)), ITEMS[:1])
    assert free[0].text
    stop = (free[0].text[2],)
    kept = run(model, Method("generate", chat=True, enable_thinking=True, max_new_tokens=12, stop=stop), ITEMS[:1])
    assert kept[0].text == free[0].text
    with pytest.raises(ModelError, match="has no chat template"):
        ask(tiny_model("gemma3"), ITEMS[:1], Method("cot", chat=True))


# --- self-consistency -----------------------------------------------------------------------------------------------


def test_samples_do_not_depend_on_the_batch_or_on_the_other_items(model: MedBridge) -> None:
    method = Method("self-consistency", samples=5, max_new_tokens=8, stop=("\0",))
    alone = [run(model, method, [item], seed=3, batch_tokens=1)[0] for item in ITEMS[:3]]
    together = run(model, method, ITEMS[:3], seed=3, batch_tokens=100_000)
    backwards = run(model, method, ITEMS[2::-1], seed=3, batch_tokens=900)
    assert alone == together == backwards[::-1]
    assert len(set(together[0].samples)) > 1
    other = run(model, method, ITEMS[:3], seed=4)
    assert all(a.samples != b.samples for a, b in zip(together, other, strict=True))
    for item, result in zip(ITEMS, together, strict=False):
        assert len(result.samples) == len(result.sample_predictions) == 5
        assert (result.prediction, result.confidence) == vote(result.sample_predictions)
        assert result.paper_prediction == vote([paper(text) for text in result.samples])[0]
        assert result.gold == item.gold_letter


def test_a_sample_is_drawn_from_the_tempered_distribution(model: MedBridge) -> None:
    """Token by token from transformers' logits, with a generator seeded as the sample's seed says."""
    method = Method("self-consistency", samples=2, temperature=0.5, max_new_tokens=6, stop=("\0",))
    [result] = run(model, method, ITEMS[:1], seed=1)
    [asked] = ask(model, ITEMS[:1], method)
    hf_model = tiny_hf_model("qwen3", len(model.text_tokenizer))
    for k, text in enumerate(result.samples):
        random = torch.Generator().manual_seed(sample_seed(1, ITEMS[0].id, k))
        new: list[int] = []
        for _ in range(6):
            with torch.no_grad():
                logits = hf_model(torch.tensor([[*asked.prompt.token_ids, *new]])).logits[0, -1].double()
            token = int(torch.multinomial(torch.softmax(logits / 0.5, -1), 1, generator=random))
            if token == model.text_tokenizer.eos_token_id:
                break
            new.append(token)
        assert text == model.text_tokenizer.decode(new, skip_special_tokens=True)


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_each_method_writes_a_whole_folder(model: MedBridge, tmp_path: Path, name: str) -> None:
    short: dict[str, Any] = {} if name in ("letter", "option-text") else {"max_new_tokens": 4}
    if name == "self-consistency":
        short |= {"samples": 3}
    done = evaluate(model, DATA, Method(name, **short), output=tmp_path / "e", permutations=20, progress=False)
    assert read_evaluation(tmp_path / "e") == done
    summary = json.loads((tmp_path / "e" / "summary.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(m.name for m in done.metrics))
    generated = ["accuracy", "accuracy_paper"]
    assert names == {"letter": ["accuracy"], "option-text": ["accuracy"]}.get(
        name, generated + (["deferral_area"] if name == "self-consistency" else [])
    )
    overall = {m.name: m for m in done.metrics if m.group == "all"}
    assert overall["accuracy"].n == 6  # unanswered ones stay in the denominator
    assert overall["accuracy"].value == sum(r.correct is True for r in done.results) / 6
    if "accuracy_paper" in overall:
        assert overall["accuracy_paper"].value == sum(r.paper_prediction == r.gold for r in done.results) / 6
    assert summary["reasons"] == done.reasons
    assert sum(done.reasons.values()) == sum(r.prediction is None for r in done.results)
    assert sum(v for k, v in overall["accuracy"].extra.items() if k.startswith("unanswered_")) == sum(
        done.reasons.values()
    )
    files = {p.name for p in (tmp_path / "e").iterdir()}
    curve = {"deferral.csv", "deferral.svg"} if name == "self-consistency" else set()
    assert files == {"items.jsonl", "summary.json", *REPORTS} | curve
    assert bool(done.deferral) == (name == "self-consistency")
    settings = done.provenance.settings
    assert (settings["method"], list(settings["template_sha256"])) == (name, ["ko"])
    with pytest.raises(StudyError, match="other settings"):
        evaluate(model, DATA, "letter" if name != "letter" else "option-text", output=tmp_path / "e", progress=False)


def test_another_template_is_another_run_and_a_moved_one_is_not(model: MedBridge, tmp_path: Path) -> None:
    for name in ("one.j2", "two.j2"):
        (tmp_path / name).write_text("{{ question }}\n정답：", encoding="utf-8")

    def go(path: str) -> Any:
        method = Method("option-text", template=str(tmp_path / path))
        return evaluate(model, DATA, method, output=tmp_path / "e", permutations=20, progress=False)

    first = go("one.j2")
    assert go("two.j2").metrics == first.metrics
    (tmp_path / "two.j2").write_text("{{ question }}\n답：", encoding="utf-8")
    with pytest.raises(StudyError, match="settings.template_sha256"):
        go("two.j2")


def test_an_sae_its_error_term_and_interventions(model: MedBridge, tmp_path: Path) -> None:
    save_tiny_sae(tmp_path / "sae", tiny_sae(model))
    sae = load_folder(tmp_path / "sae")
    common: dict[str, Any] = {"permutations": 20, "progress": False}

    def numbers(name: str, **kwargs: Any) -> torch.Tensor:
        done = evaluate(model, DATA, output=tmp_path / name, **kwargs, **common)
        assert {m.variant for m in done.metrics} == {"sae" if kwargs else "model"}
        return torch.tensor([r.option_logprobs for r in done.results])

    plain = numbers("plain")
    torch.testing.assert_close(numbers("exact", sae=sae, error_term=True), plain, atol=2e-5, rtol=1e-5)
    assert not torch.allclose(numbers("spliced", sae=sae), plain, atol=1e-3)
    spec = tmp_path / "steer.yaml"
    spec.write_text("- {kind: steer, features: {3: 0.5}, unit: max}\n", encoding="utf-8")
    steer = read_interventions(spec)
    steered = numbers("steered", sae=sae, interventions=steer)
    assert not torch.allclose(steered, plain, atol=1e-3)
    assert not torch.allclose(numbers("both", sae=sae, error_term=False, interventions=steer), steered, atol=1e-3)
    spec.write_text("- {kind: steer, features: {3: 1.0}, unit: max}\n", encoding="utf-8")
    with pytest.raises(StudyError, match="settings.interventions"):
        evaluate(model, DATA, output=tmp_path / "steered", sae=sae, interventions=read_interventions(spec), **common)
    with pytest.raises(ConfigError, match="interventions act on the features of an SAE; pass an SAE"):
        evaluate(model, DATA, output=tmp_path / "none", interventions=steer, **common)
    with pytest.raises(ConfigError, match="hooks and about_hooks belong together"):
        evaluate(
            model, DATA, output=tmp_path / "none", hooks=[("blocks.0.hook_resid_post", lambda x, hook: x)], **common
        )


def test_too_long_and_twice(model: MedBridge) -> None:
    long = McqItem("long", "s", "ko", "질문? " * 900, ("a", "b"), 0)
    for name in METHODS:
        with pytest.raises(UnfitItemsError, match="item 'long': .* more than the 2048 that tiny-qwen3-0 takes"):
            run(model, name, [long])
        with pytest.raises(DataError, match="appears twice"):
            run(model, name, [ITEMS[0], ITEMS[0]])


# --- killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, one_thread: None) -> None:
    folder = save_tiny_model(tmp_path / "model")
    common = ["evaluate", "--model", str(folder), "--data", "sample", "--permutations", "20", "--device", "cpu"]
    common += ["--method", "self-consistency", "--samples", "3", "--max-new-tokens", "30", "--batch-tokens", "500"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "sae_lens_med", *common, "--output", str(killed)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    partial = killed / "items.partial.jsonl"
    end = time.monotonic() + 240
    while not (partial.exists() and len(partial.read_bytes().splitlines()) >= 3):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "summary.json").exists()
    kept = [json.loads(line) for line in partial.read_bytes().splitlines()[1:]]
    with partial.open("ab") as handle:
        handle.write(b'[{"id": "torn')
    for output in (killed, whole):
        done = CliRunner().invoke(cli.app, [*common, "--output", str(output)])
        assert done.exit_code == 0, done.output
    assert (killed / "items.jsonl").read_bytes() == (whole / "items.jsonl").read_bytes()
    assert sorted(p.name for p in killed.iterdir()) == sorted(p.name for p in whole.iterdir())
    mine, its = (json.loads((f / "summary.json").read_text(encoding="utf-8")) for f in (killed, whole))
    for key in ("metrics", "reasons", "deferral"):
        assert mine[key] == its[key]
    results = {r.id: r for r in read_evaluation(whole).results}
    assert all(ItemResult.from_dict(values) == results[values["id"]] for line in kept for values in line)


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "leter"], "there is no method 'leter'"),
        (["--method", "cot", "--template", "cott"], "there is no template 'cott'"),
        (["--method", "letter", "--samples", "3"], "the method letter does not use samples"),
        (["--method", "letter", "--chat", "--thinking"], "a thought, not an answer"),
        (["--method", "cot", "--instructions", "fr"], "there are no instructions in the language 'fr'"),
        (["--method", "cot", "--intervention", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
    ],
)
def test_wrong_input_is_one_sentence_before_a_model_is_opened(tmp_path: Path, arguments: list[str], said: str) -> None:
    given_ = ["evaluate", "-m", "/no/model", "-d", "sample", "-o", str(tmp_path / "e"), *arguments]
    result = CliRunner().invoke(cli.app, given_)
    assert isinstance(result.exception, SaeLensMedError)
    assert said in str(result.exception)


def test_the_command(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    mine = tmp_path / "mine.j2"
    runner = CliRunner()
    printed = runner.invoke(cli.app, ["templates", "cot.ko"])
    mine.write_text(printed.stdout, encoding="utf-8")
    common = ["evaluate", "-m", str(folder), "-d", "sample", "--limit", "4", "--permutations", "20", "--shots", "1"]
    arguments = ["--method", "cot", "--template", str(mine), "--max-new-tokens", "3", "-o", str(tmp_path / "e")]
    shown = runner.invoke(cli.app, [*common, *arguments])
    assert shown.exit_code == 0, shown.output
    assert "accuracy_paper" in shown.stdout
    said = " ".join(shown.stdout.split())
    assert "No answer, counted as wrong: truncated 3 (the token limit cut the text off before an answer; raise " in said
    assert "--max-new-tokens" in said and "accuracy_paper: the same texts read by the rules of KorMedMCQA" in said
    assert f"Report: {tmp_path / 'e' / 'report.html'}" in shown.stdout
    shipped = runner.invoke(cli.app, [*common, *arguments[:2], *arguments[4:], "--json"])
    assert shipped.exit_code == 0, shipped.output  # the copy is the same template
    assert json.loads(shipped.stdout)["metrics"][0]["n"] == 3
    listed = json.loads(runner.invoke(cli.app, ["templates", "--json"]).stdout)
    assert len(listed) == 10
    for method in METHODS:
        assert method in runner.invoke(cli.app, ["evaluate", "--help"]).stdout
