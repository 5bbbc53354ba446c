"""`AboveHook` against the slow ways: interventions through the bridge's own hooks, and autograd through the SAE."""

import numpy as np
import pytest
import torch

from sae_lens_med.errors import ConfigError, ModelError
from sae_lens_med.interventions import ablate, clamp, splice, steer
from sae_lens_med.interventions.edits import AboveHook, Change, Clamp, Only, Push, Splice, Without
from sae_lens_med.interventions.positions import at
from sae_lens_med.models.engine import Engine, TokenText, end_tokens
from tests.tiny import ARCHES, HIDDEN, Arch, tiny_model, tiny_sae

TEXT = "환자는 발열과 기침으로 병원에 왔다. The patient has fever. A. B. C. D.\n정답："
HOOKS = ("blocks.1.hook_resid_post", "blocks.0.hook_resid_pre", "blocks.2.hook_resid_post", "blocks.1.hook_mlp_out")


def _setup(arch: Arch, hook: str = HOOKS[0], **settings):
    model = tiny_model(arch)
    sae = tiny_sae(model, hook)
    if hook != HOOKS[0]:  # activations are smaller there
        with torch.no_grad():
            sae.b_enc.copy_(-0.1 * torch.rand(len(sae.b_enc), generator=torch.Generator().manual_seed(1)))
    ids = model.text_tokenizer(TEXT).input_ids
    chosen = np.zeros(len(ids), dtype=bool)
    chosen[4:-6] = True
    chosen[9] = False
    chosen[-1] = hook == HOOKS[2]  # after the last layer no other token matters
    above = AboveHook(model, sae, **settings)
    return model, sae, ids, chosen, above, above.read(ids, chosen)


def _by_hooks(model, ids, pairs):
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([ids]), fwd_hooks=pairs)[0, -1].double().numpy()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("hook", HOOKS)
def test_edits_equal_interventions_through_the_bridge(arch: Arch, hook: str) -> None:
    model, sae, ids, chosen, above, text = _setup(arch, hook, batch_tokens=100)
    assert above.fast == ("resid" in hook and not hook.startswith("blocks.0."))
    fires = np.flatnonzero((text.acts > 0).any(0).numpy())
    late = [int(f) for f in fires if text.first[f] > 3][:3]
    sets = [tuple(fires[:5].tolist()), (int(fires[2]),), tuple(late), tuple(fires[::2].tolist())]
    words = [5, 50, 77, 200]
    edits = [*map(Without, sets), Only(sets[0]), Only(()), Clamp(int(fires[0]), 2.5), Splice()]
    whole, found, size = above.logits(text, edits, words)
    where = at(chosen)
    every = set(range(sae.cfg.d_sae))
    pairs = [ablate(sae, each, positions=where) for each in sets]
    pairs += [ablate(sae, sorted(every - set(sets[0])), positions=where), ablate(sae, every, positions=where)]
    pairs += [clamp(sae, {int(fires[0]): 2.5}, positions=where), splice(sae, positions=where)]
    np.testing.assert_allclose(whole, _by_hooks(model, ids, [])[words], atol=1e-5)
    for row, pair in zip(found, pairs, strict=True):
        slow = _by_hooks(model, ids, pair)[words]
        np.testing.assert_allclose(row, slow, atol=1e-5)
    moved = np.abs(found - whole).max(axis=1) > 1e-4
    assert moved.all() if hook != HOOKS[2] else moved.any()
    removed = -(text.acts[:, list(sets[0])] @ sae.W_dec[list(sets[0])])
    assert size[0] == pytest.approx(float(removed.detach().norm()), rel=1e-5)
    full = {n: values for rows, each in above.all_logits(text, edits) for n, values in zip(rows, each, strict=True)}
    assert sorted(full) == [-1, *range(len(edits))]
    np.testing.assert_allclose(full[0][words], found[0], atol=1e-5)
    np.testing.assert_allclose(full[-1], _by_hooks(model, ids, []), atol=1e-5)


