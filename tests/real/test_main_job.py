"""The main job on the real model and the shipped SAE: what README and docs show. A study is in the tutorial."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sae_lens import SAE

import sae_lens_med as slm
from sae_lens_med.commands.intervene import EXAMPLE
from sae_lens_med.evaluation.conditions.spec import parse_conditions
from sae_lens_med.evaluation.methods import Method, ask
from sae_lens_med.models.bridge import MedBridge, residuals

pytestmark = pytest.mark.real

RELEASE, SAE_ID = "sae-lens-med-gemma-3-270m-res", "blocks.9.hook_resid_post"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "pages", [("README.md", "docs/interventions.md", "docs/data.md", "docs/releases.md"), ("README.ko.md",)]
)
def test_the_pages_examples_run(
    pages: tuple[str, ...], gemma: MedBridge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of these pages, which follow on each other, in one session."""
    monkeypatch.setattr(slm, "load_model", lambda _: gemma, raising=False)  # the session's copy, not another one
    names: dict[str, Any] = {}
    for page in pages:
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
        assert blocks
        for code in blocks:
            exec(code, names)
    question = slm.load_items("sample").items[0].question
    said = capsys.readouterr().out
    assert re.match(re.escape(question) + r" \[\d+, \d+, \d+, \d+, \d+\]\n", said)
    if len(pages) > 1:
        assert names["logits"].shape[:2] == names["tokens"].shape
        assert said.count("illustrative") == len(names["data"].items) == 3
        assert torch.equal(names["sae"].W_dec, names["loaded"].sae.W_dec)


def test_the_release_loads_in_saelens_and_reconstructs(gemma: MedBridge) -> None:
    sae = SAE.from_pretrained(RELEASE, SAE_ID)
    assert sae.cfg.architecture() == "standard"
    item = slm.load_items("sample").items[0]
    ids = gemma.text_tokenizer(item.question).input_ids
    [x] = residuals(gemma, [ids], SAE_ID)
    x = x[1:]  # without BOS
    error = (x - sae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert error < 0.5
    l0 = (sae.encode(x) > 0).sum(-1).float().mean()
    assert 10 < l0 < 300


def test_items_left_out_of_training_are_those_of_the_rule() -> None:
    loaded = slm.load_sae(f"{RELEASE}/{SAE_ID}")
    from sae_lens_med.training.text import is_left_out

    assert loaded.left_out_ids
    assert all(is_left_out(item_id) for item_id in loaded.left_out_ids)


def test_the_features_of_the_example_fire_on_the_sample(gemma: MedBridge) -> None:
    """`intervene --example` on `--data sample`: every feature on nearly every question, so that a few will do, too."""
    conditions = parse_conditions(yaml.safe_load(EXAMPLE)).conditions
    features = sorted({index for condition in conditions for _, index in condition.features})
    assert features
    sae = slm.load_sae(f"{RELEASE}/{SAE_ID}").sae
    items = slm.load_items("sample").items[:12]
    fires = torch.zeros(len(features))
    for asked in ask(gemma, items, Method("letter"), ()):
        [x] = residuals(gemma, [list(asked.prompt.token_ids)], SAE_ID)
        fires += (sae.encode(x[1:])[:, features] > 0).any(0)
    assert (fires >= 11).all(), dict(zip(features, fires.tolist(), strict=True))
