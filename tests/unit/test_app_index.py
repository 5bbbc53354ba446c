"""The index: what one pass over the shards counts is what the whole collection says, in whatever pieces it came."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from sae_lens_med.app import index as making
from sae_lens_med.app.index import BINS, LONGEST, SHOWN_PARTS, Sums, build_index
from sae_lens_med.app.index_files import FEATURES, FOLDER, PARTIAL, parts_made
from sae_lens_med.app.indexed import Index
from sae_lens_med.errors import StudyError
from sae_lens_med.features.option_words import rare_option_words, without_option_words
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.features.store import CollectedFeatures, load_features, shard_paths
from sae_lens_med.metrics.inputs import pool_features
from sae_lens_med.records import PARTS, McqItem
from sae_lens_med.runs.files import write_json
from sae_lens_med.runs.parsing import read_json
from sae_lens_med.runs.written import hashes
from tests.app_study import D_SAE, DENSE, EVERYWHERE, HANGUL, NEVER, make_study

N = 24


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed")
    make_study(folder, N)
    assert build_index(folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def whole(study: Path) -> CollectedFeatures:
    return load_features(study / "features")


@pytest.fixture(scope="module")
def items(study: Path) -> tuple[McqItem, ...]:
    from sae_lens_med.study.folder import read_questions

    return tuple(read_questions(study).values())


@pytest.fixture(scope="module")
def index(study: Path) -> Index:
    return opened(study)


def opened(study: Path) -> Index:
    part = FeaturePart(study / "features")
    made, reason = parts_made(study, part)
    assert not reason
    return Index(study / FOLDER, made, part.d_sae, part.n_items)


def shown(whole: CollectedFeatures) -> tuple[np.ndarray, np.ndarray]:
    """The activations of the tokens that count for what is said of a feature `[t, d_sae]`, and their items."""
    acts = whole.acts
    chosen = ~acts.excluded & np.isin(acts.token_part, [PARTS.index(part) for part in SHOWN_PARTS])
    return acts.acts.toarray()[chosen], acts.token_item[chosen]


def test_counts_means_and_maxima_are_those_of_the_whole(index: Index, whole: CollectedFeatures) -> None:
    dense, item = shown(whole)
    assert index.n_tokens == len(dense)
    np.testing.assert_array_equal(index.count, (dense > 0).sum(axis=0))
    np.testing.assert_array_equal(index.maximum, dense.max(axis=0))
    means = [column[column > 0].astype(np.float64).mean() if column.any() else 0.0 for column in dense.T]
    np.testing.assert_allclose(index.mean, means, rtol=1e-12)
    for feature in range(D_SAE):
        fires = np.bincount(item[dense[:, feature] > 0], minlength=N) > 0
        np.testing.assert_array_equal(index.cases(feature), fires)
        assert index.n_cases[feature] == fires.sum()


def test_the_mask_the_weights_and_the_compared_items_are_those_of_align(
    index: Index, whole: CollectedFeatures, items: tuple[McqItem, ...]
) -> None:
    compared = without_option_words(whole, items)
    assert (compared.acts.excluded != whole.acts.excluded).any(), "no rare option word in the example"
    pooled = pool_features(compared)
    np.testing.assert_array_equal(index.dense, pooled.mask.dense)
    np.testing.assert_array_equal(index.script, pooled.mask.script)
    assert index.dense[DENSE]
    assert index.script[HANGUL]
    np.testing.assert_array_equal(np.flatnonzero(index.explained), pooled.explained)
    np.testing.assert_array_equal(index.weights[index.kept], pooled.weights[index.kept])
    assert index.weights[EVERYWHERE] == 0
    explanations = [whole.texts[item.id].get("explanation") for item in items]
    assert [index.option_words(number) for number in range(N)] == rare_option_words(items, explanations)


def test_the_strongest_cases_stand_first_each_with_its_strongest_token(index: Index, whole: CollectedFeatures) -> None:
    acts = whole.acts
    dense = acts.acts.toarray()
    allowed = ~acts.excluded & np.isin(acts.token_part, [PARTS.index(part) for part in SHOWN_PARTS])
    for feature in range(D_SAE):
        cases = []
        for item in range(N):
            rows = np.flatnonzero(acts.token_item == item)
            values = np.where(allowed[rows], dense[rows, feature], 0)
            if values.max() > 0:
                cases.append((-float(values.max()), item, int(values.argmax())))
        top = index.top(feature)
        found = list(zip((-top.value).tolist(), top.item.tolist(), top.token.tolist(), strict=True))
        assert found == sorted(cases)


def test_only_so_many_cases_are_kept_the_strongest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study: Path
) -> None:
    """With room for fewer cases than there are, the list is the beginning of the whole one."""
    monkeypatch.setattr(making, "TOP", 5)
    make_study(tmp_path, N)
    build_index(tmp_path, progress=False)
    few, whole = opened(tmp_path), opened(study)
    for feature in range(D_SAE):
        for name in ("value", "item", "token"):
            np.testing.assert_array_equal(getattr(few.top(feature), name), getattr(whole.top(feature), name)[:5])


def test_histograms_count_every_activation_once(index: Index, whole: CollectedFeatures) -> None:
    dense, _ = shown(whole)
    for feature in range(D_SAE):
        column = dense[:, feature].astype(np.float64)
        edges = np.linspace(0, max(float(column.max()), 1.0), BINS + 1)
        counts, _ = np.histogram(column[column > 0], edges)
        found = index.histogram(feature)
        assert sum(found) == index.count[feature]
        # A value on the edge of two bins may fall into either, by rounding.
        assert np.abs(np.cumsum(found) - np.cumsum(counts)).max() <= 1
    assert index.histogram(NEVER) == [0] * BINS


def test_each_tenth_of_the_cases_gives_one(index: Index) -> None:
    """So few cases are all in the sample: the case is one whose rank lies in its tenth."""
    for feature in range(D_SAE):
        cases, which = index.tenths(feature)
        ranks = {int(item): rank for rank, item in enumerate(index.top(feature).item)}
        n = len(ranks)
        assert len(set(which.tolist())) == len(which) == min(n, 10)
        for item, value, tenth in zip(cases.item.tolist(), cases.value.tolist(), which.tolist(), strict=True):
            rank = ranks[item]
            assert tenth / 10 * n - 1 < rank < (tenth + 1) / 10 * n + 1
            assert value == index.top(feature).value[rank]


def test_a_sample_of_many_cases_estimates_the_tenths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "SAMPLE", 12)
    make_study(tmp_path, 60, shard_items=16)
    build_index(tmp_path, progress=False)
    index = opened(tmp_path)
    off = []
    for feature in np.flatnonzero(index.n_cases > 40).tolist():
        cases, which = index.tenths(feature)
        ranks = {int(item): rank for rank, item in enumerate(index.top(feature).item)}
        assert (np.diff(cases.value) <= 0).all()
        off += [ranks[item] / len(ranks) - (t + 0.5) / 10 for item, t in zip(cases.item.tolist(), which, strict=True)]
    # Unbiased; a rank in a sample of 12 is off by about 0.14.
    assert abs(np.mean(off)) < 0.05
    assert np.std(off) < 0.2


def test_features_are_called_by_words_of_their_strongest_cases(
    index: Index, whole: CollectedFeatures, items: tuple[McqItem, ...]
) -> None:
    acts = whole.acts
    for feature in range(D_SAE):
        top = index.top(feature)
        wanted = []
        for item, token in zip(top.item.tolist(), top.token.tolist(), strict=True):
            row = int(np.flatnonzero(acts.token_item == item)[0]) + token
            text = whole.texts[items[item].id][("question", "explanation")[whole.token_text[row]]]
            start = int(acts.char_start[row])
            if not text[start : acts.char_end[row]].strip():
                continue
            start += len(text[start:]) - len(text[start:].lstrip())
            begin = start + 1 - len(text[: start + 1].split()[-1])
            wanted.append(text[begin:].split()[0])
        assert all(len(word) <= LONGEST for word in wanted)
        assert index.words_of(feature) == list(dict.fromkeys(wanted))[:10]


@pytest.mark.parametrize("shard_items", [3, 24])
def test_how_the_items_were_cut_into_shards_does_not_matter(tmp_path: Path, study: Path, shard_items: int) -> None:
    make_study(tmp_path, N, shard_items=shard_items)
    build_index(tmp_path, progress=False)
    one, other = (load_file(folder / FOLDER / FEATURES) for folder in (study, tmp_path))
    assert one.keys() == other.keys()
    for name in one:
        if name == "mean":  # sums of the same numbers, in the same order
            np.testing.assert_allclose(one[name], other[name], rtol=1e-12)
        else:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_an_interrupted_index_goes_on_and_comes_out_the_same(
    tmp_path: Path, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path, N)
    monkeypatch.setattr(making, "CHECKPOINT", 0.0)
    added = Sums.add
    seen: Counter[int] = Counter()

    def stops(self: Sums, part, spans) -> None:
        if part.first == 14 and not seen[14]:
            seen[14] += 1
            raise KeyboardInterrupt
        seen[part.first] += 1
        added(self, part, spans)

    monkeypatch.setattr(Sums, "add", stops)
    with pytest.raises(KeyboardInterrupt):
        build_index(tmp_path, progress=False)
    assert (tmp_path / FOLDER / PARTIAL["features"]).is_file()
    assert parts_made(tmp_path, FeaturePart(tmp_path / "features")) == (set(), "")
    assert build_index(tmp_path, progress=False)
    assert seen == {0: 1, 7: 1, 14: 2, 21: 1}
    assert not (tmp_path / FOLDER / PARTIAL["features"]).exists()
    assert hashes(tmp_path / FOLDER, ["*.safetensors", "words.json"]) == hashes(
        study / FOLDER, ["*.safetensors", "words.json"]
    )


def test_a_checkpoint_of_other_features_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for seed, folder in enumerate(folders):
        make_study(folder, 8, seed=seed, shard_items=3)
    monkeypatch.setattr(making, "CHECKPOINT", 0.0)
    finish = making._finish
    monkeypatch.setattr(making, "_finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_index(folders[0], progress=False)
    (folders[1] / FOLDER).mkdir()
    (folders[0] / FOLDER / PARTIAL["features"]).rename(folders[1] / FOLDER / PARTIAL["features"])
    monkeypatch.setattr(making, "_finish", finish)
    build_index(folders[1], progress=False)
    index, (dense, _) = opened(folders[1]), shown(load_features(folders[1] / "features"))
    np.testing.assert_array_equal(index.count, (dense > 0).sum(axis=0))


def test_an_index_is_made_once_and_again_when_it_is_stale_or_asked_for(tmp_path: Path) -> None:
    make_study(tmp_path, 8)
    assert build_index(tmp_path, progress=False)
    assert not build_index(tmp_path, progress=False)
    assert build_index(tmp_path, rebuild=True, progress=False)
    (tmp_path / FOLDER / "labels.jsonl").write_text("written by people\n", encoding="utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text(questions.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    made, reason = parts_made(tmp_path, FeaturePart(tmp_path / "features"))
    assert not made
    assert "stale" in reason
    assert build_index(tmp_path, progress=False)
    assert (tmp_path / FOLDER / "labels.jsonl").read_text(encoding="utf-8") == "written by people\n"
    (tmp_path / FOLDER / FEATURES).unlink()
    assert parts_made(tmp_path, FeaturePart(tmp_path / "features")) == (
        set(),
        "Files of the index are missing: features.",
    )
    assert build_index(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: shard_paths(s / "features", 1)[0].unlink(), "shard-00001.*damaged"),
        (lambda s: (s / "questions.jsonl").unlink(), "questions.jsonl is missing"),
        (lambda s: (s / "features" / "manifest.json").unlink(), "contains no collected features"),
        (
            lambda s: write_json(
                s / "features" / "manifest.json",
                (m := read_json(s / "features" / "manifest.json")) | {"shards": m["shards"][:1]},
            ),
            "features of 3 of 8 items",
        ),
        (
            lambda s: (s / "questions.jsonl").write_text(
                "\n".join(reversed((s / "questions.jsonl").read_text(encoding="utf-8").splitlines())), encoding="utf-8"
            ),
            "other items",
        ),
        (
            lambda s: (s / "questions.jsonl").write_text(
                (s / "questions.jsonl").read_text(encoding="utf-8").split("\n")[0], encoding="utf-8"
            ),
            "1 questions and the features of 8 items",
        ),
    ],
)
def test_a_study_that_cannot_be_indexed_says_why(tmp_path: Path, damage, message: str) -> None:
    make_study(tmp_path, 8, shard_items=3)
    damage(tmp_path)
    with pytest.raises(StudyError, match=message):
        build_index(tmp_path, progress=False)
