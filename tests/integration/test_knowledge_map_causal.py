"""Lesion, patching and saliency: against the bridge's hooks and autograd, and where a known block writes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_med.errors import DataError, ModelError
from sae_lens_med.knowledge_map import Lists, MapRow, MapSettings, make_map
from sae_lens_med.knowledge_map.block_runs import BlockRuns
from sae_lens_med.knowledge_map.lesion import lesions
from sae_lens_med.knowledge_map.lists import FRAMES, MapConcept, Template
from sae_lens_med.knowledge_map.pairs import Pair, Statement, Statements
from sae_lens_med.knowledge_map.patching import patch, restored
from sae_lens_med.knowledge_map.saliency import saliencies
from sae_lens_med.models.bridge import MedBridge, bridge
from tests.tiny import ARCHES, LAYERS, Arch, tiny_hf_model, tiny_model, tiny_tokenizer

BLOCKS = 6


def random_pairs(vocabulary: int, seed: int = 0) -> list[Pair]:
    """Of 5 and of 7 tokens, in no order."""
    random = np.random.default_rng(seed)
    found = []
    for length, at in ((5, (2,)), (7, (1, 2, 3)), (5, (2,))):
        clean, corrupted, donor = ([int(t) for t in random.integers(4, vocabulary, length)] for _ in range(3))
        for other in (corrupted, donor):
            other[:] = [o if i in at else c for i, (o, c) in enumerate(zip(other, clean, strict=True))]
        answers = tuple(int(t) for t in random.choice(np.arange(4, vocabulary), 2, replace=False))
        found.append(Pair("{}", ("a", "b"), tuple(clean), tuple(corrupted), at, answers, (tuple(donor),)))  # type: ignore[arg-type]  # two
    return found


def hooked(model: MedBridge, ids: Sequence[int], hooks: list[Any]) -> torch.Tensor:
    """The bridge's own logits after the last token."""
    return model.run_with_hooks(torch.tensor([list(ids)]), fwd_hooks=hooks, return_type="logits")[0, -1]


