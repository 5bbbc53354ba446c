"""Intervention files: what is written is what is done, and mistakes are named."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from sae_lens_med.errors import ConfigError
from sae_lens_med.interventions import (
    Intervention,
    ablate,
    clamp,
    intervention_pairs,
    load_interventions,
    read_interventions,
    splice,
    steer,
)
from sae_lens_med.interventions.positions import (
    ALL,
    GENERATED,
    LAST,
    Columns,
    at,
    from_token,
    in_parts,
    not_tokens,
    read_positions,
)

X = torch.linspace(-2, 3, 2 * 5 * 4).view(2, 5, 4)
POINT = SimpleNamespace(name="blocks.0.hook_resid_post")
STATISTICS: Any = SimpleNamespace(maximum=np.linspace(1, 2, 6), mean=np.linspace(0, 1, 6))


@pytest.fixture(scope="module")
def sae() -> StandardSAE:
    torch.manual_seed(0)
    sae = StandardSAE(StandardSAEConfig(d_in=4, d_sae=6, metadata=SAEMetadata(hook_name=POINT.name)))
    return sae.requires_grad_(False)


def _result(pairs: Any) -> torch.Tensor:
    x = X
    for name, fn in pairs:
        assert name == POINT.name
        changed = fn(x, hook=POINT)
        x = x if changed is None else changed
    return x


YAML = """
- {kind: splice}
- {kind: steer, features: {3: 1.5, 0: -2}, unit: max, positions: {from: 2}}
- kind: clamp
  features: {1: 0.5}
  error_term: false
  positions: {any_of: [last, {all_of: [{from: 1}, {not: generated}]}]}
