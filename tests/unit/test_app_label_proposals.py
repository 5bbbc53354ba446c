"""Proposed labels: kept like labels, decided on once, and a label only when a person has accepted them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sae_lens_med.app.labels import Labels
from sae_lens_med.app.proposed import Proposals
from sae_lens_med.app.views import Proposal
from sae_lens_med.errors import ConflictError, DataError, NotFoundError


def _proposal(name: str = "a", feature: int = 3, **changed: Any) -> Proposal:
    values = {
        "id": name * 32, "feature": feature, "label": "심전도 소견", "model": "m", "judge": "j",
        "time": "2026-01-01T00:00:00+00:00", "score": 0.8, "null": 0.5, "pieces": 20, "foreign": 4,
    }  # fmt: skip
    return Proposal(**values | changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app" / "proposed.jsonl"


def test_proposals_are_kept_in_order_and_none_twice(path: Path) -> None:
    proposals = Proposals(path)
    assert proposals.all() == ()
    first, second = _proposal(), _proposal("b", score=None, null=None)
    assert proposals.add([first, second]) == 2
    assert proposals.add([first, _proposal("c", feature=4)]) == 1
    for read in (proposals, Proposals(path)):
        assert [each.id[0] for each in read.all()] == ["a", "b", "c"]
        assert read.of(3) == (second, first)
        assert read.problem == ""


def test_a_decision_stands_and_sending_it_again_is_no_second_one(path: Path) -> None:
    proposals = Proposals(path)
    proposals.add([_proposal(), _proposal("b")])
    done = proposals.decide(proposals.get(3, "a" * 32), "accepted", "kim", 1, "click-1")
    assert (done.decision, done.author, done.revision) == ("accepted", "kim", 1)
    before = path.read_bytes()
    for again in (proposals, Proposals(path)):
        assert again.decide(again.get(3, "a" * 32), "accepted", "kim", 1, "click-1") == done
        with pytest.raises(ConflictError, match="kim has accepted this proposal"):
            again.decide(again.get(3, "a" * 32), "rejected", "lee", None, "click-2")
    assert path.read_bytes() == before
    rejected = proposals.decide(proposals.get(3, "b" * 32), "rejected", " lee ", None, "click-3")
    assert (rejected.decision, rejected.author, rejected.revision) == ("rejected", "lee", None)


def test_an_id_of_another_decision_decides_nothing_else(path: Path) -> None:
    proposals = Proposals(path)
    proposals.add([_proposal(), _proposal("b")])
    proposals.decide(proposals.get(3, "a" * 32), "rejected", "kim", None, "click-1")
    with pytest.raises(ConflictError, match="the id of another one"):
        proposals.decide(proposals.get(3, "b" * 32), "rejected", "kim", None, "click-1")
    assert proposals.get(3, "b" * 32).decision is None


def test_what_was_accepted_is_marked_among_the_labels(path: Path) -> None:
    labels, proposals = Labels(path.parent / "labels.jsonl", {}), Proposals(path)
    proposals.add([_proposal()])
    labels.add(3, "by hand", "kim", 0, "x")
    revision = labels.add(3, "심전도 소견", "lee", 1, "y").revision
    proposals.decide(proposals.get(3, "a" * 32), "accepted", "lee", revision, "y")
    shown = proposals.with_origin(labels.of(3))
    assert [(e.label, e.source) for e in shown] == [("심전도 소견", "judge"), ("by hand", "person")]


def test_another_process_is_seen(path: Path) -> None:
    ours = Proposals(path)
    code = (
        "import sys; from pathlib import Path; from sae_lens_med.app.proposed import Proposals; "
        "from sae_lens_med.app.views import Proposal; "
        "Proposals(Path(sys.argv[1])).add([Proposal('f' * 32, 7, 'x', 'm', 'j', 't', None, None, 0, 0)])"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert [each.feature for each in ours.all()] == [7]


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "x"}',
        "no json",
        json.dumps({**_proposal("d").to_dict()}),  # with a decision's fields
        json.dumps({"id": "z", "proposal": "f" * 32, "decision": "accepted", "author": "k", "time": "", "revision": 1}),
        json.dumps({"id": "z", "proposal": "a" * 32, "decision": "perhaps", "author": "k", "time": "", "revision": 1}),
        json.dumps({k: v if k != "score" else "high" for k, v in _proposal("d").to_dict().items()
                    if k not in ("decision", "author", "decided", "revision")}),
    ],
)  # fmt: skip
def test_a_line_that_is_none_costs_itself_alone_and_is_said(path: Path, line: str) -> None:
    Proposals(path).add([_proposal()])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    read = Proposals(path)
    assert [each.id for each in read.all()] == ["a" * 32] and read.all()[0].decision is None
    assert "1 of the lines" in read.problem
    assert read.add([_proposal("b")]) == 1 and len(Proposals(path).all()) == 2


def test_what_cannot_be_is_refused(path: Path) -> None:
    proposals = Proposals(path)
    proposals.add([_proposal()])
    with pytest.raises(NotFoundError, match="no proposed label"):
        proposals.get(3, "b" * 32)
    with pytest.raises(NotFoundError, match="no proposed label"):
        proposals.get(4, "a" * 32)
    for author, entry in (("", "id"), (" ", "id"), ("x" * 101, "id"), ("kim", "")):
        with pytest.raises(DataError, match="1 to 100 characters"):
            proposals.decide(proposals.get(3, "a" * 32), "rejected", author, None, entry)
    wrongs: list[dict[str, Any]] = [{"label": " "}, {"score": 1.5}, {"null": -0.1}, {"feature": -1}, {"model": ""}]
    for wrong in wrongs:
        with pytest.raises(DataError, match="a proposed label needs"):
            _proposal("e", **wrong)
