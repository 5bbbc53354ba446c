"""`collect`: the features of what a model wrote, here or behind an endpoint, against transformers on the whole text;
and of open questions, of which there is no accuracy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.evaluation.results import Evaluation, read_evaluation
from sae_lens_med.evaluation.written import items_of, written_prompts
from sae_lens_med.features.store import CollectedFeatures, load_features
from sae_lens_med.features.vectors import max_pool
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import PARTS
from tests.stub_endpoint import Stub, completion, serving
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
REASONING = PARTS.index("reasoning")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny chat model and an SAE of it."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny_model(folder / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder / "model")
    save_tiny_sae(folder / "sae", tiny_sae(tiny_model()))
    return folder


def command(place: Path, *more: str) -> Any:
    return CliRunner().invoke(app, ["collect", "-m", str(place / "model"), "-s", str(place / "sae"), *more])


def served(run: Path, answers: dict[str, Any], *more: str) -> Evaluation:
    """The sample's first items, answered by a stub as `answers` has it, by id."""
    items = load_items("sample", limit=len(answers)).items

    def answer(handler: Any, body: dict[str, Any]) -> None:
        item = next(item for item in items if item.question.strip() in body["messages"][0]["content"])
        handler.reply(200, answers[item.id], {})

    stub = Stub()
    with serving(stub):
        stub.script = [lambda handler: answer(handler, stub.requests[-1])] * len(answers)
        where = ["--endpoint", stub.url, "--endpoint-model", "tiny", "--endpoint-concurrency", "1"]
        limit = ["-d", "sample", "--limit", str(len(answers))]
        done = CliRunner().invoke(app, ["evaluate", *limit, *where, "--method", "cot", *more, "-o", str(run)])
        assert done.exit_code == 0, (done.output, done.exception)
    return read_evaluation(run)


def check(got: CollectedFeatures, item_id: str, text: str, before: str) -> None:
    """The features of one item are those of one pass over `before` and `text` in plain transformers."""
    tokenizer = tiny_tokenizer()
    ids = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    assert isinstance(ids, list)
    with torch.no_grad():
        states = tiny_hf_model("qwen3", len(tokenizer))(torch.tensor([ids]), output_hidden_states=True).hidden_states
        want = tiny_sae(tiny_model()).encode(states[2][0]).numpy()
    of_item = got.acts.token_item == got.acts.item_ids.index(item_id)
    mine = of_item & (got.token_text == 0)
    assert got.acts.token_id[mine].tolist() == ids
    np.testing.assert_allclose(got.acts.acts[np.flatnonzero(mine)].toarray(), want, atol=2e-5)
    written = mine & (got.acts.token_part == REASONING)
    assert got.texts[item_id]["question"] == before + text
    assert int(got.acts.char_start[written].min()) == len(before)
    assert int(got.acts.char_end[written].max()) == len(before + text)
    assert max_pool(got.acts, ("reasoning",))[got.acts.item_ids.index(item_id)].nnz > 0