@pytest.mark.parametrize("arch", ARCHES)
def test_several_features_are_changed_at_once_as_by_hooks_one_after_the_other(arch: Arch) -> None:
    """At one hook, so that what one adds does not move what another reads: all read the unedited activation."""
    model, sae, ids, chosen, above, text = _setup(arch)
    fires = np.flatnonzero((text.acts > 0).any(0).numpy()).tolist()
    silent = np.flatnonzero(~(text.acts > 0).any(0).numpy()).tolist()[0]
    off, held, up, down = fires[0], silent, fires[2], fires[3]
    edit = Change(put=((off, 0.0), (held, 2.0)), add=((up, 1.5), (down, -0.5)))
    edits = [edit, Change(put=((off, 0.0),)), Without((off,)), Change(put=((held, 2.0),)), Clamp(held, 2.0)]
    edits += [Change(add=((up, 1.5), (down, -0.5))), Change(put=((silent, 0.0),))]
    words = [5, 50, 77]
    whole, found, size = above.logits(text, edits, words)
    where = at(chosen)
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    np.testing.assert_allclose(found[3], found[4], atol=1e-5)
    raised = _by_hooks(model, ids, steer(sae, {up: 1.5, down: -0.5}, positions=where))[words]
    np.testing.assert_allclose(found[5], raised, atol=1e-5)
    assert (found[6] == whole).all() and size[6] == 0
    with torch.no_grad():
        acts = sae.encode(text.x[text.at])
        step = -acts[:, [off]] @ sae.W_dec[[off]] + (2.0 - acts[:, [held]]) @ sae.W_dec[[held]]
        step += 1.5 * sae.W_dec[up] - 0.5 * sae.W_dec[down]
    assert size[0] == pytest.approx(float(step.norm()), rel=1e-5)

    def add(activation: torch.Tensor, hook: object) -> torch.Tensor:  # noqa: ARG001 - TransformerLens' names
        out = activation.clone()
        out[0, text.at] += step
        return out

    np.testing.assert_allclose(found[0], _by_hooks(model, ids, [(HOOKS[0], add)])[words], atol=1e-5)
    with pytest.raises(ConfigError, match="twice"):
        above.logits(text, [Change(put=((up, 0.0),), add=((up, 1.0),))], words)


@pytest.mark.parametrize("arch", ARCHES)
def test_a_text_is_written_on_with_the_edit_and_without(arch: Arch) -> None:
    model, sae, ids, chosen, above, text = _setup(arch)
    plain = list(above.continued(text, None, frozenset(), 6))
    (generated,) = Engine(model).generate([TokenText(tuple(ids))], max_new_tokens=6)
    ends = end_tokens(model)
    assert plain[: len(generated.token_ids)] == list(generated.token_ids) and len(plain) == 6
    fires = np.flatnonzero((text.acts > 0).any(0).numpy()).tolist()
    edit, so_far = Change(add=tuple((f, 40.0) for f in fires[:3])), list(ids)
    pairs = steer(sae, dict.fromkeys(fires[:3], 40.0), positions=at([*chosen, *[False] * 6]))
    for _ in range(6):  # whole passes, without a cache
        so_far.append(int(_by_hooks(model, so_far, pairs).argmax()))
    edited = list(above.continued(text, edit, frozenset(), 6))
    assert edited == so_far[len(ids) :] and edited != plain
    assert list(above.continued(text, edit, {edited[2]}, 6)) == edited[: edited.index(edited[2])]
    assert list(above.continued(text, edit, ends, 0)) == []


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("hook", HOOKS)
def test_attribution_equals_autograd_through_a_spliced_sae(arch: Arch, hook: str) -> None:
    model, sae, ids, chosen, above, text = _setup(arch, hook)
    words, factors = [5, 50, 77], [1.0, -0.5, -0.5]
    found = above.attribution(text, above.gradient(text, words, factors)).toarray()
    leaf: list[torch.Tensor] = []

    def spliced(activation: torch.Tensor, hook: object) -> torch.Tensor:
        x = activation[:, torch.from_numpy(chosen)]
        acts = sae.encode(x).detach().requires_grad_()
        leaf.append(acts)
        error = (x - sae.decode(acts)).detach()
        out = activation.clone()
        out[:, torch.from_numpy(chosen)] = sae.decode(acts) + error
        return out

    sae.requires_grad_(False)
    logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(hook, spliced)])[0, -1]
    (logits[words] * torch.tensor(factors)).sum().backward()
    expected = (leaf[0].grad * leaf[0].detach())[0].double().numpy()  # type: ignore[operator]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max() + 1e-7)
    assert np.abs(expected).max() > 1e-4


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_where_only_the_bridge_can_run_the_results_are_the_same(arch: Arch) -> None:
    model, sae, ids, chosen, _, text = _setup(arch)
    edits = [Without(tuple(np.flatnonzero((text.acts > 0).any(0).numpy())[:4].tolist())), Only(())]
    words = [5, 50, 77]
    fast = AboveHook(model, sae)
    _, expected, _ = fast.logits(text, edits, words)
    attribution = fast.attribution(text, fast.gradient(text, words, [1, -0.5, -0.5])).toarray()
    model.__dict__["_plain"] = None
    slow = AboveHook(model, sae)
    assert fast.fast and not slow.fast
    again = slow.read(ids, chosen)
    np.testing.assert_allclose(slow.logits(again, edits, words)[1], expected, atol=1e-5)
    found = slow.attribution(again, slow.gradient(again, words, [1, -0.5, -0.5])).toarray()
    np.testing.assert_allclose(found, attribution, atol=1e-5)


