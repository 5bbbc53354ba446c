"""`Engine` against one full forward pass per text of an independent transformers model with the same weights."""

import random
import weakref
from typing import Any

import pytest
import torch

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.models.engine import Engine, TokenText
from sae_lens_med.models.kv_cache import bytes_per_token, joined, on_prefix
from sae_lens_med.models.passes import Pass, current_pass
from sae_lens_med.records import PARTS
from tests.tiny import ARCHES, CONTEXT, LAYERS, Arch, tiny_hf_model, tiny_model, tiny_tokenizer

STEM = PARTS.index("stem")


def texts(n: int = 7, shared: int = 37, seed: int = 0, vocabulary: int = 300) -> list[TokenText]:
    """Texts of many lengths that begin alike (longer than Gemma's window of 16)."""
    rng = random.Random(seed)
    prefix = [rng.randrange(3, vocabulary) for _ in range(shared)]
    return [
        TokenText((*prefix, *(rng.randrange(3, vocabulary) for _ in range(rng.randrange(1, 30))))) for _ in range(n)
    ]


def without_plain(model: MedBridge) -> MedBridge:
    """As a model that is spread over several devices: only the bridge can run it."""
    model.__dict__["_plain"] = None
    return model


def reference(arch: Arch) -> Any:
    return tiny_hf_model(arch, len(tiny_tokenizer(bos=arch == "gemma3")))


@torch.no_grad()
def logprobs_after(hf_model: Any, ids: list[int] | tuple[int, ...]) -> torch.Tensor:
    """`[n, vocabulary]`, from one pass over the whole text alone."""
    return hf_model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)


@pytest.fixture(params=["plain", "bridge"])
def engine_of(request: pytest.FixtureRequest) -> Any:
    def make(arch: Arch, **settings: Any) -> Engine:
        model = tiny_model(arch)
        return Engine(model if request.param == "plain" else without_plain(model), **settings)

    return make


@pytest.mark.parametrize("arch", ARCHES)
def test_next_tokens_score_as_in_a_pass_over_each_text_alone(arch: Arch, engine_of: Any) -> None:
    prompts = texts()
    wanted = [[5, 6 + i, 70] for i in range(len(prompts))]
    found = engine_of(arch, batch_tokens=64).next_token_logprobs(prompts, wanted)
    hf_model = reference(arch)
    for prompt, ids, values in zip(prompts, wanted, found, strict=True):
        expected = logprobs_after(hf_model, prompt.token_ids)[-1, ids]
        torch.testing.assert_close(torch.tensor(values), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHES)
def test_continuations_score_as_in_a_pass_over_each_text_alone(arch: Arch, engine_of: Any) -> None:
    prompts = texts()
    rng = random.Random(1)
    continuations = [[[rng.randrange(3, 300) for _ in range(n)] for n in (1, 4, 2, 7)] for _ in prompts]
    found = engine_of(arch, batch_tokens=64).continuation_logprobs(prompts, continuations)
    hf_model = reference(arch)
    for prompt, each, values in zip(prompts, continuations, found, strict=True):
        for continuation, got in zip(each, values, strict=True):
            whole = logprobs_after(hf_model, [*prompt.token_ids, *continuation])
            at = len(prompt.token_ids) - 1
            expected = whole[torch.arange(at, at + len(continuation)), continuation]
            torch.testing.assert_close(torch.tensor(got), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHES)