def test_what_an_endpoint_wrote(place: Path, tmp_path: Path) -> None:
    items = load_items("sample", limit=3).items
    first, second, third = items
    answers = {
        first.id: completion("환자는 발열과 기침으로 병원에 왔다.\n정답: A"),
        second.id: completion("정답: B", reasoning_content="발열이 있다. 그러므로"),
        third.id: completion(""),
    }
    run = served(tmp_path / "run", answers)
    done = command(place, "--answers", str(tmp_path / "run"), "--limit", "3", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, (done.output, done.exception)
    got = load_features(tmp_path / "out")
    template = find_templates("cot")
    for item, thinks in ((first, False), (second, True)):
        text = next(result.text for result in run.results if result.id == item.id)
        assert text
        body = template.of(item).render(item).text
        chat = f"<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
        check(got, item.id, text, chat if thinks else f"{chat}<think>\n\n</think>\n\n")
    # Nothing was written for the third; its question and explanation are there all the same.
    parts = got.acts.token_part[got.acts.token_item == 2]
    assert REASONING not in parts and {PARTS.index("stem"), PARTS.index("explanation")} <= set(parts.tolist())
    assert got.manifest["settings"]["prompts"]["model"] == "tiny"
    again = command(place, "--answers", str(tmp_path / "run"), "--limit", "3", "-o", str(tmp_path / "out"), "--json")
    assert json.loads(again.stdout)["n_items"] == 3


def test_what_a_model_here_wrote_after_shots(place: Path, tmp_path: Path) -> None:
    model = ["-m", str(place / "model"), "-d", "sample", "--limit", "4", "--shots", "1", "--max-new-tokens", "5"]
    done = CliRunner().invoke(app, ["evaluate", *model, "--method", "generate", "-o", str(tmp_path / "run")])
    assert done.exit_code == 0, (done.output, done.exception)
    done = command(place, "--answers", str(tmp_path / "run"), "--limit", "4", "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, (done.output, done.exception)
    got = load_features(tmp_path / "out")
    assert len(got.acts.item_ids) == 3
    run = read_evaluation(tmp_path / "run")
    shots, rest = items_of(run, load_items("sample", limit=4))
    for item, result in zip(rest.items, run.results, strict=True):
        text = find_templates("generate").of(item).render(item, shots).text
        # The shot is run and not stored.
        kept = got.texts[item.id]["question"]
        assert kept == text + (result.text or "")
        mine = (got.acts.token_item == got.acts.item_ids.index(item.id)) & (got.token_text == 0)
        start = int(got.acts.char_start[mine].min())
        assert kept[start:].lstrip().startswith(item.question.strip()[:10])


def test_answers_of_other_data_or_another_template_are_refused(place: Path, tmp_path: Path) -> None:
    items = load_items("sample", limit=2).items
    run = served(tmp_path / "run", {item.id: completion("정답: A") for item in items})
    answers = ["--answers", str(tmp_path / "run")]
    for more, message in (
        ([], "was evaluated on other items than sample gives; use the data, split and limit"),
        (["--limit", "3"], "was evaluated on other items"),
        (["--limit", "2", "--shots", "1"], "the shots are those of the evaluation"),
    ):
        found = command(place, *answers, *more, "-o", str(tmp_path / "out"))
        assert message in str(found.exception), found.output
    assert "name the questions with --data" in str(command(place, "-o", str(tmp_path / "out")).exception)
    settings = run.provenance.settings
    settings["template_sha256"] = {"ko": "0" * 64}
    with pytest.raises(ConfigError, match="the template cot is not the one that .* was evaluated with"):
        written_prompts(run, items, (), tiny_tokenizer())
    settings["method"] = "self-consistency"
    with pytest.raises(ConfigError, match="the method self-consistency of .* samples several texts; evaluate with cot"):
        written_prompts(run, items, (), tiny_tokenizer())


def test_instructions_in_another_language_are_found_again(tmp_path: Path) -> None:
    items = load_items("sample", limit=1).items
    run = served(tmp_path / "run", {items[0].id: completion("정답: A")}, "--instructions", "en")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    prompts = written_prompts(run, items, (), tokenizer)
    assert "Read the following question" in prompts[items[0].id].text


def test_open_questions_have_features_and_no_accuracy(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "open.jsonl"
    rows = [{"id": f"h{i}", "question": f"Is fever of {38 + i} degrees bad?"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = f"healthsearchqa:{path}"
    done = command(place, "-d", source, "-o", str(tmp_path / "out"))
    assert done.exit_code == 0, (done.output, done.exception)
    got = load_features(tmp_path / "out")
    assert got.acts.item_ids == ("h0", "h1", "h2") and not got.has_explanation.any()
    assert {PARTS[i] for i in np.unique(got.acts.token_part)} == {"stem", "other"}
    assert got.texts["h0"]["question"] == "Is fever of 38 degrees bad?\nAnswer:"
    one_sentence = (
        "needs questions with options, but 'h0' is among 3 open questions without any; collect their features"
    )
    # Before anything is loaded: there is no such model.
    nowhere = ["-m", str(tmp_path / "nowhere"), "-d", source, "-o", str(tmp_path / "other")]
    for method in ("letter", "cot"):
        found = CliRunner().invoke(app, ["evaluate", *nowhere, "--method", method])
        assert isinstance(found.exception, DataError) and f"accuracy {one_sentence}" in str(found.exception)
    found = CliRunner().invoke(app, ["study", *nowhere, "-s", str(place / "sae")])
    assert isinstance(found.exception, DataError) and f"a study {one_sentence}" in str(found.exception)
    assert not (tmp_path / "other").exists()


def test_an_evaluation_that_is_not_there(place: Path, tmp_path: Path) -> None:
    found = command(place, "--answers", str(tmp_path / "nothing"), "-o", str(tmp_path / "out"))
    assert isinstance(found.exception, StudyError)
