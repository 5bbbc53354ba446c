"""lm-eval drives this package's model: as its own `hf` backend does, and with hooks on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'sae-lens-med[eval]'")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models import hf_steered, huggingface

from sae_lens_med.errors import ConfigError, DataError, ModelError
from sae_lens_med.evaluation.lm_eval.model import SaeLensMedLM
from sae_lens_med.evaluation.lm_eval.task import kormedmcqa_task
from sae_lens_med.features.statistics import feature_statistics
from sae_lens_med.interventions import clamp, positions, splice, steer
from sae_lens_med.models.bridge import MedBridge, load_model
from sae_lens_med.models.engine import TokenText
from sae_lens_med.models.passes import Pass, current_pass
from sae_lens_med.models.residuals import ready
from sae_lens_med.saes.releases import load_sae
from tests.tiny import Arch, save_tiny_model, save_tiny_sae, tiny_model, tiny_sae

# Without their types, which lm-eval's decorators hide.
HFLM: Any = huggingface.HFLM
SteeredModel: Any = hf_steered.SteeredModel
simple_evaluate: Any = lm_eval.simple_evaluate

HOOK = "blocks.1.hook_resid_post"
CONTEXTS = [
    "환자는 발열과 기침으로 병원에 왔다.",
    "The patient has fever.\n정답：",
    "다음 중 가장 알맞은 치료는?\nA. 수술\n정답：",
]
CONTINUATIONS = [" A", " 폐렴이 의심된다", " fever and chest pain"]
PAIRS = [(context, continuation) for context in CONTEXTS for continuation in CONTINUATIONS]
ROW = {"question": "알맞은 치료는?", "A": "수술", "B": "약", "C": "관찰", "D": "검사", "E": "퇴원", "answer": 2}


def scoring() -> list[Instance]:
    pairs = [*PAIRS, ("", "fever")]
    return [Instance("loglikelihood", {}, pair, i, ("t", i, 1)) for i, pair in enumerate(pairs)]


def rolling() -> list[Instance]:
    return [Instance("loglikelihood_rolling", {}, (text,), i, ("t", i, 1)) for i, text in enumerate(CONTEXTS)]


def writing(**settings: Any) -> list[Instance]:
    how = {"until": ["."], "do_sample": False, "max_gen_toks": 12} | settings
    return [Instance("generate_until", {}, (text, how), i, ("t", i, 1)) for i, text in enumerate(CONTEXTS)]


def logprobs(lm: Any, requests: list[Instance]) -> torch.Tensor:
    return torch.tensor([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])


@pytest.fixture(params=["qwen3", "gemma3", "gpt2"])
def arch(request: pytest.FixtureRequest) -> Arch:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, arch: Arch) -> Path:
    return save_tiny_model(tmp_path / "model", arch)


@pytest.fixture
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_without_hooks_the_numbers_are_those_of_lm_evals_own_backend(folder: Path, batch_size: int) -> None:
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch_size)
    ours = SaeLensMedLM(str(folder), device="cpu", batch_size=batch_size)
    torch.testing.assert_close(logprobs(ours, scoring()), logprobs(theirs, scoring()), atol=1e-4, rtol=0)
    greedy = [[g for _, g in lm.loglikelihood(scoring(), disable_tqdm=True)] for lm in (ours, theirs)]
    assert greedy[0] == greedy[1]
    assert ours.loglikelihood_rolling(rolling(), disable_tqdm=True) == pytest.approx(
        theirs.loglikelihood_rolling(rolling(), disable_tqdm=True), abs=1e-3
    )
    texts = ours.generate_until(writing(), disable_tqdm=True)
    assert texts == theirs.generate_until(writing(), disable_tqdm=True)
    assert any(texts)


def test_hooks_act_in_scoring_and_generation_and_are_gone_afterwards(folder: Path, arch: Arch) -> None:
    model = load_model(folder)
    plain, hooked = SaeLensMedLM(model), SaeLensMedLM(model, hooks=[(HOOK, lambda x, hook: x * 0)])
    before = logprobs(plain, scoring())
    changed = logprobs(hooked, scoring())
    assert (changed - before).abs().max() > 0.1
    # Every context looks the same to a model whose residual stream is wiped out: but for position embeddings.
    if arch != "gpt2":
        assert changed[0] == pytest.approx(changed[3].item(), abs=1e-4)
    assert len(set(hooked.generate_until(writing(until=["never"]), disable_tqdm=True))) == 1
    assert torch.equal(logprobs(plain, scoring()), before)


def test_hooks_are_gone_after_an_exception_inside_the_model(model: MedBridge) -> None:
    def fails(activation: torch.Tensor, hook: Any) -> None:
        raise RuntimeError("inside")

    plain = SaeLensMedLM(model)
    before = logprobs(plain, scoring())
    failing = SaeLensMedLM(model, hooks=[(HOOK, fails)])
    for run in (
        lambda: failing.loglikelihood(scoring(), disable_tqdm=True),
        lambda: failing.generate_until(writing(), disable_tqdm=True),
    ):
        with pytest.raises(RuntimeError, match="inside"):
            run()
        assert current_pass() is None
        assert torch.equal(logprobs(plain, scoring()), before)


def test_hooks_are_told_padding_positions_and_what_was_generated(model: MedBridge) -> None:
    seen: list[Pass] = []

    def note(activation: torch.Tensor, hook: Any) -> None:
        this = current_pass()
        assert this is not None and this.token_ids.shape == activation.shape[:2]
        seen.append(this)

    lm = SaeLensMedLM(model, batch_size=3, hooks=[(HOOK, note)])
    lm.loglikelihood(scoring()[:3], disable_tqdm=True)
    assert not any(p.generated for p in seen)
    tokenizer = model.text_tokenizer
    wholes = [len(tokenizer(context + answer).input_ids) - 1 for context, answer in PAIRS[:3]]
    assert sorted(n for p in seen for n in p.real.sum(-1).tolist()) == sorted(set(wholes))
    assert all(p.position[p.real].unique().tolist() == list(range(p.token_ids.shape[1])) for p in seen)
    seen.clear()
    lm.generate_until(writing(until=["never"], max_gen_toks=4), disable_tqdm=True)
    lengths = sorted(len(tokenizer(text).input_ids) for text in CONTEXTS)
    prompt, *written = seen
    assert not prompt.generated and sorted(prompt.real.sum(-1).tolist()) == lengths
    assert prompt.last is not None and prompt.last[:, -1].all() and not prompt.last[:, :-1].any()
    assert (prompt.position.amax(-1) + 1).tolist() == prompt.real.sum(-1).tolist()
    assert prompt.position[prompt.real].unique().tolist() == list(range(lengths[-1]))
    assert len(written) == 3 and all(p.generated and p.real.all() for p in written)
    steps = torch.cat([p.position for p in written], 1) - prompt.position.amax(-1, keepdim=True)
    assert steps.tolist() == [[1, 2, 3]] * 3
    assert current_pass() is None


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}])
def test_one_prompt_without_padding_is_told_alike(model: MedBridge, settings: dict[str, Any]) -> None:
    """transformers drops a mask that masks nothing."""
    seen: list[tuple[list[int], bool]] = []

    def note(activation: torch.Tensor, hook: Any) -> None:
        this = current_pass()
        assert this is not None and this.real.shape == activation.shape[:2] and this.real.all()
        seen.append((this.position[-1].tolist(), this.generated))

    lm = SaeLensMedLM(model, hooks=[(HOOK, note)])
    lm.generate_until(writing(until=["never"], max_gen_toks=3, **settings)[:1], disable_tqdm=True)
    n = len(model.text_tokenizer(CONTEXTS[0]).input_ids)
    assert seen == [(list(range(n)), False), ([n], True), ([n + 1], True)]


def test_a_model_that_the_engine_has_run_generates_the_same(model: MedBridge) -> None:
    """`reader.ready` gives the plain model an attention that takes no mask; lm-eval's padding is at the left."""
    one, three = SaeLensMedLM(model, batch_size=1), SaeLensMedLM(model, batch_size=3)
    plain: Any = ready(model)
    attention = plain.config._attn_implementation
    assert one.generate_until(writing(), disable_tqdm=True) == three.generate_until(writing(), disable_tqdm=True)
    assert plain.config._attn_implementation == attention


