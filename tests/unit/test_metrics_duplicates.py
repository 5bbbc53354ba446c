"""Near-duplicate questions: which are one case, what of them is measured, and that no split parts them."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from sae_lens_med.metrics.duplicates import NEAR, NGRAM, near_duplicates, one_of_each
from sae_lens_med.metrics.inputs import Inputs
from sae_lens_med.statistics import halves
from tests.synthetic_study import synthetic

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
CASE = "A {age}-year-old woman consults for {days} days of painless jaundice and itching; {finding}. {question}"


def _texts() -> list[str]:
    """Two cases told three times and twice, and five that stand alone, in one frame of words."""
    one = [CASE.format(age=76, days=10, finding="a mass of the pancreatic head is seen", question=q) for q in
           ("What is the diagnosis?", "What do you do next?", "Which marker is raised?")]  # fmt: skip
    two = ["A boy of 4 limps after a cold; his hip is rotated outward.\nHow is it treated?",
           "A BOY of 4 limps after a cold: his hip is rotated outward. What is it?"]  # fmt: skip
    alone = [f"Which of the following is correct about {x}?" for x in
             ("warfarin", "gout", "the sigmoid colon", "measles", "optic neuritis")]  # fmt: skip
    return [one[0], alone[0], two[0], one[1], *alone[1:3], two[1], *alone[3:], one[2]]


def test_a_case_told_again_is_one_cluster_and_a_common_frame_of_words_is_none() -> None:
    clusters = near_duplicates(_texts())
    assert clusters.tolist() == [0, 1, 2, 0, 3, 4, 2, 5, 6, 0]
    assert one_of_each(clusters).tolist() == [0, 1, 2, 4, 5, 7, 8]


def test_clusters_are_those_of_a_literal_count_of_ngrams() -> None:
    texts = _texts()
    folded = [" ".join("".join(c if c.isalnum() else " " for c in t.lower()).split()) for t in texts]
    grams = [{t[i : i + NGRAM] for i in range(len(t) - NGRAM + 1)} for t in folded]
    idf = {g: np.log(len(texts) / sum(g in held for held in grams)) for held in grams for g in held}
    group = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        share = sum(idf[g] for g in grams[i] & grams[j]) / sum(idf[g] for g in grams[i] | grams[j])
        if share >= NEAR:
            group = [group[i] if x == group[j] else x for x in group]
    ours = near_duplicates(texts)
    assert [[a == b for b in group] for a in group] == (ours[:, None] == ours[None]).tolist()


def test_the_order_of_the_texts_does_not_matter() -> None:
    texts = _texts()
    order = np.random.default_rng(0).permutation(len(texts))
    moved = near_duplicates([texts[i] for i in order])
    ours = near_duplicates(texts)[order]
    assert ((moved[:, None] == moved[None]) == (ours[:, None] == ours[None])).all()


@pytest.mark.parametrize("texts", [[], ["alone"], ["Which?"] * 5, ["", "", "a question that says something"]])
def test_what_no_wording_tells_apart_is_no_case(texts: list[str]) -> None:
    clusters = near_duplicates(texts)
    assert len(clusters) == len(texts)
    assert len(set(clusters.tolist())) == len(texts) or texts[:2] == ["", ""]


def test_decomposed_and_full_width_texts_are_the_same_case() -> None:
    import unicodedata

    korean = "45세 남자가 다발성 복부장기 손상으로 응급수술을 받았다. 처치는?"
    rest = ["4세 남아가 몸이 붓고 소변량이 줄어 병원에 왔다.", "치태에 관한 설명으로 옳은 것은?"]
    for other in (unicodedata.normalize("NFD", korean), korean.replace("45", "４５")):
        assert near_duplicates([korean, *rest, other]).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("seed", range(20))
def test_halves_hold_whole_clusters_and_are_as_large_as_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = rng.permutation(np.concatenate([np.arange(30), np.repeat([30, 31, 32], [4, 3, 2])]))
    second = halves(clusters, rng)
    assert all(len(set(second[clusters == c].tolist())) == 1 for c in clusters)
    assert abs(int(second.sum()) - int((~second).sum())) <= 1


def test_halves_are_drawn_and_not_always_the_same() -> None:
    clusters = np.arange(8)
    drawn = np.mean([halves(clusters, np.random.default_rng(seed)) for seed in range(400)], axis=0)
    assert np.abs(drawn - 0.5).max() < 0.1
    assert not halves(np.array([7, 7, 7]), np.random.default_rng(0)).any()


def test_one_of_each_cluster_is_measured_and_the_others_are_counted() -> None:
    items, features, _ = synthetic(40, planted=0)
    again = {i: replace(items[i], question=items[i - 1].question + " x") for i in range(1, 40, 4)}
    twice = tuple(again.get(i, item) for i, item in enumerate(items))
    inputs = Inputs(twice, features, permutations=3, groups={"some": np.arange(40) < 20})
    groups = {group.name: group for group in inputs.explained_groups}
    assert groups["all"].items.tolist() == [i for i in range(40) if i % 4 != 1]
    assert groups["all"].left_out["near_duplicates"] == 10
    assert groups["some"].left_out["near_duplicates"] == 5
    assert inputs.distinct("some").tolist() == [i for i in range(20) if i % 4 != 1]
    second = inputs.halves("verdicts", np.arange(40))
    assert (second[0::4] == second[1::4]).all()
    assert 15 <= second.sum() <= 25


def test_physicians_cases_are_told_again() -> None:
    files = [DATA / f"casimedicos_en_{part}.jsonl" for part in ("train", "dev")]
    if not all(file.is_file() for file in files):
        pytest.skip(f"{DATA} has no CasiMedicos cases")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    sizes = np.bincount(near_duplicates([json.loads(line)["question"] for line in lines]))
    assert (np.count_nonzero(sizes > 1), sizes[sizes > 1].sum(), len(lines)) == (47, 106, 436)
