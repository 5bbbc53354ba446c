"""`map match` on tiny models: words of two tokenisers, a planted permutation, bounds, the folder, the command."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError, StudyError
from sae_lens_med.knowledge_map import match_run, word_reading
from sae_lens_med.knowledge_map.match_run import MatchSettings, Side, match_saes
from sae_lens_med.knowledge_map.word_reading import (
    component_words,
    firing_rates,
    read_tokens,
    sae_acts,
    sae_words,
    shuffled_words,
)
from sae_lens_med.knowledge_map.words import WordActs, Words, word_spans
from sae_lens_med.models.bridge import MedBridge, activations_at, bridge
from sae_lens_med.saes.releases import LoadedSae, load_folder
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_hf_model, tiny_model, tiny_sae

FEW = MatchSettings(words=2000, permutations=39)
KOREAN = ["환자는", "발열과", "기침으로", "병원에", "왔다", "두통이", "혈압은", "높다", "치료는", "약을"]
ENGLISH = ["fever", "patient", "chest", "pain", "has", "the", "blood", "pressure", "of", "120", "mg"]


def some_texts(n: int = 48) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{' '.join(rng.choice(KOREAN, 12))}. {' '.join(rng.choice(ENGLISH, 12))}!" for _ in range(n)]


def loaded(folder: Path, model: MedBridge, **sae: Any) -> LoadedSae:
    save_tiny_sae(folder, tiny_sae(model, **sae))
    return load_folder(folder)


def syllables() -> PreTrainedTokenizerFast:
    """Another tokenizer: one token a character, for what it knows; it puts nothing before a text."""
    core = Tokenizer(models.BPE(unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[assignment]
    core.decoder = decoders.Fuse()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<eos>", "?"], show_progress=False)
    core.train_from_iterator(some_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="?")


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def other_model() -> MedBridge:
    tokenizer = syllables()
    hf_model = tiny_hf_model("llama", len(tokenizer), 1)
    return bridge(hf_model, tokenizer, {"name": "tiny-syllables", "source": "local", "dtype": "float32"})


@pytest.fixture(scope="module")
def first(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    return loaded(tmp_path_factory.mktemp("first"), model)


def own_words(table: word_reading.TokenTable, sae: LoadedSae) -> WordActs:
    return sae_words(table, sae, sae_acts(table, sae), "own")


def permuted(sae: LoadedSae, order: torch.Tensor) -> LoadedSae:
    """The same features in another order."""
    import copy

    own: Any = copy.deepcopy(sae.sae)
    with torch.no_grad():
        own.W_dec.copy_(own.W_dec[order])
        own.W_enc.copy_(own.W_enc[:, order])
        own.b_enc.copy_(own.b_enc[order])
    return replace(sae, sae=own, source=f"{sae.source}, in another order", sha256="another")


@pytest.mark.parametrize("which", ["model", "other_model"])
def test_a_word_has_the_largest_of_its_own_tokens(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model: MedBridge = request.getfixturevalue(which)
    sae = loaded(tmp_path, model)
    texts = ["환자는 발열과 두통이, 왔다 pain 120mg", "the fever."]
    words = Words.of(texts)
    got = own_words(read_tokens(model, sae, words), sae)
    at = 0
    sinks = 0
    norms = []
    rows: list[tuple[int, list[torch.Tensor]]] = []
    for text in texts:
        encoded = model.text_tokenizer(text, return_offsets_mapping=True)
        x = activations_at(model, [encoded.input_ids], [sae.hook_name])[sae.hook_name][0]
        special = set(model.text_tokenizer.all_special_ids)
        norms += [float(row.norm()) for row, i in zip(x, encoded.input_ids, strict=True) if i not in special]
        for start, end in word_spans(text):
            own = [
                row
                for row, i, (a, b) in zip(x, encoded.input_ids, encoded.offset_mapping, strict=True)
                if i not in special and a < end and b > start
            ]
            rows.append((at, own))
            at += 1
    limit = 5 * float(np.median(norms))
    for word, own in rows:
        kept = [row for row in own if float(row.norm()) <= limit]
        sinks += len(own) - len(kept)
        assert got.read[word] == bool(kept)
        if kept:
            expected = sae.sae.encode(torch.stack(kept)).max(0).values.detach().numpy()
            np.testing.assert_allclose(got.acts[[word]].toarray()[0], expected, rtol=1e-4, atol=1e-5)
    assert sinks == 0 and got.acts.shape[0] == at


def test_a_word_that_the_context_cuts_is_not_read(other_model: MedBridge, tmp_path: Path) -> None:
    sae = loaded(tmp_path, other_model)
    table = read_tokens(other_model, sae, Words.of(["the fever pain"]), context=6)
    # The first token of these letters that does not fit is in the second word.
    ids = other_model.text_tokenizer("the fever pain", return_offsets_mapping=True)
    last = ids.offset_mapping[5][1]
    assert table.read.tolist() == [end <= last for _, end in word_spans("the fever pain")]
    assert table.read.any() and not table.read.all()
    whole = own_words(table, sae)
    assert np.diff(sparse.csr_array(whole.acts).indptr)[~table.read].sum() == 0


@pytest.fixture(scope="module")
def table(model: MedBridge, first: LoadedSae) -> word_reading.TokenTable:
    return read_tokens(model, first, Words.of(some_texts()))


class TestBounds:
    def test_shuffled_directions_fire_as_often(self, table: word_reading.TokenTable, first: LoadedSae) -> None:
        own = firing_rates(sae_acts(table, first))
        control = shuffled_words(table, first, sae_acts(table, first), "shuffled", 0)
        assert control.directions is not None and first.sae.W_dec is not None
        directions = first.sae.W_dec.detach().double().numpy()
        np.testing.assert_allclose(np.sort(control.directions, axis=1), np.sort(directions, axis=1), atol=1e-6)
        assert not np.allclose(control.directions, directions)
        fires = np.bincount(control.acts.indices, minlength=64) > 0
        assert (fires == (own > 0)).all()

    def test_components_are_the_principal_ones_in_both_senses_and_as_sparse(
        self, table: word_reading.TokenTable, first: LoadedSae
    ) -> None:
        got = component_words(table, sae_acts(table, first), "pca")
        assert got.directions is not None and got.directions.shape == (64, 32)
        _, _, rows = np.linalg.svd(table.x - table.x.mean(0), full_matrices=False)
        # Blocks of components: first all in one sense, then all in the other.
        np.testing.assert_allclose(np.abs(np.sum(got.directions[:32] * rows, axis=1))[:20], 1, atol=1e-3)
        np.testing.assert_allclose(got.directions[32:], -got.directions[:32])
        rates = firing_rates(sae_acts(table, first))
        projected = (table.x - table.x.mean(0)) @ got.directions[0]
        most = np.quantile(projected, 1 - rates[rates > 0].mean())
        words = [projected[table.pairs[table.pairs[:, 1] == word, 0]].max() for word in range(40)]
        np.testing.assert_allclose(
            got.acts[:40].toarray()[:, 0], np.clip(np.array(words) - most, 0, None), rtol=1e-3, atol=1e-4
        )


@pytest.fixture(scope="module")
def made(model: MedBridge, first: LoadedSae, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with planted truth: all features in another order, and half of them."""
    folder = tmp_path_factory.mktemp("match") / "out"
    run(model, first, folder)
    return folder