@pytest.mark.parametrize("arch", ARCHES)
class TestAgainstTheBridge:
    def test_a_skipped_block_is_its_input_handed_on(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = random_pairs(model.cfg.d_vocab)
        found = lesions(BlockRuns(model), pairs, batch_tokens=64)
        assert (found[:, 0] == 0).all()
        for number, pair in enumerate(pairs):
            whole = hooked(model, pair.clean, [])
            for block in range(LAYERS):
                kept: list[torch.Tensor] = []
                without = hooked(
                    model,
                    pair.clean,
                    [
                        (f"blocks.{block}.hook_resid_pre", lambda x, hook, kept=kept: kept.append(x)),  # noqa: ARG005
                        (f"blocks.{block}.hook_resid_post", lambda x, hook, kept=kept: kept[0]),  # noqa: ARG005
                    ],
                )
                kl = torch.nn.functional.kl_div(
                    without.log_softmax(-1), whole.log_softmax(-1), log_target=True, reduction="sum"
                )
                a, b = pair.answers
                margin = (whole[a] - whole[b]) - (without[a] - without[b])
                expected = [kl, margin, float(whole.argmax() != without.argmax())]
                np.testing.assert_allclose(found[number, block + 1], expected, rtol=1e-3, atol=1e-4)

    def test_a_patched_run_is_that_of_the_bridge(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = random_pairs(model.cfg.d_vocab)
        found = patch(BlockRuns(model), pairs, donors=True, batch_tokens=64)
        for number, pair in enumerate(pairs):
            a, b = pair.answers
            for side, ids in enumerate((pair.clean, pair.corrupted)):
                logits = hooked(model, ids, [])
                assert found.ends[number, side] == pytest.approx(float(logits[a] - logits[b]), abs=1e-3)
            for which, donor in enumerate((pair.clean, *pair.donors)):
                for depth in range(LAYERS + 1):
                    hook = f"blocks.{depth - 1}.hook_resid_post" if depth else "blocks.0.hook_resid_pre"
                    _, cache = model.run_with_cache(torch.tensor([list(donor)]), names_filter=[hook])
                    given = cache[hook]
                    for place, at in enumerate((list(pair.at), [len(pair.clean) - 1])):

                        def put(x: torch.Tensor, hook: Any, given: Any = given, at: Any = at) -> torch.Tensor:  # noqa: ARG001
                            x[:, at] = given[:, at]
                            return x

                        logits = hooked(model, pair.corrupted, [(hook, put)])
                        assert found.patched[number, place, depth, which] == pytest.approx(
                            float(logits[a] - logits[b]), abs=1e-3
                        )
            assert np.isnan(found.patched[number, :, :, 2]).all()  # one donor of two

    def test_saliency_is_what_autograd_gives_of_one_prompt_alone(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = random_pairs(model.cfg.d_vocab)
        found = saliencies(BlockRuns(model), pairs, batch_tokens=64)
        plain = tiny_hf_model(arch, model.cfg.d_vocab)
        path = "transformer.h" if arch == "gpt2" else "model.layers"
        for number, pair in enumerate(pairs):
            plain.zero_grad()
            logits = plain(torch.tensor([list(pair.clean)])).logits[0, -1]
            logits.log_softmax(-1)[pair.answers[0]].backward()
            for block in range(LAYERS):
                matrices = [p for p in plain.get_submodule(f"{path}.{block}").parameters() if p.ndim == 2]
                entries = sum(p.numel() for p in matrices)
                expected = [
                    sum(float(p.grad.abs().sum()) for p in matrices) / entries,  # type: ignore[union-attr]
                    sum(float((p.grad * p.detach()).abs().sum()) for p in matrices) / entries,  # type: ignore[operator]
                ]
                np.testing.assert_allclose(found[number, block], expected, rtol=1e-3)

    def test_nothing_is_left_changed(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs, runs = random_pairs(model.cfg.d_vocab), BlockRuns(model)
        before = runs.last_logits(runs.tokens([pairs[0].clean])).detach()
        lesions(runs, pairs, batch_tokens=64)
        patch(runs, pairs, donors=True, batch_tokens=64)
        saliencies(runs, pairs, batch_tokens=64)
        assert torch.equal(before, runs.last_logits(runs.tokens([pairs[0].clean])))
        assert not any("forward" in vars(block) for block in runs.blocks)
        assert not any(p.requires_grad or p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("arch", ARCHES)
class TestIdentities:
    """Of patching, in any model."""

    def found(self, arch: Arch, change: dict[str, Any]) -> np.ndarray:
        model = tiny_model(arch)
        pairs = [replace(pair, **change) for pair in random_pairs(model.cfg.d_vocab)]
        patched = patch(BlockRuns(model), pairs, donors=True, batch_tokens=64)
        ends = patched.ends[:, :, None, None]
        return (patched.patched - ends[:, 1:]) / (ends[:, :1] - ends[:, 1:])  # [pair, set, depth, donor]

    def test_the_concept_alone_differs_so_that_it_is_all_at_the_embedding_and_nothing_at_the_end(
        self, arch: Arch
    ) -> None:
        p = self.found(arch, {})
        np.testing.assert_allclose(p[:, 0, 0, 0], 1, atol=1e-3)
        np.testing.assert_allclose(p[:, 0, -1, :2], 0, atol=1e-3)
        np.testing.assert_allclose(p[:, 1, 0, 0], 0, atol=1e-3)
        np.testing.assert_allclose(p[:, 1, -1, 0], 1, atol=1e-3)

    def test_all_tokens_at_once_are_all_at_every_depth(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = [replace(pair, at=tuple(range(len(pair.clean)))) for pair in random_pairs(model.cfg.d_vocab)]
        patched = patch(BlockRuns(model), pairs, donors=False, batch_tokens=64)
        wanted = np.broadcast_to(patched.ends[:, :1], (len(pairs), LAYERS + 1))
        np.testing.assert_allclose(patched.patched[:, 0, :, 0], wanted, rtol=1e-3, atol=1e-3)

    def test_the_corrupted_prompt_put_into_itself_gives_nothing(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = [replace(pair, donors=(pair.corrupted,)) for pair in random_pairs(model.cfg.d_vocab)]
        patched = patch(BlockRuns(model), pairs, donors=True, batch_tokens=64)
        wanted = np.broadcast_to(patched.ends[:, 1, None, None], (len(pairs), 2, LAYERS + 1))
        np.testing.assert_allclose(patched.patched[..., 1], wanted, rtol=1e-4, atol=1e-4)

    def test_the_clean_prompt_put_into_itself_is_refused(self, arch: Arch) -> None:
        model = tiny_model(arch)
        pairs = [replace(pair, corrupted=pair.clean) for pair in random_pairs(model.cfg.d_vocab)]
        patched = patch(BlockRuns(model), pairs, donors=False, batch_tokens=64)
        assert not patched.counted.any()
        with pytest.raises(DataError, match="P is not defined for 3 of 3 pairs"):
            restored(patched.patched[:, 0, 0, 0], patched.ends[:, 0], patched.ends[:, 1])


def test_prompts_of_different_length_are_refused_in_a_sentence() -> None:
    model = tiny_model("qwen3")
    [pair, *_] = random_pairs(model.cfg.d_vocab)
    with pytest.raises(DataError, match=r"'a' and 'b' have different numbers of tokens \(5 and 4\)"):
        patch(BlockRuns(model), [replace(pair, corrupted=pair.corrupted[:-1])], donors=False, batch_tokens=64)


def test_a_model_that_was_given_other_weights_is_refused() -> None:
    model = tiny_model("qwen3")
    model.plain.lm_head.weight = torch.nn.Parameter(torch.zeros_like(model.plain.lm_head.weight))
    with pytest.raises(ModelError, match="need it on one device"):
        BlockRuns(model)


CLASSES = {"first": "abcdefgh", "second": "ijklmnop", "none": "qrstuvwx"}
PLANTED = {"first": 1, "second": 4}
ANSWERS = "ABCDE"


def planted(arch: Arch) -> MedBridge:
    """Six blocks of which two write: block 1 the answers of the letters a to h, block 4 those of i to p, each to every
    later token; q to x, all other blocks and all MLPs write nothing. A letter is one dimension of the eight of its
    class; what is written goes into eight others, which only answers read."""
    tokenizer = tiny_tokenizer(bos=arch == "gemma3")
    plain = tiny_hf_model(arch, len(tokenizer), layers=BLOCKS)
    random = torch.Generator().manual_seed(0)
    answer_ids = [tokenizer(f"x {answer}").input_ids[-1] for answer in ANSWERS]
    with torch.no_grad():
        embedding = plain.get_input_embeddings().weight
        embedding.zero_()
        embedding[:, 24:] = torch.nn.functional.normalize(torch.randn(len(embedding), 8, generator=random))
        embedding[answer_ids, 24:] *= 8
        for number, letters in enumerate(CLASSES.values()):
            for place, letter in enumerate(letters):
                row = embedding[tokenizer.convert_tokens_to_ids(letter)]
                row.zero_()
                row[8 * number + place] = 1
        for number, layer in enumerate(plain.model.layers):
            attention = layer.self_attn
            attention.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            attention.q_proj.weight.zero_()  # attention to every token alike
            for place, name in enumerate(PLANTED):
                if PLANTED[name] == number:
                    attention.v_proj.weight.zero_()
                    for dimension in range(8):
                        attention.v_proj.weight[dimension, 8 * place + dimension] = 1
                        answer = embedding[answer_ids[dimension % len(ANSWERS)], 24:]
                        attention.o_proj.weight[24:, dimension] = 4 * answer
                    if arch == "gemma3":
                        layer.post_attention_layernorm.weight.fill_(20.0)
    return bridge(plain, tokenizer, {"name": f"planted-{arch}", "source": "local", "dtype": "float32"})


def planted_tables() -> tuple[Lists, Statements]:
    concepts, statements = [], []
    for domain in PLANTED:
        for number, letter in enumerate(CLASSES[domain]):
            concepts.append(MapConcept(domain, letter, {"en": letter}, {"half": "ab"[number % 2]}))
        for text in ("{} z", "y{} z"):
            for frame, letters in (("medical", CLASSES[domain]), ("plain", CLASSES["none"])):
                statements += [
                    Statement(domain, frame, "en", text, letter, ANSWERS[number % len(ANSWERS)])  # type: ignore[arg-type]  # a frame
                    for number, letter in enumerate(letters)
                ]
    templates = tuple(Template(domain, "medical", "en", "{} z") for domain in PLANTED)
    return Lists(tuple(concepts), templates, "a test"), Statements(tuple(statements), "a test")


@pytest.fixture(scope="module", params=["gemma3", "qwen3"])
def planted_map(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[MapRow]]:
    lists, statements = planted_tables()
    folder = tmp_path_factory.mktemp("planted") / "out"
    methods = ("saliency", "lesion", "patching")
    settings = MapSettings(("en",), permutations=199, random_models=0, methods=methods, pairs=12)
    rows = make_map(lambda: planted(request.param), lists, folder, settings, statements=statements, progress=False)
    return request.param, rows


class TestPlantedBlocks:
    def row(self, rows: list[MapRow], domain: str, read_out: str, scale: str = "relative") -> MapRow:
        return next(row for row in rows if (row.domain, row.read_out, row.scale) == (domain, read_out, scale))

    @pytest.mark.parametrize("domain", PLANTED)
    def test_a_lesion_of_the_block_that_writes_matters_and_of_the_others_nothing(
        self, planted_map: tuple[str, list[MapRow]], domain: str
    ) -> None:
        depth = PLANTED[domain] + 1
        raw = self.row(planted_map[1], domain, "lesion_kl", "raw")
        assert raw.values[depth] > 0.05
        assert [value for at, value in enumerate(raw.values) if at != depth] == [0.0] * BLOCKS  # to the last bit
        assert set(raw.plain) == {0.0}
        relative = self.row(planted_map[1], domain, "lesion_kl")
        assert [at for at, q in enumerate(relative.q) if q < 0.05] == [depth]
        assert [at for at, out in enumerate(relative.stands_out) if out] == ([depth] if depth > 2 else [])

    @pytest.mark.parametrize("domain", PLANTED)
    def test_patching_goes_from_the_concept_to_the_last_token_in_that_block(
        self, planted_map: tuple[str, list[MapRow]], domain: str
    ) -> None:
        block = PLANTED[domain]
        before = np.arange(BLOCKS + 1) <= block
        concept, last = (self.row(planted_map[1], domain, f"patching_{name}") for name in ("concept", "last"))
        np.testing.assert_allclose(concept.values, before.astype(float), atol=1e-3)
        np.testing.assert_allclose(last.values, 1 - before.astype(float), atol=1e-3)
        assert (np.array(concept.p)[before] < 0.01).all() and (np.array(concept.p)[~before] > 0.5).all()
        assert concept.n + concept.left_out == 12 and concept.n > 6

    @pytest.mark.parametrize("domain", PLANTED)
    def test_weighted_saliency_points_at_the_block_whose_weights_are_used(
        self, planted_map: tuple[str, list[MapRow]], domain: str
    ) -> None:
        depth = PLANTED[domain] + 1
        raw = self.row(planted_map[1], domain, "saliency_weighted", "raw")
        assert raw.values[depth] == pytest.approx(1) and sum(raw.values) == pytest.approx(1)
        relative = self.row(planted_map[1], domain, "saliency_weighted")
        assert int(np.argmax(relative.values)) == depth and relative.q[depth] < 0.05
        assert max(value for at, value in enumerate(relative.values) if at != depth) <= 0


class TestFolder:
    settings = MapSettings(("en",), permutations=39, random_models=1, pairs=4)

    def made(self, folder: Path, methods: tuple[str, ...]) -> list[MapRow]:
        lists, statements = planted_tables()
        settings = replace(self.settings, methods=methods)
        return make_map(lambda: planted("qwen3"), lists, folder, settings, statements=statements, progress=False)

    @pytest.fixture(scope="class")
    @classmethod
    def whole(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("whole") / "out"
        cls().made(folder, ("lesion", "patching", "saliency"))
        return folder

    def test_a_method_that_is_asked_for_later_joins_the_others(self, whole: Path, tmp_path: Path) -> None:
        self.made(tmp_path / "out", ("patching",))
        told = json.loads((tmp_path / "out" / "map.json").read_text())
        assert {row["read_out"].split("_")[0] for row in told} == {"patching"}
        assert not (tmp_path / "out" / "combined.json").exists()
        self.made(tmp_path / "out", ("lesion", "saliency"))
        for name in ("map.json", "map.csv", "map.svg", "combined.json", "combined.svg", "pairs.json"):
            assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()

    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes_and_does_nothing_twice(
        self, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sae_lens_med.knowledge_map import causal_run

        done: list[str] = []
        do = causal_run._done

        def stops(runs: Any, job: Any, *more: Any) -> Any:
            if len(done) == 7:
                done.append("stopped")
                raise KeyboardInterrupt
            done.append(job.part)
            return do(runs, job, *more)

        monkeypatch.setattr(causal_run, "_done", stops)
        with pytest.raises(KeyboardInterrupt):
            self.made(tmp_path / "out", ("lesion", "patching", "saliency"))
        self.made(tmp_path / "out", ("lesion", "patching", "saliency"))
        done.remove("stopped")
        assert len(done) == len(set(done))
        for name in ("map.json", "map.csv", "combined.json"):
            assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()

    def test_every_row_has_its_controls(self, whole: Path) -> None:
        told = json.loads((whole / "map.json").read_text())
        of_the_map = [row for row in told if row["q"]]
        assert {row["read_out"] for row in of_the_map} == {
            "saliency", "saliency_weighted", "lesion_kl", "lesion_margin", "lesion_flips",
            "patching_concept", "patching_last",
        }  # fmt: skip
        for row in told:
            for name in ("values", "intervals", "null_mean", "null_high", "p"):
                assert len(row[name]) == BLOCKS + 1
            assert np.isfinite([*row["values"], *row["null_mean"], *row["p"]]).all()
            assert len(row["random"]) <= 1 and row["characters"] is None
        assert all(len(row["random"]) == 1 for row in told if not row["read_out"].startswith("patching"))

    def test_the_pairs_are_told(self, whole: Path) -> None:
        told = json.loads((whole / "pairs.json").read_text())
        assert [(each["domain"], each["frame"]) for each in told] == [(d, f) for d in PLANTED for f in FRAMES]
        assert all(len(each["pairs"]) == 4 and each["left_out"] == {} for each in told)
