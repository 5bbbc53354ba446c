"""The path of Hari-q3, as docs/hari-q3.md shows it: the same names and commands, on tiny random weights, offline.

A Hub cache on disk holds, under their real names, `snuh/hari-q3-8b` and `snuh/hari-q3` (Qwen3: no BOS, ChatML with
thinking, untied embeddings, n_heads * head_dim != d_model), a Qwen-Scope SAE and a transcoder of mwhanna's, so that
transformers and SAELens run their own loaders. Of these, only SAELens' table of widths is told another number. Numbers
are compared with plain transformers, prompts written out by hand and dictionaries computed from the raw files.
"""

import functools
import json
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, set_seed
from typer.testing import CliRunner, Result

from sae_lens_med import cli
from sae_lens_med.data import load_items
from sae_lens_med.errors import ModelError, ReleaseError
from sae_lens_med.evaluation.run import read_evaluation
from sae_lens_med.models.bridge import load_model
from sae_lens_med.records import ItemResult, McqItem
from sae_lens_med.runs.partial import read_results
from sae_lens_med.saes.releases import load_sae, other_model
from sae_lens_med.study.folder import read_metrics
from tests.tiny import HIDDEN, LAYERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LAYER = 1
QWEN_SCOPE = "qwen-scope-3-8b-base-w64k-l50:layer1"
QWEN_SCOPE_REPO = "Qwen/SAE-Res-Qwen3-8B-Base-W64K-L0_50"
D_SAE, K = 65536, 50
TRANSCODER = "mwhanna-qwen3-14b-transcoders:layer_1"
TRANSCODER_REPO = "mwhanna/qwen3-14b-transcoders"
D_TRANSCODER = 96
DATA = load_items("sample", limit=4)
ITEMS = DATA.items
N_NEW = 24

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts a text before BPE."""
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
"""Qwen3's, as far as it concerns turns without tools."""


# --- what lies in the cache -----------------------------------------------------------------------------------------


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()  # type: ignore[assignment]
    core.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([f"정답： {letter}\n\n{letter}. 환자는 발열과" for letter in "ABCDE"] * 20, trainer)
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    core.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=131072,
    )
    made.chat_template = TEMPLATE
    return made


def qwen3(tokenizer: PreTrainedTokenizerFast, seed: int) -> Any:
    end, pad = (int(tokenizer.convert_tokens_to_ids(each)) for each in ("<|im_end|>", "<|endoftext|>"))  # type: ignore[arg-type]  # ids of tokens, not of lists
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,  # 4 * 16 != 32
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    set_seed(seed)
    made: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    made.generation_config.eos_token_id = [end, pad]
    return made