@pytest.mark.parametrize("coefficient", [4.0, -2.5])
def test_steering_by_lm_evals_own_file_equals_ours(folder: Path, tmp_path: Path, coefficient: float) -> None:
    """`--model steered` with a .pt file adds the same vector by code of its own."""
    model = load_model(folder)
    sae = tiny_sae(model, HOOK)
    steps = {"action": "add", "steering_vector": sae.W_dec[7].detach(), "steering_coefficient": coefficient}
    layer = "h.1" if model.plain.config.model_type == "gpt2" else "layers.1"
    torch.save({layer: steps}, tmp_path / "steer.pt")
    theirs = SteeredModel(pretrained=str(folder), steer_path=str(tmp_path / "steer.pt"), dtype="float32", device="cpu")
    ours = SaeLensMedLM(model, hooks=steer(sae, {7: coefficient}))
    assert (logprobs(ours, scoring()) - logprobs(SaeLensMedLM(model), scoring())).abs().max() > 0.05
    torch.testing.assert_close(logprobs(ours, scoring()), logprobs(theirs, scoring()), atol=1e-4, rtol=0)
    assert ours.generate_until(writing(), disable_tqdm=True) == theirs.generate_until(writing(), disable_tqdm=True)


def test_a_padded_row_is_steered_at_the_last_token_of_its_context(model: MedBridge) -> None:
    """HFLM pads with token 0 and passes no mask, also where a text itself ends in token 0."""
    seen: list[Any] = []
    sae = tiny_sae(model, HOOK)
    hooks = [*steer(sae, {7: 9.0}, positions=positions.LAST), (HOOK, lambda x, hook: seen.append(current_pass()))]
    pairs = [*PAIRS[:9:4], ("<pad> fever<pad>", "<pad> A")]
    requests = [Instance("loglikelihood", {}, pair, i, ("t", i, 1)) for i, pair in enumerate(pairs)]
    single, batched = (SaeLensMedLM(model, batch_size=n, hooks=hooks) for n in (1, 4))
    one = logprobs(single, requests)
    lengths = sorted(len(p.token_ids[0]) for p in seen)
    seen.clear()
    torch.testing.assert_close(logprobs(batched, requests), one, atol=1e-4, rtol=0)
    assert len(seen) == 1 and sorted(seen[0].real.sum(-1).tolist()) == lengths and len(set(lengths)) > 2
    tokenizer = model.text_tokenizer
    assert sorted(seen[0].last.nonzero()[:, 1].tolist()) == sorted(len(tokenizer(c).input_ids) - 1 for c, _ in pairs)
    at_it = []  # by hand, one after the other
    for context, continuation in pairs:
        ids = tokenizer(context + continuation, return_tensors="pt").input_ids
        n = len(tokenizer(context).input_ids)

        def add(x: torch.Tensor, hook: Any, n: int = n) -> torch.Tensor:
            return x + 9.0 * sae.W_dec[7] * (torch.arange(x.shape[1]) == n - 1)[:, None]

        log_p = model.run_with_hooks(ids, fwd_hooks=[(HOOK, add)]).log_softmax(-1)[0, :-1]
        at_it.append(log_p.gather(1, ids[0, 1:, None])[n - 1 :].sum().item())
    assert one.tolist() == pytest.approx(at_it, abs=1e-3)


