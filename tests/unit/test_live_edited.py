"""Edited questions: what differs is what differs, the original stays, and what is kept can be read by every command."""

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_lens_med.app.live.edited import KINDS, differences, editable, edited_job
from sae_lens_med.app.live.kept import keep
from sae_lens_med.app.live.settings import MAX_CHARACTERS
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.text import visible
from sae_lens_med.data import load_items
from sae_lens_med.errors import ConfigError, DataError, NotFoundError
from tests.app.reading_study import number_of, write_reading_study

NONE = (None, None, None, None)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> OpenStudy:
    return OpenStudy.open(write_reading_study(tmp_path_factory.mktemp("edited") / "study"))


# --- the text ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text("가나 다.\n<b>ab", max_size=30), st.text("가나 다.\n<b>ab", max_size=30))
def test_what_differs_put_together_is_each_of_the_two_texts(before: str, after: str) -> None:
    found = differences(before, after)
    assert "".join(p.text for p in found if p.where != "after") == before
    assert "".join(p.text for p in found if p.where != "before") == after


def test_a_word_is_changed_as_a_whole() -> None:
    found = differences("나트륨 증가가 있다.", "나트륨 감소가 있다.")
    assert [(p.text, p.where) for p in found] == [
        ("나트륨 ", "both"), ("증가가", "before"), ("감소가", "after"), (" 있다.", "both"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["script", "controls", "long", "letters"])
def test_a_form_that_is_sent_back_as_it_was_edits_nothing(study: OpenStudy, name: str) -> None:
    """Control characters are shown as pictures, and what is too long is not in the form: neither is an edit."""
    number = number_of(name)
    item = list(study.items.values())[number]
    shown = [editable(text) for text in (item.question, *item.options)]
    assert (shown[2] is None) == (name == "long")
    sent = [None if text is None else text.replace("\n", "\r\n") for text in shown]  # as forms send it
    with pytest.raises(ConfigError, match="nothing was edited"):
        edited_job(study, number, sent[0], tuple(sent[1:]), {})
    job = edited_job(study, number, sent[0], ("다른 약", *sent[2:]), {})
    assert job.question == item.question and job.options == ("다른 약", *item.options[1:])
    assert "".join(p.text for p in job.view().stem) == visible(item.question).text


@pytest.mark.parametrize(
    ("question", "options", "error", "said"),
    [
        (" \n", NONE, DataError, "the stem is empty"),
        (None, ("", None, None, None), DataError, "option A is empty"),
        ("가" * (MAX_CHARACTERS + 1), NONE, DataError, "shorten it"),
        ("\ud800", NONE, DataError, "surrogate"),
        ("x", (None,), ConfigError, "4 options, got 1"),
        (None, NONE, ConfigError, "nothing was edited"),
    ],
)
def test_texts_that_cannot_be_are_refused(
    study: OpenStudy, question: str | None, options: tuple[str | None, ...], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        edited_job(study, 0, question, options, {})
    with pytest.raises(NotFoundError):
        edited_job(study, 999, "x", NONE, {})


# --- the features -----------------------------------------------------------------------------------------------------


def test_features_that_came_went_rose_and_fell(study: OpenStudy) -> None:
    index = study.index
    assert index is not None
    kept = [f for f in range(20, 60) if index.kept[f] and index.maximum[f] > 0][:5]
    came, went, rose, fell, same = kept
    most = index.maximum
    before = {went: 1.0, rose: 0.2 * most[rose], fell: 0.5 * most[fell], same: 0.5 * most[same]}
    after = {came: 1.0, rose: 0.4 * most[rose], fell: 0.3 * most[fell], same: 0.55 * most[same]}
    job = edited_job(study, 0, "다른 문항", NONE, {})
    assert job.view().totals == () and job.view().answer_before is None
    for event, values, logits in (("baseline", before, [0, 2, 0, 0]), ("edited", after, [3, 2, 0, 0])):
        told = {"features": list(values), "values": [float(v) for v in values.values()], "logits": logits}
        assert job.take(event, told) == {}
    view = job.view()
    assert {(c.name.index, c.kind) for c in view.changes} == {
        (came, "came"), (went, "went"), (rose, "rose"), (fell, "fell"),
    }  # fmt: skip
    assert view.totals == (1, 1, 1, 1) and KINDS == ("came", "went", "rose", "fell")
    assert (view.answer_before, view.answer_after, view.gold) == ("B", "A", "B")
    assert view.options[0].after == pytest.approx(np.exp(3) / np.exp([3, 2, 0, 0]).sum())


def test_the_greatest_differences_stand_first_and_five_are_shown(study: OpenStudy) -> None:
    index = study.index
    assert index is not None
    features = np.flatnonzero(index.kept & (index.maximum > 0) & (index.weights > 0))[:9]
    values = index.maximum[features] * np.linspace(0.2, 1, 9)
    job = edited_job(study, 0, "다른 문항", NONE, {})
    job.take("baseline", {"features": [], "values": [], "logits": [0, 1, 0, 0]})
    job.take("edited", {"features": features.tolist(), "values": values.tolist(), "logits": [0, 1, 0, 0]})
    shown = [change.name.index for change in job.view().changes]
    rank = np.linspace(0.2, 1, 9) * index.weights[features]
    assert shown == features[np.argsort(-rank, kind="stable")][:5].tolist() and job.view().totals[0] == 9


# --- keeping ----------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_as_a_question_by_every_command(study: OpenStudy, tmp_path: Path) -> None:
    path, item = tmp_path / "app" / "edited.jsonl", list(study.items.values())[0]
    first = keep(path, item, "고친 문항이다. <b>심전도</b>", ("가", "나", "다", "라"), "C", " 김  의사 ", "0123456789")
    second = keep(path, item, "또 고친 문항", item.options, None, "lee", "abcdefghij")
    loaded = load_items(str(path))
    assert [each.id for each in loaded.items] == [first, second] and loaded.bad_rows == ()
    one, two = loaded.items
    assert (one.question, one.options, one.answer) == ("고친 문항이다. <b>심전도</b>", ("가", "나", "다", "라"), 2)
    assert two.answer is None and two.explanation is None
    assert (one.subject, one.language) == (item.subject, item.language)
    assert item.id in one.provenance["source"] and "김 의사" in one.provenance["source"]
    assert one.provenance["licence"] == "made for tests"


def test_keeping_again_keeps_once_and_nothing_is_written_over(study: OpenStudy, tmp_path: Path) -> None:
    path, item = tmp_path / "edited.jsonl", list(study.items.values())[0]
    name = keep(path, item, "하나", item.options, None, "kim", "0123456789")
    before = path.read_bytes()
    assert keep(path, item, "둘", item.options, None, "kim", "0123456789") == name
    assert path.read_bytes() == before
    path.write_bytes(before[:-1])  # its end was lost
    keep(path, item, "셋", item.options, None, "kim", "9876543210")
    assert [json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()] == ["하나", "셋"]


@pytest.mark.parametrize(
    ("answer", "author", "said"), [("E", "kim", "one of A, B, C, D"), (None, " ", "author is empty")]
)
def test_a_row_that_cannot_be_is_not_written(
    study: OpenStudy, tmp_path: Path, answer: str | None, author: str, said: str
) -> None:
    path, item = tmp_path / "edited.jsonl", list(study.items.values())[0]
    with pytest.raises(DataError, match=said):
        keep(path, item, "하나", item.options, answer, author, "0123456789")
    assert not path.exists()


def _keep_some(path: Path, item: object, who: str) -> None:
    for i in range(20):
        keep(path, item, f"{who} {i}", ("a", "b"), None, who, f"{who}-{i:08d}")  # type: ignore[arg-type]


def test_two_processes_that_keep_at_once_lose_nothing(study: OpenStudy, tmp_path: Path) -> None:
    path, item = tmp_path / "edited.jsonl", list(study.items.values())[0]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_keep_some, args=(path, item, who)) for who in ("kim", "lee")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert len(load_items(str(path)).items) == 40