@torch.no_grad()
def teach_to_end_thinking(model: Any, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Turn the row of `</think>` in the LM head towards a state of the model's own, so that it comes in the text."""
    ids = tokenizer(text, return_tensors="pt").input_ids
    ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    state = model.model(ids).last_hidden_state[0, -1]
    logit = 1.5 * float(model.lm_head(state).max())
    model.lm_head.weight[tokenizer.convert_tokens_to_ids("</think>")] = logit * state / (state @ state)


def put(cache: Path, repo: str, write: Callable[[Path], Any]) -> Path:
    """A repository in the Hub's cache layout, its files written by `write(folder)`."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    write(folder)
    return folder


@functools.cache
def qwen_scope_tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    directions = torch.randn(D_SAE, HIDDEN, generator=random)
    directions /= directions.norm(dim=1, keepdim=True)
    return {
        "W_enc": directions,
        "W_dec": 0.3 * directions.T.contiguous(),
        "b_enc": 0.1 * torch.randn(D_SAE, generator=random),
        "b_dec": 0.1 * torch.randn(HIDDEN, generator=random),
    }


def transcoder_tensors() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    return {
        "W_enc": torch.randn(D_TRANSCODER, HIDDEN, generator=random) / HIDDEN**0.5,
        "W_dec": torch.randn(D_TRANSCODER, HIDDEN, generator=random) / HIDDEN**0.5,
        "b_enc": 0.1 * torch.randn(D_TRANSCODER, generator=random),
        "b_dec": 0.1 * torch.randn(HIDDEN, generator=random),
    }


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = qwen_tokenizer()

    def write_model(to: Path, seed: int) -> None:
        made = qwen3(tokenizer, seed)
        teach_to_end_thinking(made, tokenizer, turn(reasoned(ITEMS[0]), thinking=True))
        made.save_pretrained(to)
        tokenizer.save_pretrained(to)

    def write_transcoder(to: Path) -> None:  # the 14B's repository has no config.yaml
        save_file(transcoder_tensors(), to / f"layer_{LAYER}.safetensors")
        wandb = {"d_model": {"value": HIDDEN}, "d_feature": {"value": D_TRANSCODER}, "batch_size": {"value": 8}}
        (to / "wandb-config.yaml").write_text(yaml.safe_dump(wandb))

    for seed, repo in enumerate(("snuh/hari-q3-8b", "snuh/hari-q3")):
        put(folder, repo, functools.partial(write_model, seed=seed))
    put(folder, QWEN_SCOPE_REPO, lambda to: torch.save(qwen_scope_tensors(), to / f"layer{LAYER}.sae.pt"))
    put(folder, TRANSCODER_REPO, write_transcoder)
    return folder


@pytest.fixture(autouse=True)
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from sae_lens.loading import pretrained_sae_loaders

    asked: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    widths = pretrained_sae_loaders.QWEN_SCOPE_MODEL_INFO
    monkeypatch.setitem(widths, "Qwen3-8B-Base", (widths["Qwen3-8B-Base"][0], HIDDEN))
    yield
    assert not asked


# --- the oracle -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(cache: Path) -> Callable[[str], tuple[Any, Any]]:
    """Model and tokenizer of a repository in the cache, by transformers alone."""

    @functools.cache
    def opened(repo: str) -> tuple[Any, Any]:
        folder = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT
        return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    return opened


def asked(item: McqItem, shots: Sequence[McqItem] = ()) -> str:
    def one(each: McqItem) -> str:
        options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", each.options, strict=False))
        return f"{each.question}\n{options}\n정답："

    return "".join(f"{one(shot)} {shot.gold_letter}\n\n" for shot in shots) + one(item)


def reasoned(item: McqItem) -> str:
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCDE", item.options, strict=False))
    last = "ABCDE"[len(item.options) - 1]
    return (
        '다음 의료 자격시험 문제를 읽고 단계별로 추론하십시오. 추론을 마치면 마지막 줄에 "정답: X" 형식으로만 '
        f"답하십시오. X는 A부터 {last} 중 하나입니다.\n\n[문제]\n{item.question}\n\n[선택지]\n{options}\n\n[풀이]"
    )


def turn(text: str, *, thinking: bool) -> str:
    opened = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    return opened if thinking else f"{opened}<think>\n\n</think>\n\n"


Edit = Callable[[Any, torch.Tensor], Any]


@torch.no_grad()
def logprobs(opened: tuple[Any, Any], text: str, answers: list[str], edit: Edit | None = None) -> list[float]:
    """Of each answer's token after `text`; `edit(model, ids)` puts torch hooks on and returns their handle."""
    model, tokenizer = opened
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    handle = None if edit is None else edit(model, ids[0])
    try:
        found = model(ids).logits[0, -1].log_softmax(-1)
    finally:
        if handle is not None:
            handle.remove()
    return [float(found[tokenizer(answer, add_special_tokens=False).input_ids[-1]]) for answer in answers]


def qwen_scope_acts(x: torch.Tensor) -> torch.Tensor:
    raw = qwen_scope_tensors()
    pre = x @ raw["W_enc"].T + raw["b_enc"]
    values, indices = pre.topk(K, dim=-1)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def at_layer(change: Callable[[torch.Tensor], torch.Tensor], *, special: bool) -> Edit:
    """`change` on what layer 1 puts out; with `special`, at the tokens that end texts and turns, too."""

    def edit(model: Any, ids: torch.Tensor) -> Any:
        keep = torch.isin(ids, torch.tensor([model.config.eos_token_id, model.config.pad_token_id])) & (not special)

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            new = torch.where(keep[:, None], x, change(x))
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return model.model.layers[LAYER].register_forward_hook(hook)

    return edit


def reconstructed(x: torch.Tensor) -> torch.Tensor:
    raw = qwen_scope_tensors()
    return qwen_scope_acts(x) @ raw["W_dec"].T + raw["b_dec"]


def transcoded(model: Any, ids: torch.Tensor) -> Any:
    raw = transcoder_tensors()
    keep = torch.isin(ids, torch.tensor([model.config.eos_token_id, model.config.pad_token_id]))

    def hook(_module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        out = (inputs[0] @ raw["W_enc"].T + raw["b_enc"]).relu() @ raw["W_dec"] + raw["b_dec"]
        return torch.where(keep[:, None], output, out)

    return model.model.layers[LAYER].mlp.register_forward_hook(hook)


def close(result: ItemResult, expected: list[float]) -> None:
    assert result.option_logprobs == pytest.approx(expected, abs=2e-5, rel=1e-5)


def command(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(cli.app, [str(each) for each in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def evaluated(output: Path, *arguments: str | Path, model: str = "hari-q3-8b") -> tuple[Any, Result]:
    common = ["--model", model, "--data", "sample", "--limit", "4", "--permutations", "20", "--device", "cpu"]
    done = command("evaluate", *common, *arguments, "--output", output)
    return read_evaluation(output), done


# --- the model by its alias -----------------------------------------------------------------------------------------


def test_the_alias_opens_what_the_cache_holds() -> None:
    model = load_model("hari-q3-8b")
    assert model.provenance == {"name": "hari-q3-8b", "source": "hub", "dtype": "float32", "revision": COMMIT}
    assert model.cfg.n_heads * model.cfg.d_head != model.cfg.d_model
    assert not model.plain.config.tie_word_embeddings
    assert model.text_tokenizer.bos_token_id is None
    assert model.to_tokens("환자는").tolist() == [model.text_tokenizer("환자는").input_ids]


@pytest.mark.parametrize("model", ["hari-q3-8b", "hari-q3"])
def test_without_cache_and_network_the_alias_is_one_sentence(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    said = (
        f"the model '{model}' could not be downloaded from the Hub; check the name and the network, or pass the "
        "folder of a local copy."
    )
    with pytest.raises(ModelError) as error:
        load_model(model)
    assert str(error.value) == said
    with pytest.raises(ReleaseError, match=f"{QWEN_SCOPE} could not be downloaded through SAELens .*pass the folder"):
        load_sae(QWEN_SCOPE)
    monkeypatch.setattr(sys, "argv", ["sae-lens-med", "evaluate", "-m", model, "-d", "sample", "-o", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {said}"


# --- methods --------------------------------------------------------------------------------------------------------


def test_letter_with_and_without_shots(plain: Any, tmp_path: Path) -> None:
    opened = plain("snuh/hari-q3-8b")
    for n_shots in (0, 2):
        done, _ = evaluated(tmp_path / str(n_shots), "--method", "letter", "--shots", str(n_shots))
        assert [result.id for result in done.results] == [item.id for item in ITEMS[n_shots:]]
        for item, result in zip(ITEMS[n_shots:], done.results, strict=True):
            answers = [f" {letter}" for letter in "ABCDE"[: len(item.options)]]
            close(result, logprobs(opened, asked(item, ITEMS[:n_shots]), answers))


def test_letter_in_a_chat_stands_after_the_closed_thinking(plain: Any, tmp_path: Path) -> None:
    done, _ = evaluated(tmp_path / "e", "--method", "letter", "--chat")
    for item, result in zip(ITEMS, done.results, strict=True):
        answers = list("ABCDE"[: len(item.options)])
        close(result, logprobs(plain("snuh/hari-q3-8b"), turn(asked(item), thinking=False), answers))


def written(opened: tuple[Any, Any], text: str) -> str:
    model, tokenizer = opened
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_NEW, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_cot_with_thinking_ends_after_the_thought(plain: Any, tmp_path: Path) -> None:
    opened = plain("snuh/hari-q3-8b")
    texts = [written(opened, turn(reasoned(item), thinking=True)) for item in ITEMS]
    thinking = ["--method", "cot", "--chat", "--thinking", "--max-new-tokens", str(N_NEW)]
    done, _ = evaluated(tmp_path / "whole", *thinking)
    assert [result.text for result in done.results] == texts
    thought, mark, answer = texts[0].partition("</think>")
    assert mark and len(answer.strip()) > 1  # what the fixture has made of the model
    stop = answer.lstrip()[1]
    done, _ = evaluated(tmp_path / "cut", *thinking, "--stop", stop)
    begun = len(answer) - len(answer.lstrip())
    assert done.results[0].text == thought + mark + answer[: answer.index(stop, begun)]
    assert done.provenance.settings["enable_thinking"]


def test_self_consistency_in_a_chat(tmp_path: Path) -> None:
    short = ["--samples", "3", "--max-new-tokens", "4", "--dtype", "bfloat16"]
    done, _ = evaluated(tmp_path / "e", "--method", "self-consistency", "--chat", "--thinking", *short)
    assert all(len(result.samples) == 3 and result.confidence is not None for result in done.results)


# --- dictionaries by their names in SAELens -------------------------------------------------------------------------

TOLD = f"The SAE {QWEN_SCOPE} was trained on Qwen/Qwen3-8B-Base, from which hari-q3-8b was tuned, not on it itself."


def test_evaluation_through_a_qwen_scope_sae(plain: Any, tmp_path: Path) -> None:
    loaded = load_sae(QWEN_SCOPE)
    assert (loaded.hook_name, loaded.sae.cfg.d_in, loaded.sae.cfg.d_sae) == (
        f"blocks.{LAYER}.hook_resid_post",
        HIDDEN,
        D_SAE,
    )
    assert torch.equal(loaded.sae.W_dec.T, qwen_scope_tensors()["W_dec"])
    done, shown = evaluated(tmp_path / "e", "--method", "letter", "--chat", "--sae", QWEN_SCOPE)
    assert TOLD in shown.stderr.splitlines()
    assert done.provenance.sae == {
        "source": QWEN_SCOPE,
        "sae_id": "layer1",
        "sha256": loaded.sha256,
        "settings": loaded.settings,
        "hook_name": f"blocks.{LAYER}.hook_resid_post",
        "trained_on": "Qwen/Qwen3-8B-Base",
    }
    for item, result in zip(ITEMS, done.results, strict=True):
        text, answers = turn(asked(item), thinking=False), list("ABCDE"[: len(item.options)])
        expected = logprobs(plain("snuh/hari-q3-8b"), text, answers, at_layer(reconstructed, special=False))
        close(result, expected)
        assert expected != pytest.approx(logprobs(plain("snuh/hari-q3-8b"), text, answers), abs=1e-2)


@torch.no_grad()
def test_ablation_and_steering_on_a_qwen_scope_sae(plain: Any, tmp_path: Path) -> None:
    opened = model, tokenizer = plain("snuh/hari-q3-8b")
    ids = [tokenizer(asked(item), return_tensors="pt").input_ids for item in ITEMS[:2]]
    states = torch.cat([model(each, output_hidden_states=True).hidden_states[LAYER + 1][0] for each in ids])
    first, second = (qwen_scope_acts(states) > 0).sum(0).topk(2).indices.tolist()
    values = {
        "conditions": [
            {"name": "splice", "kind": "splice"},
            {"name": "ablate", "kind": "ablate", "features": [first, second], "mode": "zero"},
            {"name": "steer", "kind": "steer", "features": {first: 1.0}, "unit": "raw", "strengths": [-20, 20]},
        ],
        "matched_random": 1,
    }
    (tmp_path / "conditions.yaml").write_text(yaml.safe_dump(values))
    shown = command(
        *("intervene", "--model", "hari-q3-8b", "--sae", QWEN_SCOPE, "--data", "sample", "--limit", "2"),
        *("--conditions", tmp_path / "conditions.yaml", "--device", "cpu", "--output", tmp_path / "out"),
    )
    assert TOLD in shown.stderr.splitlines()
    directions = qwen_scope_tensors()["W_dec"].T

    def ablated(x: torch.Tensor) -> torch.Tensor:
        return x - qwen_scope_acts(x)[..., [first, second]] @ directions[[first, second]]

    edits: dict[str, Edit | None] = {
        "plain": None,
        "splice": at_layer(reconstructed, special=True),
        "ablate": at_layer(ablated, special=True),
        "steer@-20": at_layer(lambda x: x - 20 * directions[first], special=True),
        "steer@20": at_layer(lambda x: x + 20 * directions[first], special=True),
    }
    for name, edit in edits.items():
        results = read_results(tmp_path / "out" / "conditions" / name / "items.jsonl")
        for item, result in zip(ITEMS[:2], results, strict=True):
            answers = [f" {letter}" for letter in "ABCDE"[: len(item.options)]]
            close(result, logprobs(opened, asked(item), answers, edit))
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert compared["provenance"]["sae"]["trained_on"] == "Qwen/Qwen3-8B-Base"


def test_a_study_with_a_qwen_scope_sae(tmp_path: Path) -> None:
    short = ["--limit", "4", "--permutations", "20", "--device", "cpu", "--dtype", "bfloat16"]
    shown = command(
        *("study", "--model", "hari-q3-8b", "--sae", QWEN_SCOPE, "--data", "sample"),
        *(*short, "--output", tmp_path / "s"),
    )
    assert TOLD in shown.stderr.splitlines()
    assert "Qwen/Qwen3-8B-Base" in (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert {"accuracy", "alignment/matched_minus_mismatched"} <= {
        metric.name for metric in read_metrics(tmp_path / "s")
    }


def test_a_transcoder_of_the_14b_spliced(plain: Any, tmp_path: Path) -> None:
    opened = plain("snuh/hari-q3")
    loaded = load_sae(TRANSCODER)
    metadata = loaded.sae.cfg.metadata
    assert (metadata.hook_name, metadata.hook_name_out) == ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out")
    done, shown = evaluated(tmp_path / "e", "--method", "letter", "--sae", TRANSCODER, model="hari-q3")
    told = f"The SAE {TRANSCODER} was trained on Qwen/Qwen3-14B; here it reads hari-q3."
    assert told in shown.stderr.splitlines()
    half, _ = evaluated(tmp_path / "half", "--sae", TRANSCODER, "--dtype", "bfloat16", model="hari-q3")
    for result, coarse in zip(done.results, half.results, strict=True):
        assert coarse.option_logprobs == pytest.approx(result.option_logprobs, abs=0.5)
    (tmp_path / "c.yaml").write_text("conditions: [{name: splice, kind: splice, positions: not_special}]\n")
    compare = ["--sae", TRANSCODER, "--data", "sample", "--limit", "4", "--conditions", tmp_path / "c.yaml"]
    command("intervene", "--model", "hari-q3", *compare, "--device", "cpu", "--output", tmp_path / "out")
    results = read_results(tmp_path / "out" / "conditions" / "splice" / "items.jsonl")
    for item, result, again in zip(ITEMS, done.results, results, strict=True):
        answers = [f" {letter}" for letter in "ABCDE"[: len(item.options)]]
        expected = logprobs(opened, asked(item), answers, transcoded)
        close(result, expected)
        close(again, expected)
        assert expected != pytest.approx(logprobs(opened, asked(item), answers), abs=1e-2)


class Runs:
    """A pickle that touches a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    touched = tmp_path / "touched"
    bad = {"W_enc": Runs(touched)}
    put(tmp_path, QWEN_SCOPE_REPO, lambda to: torch.save(bad, to / f"layer{LAYER}.sae.pt"))
    with pytest.raises(ReleaseError, match=f"The SAE {QWEN_SCOPE} was not opened: its file is a pickle with more in"):
        load_sae(QWEN_SCOPE)
    assert not touched.exists()


def test_a_qwen_scope_file_of_another_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    wide = qwen_scope_tensors() | {"b_dec": torch.zeros(HIDDEN + 1)}
    put(tmp_path, QWEN_SCOPE_REPO, lambda to: torch.save(wide, to / f"layer{LAYER}.sae.pt"))
    with pytest.raises(ReleaseError, match=f"{QWEN_SCOPE} could not be downloaded through SAELens"):
        load_sae(QWEN_SCOPE)


@pytest.mark.parametrize(
    ("trained_on", "model", "told"),
    [
        ("Qwen/Qwen3-8B-Base", "hari-q3-8b", "was trained on Qwen/Qwen3-8B-Base, from which hari-q3-8b was tuned"),
        ("Qwen/Qwen3-8B", "hari-q3-8b", "was trained on Qwen/Qwen3-8B; here it reads hari-q3-8b."),
        ("Qwen/Qwen3-14B", "hari-q3", "was trained on Qwen/Qwen3-14B; here it reads hari-q3."),
        ("snuh/hari-q3-8b", "hari-q3-8b", None),
        ("hari-q3-8b", "/models/hari-q3-8b/", None),
        ("gemma-2-2b", "google/gemma-2-2b", None),
        ("", "hari-q3-8b", None),
    ],
)
def test_the_model_that_an_sae_was_trained_on(trained_on: str, model: str, told: str | None) -> None:
    loaded = load_sae(TRANSCODER)
    loaded.sae.cfg.metadata.model_name = trained_on
    found = other_model(loaded, model)
    assert found is None if told is None else told in (found or "")