def test_where_an_answer_begins_is_not_told_when_it_is_not_one_place(model: MedBridge) -> None:
    """Two requests of the same tokens, cut at different places, are one row to lm-eval."""
    hooks = steer(tiny_sae(model, HOOK), {7: 9.0}, positions=positions.LAST)
    pairs = [("fever", " fever and"), ("fever fever", " and")]
    requests = [Instance("loglikelihood", {}, pair, i, ("t", i, 1)) for i, pair in enumerate(pairs)]
    lm = SaeLensMedLM(model, hooks=hooks)
    with pytest.raises(ModelError, match="which token ends the prompt"):
        lm.loglikelihood(requests, disable_tqdm=True)
    assert torch.isfinite(torch.cat([logprobs(lm, [request]) for request in requests])).all()


# --- SAE and interventions by name ---------------------------------------------------------------------------------


@pytest.fixture
def sae_folder(model: MedBridge, tmp_path: Path) -> Path:
    save_tiny_sae(tmp_path / "sae", tiny_sae(model, HOOK))
    return tmp_path / "sae"


def write(folder: Path, *entries: dict[str, Any]) -> str:
    path = folder / "interventions.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return str(path)


def test_an_sae_takes_the_place_of_the_activation_but_for_special_tokens(model: MedBridge, sae_folder: Path) -> None:
    sae = load_sae(str(sae_folder))
    bos = model.text_tokenizer.bos_token_id

    def expected(use_error_term: bool) -> list[float]:
        found = []
        for context, continuation in PAIRS:
            ids = model.text_tokenizer(context + continuation, return_tensors="pt").input_ids
            n = len(model.text_tokenizer(context).input_ids)
            assert ids[0, 0] == bos
            with model.saes([sae.sae], use_error_term=use_error_term, exclude_special_tokens=True):
                log_p = model(ids).log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
            found.append(log_p[n - 1 :].sum().item())
        return found

    replaced = SaeLensMedLM(model, sae=str(sae_folder), batch_size=4)
    assert logprobs(replaced, scoring()[:9]).tolist() == pytest.approx(expected(False), abs=1e-3)
    kept = SaeLensMedLM(model, sae=sae, error_term=True)
    assert logprobs(kept, scoring()[:9]).tolist() == pytest.approx(expected(True), abs=1e-3)
    torch.testing.assert_close(logprobs(kept, scoring()), logprobs(SaeLensMedLM(model), scoring()), atol=1e-4, rtol=0)
    assert (logprobs(kept, scoring()) - logprobs(replaced, scoring())).abs().max() > 0.01


