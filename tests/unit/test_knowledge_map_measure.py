"""What of a map stands out: above the label null and above every control, in the depth where they are compared."""

from dataclasses import replace

import numpy as np
import pytest

from sae_lens_med.errors import DataError
from sae_lens_med.knowledge_map.lists import MapConcept
from sae_lens_med.knowledge_map.measure import MapRow, Read, across, corrected, measured, require_readable

ROW = MapRow(
    domain="drugs",
    language="ko",
    read_out="silhouette",
    labels="mechanism",
    scale="standardised",
    position="concept",
    n=20,
    values=(0.1, 0.5, 0.5),
    intervals=(None, None, None),
    null_mean=(0.0, 0.0, 0.0),
    null_high=(0.1, 0.1, 0.1),
    p=(0.001, 0.001, 0.001),
    p_best=0.001,
    characters=0.2,
    random=((0.0, 0.1, 0.1), (0.0, 0.2, 0.2)),
    plain=(0.0, 0.3, 0.3),
)


def test_what_lies_above_all_stands_out_but_never_the_embedding() -> None:
    assert corrected([ROW])[0].stands_out == (False, True, True)


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ({"p": (0.001, 0.2, 0.001)}, (False, False, True)),
        ({"characters": 0.6}, (False, False, False)),
        ({"values": (0.6, 0.5, 0.7)}, (False, False, True)),
        ({"random": ((0.0, 0.1, 0.1), (0.0, 0.1, 0.6))}, (False, True, False)),
        ({"plain": (0.0, 0.6, 0.1)}, (False, False, True)),
    ],
    ids=["label null", "characters", "embedding", "one random model", "plain frame"],
)
def test_each_control_alone_can_take_it_back(control: dict[str, object], expected: tuple[bool, ...]) -> None:
    assert corrected([replace(ROW, **control)])[0].stands_out == expected  # type: ignore[arg-type]  # fields of the row


def test_q_is_over_the_depths_of_all_rows_of_the_map_and_of_those_alone() -> None:
    weak = replace(ROW, p=(1.0, 0.04, 0.5), read_out="nearest")
    raw = replace(ROW, scale="raw", p=(0.001, 0.001, 0.001))
    first, second, third = corrected([ROW, weak, raw])
    assert third.q == () and third.stands_out == ()
    np.testing.assert_allclose(first.q, (1, 0.002, 0.002))
    np.testing.assert_allclose(second.q, (1, 0.04 * 4 / 3, 0.5))


def test_a_dictionary_that_was_planted_across_languages_is_found_in_its_depth_alone() -> None:
    rng = np.random.default_rng(0)
    concepts = tuple(MapConcept("made", f"c{i}", {"ko": f"가{i}", "en": f"x{i}"}, {"all": "a"}) for i in range(20))
    meaning = rng.normal(size=(20, 12))
    ko, en = rng.normal(size=(3, 2, 20, 12)), rng.normal(size=(3, 2, 20, 12))
    ko[2] += 3 * meaning
    en[2] += 3 * meaning + 9  # what sets the languages apart
    reads = (Read(concepts, ("ko",), ko.astype(np.float32)), Read(concepts, ("en",), en.astype(np.float32)))
    rows = measured(across(*reads), 199, np.random.default_rng(0))
    row = next(row for row in corrected(rows) if row.q)
    assert row.read_out == "retrieval" and row.language == "ko-en"
    assert row.values[2] > 0.8 > 0.4 > max(row.values[:2])
    assert row.p[2] == 1 / 200 and min(row.p[:2]) > 0.05


def test_concepts_of_one_value_have_no_order() -> None:
    concepts = tuple(MapConcept("stages", f"c{i}", {"en": f"x{i}"}, value=float(i % 4), group="g") for i in range(5))
    acts = np.random.default_rng(0).normal(size=(2, 2, 5, 6)).astype(np.float32)
    with pytest.raises(DataError, match="'stages' has concepts of one value in 'g'"):
        measured(Read(concepts, ("en",), acts), 19, np.random.default_rng(0))


@pytest.mark.parametrize("labels", ["aaaaa", "abcde"])
def test_labels_that_nothing_can_be_read_off_are_named(labels: str) -> None:
    concepts = tuple(MapConcept("drugs", f"c{i}", {"en": f"x{i}"}, {"kind": label}) for i, label in enumerate(labels))
    with pytest.raises(DataError, match="'drugs' have [15] different 'kind' for 5 names"):
        require_readable(concepts)
    require_readable([*concepts, *(MapConcept("drugs", f"d{i}", {"en": f"y{i}"}, {"kind": "b"}) for i in range(2))])