def test_greedy_text_is_that_of_full_passes_without_a_cache(arch: Arch, engine_of: Any) -> None:
    prompts = texts(n=5)
    found = engine_of(arch).generate(prompts, max_new_tokens=20)
    hf_model, tokenizer = reference(arch), tiny_tokenizer(bos=arch == "gemma3")
    for prompt, got in zip(prompts, found, strict=True):
        ids = list(prompt.token_ids)
        while len(ids) < len(prompt.token_ids) + 20:
            token = int(logprobs_after(hf_model, ids)[-1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
        assert list(got.token_ids) == ids[len(prompt.token_ids) :]
        assert got.finish == ("length" if len(got.token_ids) == 20 else "eos")
        assert got.text == tokenizer.decode(list(got.token_ids), skip_special_tokens=True)


def test_generation_ends_before_the_first_stop_string() -> None:
    engine = Engine(tiny_model())
    prompts = texts(n=4)
    free = engine.generate(prompts, max_new_tokens=30)
    stop = free[0].text[4]
    cut = engine.generate(prompts, max_new_tokens=30, stop=[stop, "never written"])
    for before, after in zip(free, cut, strict=True):
        assert after.text == before.text.split(stop)[0]
        assert after.finish == ("stop" if stop in before.text else before.finish)
        assert after.token_ids == before.token_ids[: len(after.token_ids)]


def test_a_sample_depends_on_its_seed_alone() -> None:
    engine = Engine(tiny_model(), batch_tokens=16)
    prompts = [prompt for prompt in texts(n=3) for _ in range(4)]
    seeds = list(range(12))
    together = engine.generate(prompts, max_new_tokens=12, temperature=0.9, seeds=seeds)
    turned = engine.generate(prompts[::-1], max_new_tokens=12, temperature=0.9, seeds=seeds[::-1])[::-1]
    alone = [
        Engine(engine.model).generate([p], max_new_tokens=12, temperature=0.9, seeds=[s])[0]
        for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == turned == alone
    assert len({g.text for g in together[:4]}) > 1


def test_sampling_follows_the_models_distribution() -> None:
    model = tiny_model()
    prompt = texts(n=1)[0]
    draws = Engine(model).generate([prompt] * 600, max_new_tokens=1, temperature=0.7, seeds=range(600))
    p = (logprobs_after(reference("qwen3"), prompt.token_ids)[-1] / 0.7).softmax(-1)
    likeliest = int(p.argmax())
    share = sum(g.token_ids == (likeliest,) for g in draws) / 600
    assert abs(share - float(p[likeliest])) < 4 * float((p[likeliest] * (1 - p[likeliest]) / 600).sqrt())


@pytest.mark.parametrize("arch", ARCHES)
def test_the_shared_beginning_is_run_once_and_hooks_are_told_every_position(arch: Arch, engine_of: Any) -> None:
    prompts = [TokenText(t.token_ids, tuple([3] * 37 + [STEM] * (len(t.token_ids) - 37))) for t in texts()]
    told: list[Pass] = []

    def watch(activation: torch.Tensor, hook: Any) -> None:
        this = current_pass()
        assert this is not None
        assert activation.shape[:2] == this.token_ids.shape
        told.append(this)

    engine = engine_of(arch, hooks=[("blocks.1.hook_resid_post", watch)])
    engine.generate(prompts, max_new_tokens=3)
    assert current_pass() is None
    prefix, prefill, *steps = told
    assert tuple(prefix.token_ids[0].tolist()) == prompts[0].token_ids[:37]
    assert (prefill.position[:, 0] == 37).all()
    rows = {tuple(row[real].tolist()) for row, real in zip(prefill.token_ids, prefill.real, strict=True)}
    assert rows == {p.token_ids[37:] for p in prompts}
    assert (prefill.part[prefill.real] == STEM).all()
    assert (prefix.part == 3).all()
    assert [this.generated for this in told] == [False, False, *[True] * len(steps)]
    ends = sorted(len(p.token_ids) for p in prompts)
    assert sorted(steps[0].position[:, 0].tolist()) == ends


def test_a_hook_changes_what_follows_as_it_does_in_one_pass() -> None:
    def shift(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation + 0.5

    model = tiny_model()
    prompts = texts()
    hooks = [(f"blocks.{LAYERS - 2}.hook_resid_post", shift)]
    found = Engine(model, hooks).next_token_logprobs(prompts, [[9]] * len(prompts))
    for prompt, (value,) in zip(prompts, found, strict=True):
        logits = model.run_with_hooks(torch.tensor([prompt.token_ids]), fwd_hooks=hooks)
        assert value == pytest.approx(float(logits[0, -1].log_softmax(-1)[9]), abs=1e-5)
    unchanged = Engine(model).next_token_logprobs(prompts[:1], [[9]])[0][0]
    assert abs(found[0][0] - unchanged) > 1e-3


def test_a_hook_that_only_the_bridge_has_runs_on_the_bridge() -> None:
    seen: list[torch.Size] = []
    engine = Engine(tiny_model(), [("blocks.0.attn.hook_pattern", lambda a, hook: seen.append(a.shape))])
    engine.next_token_logprobs(texts(), [[1]] * 7)
    assert seen


def test_passes_keep_to_batch_tokens_and_batches_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_lens_med.models.engine.MAX_ROWS", 4)
    prompts = texts(n=9)
    whole = Engine(tiny_model()).next_token_logprobs(prompts, [[5]] * 9)
    batches: list[list[int]] = []
    widths: list[torch.Size] = []
    engine = Engine(
        tiny_model(), [("blocks.0.hook_resid_pre", lambda a, hook: widths.append(a.shape))], batch_tokens=40
    )
    small = engine.next_token_logprobs(prompts, [[5]] * 9, on_batch=lambda indices, results: batches.append(indices))
    assert sorted(i for batch in batches for i in batch) == list(range(9))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert len(widths) > 4
    assert all(rows == 1 or rows * n <= 40 for rows, n, _ in widths)
    torch.testing.assert_close(torch.tensor(small), torch.tensor(whole), atol=1e-5, rtol=1e-5)


def test_texts_of_a_bfloat16_model_are_scored_finer_than_its_logits() -> None:
    model = tiny_model()
    model.to(torch.bfloat16)
    prompts = texts(n=3)
    found = Engine(model).next_token_logprobs(prompts, [list(range(3, 300))] * 3)
    # A bfloat16 logit has 8 significant bits; the values that come back are not all multiples of its step.
    for prompt, values in zip(prompts, found, strict=True):
        coarse = logprobs_after(model.original_model.float(), prompt.token_ids)[-1, 3:300]
        model.to(torch.bfloat16)
        assert torch.tensor(values).corrcoef is not None
        assert torch.corrcoef(torch.stack([torch.tensor(values), coarse]))[0, 1] > 0.999
        assert len(set(values)) == len(values)


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    engine = Engine(tiny_model())
    with pytest.raises(
        ModelError, match=f"prompt 1 has {CONTEXT + 1} tokens, more than the {CONTEXT} that tiny-qwen3-0"
    ):
        engine.next_token_logprobs([TokenText((5,)), TokenText((5,) * (CONTEXT + 1))], [[1], [1]])
    with pytest.raises(ModelError, match="prompt 0 has no tokens"):
        engine.next_token_logprobs([TokenText(())], [[1]])


def test_generation_stops_where_the_context_is_full() -> None:
    prompt = TokenText(tuple(random.Random(0).randrange(3, 300) for _ in range(CONTEXT - 2)))
    (found,) = Engine(tiny_model()).generate([prompt], max_new_tokens=50)
    assert (len(found.token_ids), found.finish) in ((3, "length"), (2, "eos"), (1, "eos"), (0, "eos"))


def test_settings_out_of_range_are_refused() -> None:
    engine = Engine(tiny_model())
    with pytest.raises(ConfigError, match="batch_tokens must be at least 1, got 0"):
        Engine(engine.model, batch_tokens=0)
    with pytest.raises(ConfigError, match="max_new_tokens must be at least 1"):
        engine.generate(texts(), max_new_tokens=0)
    with pytest.raises(ConfigError, match="one seed for each prompt"):
        engine.generate(texts(), max_new_tokens=1, temperature=0.7)
    with pytest.raises(ModelError, match="has no hook 'blocks.1.hook_resid_pots'"):
        Engine(engine.model, [("blocks.1.hook_resid_pots", lambda a, hook: None)])
    with pytest.raises(ModelError, match="a continuation has no tokens"):
        engine.continuation_logprobs(texts(n=1), [[[]]])


@pytest.mark.parametrize("arch", ARCHES)
def test_a_beginning_that_is_known_serves_the_next_call(arch: Arch) -> None:
    prompts = texts(n=8)
    # The first four agree in one token more than all eight do.
    longer = [TokenText((*p.token_ids[:37], 9, *p.token_ids[37:])) for p in prompts[:4]]
    widths: list[tuple[int, ...]] = []
    engine = Engine(tiny_model(arch), [("blocks.0.hook_resid_pre", lambda a, hook: widths.append(tuple(a.shape[:2])))])
    calls = [longer, prompts, longer[:2], texts(n=3, seed=9)]
    for call in calls:
        found = engine.next_token_logprobs(call, [[5, 6]] * len(call))
        alone = [Engine(engine.model).next_token_logprobs([p], [[5, 6]])[0] for p in call]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(alone), atol=1e-5, rtol=1e-5)
    assert [shape for shape in widths if shape[0] == 1] == [(1, 38), (1, 37)]


@pytest.mark.parametrize("arch", ARCHES)
def test_the_cache_takes_what_its_size_says_and_texts_together_stay_within(
    arch: Arch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_model = reference(arch)
    cache = hf_model(torch.arange(3, 10)[None], use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    each = bytes_per_token(hf_model.config, torch.float32)
    assert held == 7 * each

    prompts = texts(n=6, shared=0)
    longest = max(len(p.token_ids) for p in prompts)
    room = 2 * (longest + 4) * each
    monkeypatch.setattr("sae_lens_med.models.engine.CACHE_BYTES", (room, room))
    batches: list[list[int]] = []
    engine = Engine(tiny_model(arch))
    few = engine.generate(prompts, max_new_tokens=4, on_batch=lambda indices, found: batches.append(indices))
    assert len(batches[0]) == 2
    monkeypatch.undo()
    assert few == engine.generate(prompts, max_new_tokens=4)


def test_the_caches_of_a_batch_are_gone_when_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = texts(n=6, shared=0)
    room = 2 * 33 * bytes_per_token(reference("qwen3").config, torch.float32)
    monkeypatch.setattr("sae_lens_med.models.engine.CACHE_BYTES", (room, room))
    made: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def watched(prefix: Any, *, grow: bool) -> Any:
        cache = on_prefix(prefix, grow=grow)
        alive.append(sum(ref() is not None for ref in made))
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr("sae_lens_med.models.engine.on_prefix", watched)
    engine, sizes = Engine(tiny_model("qwen3"), batch_tokens=1), []
    for run in (
        lambda note: engine.generate(prompts, max_new_tokens=4, on_batch=note),
        lambda note: engine.continuation_logprobs(prompts, [[[5]]] * 6, on_batch=note),
    ):
        for each in (made, alive, sizes):
            each.clear()
        run(lambda indices, found: sizes.append(len(indices)))
        assert len(sizes) > 1
        assert alive == [before for size in sizes for before in range(size)]  # those of the same batch alone


def test_joining_caches_empties_them() -> None:
    model = reference("qwen3")
    caches: list[Any] = []
    for n in (5, 9):
        cache = on_prefix(None, grow=True)
        model(torch.arange(3, 3 + n)[None], past_key_values=cache)
        caches.append(cache)
    keys = caches[0].layers[1].keys
    whole: Any = joined(caches, 9)
    assert [len(cache.layers) for cache in caches] == [0, 0]
    assert len(whole.layers) == LAYERS
    assert torch.equal(whole.layers[1].keys[:1, :, 4:], keys)