def test_a_file_of_interventions_does_what_the_same_hooks_do(
    model: MedBridge, sae_folder: Path, tmp_path: Path
) -> None:
    sae = load_sae(str(sae_folder))
    file = write(
        tmp_path,
        {"kind": "clamp", "features": {"3": 6.0}, "positions": {"from": 2}},
        {"kind": "steer", "features": {"7": -4.0}, "positions": "not_special", "sae": str(sae_folder)},
    )
    special = positions.not_tokens(model.text_tokenizer.all_special_ids)
    pairs = [
        *clamp(sae, {3: 6.0}, positions=positions.from_token(2)),
        *steer(sae, {7: -4.0}, positions=special),
    ]
    by_file = SaeLensMedLM(model, sae=str(sae_folder), intervention=file)
    by_hand = SaeLensMedLM(model, hooks=pairs)
    assert torch.equal(logprobs(by_file, scoring()), logprobs(by_hand, scoring()))
    spliced = SaeLensMedLM(model, sae=sae, error_term=False, intervention=file)
    first = splice(sae, positions=special)
    assert torch.equal(logprobs(spliced, scoring()), logprobs(SaeLensMedLM(model, hooks=[*first, *pairs]), scoring()))
    about = by_file.get_model_info()["sae_lens_med"]
    assert [entry["kind"] for entry in about["interventions"]] == ["clamp", "steer"]
    assert about["sae"]["sha256"] == sae.sha256 and about["other_saes"][str(sae_folder)]["sha256"] == sae.sha256
    json.dumps(about, allow_nan=False)


def test_only_generated_tokens(model: MedBridge, sae_folder: Path, tmp_path: Path) -> None:
    file = write(tmp_path, {"kind": "steer", "features": {"7": 50.0}, "positions": "generated"})
    plain, steered = SaeLensMedLM(model), SaeLensMedLM(model, sae=str(sae_folder), intervention=file)
    assert torch.equal(logprobs(plain, scoring()), logprobs(steered, scoring()))
    how = {"until": ["never"], "max_gen_toks": 6}
    before = plain.generate_until(writing(**how), disable_tqdm=True)
    after = steered.generate_until(writing(**how), disable_tqdm=True)
    assert before != after
    for a, b in zip(before, after, strict=True):  # the first token comes from the prompt alone
        assert a[:1] == b[:1]


