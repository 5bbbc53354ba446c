"""Collection on tiny random models, against a literal loop over transformers and the SAE, one text at a time."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from sae_lens_med.errors import ConfigError, DataError, ModelError, ReleaseError, StudyError
from sae_lens_med.features.collect import collect
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import CollectedFeatures, load_features, repair
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
from sae_lens_med.records import PARTS, McqItem
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.tiny import ARCHES, Arch, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae

HOOK = "blocks.1.hook_resid_post"
STEMS = (
    "뇌졸중 환자가 왼쪽 마비로 왔다. 병변은?",
    "32세 여자가 발열과 기침으로 병원에 왔다. 폐렴의 원인균은?",
    "Which?",
)
ANSWERS = ("중대뇌동맥", "폐렴구균", "비타민B12", "ibuprofen", "심장")


def identified(sae: Any, **identity: Any) -> LoadedSae:
    return replace(LoadedSae(sae, "tiny/sae", "sae", "0" * 64, HOOK, None), **identity)


def make_items(n: int) -> list[McqItem]:
    """Korean and English items of different lengths; every fourth has no explanation."""
    items = []
    for i in range(n):
        explanation = (
            f"정답: {'ABCDE'[i % 5]}. "
            + "편마비는 반대쪽 병변으로 생긴다. 그래서 촬영한다. " * (i % 5)
            + f"근거 {i}번."
        )
        items.append(
            McqItem(
                id=f"q{i}",
                subject="doctor",
                language="en" if i % 3 == 2 else "ko",
                question=STEMS[i % 3] + " 그리고 열이 난다." * (i % 7),
                options=ANSWERS,
                answer=i % 5,
                explanation=None if i % 4 == 3 else explanation,
                explanation_source=None if i % 4 == 3 else "illustrative",
            )
        )
    return items


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("qwen3")


@pytest.fixture(scope="module")
def gemma() -> MedBridge:
    return tiny_model("gemma3")


def run(model: MedBridge, items: list[McqItem], output: Path, sae: Any = None, **options: Any) -> CollectedFeatures:
    collect(model, identified(tiny_sae(model) if sae is None else sae), items, output=output, progress=False, **options)
    return load_features(output)


def literal(arch: Arch, model: MedBridge, sae: Any, items: list[McqItem]) -> list[dict[str, Any]]:
    """Per text: the SAE on transformers' own hidden states, one text at a time, no padding."""
    plain = tiny_hf_model(arch, len(model.text_tokenizer))
    texts = []
    for item in items:
        prompts = [question_prompt(item, model.text_tokenizer)]
        if item.explanation is not None:
            prompts.append(explanation_prompt(item, model.text_tokenizer)[0])
        for prompt in prompts:
            with torch.no_grad():
                states = plain(torch.tensor([prompt.token_ids]), output_hidden_states=True).hidden_states
                x = states[2][0]  # 0: embeddings; 2: after layer 1
                acts = sae.encode(x)
                error = (x - sae.decode(acts)).norm(dim=-1)
            texts.append({"prompt": prompt, "x": x.numpy(), "acts": acts.numpy(), "error": error.numpy()})
    return texts


