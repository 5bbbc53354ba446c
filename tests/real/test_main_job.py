"""The main job on the real model and the shipped SAE: what the README shows, and the study on some of the sample."""

import re
from pathlib import Path
from typing import Any

import pytest
from sae_lens import SAE

import sae_lens_med as slm
from sae_lens_med.models.bridge import MedBridge, residuals
from sae_lens_med.study.run import run_study

pytestmark = pytest.mark.real

RELEASE, SAE_ID = "sae-lens-med-gemma-3-270m-res", "blocks.9.hook_resid_post"
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.parametrize("name", ["README.md", "README.ko.md"])
def test_the_readmes_examples_run(
    name: str, gemma: MedBridge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (README.parent / name).read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setattr(slm, "load_model", lambda _: gemma, raising=False)  # the session's copy, not another one
    names: dict[str, Any] = {}
    for code in blocks:
        exec(code, names)
    assert names["logits"].shape[:2] == names["tokens"].shape
    question = slm.load_items("sample").items[0].question
    assert re.fullmatch(re.escape(question) + r" \[\d+, \d+, \d+, \d+, \d+\]\n", capsys.readouterr().out)


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


def test_a_study_of_some_of_the_sample(gemma: MedBridge, tmp_path: Path) -> None:
    data = slm.load_items("sample", limit=12)
    loaded = slm.load_sae(f"{RELEASE}/{SAE_ID}")
    result = run_study(gemma, loaded, data, tmp_path / "study", permutations=200, progress=False)
    names = {(m.name, m.variant) for m in result.metrics}
    assert ("accuracy", "model") in names
    for variant in ("sae", "raw", "pca", "tfidf"):
        assert ("alignment/matched_minus_mismatched", variant) in names
    assert all(m.null_mean is not None for m in result.metrics if m.name.startswith("alignment/matched"))
    html = result.report_html.read_text(encoding="utf-8")
    assert "illustrative" in html
    again = run_study(gemma, loaded, data, tmp_path / "study", permutations=200, progress=False)
    assert set(again.skipped) == {"collect", "evaluate", "align", "examples", "report"}