- {kind: ablate, features: [4, 2], mode: mean, positions: all}
- {kind: ablate, features: [5, 1], mode: resample, values: [[0.1, 0.2]], seed: 3}
"""


def test_a_file_gives_the_pairs_that_the_functions_give(tmp_path: Path, sae: StandardSAE) -> None:
    path = tmp_path / "interventions.yaml"
    path.write_text(YAML)
    expected = [
        *splice(sae),
        *steer(sae, {3: 1.5, 0: -2.0}, unit="max", maximum=STATISTICS.maximum, positions=from_token(2)),
        *clamp(sae, {1: 0.5}, error_term=False, positions=LAST | (from_token(1) & ~GENERATED)),
        *ablate(sae, [4, 2], mode="mean", mean=STATISTICS.mean),
        *ablate(sae, [5, 1], mode="resample", values=[[0.1, 0.2]], seed=3),
    ]
    found = _result(load_interventions(path, sae, statistics=STATISTICS))
    assert torch.equal(found, _result(expected))
    assert not torch.equal(found, X)

    entries = read_interventions(path)
    as_json = tmp_path / "interventions.json"
    as_json.write_text(json.dumps([each.to_dict() for each in entries]))
    assert read_interventions(as_json) == entries
    assert hash(entries[0]) == hash(read_interventions(as_json)[0])
    assert torch.equal(_result(load_interventions(as_json, {"only": sae}, statistics={"only": STATISTICS})), found)


def test_several_saes_are_chosen_by_name(sae: StandardSAE) -> None:
    other = StandardSAE(StandardSAEConfig(d_in=4, d_sae=6, metadata=SAEMetadata(hook_name=POINT.name)))
    entries = [Intervention.from_dict({"kind": "splice", "sae": name}) for name in ("b", "a")]
    found = _result(intervention_pairs(entries, {"a": sae, "b": other}))
    torch.testing.assert_close(found, sae(other(X)))
    assert entries[0].to_dict()["sae"] == "b"
    with pytest.raises(ConfigError, match="names the SAE 'b'. Given: a"):
        intervention_pairs(entries, {"a": sae})
    with pytest.raises(ConfigError, match="must say which sae: a, b"):
        intervention_pairs([Intervention.from_dict({"kind": "splice"})], {"a": sae, "b": sae})


def test_statistics_and_special_tokens_are_asked_for_where_they_are_needed(sae: StandardSAE) -> None:
    steered = Intervention.from_dict({"kind": "steer", "features": {"1": 2}, "unit": "max"})
    with pytest.raises(ConfigError, match="needs maximum="):
        steered.pairs(sae)
    ordinary = Intervention.from_dict({"kind": "splice", "positions": "not_special"})
    with pytest.raises(ConfigError, match="tokenizer.all_special_ids"):
        ordinary.pairs(sae)
    assert len(ordinary.pairs(sae, special_ids=[1, 2])) == 1


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("steer", "entry 1 must be a mapping"),
        ({"kind": "steeer"}, "kind 'steeer'; did you mean steer"),
        ({"kind": "steer", "feature": {1: 2}}, r"entry 1 \(steer\) has no key 'feature'; did you mean features"),
        ({"kind": "splice", "unit": "max"}, r"\(splice\) has no key 'unit'"),
        ({"kind": "steer", "features": [1]}, "features of steer must be a mapping of index to value"),
        ({"kind": "steer"}, "features of steer must be a mapping"),
        ({"kind": "ablate", "features": {}}, "features of ablate must be a list of indices"),
        ({"kind": "steer", "features": {"x": 1}}, "an index >= 0, got 'x'"),
        ({"kind": "steer", "features": {-1: 1}}, "an index >= 0, got -1"),
        ({"kind": "steer", "features": {1: "a"}}, "value of feature 1 must be a number, got 'a'"),
        ({"kind": "steer", "features": {1: None}}, "feature 1 has no value"),
        ({"kind": "steer", "features": {1: 1}, "unit": "maximum"}, "unit must be one of raw, max, norm"),
        ({"kind": "clamp", "features": {1: 1}, "unit": "norm"}, "unit must be one of raw, max, got 'norm'"),
        ({"kind": "ablate", "features": [1], "mode": "none"}, "mode must be one of zero, mean, resample"),
        ({"kind": "ablate", "features": [1], "values": [[1, 2]]}, "each row of values needs 1 numbers"),
        ({"kind": "ablate", "features": [1], "values": 3}, "values must be a list of rows"),
        ({"kind": "ablate", "features": [1], "seed": "x"}, "seed must be of type int"),
        ({"kind": "splice", "error_term": "no"}, "error_term must be of type bool, got 'no'"),
        ({"kind": "splice", "positions": "stm"}, "'stm' is not a kind of positions; did you mean stem"),
        ({"kind": "splice", "positions": {"form": 3}}, "positions has no key 'form'; did you mean from"),
        ({"kind": "splice", "positions": {"from": -3}}, "counts from the text's first token, 0; got -3"),
        ({"kind": "splice", "positions": {"parts": ["stems"]}}, "no part 'stems'; did you mean stem"),
        ({"kind": "splice", "positions": {"all_of": []}}, "all_of needs a non-empty list"),
        ({"kind": "splice", "positions": {"not_tokens": ["a"]}}, "needs vocabulary ids"),
        ({"kind": "splice", "positions": 3}, "positions must be a name or one of"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, entry: Any, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Intervention.from_dict(entry, "file.yaml, entry 1")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, text, match in (
        ("a.yaml", "[", "a.yaml is neither YAML nor JSON"),
        ("b.json", "{", "b.json is neither YAML nor JSON"),
        ("c.yaml", "kind: splice", "c.yaml must contain a list"),
        ("d.yaml", "- !!python/object/apply:os.system [ls]", "d.yaml is neither YAML nor JSON"),
        ("e.yaml", "- {kind: splice, x: 1}", "e.yaml, entry 1"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_interventions(tmp_path / name)
    with pytest.raises(ConfigError, match="missing.yaml cannot be read"):
        read_interventions(tmp_path / "missing.yaml")


def test_without_a_told_pass_positions_are_counted() -> None:
    columns, device = Columns(), torch.device("cpu")

    def see(batch: int, n: int) -> tuple[list[int], bool]:
        seen = columns.see(batch, n, device)
        assert seen.position.shape == (batch, n)
        assert seen.generated.all() or not seen.generated.any()
        return seen.position[-1].tolist(), bool(seen.generated.all())

    assert see(2, 3) == ([0, 1, 2], False)
    assert see(2, 1) == ([3], True)  # goes on
    assert see(2, 1) == ([4], True)
    assert see(1, 1) == ([0], False)  # another batch size: a text of one token
    assert see(2, 3) == ([0, 1, 2], False)
    columns.begin()
    assert see(2, 1) == ([0], False)


def test_filters_combine_and_masks_are_read_by_place_in_the_text() -> None:
    columns = Columns()
    columns.see(2, 3, torch.device("cpu"))
    seen = columns.see(2, 1, torch.device("cpu"))  # position 3, generated
    for positions, expected in (
        (ALL, [1, 1]),
        (GENERATED, [1, 1]),
        (~GENERATED, [0, 0]),
        (LAST, [0, 0]),
        (LAST | GENERATED, [1, 1]),
        (from_token(3) & GENERATED, [1, 1]),
        (from_token(4) | ~ALL, [0, 0]),
        (at([False, False, False, True]), [1, 1]),
        (at([[False] * 4, [True] * 4]), [0, 1]),
        (at([True] * 3), [0, 0]),
    ):
        assert positions.mask(seen)[:, 0].int().tolist() == expected, positions
    for bad in ([1, 0], [], np.ones((1, 2, 3), dtype=bool)):
        with pytest.raises(ConfigError, match="a mask of positions must be boolean"):
            at(bad)
    with pytest.raises(ConfigError, match="at least one part"):
        in_parts()
    assert read_positions("not_special", [5]) == not_tokens([5])
    assert read_positions({"parts": ["stem", "option"]}) == in_parts("stem", "option")