@pytest.mark.parametrize("arch", ARCHES)
def test_features_equal_a_literal_loop(arch: Arch, tmp_path: Path) -> None:
    model = tiny_model(arch)
    sae, items = tiny_sae(model), make_items(9)
    got = run(model, items, tmp_path / "out", sae, batch_tokens=700, sink_multiple=1.2)
    texts = literal(arch, model, sae, items)
    acts, want = got.acts, np.concatenate([t["acts"] for t in texts])
    np.testing.assert_allclose(acts.acts.toarray(), want, atol=2e-5)
    assert 0.05 < acts.acts.nnz / want.size < 0.5
    assert acts.token_id.tolist() == [i for t in texts for i in t["prompt"].token_ids]
    assert acts.token_part.tolist() == [p for t in texts for p in t["prompt"].token_parts]
    assert list(zip(acts.char_start, acts.char_end, strict=True)) == [s for t in texts for s in t["prompt"].char_spans]
    norms = [np.linalg.norm(t["x"], axis=1) for t in texts]
    np.testing.assert_allclose(acts.norm, np.concatenate(norms), rtol=1e-5)
    np.testing.assert_allclose(acts.error_norm, np.concatenate([t["error"] for t in texts]), rtol=1e-4)

    # The exclusion rule: 9 items, so all of them give the median.
    bos = model.text_tokenizer.bos_token_id if arch == "gemma3" else -1
    special = acts.token_id == bos
    assert int(special.sum()) == (len(texts) if arch == "gemma3" else 0)
    threshold = 1.2 * np.median(np.concatenate(norms)[~special].astype(np.float64))
    assert got.manifest["exclusion"]["sink_threshold"] == pytest.approx(threshold, rel=1e-6)
    np.testing.assert_array_equal(acts.excluded, special | (acts.norm > threshold))
    shard = got.manifest["shards"][0]
    assert shard["special_tokens"] == special.sum()
    assert shard["activation_sinks"] == (acts.excluded & ~special).sum() > 0
    assert shard["answer_marks"] > 0

    # Means over the counted tokens of each side.
    x = np.concatenate([t["x"] for t in texts])
    for i, item in enumerate(items):
        for side, parts in ((got.raw_mean_stem, (0,)), (got.raw_mean_explanation, (2,))):
            counted = (acts.token_item == i) & np.isin(acts.token_part, parts) & ~acts.excluded
            mean = x[counted].mean(0) if counted.any() else np.zeros(x.shape[1])
            np.testing.assert_allclose(side[i], mean, atol=2e-5)
        assert got.has_explanation[i] == (item.explanation is not None)
        assert ("explanation" in got.texts[item.id]) == (item.explanation is not None)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_batch_size_does_not_change_the_result(arch: Arch, tmp_path: Path) -> None:
    model, items = tiny_model(arch), make_items(14)
    whole = run(model, items, tmp_path / "4096")
    for batch_tokens in (64, 1000):
        other = run(model, items, tmp_path / str(batch_tokens), batch_tokens=batch_tokens)
        np.testing.assert_allclose(other.acts.acts.toarray(), whole.acts.acts.toarray(), atol=1e-5)
        np.testing.assert_allclose(other.acts.norm, whole.acts.norm, rtol=1e-5)
        np.testing.assert_allclose(other.raw_mean_stem, whole.raw_mean_stem, atol=1e-5)
        np.testing.assert_array_equal(other.acts.excluded, whole.acts.excluded)
    # One item is a collection of its own: no other text in any batch.
    for i in (0, 3, 5):
        alone = run(model, [items[i]], tmp_path / f"alone{i}")
        own = whole.acts.token_item == i
        np.testing.assert_allclose(alone.acts.acts.toarray(), whole.acts.acts.toarray()[own], atol=1e-5)


@contextmanager
def interrupted(model: MedBridge, when: Callable[[], bool]) -> Any:
    """Ctrl-C in the first forward pass in which `when` holds."""

    def check(*_: Any) -> None:
        if when():
            raise KeyboardInterrupt

    handle = model.plain.get_input_embeddings().register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_interrupted_collection_is_finished_to_the_same_bytes(tmp_path: Path, model: MedBridge) -> None:
    items, sae = make_items(150), identified(tiny_sae(model))
    collect(model, sae, items, output=tmp_path / "whole", progress=False)
    whole = files(tmp_path / "whole")
    assert sorted(whole) == [
        "manifest.json",
        *(f"shard-{i:05d}.{e}" for i in range(3) for e in ("jsonl", "safetensors")),
    ]

    output = tmp_path / "broken"
    for finished in range(3):
        with (
            pytest.raises(KeyboardInterrupt),
            interrupted(model, lambda n=finished: len(list(output.glob("*.safetensors"))) == n),
        ):
            collect(model, sae, items, output=output, progress=False)
        # What is there is whole: no half files, and every shard is that of the uninterrupted run.
        now = files(output)
        assert sum(name.endswith(".safetensors") for name in now) == finished
        assert all(content == whole[name] for name, content in now.items() if name != "manifest.json")
        with pytest.raises(StudyError, match=f"the features of {64 * finished} of 150 items"):
            load_features(output)
    collect(model, sae, items, output=output, progress=False)
    assert files(output) == whole


def test_a_finished_collection_is_not_run_again(tmp_path: Path, model: MedBridge) -> None:
    items = make_items(3)
    first = run(model, items, tmp_path / "out")
    with interrupted(model, lambda: True):
        again = run(model, items, tmp_path / "out", batch_tokens=99)
    np.testing.assert_array_equal(again.acts.acts.toarray(), first.acts.acts.toarray())