def test_a_feature_in_units_of_its_maximum(model: MedBridge, sae_folder: Path, tmp_path: Path) -> None:
    sae = load_sae(str(sae_folder))
    prompts = [TokenText(tuple(model.text_tokenizer(text).input_ids)) for text in CONTEXTS]
    statistics = feature_statistics(model, sae, prompts, progress=False)
    feature = int(statistics.maximum.argmax())
    statistics.save(tmp_path / "statistics.safetensors")
    file = write(tmp_path, {"kind": "steer", "features": {str(feature): 3}, "unit": "max"})
    settings: dict[str, Any] = {"sae": str(sae_folder), "intervention": file}
    by_file = SaeLensMedLM(model, statistics=str(tmp_path / "statistics.safetensors"), **settings)
    by_hand = SaeLensMedLM(model, hooks=steer(sae, {feature: 3 * float(statistics.maximum[feature])}))
    torch.testing.assert_close(logprobs(by_file, scoring()), logprobs(by_hand, scoring()), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="maximum"):
        SaeLensMedLM(model, **settings)


# --- a whole run of lm-eval ---------------------------------------------------------------------------------------


def test_lm_eval_finds_the_model_by_name_and_writes_down_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # asks pip for seconds
    folder = save_tiny_model(tmp_path / "model")
    assert get_model("sae_lens_med") is SaeLensMedLM
    assert get_model("hf") is HFLM
    result = simple_evaluate(
        model="sae_lens_med",
        model_args={"pretrained": str(folder), "dtype": "float32"},
        device="cpu",
        tasks=[kormedmcqa_task([ROW, ROW | {"question": "다른 문제", "answer": 1}], [ROW], letters=True)],
        num_fewshot=1,
        bootstrap_iters=0,
    )
    assert result is not None
    assert result["results"]["kormedmcqa_at_hand"]["acc,none"] in (0, 0.5, 1)
    about: Any = result["config"]
    assert about["sae_lens_med"]["model"]["sha256"] == load_model(folder).provenance["sha256"]
    assert about["sae_lens_med"]["versions"]["sae-lens-med"]


def test_the_command_is_lm_evals_own() -> None:
    import typer

    from sae_lens_med.commands import lm_eval as command

    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    result = CliRunner().invoke(app, ["lm-eval", "run", "--help"])
    assert result.exit_code == 0 and "--model_args" in result.output
    result = CliRunner().invoke(
        app, ["lm-eval", "--model", "sae_lens_med", "--model_args", "pretrained=tiny,peft=x", "--tasks", "arc_easy"]
    )
    assert isinstance(result.exception, ConfigError) and "'peft'" in str(result.exception)


# --- what it refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "where", ["stem", {"parts": ["option"]}, {"not": {"parts": ["stem"]}}, {"any_of": ["generated", "stem"]}]
)
def test_positions_that_name_parts_are_refused(model: MedBridge, sae_folder: Path, tmp_path: Path, where: Any) -> None:
    file = write(tmp_path, {"kind": "splice"}, {"kind": "steer", "features": {"7": 1.0}, "positions": where})
    with pytest.raises(ConfigError, match=r"intervention 2 \(steer\) acts on parts of the prompt, which lm-eval"):
        SaeLensMedLM(model, sae=str(sae_folder), intervention=file)


def test_settings_of_an_sae_need_one(model: MedBridge, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model; add --model_args pretrained=NAME"):
        SaeLensMedLM()
    with pytest.raises(ConfigError, match="error_term belongs to an SAE; add sae="):
        SaeLensMedLM(model, error_term=True)
    with pytest.raises(ConfigError, match=r"intervention 1 \(steer\) does not name an SAE"):
        SaeLensMedLM(model, intervention=write(tmp_path, {"kind": "steer", "features": {"7": 1.0}}))
    with pytest.raises(ModelError, match="blocks.9.hook_resid_post"):
        SaeLensMedLM(model, hooks=[("blocks.9.hook_resid_post", lambda x, hook: x)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft": "x"}, "has no setting 'peft'; its settings are pretrained, sae"),
        ({"trust_remote_code": True}, "has no setting 'trust_remote_code'"),
        ({"errorterm": True}, "did you mean error_term"),
    ],
)
def test_settings_that_it_does_not_know_are_refused(model: MedBridge, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        SaeLensMedLM(model, **settings)


def test_several_processes_are_refused(model: MedBridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        SaeLensMedLM(model)


def test_a_row_that_lacks_a_column_is_refused() -> None:
    with pytest.raises(DataError, match="row 2 for lm-eval's kormedmcqa is missing E"):
        kormedmcqa_task([ROW, {k: v for k, v in ROW.items() if k != "E"}])
    with pytest.raises(DataError, match="no rows"):
        kormedmcqa_task([])
