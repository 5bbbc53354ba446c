"""A real study of a tiny model, opened for reading: its pages say what its own stages wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_lens_med.alignment.causal_items import answer_texts
from sae_lens_med.app import attribution as attributing
from sae_lens_med.app.attribution import KEPT, attribute, log_odds_factors
from sae_lens_med.app.directions import find_logits, find_neighbours, token_string
from sae_lens_med.app.index import build_index
from sae_lens_med.app.index_files import FOLDER, parts_made
from sae_lens_med.app.indexed import Index
from sae_lens_med.app.opened import OpenStudy
from sae_lens_med.app.views import Filters
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.features.part import FeaturePart
from sae_lens_med.interventions.edits import AboveHook, Without
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.models.bridge import MedBridge
from sae_lens_med.prompts.tokens import explanation_prompt, question_prompt
from sae_lens_med.records import PARTS, McqItem
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import LoadedSae, load_folder
from sae_lens_med.study.run import run_study
from tests.tiny import save_tiny_sae, tiny_model, tiny_sae

N = 10


@pytest.fixture(scope="module")
def shot() -> McqItem:
    return load_items("sample", limit=N + 1).items[N]


@pytest.fixture(scope="module")
def data() -> LoadedItems:
    sample = load_items("sample", limit=N)
    items = [replace(item, subject=f"subject {i % 3}") for i, item in enumerate(sample.items)]
    items[4] = replace(items[4], explanation=None, explanation_source=None)
    return replace(sample, items=items, sha256=json_sha256([i.to_dict() for i in items]))


@pytest.fixture(scope="module")
def model() -> MedBridge:
    return tiny_model("gemma3")


@pytest.fixture(scope="module")
def sae(model: MedBridge, tmp_path_factory: pytest.TempPathFactory) -> LoadedSae:
    folder = tmp_path_factory.mktemp("sae")
    sparse = tiny_sae(model, d_sae=256)
    with torch.no_grad():
        sparse.b_enc.sub_(2.5)  # few features per token, so that some are left when dense ones are masked
    save_tiny_sae(folder, sparse)
    return load_folder(folder)


@pytest.fixture(scope="module")
def side(model: MedBridge, sae: LoadedSae, shot: McqItem) -> ModelSide:
    return ModelSide(model, sae, progress=False, shots=(shot,))


@pytest.fixture(scope="module")
def folder(
    model: MedBridge, sae: LoadedSae, data: LoadedItems, shot: McqItem, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """With a solved example before every question."""
    result = run_study(
        model, sae, data, tmp_path_factory.mktemp("studies") / "study", shots=[shot], permutations=20, n_shown=N,
        progress=False,
    )  # fmt: skip
    assert build_index(result.folder, progress=False)
    return result.folder


@pytest.fixture(scope="module")
def study(folder: Path) -> OpenStudy:
    return OpenStudy.open(folder)


def opened(folder: Path) -> Index:
    part = FeaturePart(folder / "features")
    return Index(folder / FOLDER, parts_made(folder, part)[0], part.d_sae, part.n_items)


def test_groups_are_the_lists_that_the_study_wrote(study: OpenStudy, folder: Path) -> None:
    shown: list[dict[str, Any]] = json.loads((folder / "item_features.json").read_text(encoding="utf-8"))
    weights = opened(folder).weights
    assert len(shown) == N
    assert sum(len(entry["shared"]) for entry in shown) > 10
    for entry in shown:
        view = study.case(list(study.items).index(entry["id"]), limit=10)
        found = {
            group.kind: [
                {
                    "feature": f.name.index,
                    "stem": f.stem * weights[f.name.index],
                    "explanation": f.explanation * weights[f.name.index],
                }
                for f in group.features
            ]
            for group in view.groups
        }
        if study.items[entry["id"]].explanation is None:
            assert set(found) == {"model"}
            continue
        assert found == {
            "shared": entry["shared"],
            "model": entry["stem_only"],
            "expert": entry["explanation_only"],
        }


def test_the_cases_have_the_similarities_that_the_study_measured(study: OpenStudy) -> None:
    rows = study.cases(Filters(), size=N).rows
    known = [row.difference for row in rows if row.difference is not None]
    assert study.records is not None
    metric = next(
        m
        for m in study.records.metrics
        if (m.name, m.group, m.variant) == ("alignment/matched_minus_mismatched", "all", "sae")
    )
    assert len(known) == metric.n
    assert np.mean(known) == pytest.approx(metric.value, abs=1e-5)
    assert {n for n, row in enumerate(rows) if row.difference is None} >= {4}


def test_what_is_painted_is_what_the_tokenizer_cut_behind_the_example(
    study: OpenStudy, model: MedBridge, shot: McqItem
) -> None:
    """Whole tokens as the model's own tokenizer gives them, shots and mask included, in the item's own text."""
    for number, item in enumerate(study.items.values()):
        prompt = question_prompt(item, model.text_tokenizer, shots=[shot])
        wanted = [
            prompt.text[start:end].strip()
            for (start, end), part in zip(prompt.char_spans, prompt.token_parts, strict=True)
            if PARTS[part] == "stem" and prompt.text[start:end].strip()
        ]
        view = study.case(number)
        assert view.missing == () or all(each.what != "missing.spans" for each in view.missing)
        stem = view.parts[0]
        tokens = sorted({token for segment in stem.segments for token in segment.tokens})
        assert len(tokens) == len(wanted)
        for token, text in zip(tokens, wanted, strict=True):
            own = [s for s in stem.segments if token in s.tokens]
            assert stem.text[own[0].start : own[-1].end] == text
        if item.explanation is not None:
            masked, _ = explanation_prompt(item, model.text_tokenizer)
            painted = "".join(view.parts[-1].text[s.start : s.end] for s in view.parts[-1].segments)
            kept = {
                at
                for span, part in zip(masked.char_spans, masked.token_parts, strict=True)
                if PARTS[part] == "explanation"
                for at in range(*span)
            }
            assert painted == "".join("".join(masked.text[at] for at in sorted(kept)).split())


# --- what needs the model -------------------------------------------------------------------------------------------


def test_factors_are_the_derivative_of_the_log_odds() -> None:
    logits = np.array([0.3, 2.0, -1.0, 1.5])

    def log_odds(values: np.ndarray) -> float:
        shares = np.exp(values) / np.exp(values).sum()
        return float(np.log(shares[1] / (1 - shares[1])))

    steps = 1e-6 * np.eye(4)
    expected = [(log_odds(logits + step) - log_odds(logits - step)) / 2e-6 for step in steps]
    assert log_odds_factors(logits) == pytest.approx(expected, abs=1e-6)
    assert log_odds_factors(logits + 700) == pytest.approx(expected, abs=1e-6)


def test_attribution_is_what_the_answer_loses_to_first_order(
    folder: Path, side: ModelSide, monkeypatch: pytest.MonkeyPatch, data: LoadedItems
) -> None:
    calls: list[str] = []
    case = attributing._case

    def counted(above: Any, text: Any, kept: Any) -> Any:
        calls.append(text.id)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return case(above, text, kept)

    monkeypatch.setattr(attributing, "_case", counted)
    with pytest.raises(KeyboardInterrupt):
        attribute(folder, side)
    assert attribute(folder, side)
    assert not attribute(folder, side)
    # What was done before the interruption was not done again.
    assert calls == [item.id for item in data.items[:5]] + [item.id for item in data.items[4:]]
    index, part = opened(folder), FeaturePart(folder / "features")
    above = AboveHook(side.model, side.loaded_sae)
    lost, said = [], []
    for number in (0, 5):
        found = index.attribution(number)
        assert found is not None
        assert 10 < len(found) <= KEPT
        assert all(index.kept[feature] for feature in found)
        (text,) = answer_texts([data.items[number]], part.item(number), side.model.text_tokenizer, shots=side.shots)
        hooked = above.read(text.token_ids, text.chosen)
        whole, edited, _ = above.logits(hooked, [Without((feature,)) for feature in found], text.letters)
        answer = int(whole.argmax())
        before, after = (_log_odds(np.atleast_2d(logits), answer) for logits in (whole, edited))
        lost += (before - after).tolist()
        said += list(found.values())
    assert np.corrcoef(lost, said)[0, 1] > 0.95
    study = OpenStudy.open(folder)
    view = study.case(0, order="attribution")
    assert view.order == "attribution"
    values = [abs(f.attribution) for f in view.groups[0].features if f.attribution is not None]
    assert values
    assert values == sorted(values, reverse=True)


def _log_odds(logits: np.ndarray, answer: int) -> np.ndarray:
    others = np.delete(logits, answer, axis=1)
    return logits[:, answer] - np.log(np.exp(others).sum(axis=1))


def test_neighbours_and_logits_are_those_of_the_decoder(folder: Path, side: ModelSide, sae: LoadedSae) -> None:
    assert find_neighbours(folder, side)
    assert find_logits(folder, side)
    assert not find_neighbours(folder, side)
    assert not find_logits(folder, side)
    index = opened(folder)
    rows = sae.sae.W_dec.detach().numpy().astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    head: Any = side.model.original_model
    logits = rows @ head.get_output_embeddings().weight.detach().numpy().astype(np.float64).T
    tokenizer = side.model.text_tokenizer
    fires = np.flatnonzero(index.count)
    for feature in fires[:20].tolist():
        cosines = unit @ unit[feature]
        cosines[feature] = -2
        found = index.neighbours(feature)
        assert [value for _, value in found] == pytest.approx(np.sort(cosines)[::-1][:20], abs=1e-5)
        assert [cosines[other] for other, _ in found] == pytest.approx([value for _, value in found], abs=1e-5)
        raised, lowered = index.logits(feature)
        ordered = np.sort(logits[feature])
        assert [value for _, value in raised] == pytest.approx(ordered[::-1][:10], abs=1e-4)
        assert [value for _, value in lowered] == pytest.approx(ordered[:10], abs=1e-4)
        assert raised[0][0] == token_string(tokenizer, int(logits[feature].argmax()))
    silent = np.flatnonzero(index.count == 0)
    if len(silent):
        assert index.logits(int(silent[0])) == ([], [])
    view = OpenStudy.open(folder).feature(int(fires[0]))
    assert len(view.neighbours) == len(view.similarities) == 20
    assert view.raised
    assert view.missing == ()


def test_a_token_is_whole_characters_or_its_bytes(side: ModelSide) -> None:
    tokenizer = side.model.text_tokenizer
    for text in ("가", "뷁", "é", "A"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        shown = "".join(token_string(tokenizer, i) for i in ids)
        assert shown in (text, "".join(f"<0x{byte:02X}>" for byte in text.encode("utf-8")))
    strings = [token_string(tokenizer, i) for i in range(len(tokenizer))]
    assert all(strings)
    assert not any("\ufffd" in each for each in strings)