def test_other_settings_are_refused_by_name(tmp_path: Path, model: MedBridge, gemma: MedBridge) -> None:
    items, output = make_items(3), tmp_path / "out"
    run(model, items, output)
    with pytest.raises(StudyError, match=r"other settings \(sink_multiple: 5.0 -> 4.0\)"):
        run(model, items, output, sink_multiple=4.0)
    with pytest.raises(StudyError, match=r"items_sha256: \w+ -> \w+; n_items: 3 -> 2; prompts_sha256"):
        run(model, items[:2], output)
    with pytest.raises(StudyError, match=r'model.name: "tiny-qwen3-0" -> "tiny-gemma3-0"'):
        run(gemma, items, output)
    with pytest.raises(StudyError, match="sae.sha256: 000000000000 -> 111111111111"):
        sae = replace(identified(tiny_sae(model)), sha256="1" * 64)
        collect(model, sae, items, output=output, progress=False)
    with pytest.raises(StudyError, match=r'shots: \[\] -> \["shot"\]'):
        run(model, items, output, shots=[replace(items[0], id="shot", question="보기?")])


def test_a_foreign_folder_is_left_alone(tmp_path: Path, model: MedBridge) -> None:
    (tmp_path / "thesis.txt").write_text("두 해")
    with pytest.raises(StudyError, match="is not empty and contains no collected features"):
        run(model, make_items(1), tmp_path)
    assert files(tmp_path) == {"thesis.txt": "두 해".encode()}


def test_shots_are_run_but_not_stored(tmp_path: Path, gemma: MedBridge) -> None:
    items = make_items(2)
    shots = [replace(items[0], id="shot", question="보기로 든 질문은?")]
    plain, shot = run(gemma, items, tmp_path / "0"), run(gemma, items, tmp_path / "1", shots=shots)
    for name in ("q0", "q1"):
        assert shot.texts[name]["question"].startswith("보기로 든 질문은?")
        assert shot.texts[name]["question"].endswith(plain.texts[name]["question"])
    content = [f.acts.token_part != PARTS.index("other") for f in (plain, shot)]
    np.testing.assert_array_equal(plain.acts.token_id[content[0]], shot.acts.token_id[content[1]])
    question = [f.token_text[c] == 0 for f, c in zip((plain, shot), content, strict=True)]
    assert not np.allclose(plain.acts.norm[content[0]][question[0]], shot.acts.norm[content[1]][question[1]])
    np.testing.assert_allclose(
        plain.acts.norm[content[0]][~question[0]], shot.acts.norm[content[1]][~question[1]], rtol=1e-5
    )


def test_an_sae_of_attention_heads(tmp_path: Path, model: MedBridge) -> None:
    metadata = SAEMetadata(hook_name="blocks.1.attn.hook_z")
    config = StandardSAEConfig(d_in=64, d_sae=16, reshape_activations="hook_z", metadata=metadata)
    torch.manual_seed(0)
    sae = StandardSAE(config)
    torch.nn.init.normal_(sae.W_dec)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    item = make_items(1)[0]
    collect(model, identified(sae, hook_name="blocks.1.attn.hook_z"), [item], output=tmp_path, progress=False)
    got = load_features(tmp_path)
    assert sae.hook_z_reshaping_mode  # as it was
    ids = torch.tensor([question_prompt(item, model.text_tokenizer).token_ids])
    _, cache = model.run_with_cache(ids, names_filter=["blocks.1.attn.hook_z"])
    z = cache["blocks.1.attn.hook_z"]
    with torch.no_grad():
        want = sae.encode(z)[0]
    np.testing.assert_allclose(got.acts.acts.toarray()[got.token_text == 0], want.numpy(), atol=1e-5)


@pytest.mark.parametrize("arch", ["qwen3", "gemma3"])
def test_contexts_show_whole_syllables(arch: Arch, tmp_path: Path) -> None:
    model, items = tiny_model(arch), make_items(12)
    got = run(model, items, tmp_path / "out")
    contexts = top_contexts(got, k=8, window_chars=5)
    assert len(contexts) > 40
    split = 0
    for feature, found in contexts.items():
        assert [c.value for c in found] == sorted((c.value for c in found), reverse=True)
        for c in found:
            assert c.feature == feature
            shown = c.before + c.token + c.after
            assert c.token and "\ufffd" not in shown
            texts = got.texts[c.item_id]
            assert any(shown in text for text in texts.values())
            if c.part == "explanation":
                assert shown in texts["explanation"]
            # The byte-level vocabulary knows few syllables whole: shown by vocabulary strings they would be broken.
            ids = model.text_tokenizer(c.token, add_special_tokens=False).input_ids
            split += len(c.token) == 1 and len(ids) > 1
    assert split > 20
    strongest = got.acts.acts.toarray()
    strongest[got.acts.excluded] = 0
    for feature, found in contexts.items():
        assert found[0].value == strongest[:, feature].max()


BadSetup = Callable[[MedBridge], tuple[LoadedSae, list[McqItem], dict[str, Any]]]


def _sae(model: MedBridge, change: Callable[[Any], None] | None = None, **identity: Any) -> LoadedSae:
    sae = tiny_sae(model)
    if change is not None:
        change(sae)
    return identified(sae, **identity)


