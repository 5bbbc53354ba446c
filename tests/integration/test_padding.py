"""Positions of a text are its own: alone, in a batch padded on either side, with a cache and without.

The oracle is each text run alone.
"""

import copy
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.model_bridge import TransformerBridge

from sae_lens_med.interventions import attached, steer
from sae_lens_med.interventions.positions import GENERATED, LAST, Positions, at, from_token
from tests.tiny import tiny_hf_model, tiny_model, tiny_sae, tiny_tokenizer

HOOK = "blocks.1.hook_resid_post"
TEXTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 16, 17, 18, 19]]
LONGEST = max(map(len, TEXTS))
POSITIONS = {
    "from_token": from_token(2),
    "at": at([False, True, True]),
    "last": LAST,
    "not from_token": ~from_token(2),
}


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def bridge() -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def plain() -> Any:
    return tiny_hf_model("llama", len(tiny_tokenizer()))


@pytest.fixture(scope="module")
def upstream() -> Any:
    """TransformerLens' own bridge."""
    tokenizer = tiny_tokenizer()
    return TransformerBridge.boot_transformers(
        "tiny", hf_model=tiny_hf_model("llama", len(tokenizer)), tokenizer=copy.deepcopy(tokenizer)
    )


@pytest.fixture(scope="module")
def sae(bridge: Any) -> Any:
    return tiny_sae(bridge, HOOK)


def padded(side: str, texts: list[list[int]] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[0] * (LONGEST - len(t)) + t if side == "left" else t + [0] * (LONGEST - len(t)) for t in texts]
    tokens = torch.tensor(rows)
    return tokens, (tokens != 0).long()


def edited(sae: Any, positions: Positions | str) -> list[Any]:
    return steer(sae, {3: 25.0, 7: -10.0}, positions=positions)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize("door", ["bridge", "plain", "upstream"])
def test_a_batch_is_edited_where_each_text_alone_is(
    door: str, name: str, side: str, sae: Any, request: pytest.FixtureRequest
) -> None:
    model, positions = request.getfixturevalue(door), POSITIONS[name]
    tokens, mask = padded(side)

    def logits(ids: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        places = (given.cumsum(-1) - 1).clamp(min=0)
        out = model(ids, attention_mask=given, position_ids=places)
        return out if isinstance(out, torch.Tensor) else out.logits

    with attached(model, edited(sae, positions)):
        together = logits(tokens, mask)
    untouched = logits(tokens, mask)
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([text])
        with attached(model, edited(sae, positions)):
            alone = logits(ids, torch.ones_like(ids))[0]
        own = together[row, mask[row].bool()]
        torch.testing.assert_close(own, alone, atol=2e-4, rtol=1e-4)
        assert not torch.allclose(own, untouched[row, mask[row].bool()], atol=1e-2)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_list_of_texts_is_padded_by_the_bridge_and_known(bridge: Any, sae: Any, side: str) -> None:
    """The hooks are given to `run_with_hooks` itself."""
    texts = ["환자는 발열과 기침으로", "fever", "다음 중 가장"]
    for positions in (LAST, from_token(2), GENERATED):
        seen: list[torch.Tensor] = []
        watch = (HOOK, lambda x, hook, seen=seen: seen.append(x.clone()))  # noqa: ARG005 - TransformerLens' signature
        bridge.run_with_hooks(texts, fwd_hooks=[watch, *edited(sae, positions), watch], padding_side=side)
        changed = (seen[0] != seen[1]).any(-1)
        lengths = [len(bridge.text_tokenizer(text).input_ids) for text in texts]
        for row, n in enumerate(lengths):
            real = changed[row, -n:] if side == "left" else changed[row, :n]
            expected = {LAST: [n - 1], from_token(2): list(range(2, n)), GENERATED: []}[positions]
            assert real.nonzero().flatten().tolist() == expected
            assert int(changed[row].sum()) == len(expected)  # no padding


@pytest.mark.parametrize("positions", [from_token(9), GENERATED, LAST | GENERATED, from_token(1), ~GENERATED])
@pytest.mark.parametrize("cache", [True, False])
def test_generation_of_a_padded_batch_by_transformers(plain: Any, sae: Any, positions: Positions, cache: bool) -> None:
    """The same texts come out alone and together, with a cache and without."""
    tokens, mask = padded("left")
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with attached(plain, edited(sae, positions)):
        together = plain.generate(tokens, attention_mask=mask, use_cache=cache, **settings)[:, LONGEST:]
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([text])
        with attached(plain, edited(sae, positions)):
            alone = plain.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0, len(text) :]
        assert together[row].tolist() == alone.tolist()


@pytest.mark.parametrize("door", ["bridge", "upstream"])
@pytest.mark.parametrize("positions", [GENERATED, from_token(4), LAST, LAST | GENERATED])
def test_generation_without_a_cache_by_a_bridge(
    door: str, positions: Positions, sae: Any, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(door)
    found = {}
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "stop_at_eos": False, "verbose": False}
    for cache in (True, False):
        with attached(model, edited(sae, positions)):
            found[cache] = model.generate(torch.tensor([TEXTS[0]]), use_past_kv_cache=cache, **settings).tolist()
    plainly = model.generate(torch.tensor([TEXTS[0]]), **settings).tolist()
    assert found[True] == found[False] != plainly


def test_a_hooked_transformer_pads_too(sae: Any) -> None:
    tokenizer = tiny_tokenizer()
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_vocab=len(tokenizer), act_fn="gelu", seed=0
    )
    model = HookedTransformer(cfg, tokenizer=copy.deepcopy(tokenizer), default_padding_side="left")
    model.tokenizer.pad_token_id = 0  # type: ignore[union-attr]  # it was just given
    tokens, _ = padded("left")
    for positions in (from_token(2), LAST, at([False, True])):
        seen: list[torch.Tensor] = []
        watch = (HOOK, lambda x, hook, seen=seen: seen.append(x.clone()))  # noqa: ARG005 - TransformerLens' signature
        with attached(model, [watch, *edited(sae, positions), watch]):
            model(tokens, prepend_bos=False)
        changed = (seen[0] != seen[1]).any(-1)
        for row, text in enumerate(TEXTS):
            n = len(text)
            expected = {from_token(2): list(range(2, n)), LAST: [n - 1], at([False, True]): [1]}[positions]
            assert changed[row, LONGEST - n :].nonzero().flatten().tolist() == expected
            assert not changed[row, : LONGEST - n].any()