def test_an_edit_of_features_that_are_off_is_the_unedited_text_and_costs_nothing() -> None:
    _, _, _, _, above, text = _setup("qwen3")
    off = tuple(np.flatnonzero(~(text.acts > 0).any(0).numpy()).tolist())
    assert off
    before = above.tokens_run
    whole, found, size = above.logits(text, [Without(off), Without(())], [5, 50])
    assert (found == whole).all() and (size == 0).all() and above.tokens_run == before


def test_a_push_is_as_long_as_the_clamp_it_stands_for() -> None:
    _, _, _, _, above, text = _setup("qwen3")
    direction = np.random.default_rng(0).normal(size=HIDDEN).astype(np.float32)
    direction /= np.linalg.norm(direction)
    feature = int((text.acts > 0).sum(0).argmax())
    _, found, size = above.logits(text, [Clamp(feature, 3.0), Push(direction, Clamp(feature, 3.0))], [5, 50])
    assert size[0] == pytest.approx(size[1], rel=1e-5) and size[0] > 0
    assert not np.allclose(found[0], found[1])


def test_results_do_not_depend_on_the_batch_and_the_model_is_left_as_it_was() -> None:
    model, _, ids, _, above, text = _setup("gemma3", batch_tokens=1)
    before = _by_hooks(model, ids, [])
    edits = [Without((f,)) for f in np.flatnonzero((text.acts > 0).any(0).numpy()).tolist()]
    one = above.logits(text, edits, [5, 50])[1]
    _, _, _, _, wide, other = _setup("gemma3", batch_tokens=4000)
    np.testing.assert_allclose(one, wide.logits(other, edits, [5, 50])[1], atol=1e-5)
    np.testing.assert_array_equal(_by_hooks(model, ids, []), before)
    assert not any("forward" in layer.__dict__ for layer in above._below)


def test_what_cannot_be_edited_is_said() -> None:
    model, sae, ids, chosen, above, text = _setup("qwen3")
    with pytest.raises(ConfigError, match="feature 64 does not exist"):
        above.logits(text, [Without((64,))], [5])
    with pytest.raises(ModelError, match="at least one of them chosen"):
        above.read(ids, np.zeros(len(ids), dtype=bool))
    with pytest.raises(ConfigError, match="batch_tokens"):
        AboveHook(model, sae, batch_tokens=0)