def _negative(sae: Any) -> None:
    sae.activation_fn = torch.nn.Identity()


def _transcoder(sae: Any) -> None:
    sae.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"


def _not_finite(sae: Any) -> None:
    sae.b_enc.data[0] = torch.inf


@pytest.mark.parametrize(
    ("setup", "error", "message"),
    [
        (lambda m: (_sae(m), [], {}), DataError, "there are no items"),
        (lambda m: (_sae(m), make_items(1) * 2, {}), DataError, "'q0' appears twice"),
        (lambda m: (_sae(m), make_items(1), {"batch_tokens": 0}), ConfigError, "batch_tokens must be at least 1"),
        (lambda m: (_sae(m), make_items(1), {"sink_multiple": 1.0}), ConfigError, "sink_multiple must be"),
        (lambda m: (_sae(m), make_items(1), {"sink_multiple": float("inf")}), ConfigError, "finite number above 1"),
        (lambda m: (_sae(m, hook_name="blocks.9.hook_x"), make_items(1), {}), ModelError, "no hook 'blocks.9.hook_x'"),
        (
            lambda m: (_sae(m, hook_name="blocks.1.mlp.hook_post"), make_items(1), {}),
            ModelError,
            "d_in 32, but blocks.1.mlp.hook_post of tiny-qwen3-0 has width 48",
        ),
        (lambda m: (_sae(m, lambda s: s.to(torch.bfloat16)), make_items(1), {}), ReleaseError, "computed in float32"),
        (lambda m: (_sae(m, _transcoder), make_items(1), {}), ReleaseError, "is a transcoder: it reads"),
        (lambda m: (_sae(m, _negative), make_items(1), {}), ReleaseError, "negative or not finite"),
        (lambda m: (_sae(m, _not_finite), make_items(1), {}), ReleaseError, "negative or not finite"),
        (
            lambda m: (_sae(m), [replace(make_items(1)[0], question="가나다라마바사" * 300)], {}),
            DataError,
            r"item 'q0': the question has \d+ tokens, but tiny-qwen3-0 reads at most 2048; leave this item out",
        ),
    ],
)
def test_what_cannot_be_collected(
    setup: BadSetup, error: type[Exception], message: str, model: MedBridge, tmp_path: Path
) -> None:
    sae, items, options = setup(model)
    with pytest.raises(error, match=message):
        collect(model, sae, items, output=tmp_path / "out", progress=False, **options)


def test_the_progress_bar_is_on_stderr(tmp_path: Path, model: MedBridge, capsys: pytest.CaptureFixture[str]) -> None:
    items = make_items(5)
    collect(model, identified(tiny_sae(model)), items, output=tmp_path / "out")
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err


def test_a_damaged_collection_is_made_again_where_it_is_damaged(tmp_path: Path, model: MedBridge) -> None:
    """Whole shards stay as they are, also those behind the broken one; the folder ends up the same, byte for byte."""
    items, sae, output = make_items(150), identified(tiny_sae(model)), tmp_path / "out"
    collect(model, sae, items, output=output, progress=False)
    whole = files(output)
    assert repair(output) == ()
    first, second = output / "shard-00000.safetensors", output / "shard-00001.jsonl"
    for path, damage in ((first, first.unlink), (second, lambda: second.write_bytes(whole[second.name][:-9]))):
        damage()
        assert repair(output) == (path.name,)
        kept = (output / "shard-00002.safetensors").stat().st_mtime_ns
        collect(model, sae, items, output=output, progress=False)
        assert files(output) == whole
        assert (output / "shard-00002.safetensors").stat().st_mtime_ns == kept
    (output / "manifest.json").write_text("{", encoding="utf-8")
    assert repair(output) == ("manifest.json",)
    collect(model, sae, items, output=output, progress=False)
    assert files(output) == whole


def test_an_sae_in_which_nothing_fires_is_said(tmp_path: Path, model: MedBridge) -> None:
    dead = _sae(model, lambda sae: sae.b_enc.data.fill_(-1e6))
    with pytest.warns(UserWarning, match="No feature of the SAE tiny/sae fires on any of these texts"):
        collect(model, dead, make_items(2), output=tmp_path, progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_sae_that_is_not_finite_is_refused_on_loading(value: float, tmp_path: Path, model: MedBridge) -> None:
    sae = tiny_sae(model)
    sae.W_dec.data[3, 4] = value
    save_tiny_sae(tmp_path, sae)
    with pytest.raises(ReleaseError, match="has weights that are not finite: W_dec"):
        load_folder(tmp_path)
