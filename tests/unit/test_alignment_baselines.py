"""The baselines: TF-IDF against counting by hand, PCA and standardisation against NumPy and their invariances."""

import math
import unicodedata
from collections import Counter

import numpy as np
import pytest

from sae_lens_med.alignment.baselines import principal_components, tfidf
from sae_lens_med.alignment.similarity import cosine_matrix
from sae_lens_med.errors import DataError
from sae_lens_med.statistics import standardised

STEMS = ["당뇨병 환자의 혈당  조절", "Type 2 DIABETES mellitus", "a", "폐렴\n치료"]
EXPLANATIONS = ["당뇨병은 인슐린 저항성…혈당이 높다", "diabetes of the adult", "", "폐렴의 항생제 치료"]


def _grams(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for piece in text.split("…"):
        plain = " ".join(unicodedata.normalize("NFKC", piece).casefold().split())
        for length in (2, 3, 4):
            counts.update(plain[i : i + length] for i in range(len(plain) - length + 1))
    return counts


def test_tfidf_similarities_equal_counting_with_a_dictionary() -> None:
    documents = [_grams(text) for text in STEMS + EXPLANATIONS]
    frequency = Counter(gram for document in documents for gram in document)
    vectors = [
        {g: (1 + math.log(c)) * math.log((1 + len(documents)) / (1 + frequency[g])) for g, c in document.items()}
        for document in documents
    ]

    def cosine(a: dict[str, float], b: dict[str, float]) -> float:
        size = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        return sum(v * b.get(g, 0.0) for g, v in a.items()) / size if size else 0.0

    n = len(STEMS)
    expected = [[cosine(vectors[i], vectors[n + j]) for j in range(n)] for i in range(n)]
    got = cosine_matrix(*tfidf(STEMS, EXPLANATIONS))
    np.testing.assert_allclose(got, expected, atol=1e-12)
    assert got.argmax(axis=1)[[0, 1, 3]].tolist() == [0, 1, 3]
    assert not got[2].any() and not got[:, 2].any()


def test_tfidf_of_texts_without_ngrams() -> None:
    assert not cosine_matrix(*tfidf(["a", ""], ["", "b"])).any()


def test_standardised() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(40, 6))
    values[:, 2] = 0.1 + 0.2  # constant, but for rounding in its mean
    got = standardised(values)
    np.testing.assert_allclose(got.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(got.std(axis=0), [1, 1, 0, 1, 1, 1], atol=1e-12)
    # Language and style move every item of a side by the same offset: nothing changes.
    np.testing.assert_allclose(standardised(values * 5 + np.arange(6)), got, atol=1e-9)
    values[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3 are not finite"):
        standardised(values)


def test_principal_components() -> None:
    rng = np.random.default_rng(0)
    stems, explanations = standardised(rng.normal(size=(30, 8))), standardised(rng.normal(size=(30, 8)))
    left, right = principal_components(stems, explanations, 3)
    assert left.shape == right.shape == (30, 3)
    both, reduced = np.concatenate([stems, explanations]), np.concatenate([left, right])
    eigenvalues = np.sort(np.linalg.eigvalsh(both.T @ both))[::-1]
    np.testing.assert_allclose(np.diag(reduced.T @ reduced), eigenvalues[:3])
    # All of the components are a rotation: the same cosines as without.
    full = principal_components(stems, explanations, 999)
    assert full[0].shape == (30, 8)
    np.testing.assert_allclose(cosine_matrix(*full), cosine_matrix(stems, explanations), atol=1e-12)


def test_principal_components_of_nothing() -> None:
    left, right = principal_components(np.zeros((4, 3)), np.zeros((4, 3)), 2)
    assert not cosine_matrix(left, right).any()
