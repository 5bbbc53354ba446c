"""Position filters: which positions of a pass an intervention changes, stated by the engine or by a mask."""

from typing import Any

import pytest
import torch

from sae_lens_med.errors import ModelError
from sae_lens_med.interventions import steer
from sae_lens_med.interventions.positions import ALL, LAST, at, from_token, in_parts, not_tokens
from sae_lens_med.models.engine import Engine, TokenText
from sae_lens_med.models.passes import Pass, in_pass
from sae_lens_med.records import PARTS
from tests.tiny import tiny_model, tiny_sae

HOOK = "blocks.1.hook_resid_post"
TOKENS = torch.arange(3, 27).view(2, 12)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def sae(model: Any) -> Any:
    return tiny_sae(model, HOOK)


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def test_filters_read_what_the_pass_tells_and_padding_stays(model: Any, sae: Any) -> None:
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 9:] = False
    part = torch.full((2, 12), PARTS.index("other"))
    part[:, 2:6], part[:, 6:10] = PARTS.index("stem"), PARTS.index("option")
    columns = torch.arange(12).expand(2, 12)
    x = model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK]
    last = (columns == torch.tensor([[11], [8]])) & real
    for positions, generated, expected in (
        (ALL, False, real),
        ("generated", False, torch.zeros_like(real)),
        ("generated", True, real),
        ("stem", False, (part == PARTS.index("stem")) & real),
        (in_parts("stem", "option") & ~from_token(8), False, (columns >= 2) & (columns < 8) & real),
        (from_token(107), False, (columns >= 7) & real),  # positions begin at 100
        (not_tokens([4, 5, 20]), False, ~torch.isin(TOKENS, torch.tensor([4, 5, 20])) & real),
        (LAST, False, last),
        (LAST, True, torch.zeros_like(real)),
        (LAST | from_token(110), False, last | ((columns >= 10) & real)),
    ):
        offset = 100 if "FromToken(n=1" in repr(positions) else 0
        stated = Pass(TOKENS, columns + offset, part, real, generated, last)
        seen: list[torch.Tensor] = []
        pairs = [*steer(sae, {3: 5.0}, positions=positions), (HOOK, lambda a, hook, seen=seen: seen.append(a))]
        with in_pass(stated):
            model.run_with_hooks(TOKENS, fwd_hooks=pairs)
        changed = (seen[0] != x).any(-1)
        assert torch.equal(changed, expected), positions
    untold = Pass(TOKENS, columns, part, real)
    with in_pass(untold), pytest.raises(ModelError, match="which token ends the prompt"):
        model.run_with_hooks(TOKENS, fwd_hooks=steer(sae, {3: 5.0}, positions=LAST))
    other = Pass(TOKENS[:1], columns[:1], part[:1], real[:1])
    with in_pass(other), pytest.raises(ModelError, match=r"has 2 rows of 12 positions, but the pass .* \(1, 12\)"):
        model.run_with_hooks(TOKENS, fwd_hooks=steer(sae, {3: 5.0}))


def test_filters_that_need_to_be_told_say_so(model: Any, sae: Any) -> None:
    for positions, what in ((in_parts("stem"), "part of the prompt"), (not_tokens([1]), "which tokens these are")):
        with pytest.raises(ModelError, match=f"{what}.*Engine"):
            model.run_with_hooks(TOKENS, fwd_hooks=steer(sae, {3: 5.0}, positions=positions))


def test_a_mask_says_each_position(model: Any, sae: Any) -> None:
    x = model.run_with_cache(TOKENS, names_filter=HOOK)[1][HOOK]
    mask = torch.rand(2, 10, generator=torch.Generator().manual_seed(0)) > 0.5
    seen: list[torch.Tensor] = []
    model.run_with_hooks(
        TOKENS, fwd_hooks=[*steer(sae, {3: 5.0}, positions=at(mask)), (HOOK, lambda a, hook: seen.append(a))]
    )
    changed = (seen[0] != x).any(-1)
    assert torch.equal(changed[:, :10], mask)
    assert not changed[:, 10:].any()
    with pytest.raises(ModelError, match="mask has 2 rows, the forward pass 1"):
        model.run_with_hooks(TOKENS[:1], fwd_hooks=steer(sae, {3: 5.0}, positions=at(mask)))


def test_the_engine_tells_what_filters_need_also_of_a_shared_beginning(model: Any, sae: Any) -> None:
    other, stem = PARTS.index("other"), PARTS.index("stem")
    texts = [
        TokenText((3, 4, 5, 6, 7, 8), (other, stem, stem, other, stem, other)),
        TokenText((3, 4, 5, 6, 9), (other, stem, stem, other, stem)),
        TokenText((3, 4, 5, 6, 10, 11, 12, 13), (other, stem, stem, other, other, stem, stem, other)),
    ]
    wanted = [[1, 20], [2, 30], [3, 40]]
    of_stem = Engine(model, steer(sae, {3: 9.0}, positions="stem")).next_token_logprobs(texts, wanted)
    of_last = Engine(model, steer(sae, {3: 9.0}, positions="last")).next_token_logprobs(texts, wanted)
    each = [(text, ids, values, "stem") for text, ids, values in zip(texts, wanted, of_stem, strict=True)]
    each += [(text, ids, values, "last") for text, ids, values in zip(texts, wanted, of_last, strict=True)]
    for text, ids, values, positions in each:
        assert text.parts is not None
        mask = torch.tensor(text.parts) == stem
        if positions == "last":
            mask = torch.arange(len(mask)) == len(mask) - 1
        pairs = steer(sae, {3: 9.0}, positions=at(mask))
        logits = model.run_with_hooks(torch.tensor([text.token_ids]), fwd_hooks=pairs)[0, -1]
        torch.testing.assert_close(torch.tensor(values), logits.log_softmax(-1)[ids], atol=1e-4, rtol=1e-4)