def seeds(first: LoadedSae) -> tuple[LoadedSae, LoadedSae]:
    whole = permuted(first, torch.arange(63, -1, -1))
    half = permuted(first, torch.arange(64))
    with torch.no_grad():
        half.sae.W_dec[::2] = half.sae.W_dec[::2].roll(7, dims=1)
        half.sae.W_enc[:, ::2] = half.sae.W_enc[:, ::2].roll(7, dims=0)
    return whole, replace(half, source="half of it")


def run(model: MedBridge, first: LoadedSae, folder: Path) -> match_run.MatchResult:
    whole, half = seeds(first)
    side = Side(model, first)
    return match_saes(side, Side(model, whole), some_texts(), folder, FEW, seeds=[whole, half], progress=False)


class TestFolder:
    def test_the_planted_permutation_is_found(self, made: Path) -> None:
        rows = json.loads((made / "match.json").read_text(encoding="utf-8"))["rows"]
        main = next(row for row in rows if (row["what"], row["lexical"]) == ("second", "kept"))
        assert main["share"] == 1 and main["cosine"] == pytest.approx(1) and main["stands_out"] is True
        assert main["p"] == 1 / 40 and main["q"] < 0.05
        for row in csv.DictReader((made / "features.csv").open(encoding="utf-8")):
            assert int(row["partner"]) == 63 - int(row["feature"])
            assert row["words"] == row["partner_words"] != ""
        for what in ("shuffled", "pca"):
            low = next(row for row in rows if (row["what"], row["lexical"]) == (what, "kept"))
            assert low["share"] < 0.5 and low["q"] is None

    def test_single_features_are_claimed_that_every_seed_has(self, made: Path) -> None:
        told = json.loads((made / "match.json").read_text(encoding="utf-8"))
        assert told["seeds"]["n"] == 3
        rows = list(csv.DictReader((made / "features.csv").open(encoding="utf-8")))
        steady = {int(row["feature"]) for row in rows if row["stable"] == "True"}
        assert steady and all(feature % 2 for feature in steady)
        assert told["seeds"]["stable"] == len(steady)
        assert any("are in all 3 seeds" in note for note in told["notes"])
        half = next(r for r in told["rows"] if (r["second"], r["lexical"]) == ("half of it", "kept"))
        assert half["n_matched"] == len(steady) and half["what"] == "seed"

    def test_every_threshold_is_a_line_of_the_table_and_the_picture_is_there(self, made: Path) -> None:
        told = json.loads((made / "match.json").read_text(encoding="utf-8"))["rows"]
        lines = list(csv.DictReader((made / "match.csv").open(encoding="utf-8")))
        assert [float(line["share"]) for line in lines] == [value for row in told for value in row["curve"]]
        assert (made / "match.svg").read_text(encoding="utf-8").startswith("<svg")

    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
        self, made: Path, model: MedBridge, first: LoadedSae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain, calls = match_run.match, []

        def stops(*args: Any, **more: Any) -> Any:
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return plain(*args, **more)

        monkeypatch.setattr(match_run, "match", stops)
        with pytest.raises(KeyboardInterrupt):
            run(model, first, tmp_path / "out")
        monkeypatch.setattr(word_reading, "read_tokens", None)  # nothing is read again
        run(model, first, tmp_path / "out")
        for name in ("match.json", "match.csv", "match.svg", "features.csv"):
            assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes()

    def test_other_texts_are_refused(self, made: Path, model: MedBridge, first: LoadedSae) -> None:
        with pytest.raises(StudyError, match="texts_sha256"):
            match_saes(
                Side(model, first),
                Side(model, seeds(first)[0]),
                some_texts(60),
                made,
                FEW,
                seeds=seeds(first),
                progress=False,
            )


