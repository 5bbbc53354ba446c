"""A map of features of tiny models, from the command to the files: what is planted in an SAE is what is found."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ModelError, StudyError
from sae_lens_med.features.collect import collect
from sae_lens_med.features.contexts import top_contexts
from sae_lens_med.features.store import load_features
from sae_lens_med.interventions.edits import AboveHook
from sae_lens_med.knowledge_map.bilingual_effects import ablated
from sae_lens_med.knowledge_map.features_run import FeatureMapSettings, make_feature_map, read_feature_map
from sae_lens_med.knowledge_map.lists import read_lists
from sae_lens_med.knowledge_map.names import NameTokens, name_residuals, pooled, read_names
from sae_lens_med.knowledge_map.reading import slot_texts
from sae_lens_med.models.bridge import MedBridge, activations_at, load_model
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.integration.test_collect import make_items
from tests.tiny import ARCHES, Arch, save_tiny_model, tiny_model, tiny_sae

HOOK = "blocks.1.hook_resid_post"
BILINGUAL, KOREAN, LANGUAGE, IDLE = 0, 1, 2, 3
"""Planted: fires on `left` in both languages, on `left` in Korean, on Korean; as the first, but adds nothing."""
EACH = 10
FEW: dict[str, Any] = {"permutations": 499, "random_models": 1, "matched": 79, "ablate": 4}


def tables(folder: Path) -> tuple[Path, Path]:
    """Twenty concepts of two kinds, whose names have nothing in common within a kind or between languages."""
    rng = np.random.default_rng(8)
    concepts = []
    for i in range(2 * EACH):
        ko = "".join(chr(0xAC00 + int(c)) for c in rng.integers(0, 11172, 3))
        en = "".join(chr(97 + int(c)) for c in rng.integers(0, 26, 6))
        kind = ("left", "right")[i % 2]
        forms = {"ko": ko + "병", "en": en + " q"}
        concepts.append({"domain": "made", "concept": f"c{i}", **forms, "labels": {"side": kind}})
    templates = [
        {"domain": "made", "frame": "medical", "language": language, "text": text}
        for language, text in (("ko", "진단은 {}"), ("en", "It is {}"))
    ]
    for name, rows in (("concepts", concepts), ("templates", templates)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder / "concepts.jsonl", folder / "templates.jsonl"


def planted_sae(model: MedBridge, concepts: Path, templates: Path) -> Any:
    """An SAE four of whose features are linear classifiers of the residual at the names' last tokens (that of language:
    at all of their tokens), the first with a long decoder row, the fourth with none; the others are random."""
    lists = read_lists(concepts, templates)
    x, left, korean, tokens, of_korean = [], [], [], [], []
    for language in ("ko", "en"):
        own = lists.of("made", language)
        texts = slot_texts(own, lists.templates_of("made", language, "medical"), language, model.text_tokenizer)
        for text in texts:
            found = activations_at(model, [text.token_ids], [HOOK])[HOOK][0].numpy()
            x.append(found[text.at[0]])
            tokens.append(found[text.first : text.at[0] + 1])
            of_korean += [language == "ko"] * len(tokens[-1])
            left.append(own[text.concept].labels["side"] == "left")
            korean.append(language == "ko")
    rows = np.c_[np.array(x), np.ones(len(x))].astype(np.float64)
    is_left, is_korean = np.array(left), np.array(korean)
    wanted = np.stack([is_left, is_left & is_korean, is_korean, is_left], axis=1)
    weights = np.linalg.lstsq(rows, 2.0 * wanted - 1.0, rcond=None)[0]
    assert ((rows @ weights > 0) == wanted).all()
    everywhere = np.c_[np.concatenate(tokens), np.ones(len(of_korean))].astype(np.float64)
    weights[:, LANGUAGE] = np.linalg.lstsq(everywhere, 2.0 * np.array(of_korean) - 1.0, rcond=None)[0]
    sae = tiny_sae(model, HOOK, d_sae=96, seed=4)
    with torch.no_grad():
        sae.b_dec.zero_()
        # The others are as strong as the planted ones, so that these have whom to be compared with.
        sae.W_enc.mul_(4)
        sae.b_enc.mul_(1.5)
        sae.W_enc[:, :4] = torch.from_numpy(weights[:-1]).float()
        sae.b_enc[:4] = torch.from_numpy(weights[-1]).float()
        sae.W_dec[BILINGUAL] *= 3 * float(np.linalg.norm(np.array(x), axis=1).mean())
        sae.W_dec[IDLE] = 0
    return sae


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("given")
    concepts, templates = tables(folder)
    model = load_model(str(save_tiny_model(folder / "model", "gemma3")))
    planted_sae(model, concepts, templates).save_model(folder / "sae")
    return {"model": folder / "model", "sae": folder / "sae", "concepts": concepts, "templates": templates}


def run(given: dict[str, Path], output: Path, *arguments: str, **other: Path) -> tuple[int, str]:
    paths = [str(each) for name, path in (given | other).items() for each in (f"--{name}", path)]
    options = [str(each) for name, value in FEW.items() for each in (f"--{name.replace('_', '-')}", value)]
    ended = CliRunner().invoke(app, ["map", "features", *paths, "-o", str(output), *options, *arguments])
    return ended.exit_code, str(ended.exception or "") + ended.output


@pytest.fixture(scope="module")
def made(given: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("made") / "out"
    code, said = run(given, output)
    assert code == 0, said
    assert "made/side (ko to en, depth 2): 1 of" in said and "labels have a feature: left" in said
    return output


class TestPlanted:
    def test_features_that_carry_the_label_are_found_in_each_language(self, made: Path) -> None:
        rows = json.loads((made / "features.json").read_text())
        out = {(row["language"], row["feature"]) for row in rows if row["stands_out"]}
        assert {each for each in out if each[1] <= IDLE} == {
            *(("ko", BILINGUAL), ("ko", KOREAN), ("ko", IDLE)),
            *(("en", BILINGUAL), ("en", IDLE)),
        }
        row = rows[0]
        wanted = ("domain", "language", "labels", "label", "depth", "feature", "auroc", "auroc_null_high", "p", "q")
        assert set(wanted) <= set(row)
        assert (row["domain"], row["labels"], row["depth"], row["n"], row["n_label"]) == ("made", "side", 2, 10, 5)

    def test_bilingual_ones_across_languages_and_the_korean_one_is_not(self, made: Path) -> None:
        told = json.loads((made / "bilingual.json").read_text())
        for language in ("ko-en", "en-ko"):
            own = [row for row in told["across"] if row["language"] == language and row["label"] == "left"]
            assert {row["feature"] for row in own if row["stands_out"]} >= {BILINGUAL, IDLE}
        (korean,) = [row for row in told["across"] if row["feature"] == KOREAN and row["language"] == "ko-en"]
        assert korean["auroc_train"] == 1 and not korean["stands_out"]
        assert LANGUAGE in {each["feature"] for each in told["language_features"]}
        assert not {BILINGUAL, IDLE} & {each["feature"] for each in told["language_features"]}
        assert any("does not show that the model uses it" in sentence for sentence in told["limits"])

    def test_what_is_ablated_counts_in_both_languages_or_in_none(self, made: Path) -> None:
        effects = json.loads((made / "bilingual.json").read_text())["effects"]
        of = {feature: [row for row in effects if row["feature"] == feature] for feature in (BILINGUAL, IDLE)}
        assert [row["language"] for row in of[BILINGUAL]] == ["ko", "en"]
        assert all(row["used_in_both"] and row["value"] > row["null_high"] for row in of[BILINGUAL])
        assert all(row["value"] < 1e-10 and row["p"] == 1 and not row["stands_out"] for row in of[IDLE])
        assert all(row["n"] == 5 and row["n_random"] >= 19 and row["fires"] == 1 for row in of[BILINGUAL])

    def test_the_table_has_what_the_files_have(self, made: Path) -> None:
        rows = list(csv.DictReader((made / "features.csv").open()))
        told = json.loads((made / "features.json").read_text())
        told += json.loads((made / "bilingual.json").read_text())["across"]
        assert [float(row["auroc"]) for row in rows] == [row["auroc"] for row in told]
        assert (made / "features.svg").read_text().startswith("<svg")
        assert [row.to_dict() for row in read_feature_map(made)] == told[: len(read_feature_map(made))]


def test_with_its_directions_shuffled_what_was_planted_is_gone(given: dict[str, Path], tmp_path: Path) -> None:
    from sae_lens_med.controls.untrained import shuffled_sae

    shuffled_sae(load_folder(given["sae"]), seed=9).sae.save_model(tmp_path / "sae")
    code, said = run(given, tmp_path / "out", sae=tmp_path / "sae")
    assert code == 0, said
    told = json.loads((tmp_path / "out" / "bilingual.json").read_text())
    assert not [row for row in told["across"] if row["stands_out"] and row["feature"] in (BILINGUAL, IDLE)]
    assert not [row for row in told["retrieval"] if row["stands_out"]]


class TestFolder:
    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
        self, given: dict[str, Path], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sae_lens_med.knowledge_map import features_reading, features_run

        for module, name, at in ((features_reading, "read_names", 2), (features_reading, "read_names", 2),
                                 (features_run, "ablated", 3)):  # fmt: skip
            function, calls = getattr(module, name), []

            def stops(*args: Any, function: Any = function, calls: Any = calls, at: int = at, **more: Any) -> Any:
                calls.append(1)
                if len(calls) == at:
                    raise KeyboardInterrupt
                return function(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, stops)
                assert run(given, tmp_path / "out")[0] != 0
            assert not (tmp_path / "out" / "features.json").exists()
        code, said = run(given, tmp_path / "out")
        assert code == 0, said
        for name in ("features.json", "features.csv", "features.svg", "bilingual.json"):
            assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes()

    def test_other_settings_are_refused(self, given: dict[str, Path], made: Path) -> None:
        code, said = run(given, made, "--seed", "3")
        assert code != 0 and "settings" in said

    def test_two_saes_are_two_depths(self, given: dict[str, Path], tmp_path: Path) -> None:
        tiny_sae(load_model(str(given["model"])), "blocks.0.hook_resid_post", seed=2).save_model(tmp_path / "low")
        code, said = run(given, tmp_path / "out", "--sae", str(tmp_path / "low"), "--ablate", "0")
        assert code == 0, said
        rows = read_feature_map(tmp_path / "out")
        assert {row.depth for row in rows} == {1, 2}
        assert {row.sae for row in rows if row.depth == 1} == {str(tmp_path / "low")}

    def test_json_on_stdout(self, given: dict[str, Path], made: Path) -> None:
        code, said = run(given, made, "--json")
        assert code == 0
        told = json.loads(said[said.index("{") :])
        assert told["features"] == json.loads((made / "features.json").read_text())
        assert told["bilingual"] == json.loads((made / "bilingual.json").read_text())

    def test_contexts_of_a_collection_stand_beside_the_features(self, given: dict[str, Path], tmp_path: Path) -> None:
        model, sae = load_model(str(given["model"])), load_folder(given["sae"])
        collect(model, sae, make_items(4), output=tmp_path / "acts", progress=False)
        code, said = run(given, tmp_path / "out", "--collection", str(tmp_path / "acts"), "--ablate", "0")
        assert code == 0, said
        contexts = top_contexts(load_features(tmp_path / "acts"), 5)
        seen = 0
        for row in read_feature_map(tmp_path / "out"):
            expected = [(each.token, each.value) for each in contexts.get(row.feature, [])]
            assert [(each["token"], each["value"]) for each in row.contexts] == expected
            seen += bool(expected)
        assert seen

    def test_a_collection_of_another_sae_is_refused(self, given: dict[str, Path], tmp_path: Path) -> None:
        model = load_model(str(given["model"]))
        tiny_sae(model, seed=11).save_model(tmp_path / "other")
        collect(model, load_folder(tmp_path / "other"), make_items(2), output=tmp_path / "acts", progress=False)
        code, said = run(given, tmp_path / "out", "--collection", str(tmp_path / "acts"))
        assert code != 0 and "which is none of those given" in said

    def test_a_folder_without_features_cannot_be_read(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match="map features"):
            read_feature_map(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--language", "fr"], "--language must be ko or en, got 'fr'"),
        (["--position", "end"], "--position must be one of concept, name, got 'end'"),
        (["--permutations", "3"], "permutations must be from 19"),
        (["--matched", "3"], "matched must be from 19"),
        (["--domain", "drug"], "no domain 'drug'; did you mean drugs?"),
        (["--concepts", "a.jsonl"], "--concepts and --templates go together"),
        (["--sae", "none"], "an SAE is given twice"),
        (["--domain", "age"], "none of the chosen domains has labels"),
    ],
)
def test_what_it_does_not_understand_is_said(
    given: dict[str, Path], tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    sae = str(given["sae"]) if arguments == ["--domain", "age"] else "none"
    common = ["map", "features", "-m", str(given["model"]), "-s", sae, "-o", str(tmp_path / "out")]
    ended = CliRunner().invoke(app, [*common, *arguments])
    assert ended.exit_code != 0 and sentence in str(ended.exception or "") + ended.output
    assert not (tmp_path / "out").exists()


class TestNames:
    @staticmethod
    def read(model: MedBridge, given: dict[str, Path], sae: LoadedSae, batch_tokens: int = 64) -> Any:
        lists = read_lists(given["concepts"], given["templates"])
        templates = ("진단은 {}", "{}은 무엇인가")
        texts = slot_texts(lists.of("made", "ko")[:4], templates, "ko", model.text_tokenizer)
        return texts, read_names(model, [sae], texts, batch_tokens=batch_tokens)

    @pytest.mark.parametrize("arch", ARCHES)
    def test_are_read_at_their_own_tokens_and_averaged_over_templates(self, arch: Arch, given: dict[str, Path]) -> None:
        model = tiny_model(arch)
        sae = LoadedSae(tiny_sae(model), "tiny", "tiny", "0" * 64, HOOK, None)
        texts, tokens = self.read(model, given, sae)
        expected: dict[str, list[Any]] = {"concept": [], "name": [], "fires": [], "x": []}
        for text in texts:
            x = activations_at(model, [text.token_ids], [HOOK])[HOOK][0][text.first : text.at[0] + 1]
            decoded = model.text_tokenizer.decode(text.token_ids[text.first : text.at[0] + 1])
            assert decoded.strip(" 은") == json.loads(given["concepts"].read_text().splitlines()[text.concept])["ko"]
            c = sae.sae.encode(x).detach().numpy()
            values = {"concept": c[-1], "name": c.max(0), "fires": (c > 0).mean(0), "x": x[-1].numpy()}
            for name, value in values.items():
                expected[name].append(value)
        mean = {name: np.array(rows, dtype=float).reshape(4, 2, -1).mean(1) for name, rows in expected.items()}
        for position in ("concept", "name"):
            got = pooled(sae, tokens.x[0], tokens, position)
            np.testing.assert_allclose(got.acts, mean[position], rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(got.fires, mean["fires"], atol=1e-4)
        np.testing.assert_allclose(name_residuals(tokens.x[0], tokens, "concept"), mean["x"], rtol=1e-3, atol=1e-3)

    def test_blocks_of_texts_change_nothing(
        self, given: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sae_lens_med.knowledge_map import names

        model = tiny_model()
        sae = LoadedSae(tiny_sae(model), "tiny", "tiny", "0" * 64, HOOK, None)
        _, tokens = self.read(model, given, sae)
        whole = pooled(sae, tokens.x[0], tokens, "name")
        tokens.save(tmp_path / "tokens.safetensors")
        again = NameTokens.load(tmp_path / "tokens.safetensors")
        monkeypatch.setattr(names, "_VALUES", 1)
        for position in ("name", "concept"):
            monkeypatch.setattr(names, "_VALUES", 1)
            piecewise = pooled(sae, again.x[0], again, position)
            monkeypatch.setattr(names, "_VALUES", 2**24)
            np.testing.assert_allclose(piecewise.acts, pooled(sae, tokens.x[0], tokens, position).acts, atol=1e-6)
        assert not np.allclose(whole.acts, pooled(sae, tokens.x[0], tokens, "concept").acts)

    def test_an_sae_of_another_width_is_refused(self, given: dict[str, Path]) -> None:
        from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

        wide = LoadedSae(StandardSAE(StandardSAEConfig(d_in=48, d_sae=64)), "wide", "wide", "0" * 64, HOOK, None)
        with pytest.raises(ModelError, match="d_in 48"):
            self.read(tiny_model(), given, wide)


@torch.no_grad()
def test_an_effect_is_the_change_of_the_next_word_that_hooks_make(given: dict[str, Path]) -> None:
    """Against a hook written here on the bridge, and KL by torch; other features are matched on these texts."""
    model = load_model(str(given["model"]))
    sae = load_folder(given["sae"])
    lists = read_lists(given["concepts"], given["templates"])
    texts = slot_texts(lists.of("made", "en")[:6], ("It is {}", "{} it is"), "en", model.text_tokenizer)
    own, random, fold, fires = ablated(AboveHook(model, sae), texts, BILINGUAL, 39, np.random.default_rng(0))
    expected: list[list[float]] = [[] for _ in range(6)]
    for text in texts:
        ids = torch.tensor([text.token_ids])
        plain = model(ids)[0, -1].log_softmax(-1)

        def take_out(activation: torch.Tensor, hook: object, of: Any = text) -> torch.Tensor:
            x = activation[:, of.first : of.at[0] + 1]
            x -= sae.sae.encode(x)[..., [BILINGUAL]] * sae.sae.W_dec[BILINGUAL]
            return activation

        without = model.run_with_hooks(ids, fwd_hooks=[(HOOK, take_out)])[0, -1].log_softmax(-1)
        expected[text.concept].append(float((plain.exp() * (plain - without)).sum()))
    np.testing.assert_allclose(own, np.mean(expected, axis=1), rtol=1e-3, atol=1e-5)
    assert 19 <= len(random) <= 39 and fold is not None and fold >= 1
    assert 0 < fires <= 1
    others = slice(IDLE + 1, None)
    with torch.no_grad():  # as many fire, and none is half as strong
        sae.sae.W_enc[:, others].div_(20)
        weak: Any = sae.sae
        weak.b_enc[others] /= 20
    again, none, fold, _ = ablated(AboveHook(model, sae), texts, BILINGUAL, 39, np.random.default_rng(0))
    np.testing.assert_allclose(again, own, rtol=1e-4)
    assert len(none) == 0 and fold is None
    dead = tiny_sae(model, HOOK)
    with torch.no_grad():
        dead.b_enc[:60] = -1e4  # four features are left
    few = LoadedSae(dead, "few", "few", "0" * 64, HOOK, None)
    _, none, fold, _ = ablated(AboveHook(model, few), texts, 61, 39, np.random.default_rng(0))
    assert len(none) == 0 and fold is None


def test_one_language_has_no_second(given: dict[str, Path], tmp_path: Path) -> None:
    settings = FeatureMapSettings(languages=("en",), permutations=39, random_models=0)
    lists = read_lists(given["concepts"], given["templates"])
    sae = load_folder(given["sae"])
    found = make_feature_map(
        lambda: load_model(str(given["model"])), [sae], lists, tmp_path / "out", settings, progress=False
    )
    assert {row.language for row in found.rows} == {"en"}
    assert found.across == [] and found.retrieval == [] and found.effects == [] and found.languages == []
    assert all(row.random == () for row in found.rows)