def test_two_models_with_their_own_tokenizers_are_compared_at_the_same_words(
    model: MedBridge, other_model: MedBridge, first: LoadedSae, tmp_path: Path
) -> None:
    second = loaded(tmp_path / "second", other_model, seed=3)
    found = match_saes(
        Side(model, first), Side(other_model, second), some_texts(), tmp_path / "out", FEW, progress=False
    )
    main = next(row for row in found.rows if (row.what, row.lexical) == ("second", "kept"))
    texts = Words.of(some_texts())
    assert 0.4 * texts.starts[-1] < main.n_words <= 0.6 * texts.starts[-1]
    assert main.cosine is None
    assert found.n_stable is None
    assert any("No other seed" in note for note in found.notes)
    assert any("Nothing may be claimed of a single feature" in note for note in found.notes)


def test_nothing_to_compare_and_seeds_of_another_hook_are_refused(
    model: MedBridge, first: LoadedSae, tmp_path: Path
) -> None:
    side = Side(model, first)
    with pytest.raises(ConfigError, match="there is nothing to compare with"):
        match_saes(side, None, some_texts(), tmp_path / "out", FEW, progress=False)
    other = loaded(tmp_path / "sae", model, hook_name="blocks.0.hook_resid_post")
    with pytest.raises(ConfigError, match="another seed of an SAE has its hook"):
        match_saes(side, None, some_texts(), tmp_path / "out", FEW, seeds=[other], progress=False)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def place(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("command")
    save_tiny_model(folder / "model", "gemma3")
    for seed in (0, 1):
        save_tiny_sae(folder / f"sae-{seed}", tiny_sae(model, seed=seed))
    lines = [json.dumps({"id": f"{i}", "text": text}, ensure_ascii=False) for i, text in enumerate(some_texts())]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


class TestCommand:
    def run(self, place: Path, *more: str) -> Any:
        given = ["-m", str(place / "model"), "-t", str(place / "texts.jsonl"), "--permutations", "19", *more]
        return CliRunner().invoke(app, ["map", "match", *given])

    def test_says_what_may_be_concluded(self, place: Path, tmp_path: Path) -> None:
        saes = ["-s", str(place / "sae-0"), "-s", str(place / "sae-1")]
        done = self.run(place, *saes, "-o", str(tmp_path / "out"))
        assert done.exit_code == 0, done.output
        assert "have a partner in" in done.stdout and "features.csv" in done.stdout
        again = self.run(place, *saes, "-o", str(tmp_path / "out"), "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "match.json").read_text(encoding="utf-8"))

    def test_seeds_alone_are_enough(self, place: Path, tmp_path: Path) -> None:
        done = self.run(
            place, "-s", str(place / "sae-0"), "--seed-sae", str(place / "sae-1"), "-o", str(tmp_path / "o"), "--json"
        )
        assert done.exit_code == 0, done.output
        assert {row["what"] for row in json.loads(done.stdout)["rows"]} == {"seed", "shuffled", "pca"}

    def test_three_saes_are_refused_before_anything_is_loaded(self, place: Path, tmp_path: Path) -> None:
        done = self.run(place, *["-s", "a"] * 3, "-o", str(tmp_path / "out"))
        assert done.exit_code != 0 and "--seed-sae" in str(done.exception)
        assert not (tmp_path / "out").exists()
