"""A release of several training runs, as `releases package` makes it: what the card says is what was measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sae_lens_med.commands.releases import releases_app
from sae_lens_med.errors import ReleaseError
from sae_lens_med.models.bridge import load_model
from sae_lens_med.saes.listing import Releases
from sae_lens_med.training import run
from sae_lens_med.training.card import read_runs
from sae_lens_med.training.recipe import load_recipe
from tests.fake_release import IDS, NAME, listing
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs at two hooks with different coefficients, and a smaller one beside the first."""
    folder = tmp_path_factory.mktemp("runs")
    save_tiny_model(folder / "model", "gemma3")
    rows = [{"text": f"환자 {i}: fever and cough; 발열과 기침 {i * i}. " * 3} for i in range(60)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = load_model(str(folder / "model"))
    for name, hook, coefficient, d_sae in (
        ("first", IDS[0], 5, 96),
        ("second", IDS[1], 2, 96),
        ("small", IDS[0], 5, 48),
    ):
        given = [f"model.name={folder / 'model'}", f"data.folder={folder}", "data.sources=[notes.jsonl]"]
        given += [f"hook_name={hook}", f"sae.d_sae={d_sae}", f"sae.l1_coefficient={coefficient}"]
        run.train(load_recipe("tiny", given), model, folder / name, activations=folder / f"acts-{hook}")
    return folder


def package(*args: object) -> Any:
    return CliRunner().invoke(releases_app, ["package", *map(str, args)])


def test_the_card_and_the_manifest_hold_each_run_and_those_beside(trained: Path, tmp_path: Path) -> None:
    runs = [trained / "first", trained / "second"]
    done = package(NAME, *runs, "--beside", trained / "small", "--target", tmp_path / "weights")
    assert done.exit_code == 0, done.output
    folder = tmp_path / "weights" / NAME
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "\n\n\n" not in card and str(trained) not in card
    metrics = [json.loads((each / "metrics.json").read_text())["heldout"] for each in runs]
    assert f"|  | {IDS[0]} | {IDS[1]} |" in card
    assert "| `sae.l1_coefficient` | 5 | 2 |" in card
    assert f"| L0 | {metrics[0]['l0']:.1f} | {metrics[1]['l0']:.1f} |" in card
    assert f"| CE-loss score | {metrics[0]['ce_loss_score']:.3f} | {metrics[1]['ce_loss_score']:.3f} |" in card
    beside = json.loads((trained / "small" / "metrics.json").read_text())["heldout"]
    [line] = [line for line in card.splitlines() if "· d_sae 48 |" in line]
    assert f"| l1_coefficient 5 | 100 | {beside['l0']:.1f} | {beside['explained_variance']:.3f} |" in line
    assert "- `notes.jsonl`." in card and "KorMedMCQA" not in card
    assert "<svg" in (folder / "frontier.svg").read_text(encoding="utf-8")
    manifest = json.loads((folder / "release.json").read_text())
    assert [manifest["recipes"][i]["sae"]["l1_coefficient"] for i in IDS] == [5, 2]

    releases = Releases(listing(tmp_path / "releases.yaml"), tmp_path / "weights")
    listed = yaml.safe_load(releases.listing.read_text())
    for sae, own in zip(listed[NAME]["saes"], metrics, strict=True):
        sae |= {"l0": own["l0"], "variance_explained": own["explained_variance"]}
    releases.listing.write_text(yaml.safe_dump(listed))
    again = ["verify", NAME, "--recompute", "--data", str(trained)]
    # The recipe names the model where it lay when it was trained, which the manifest cuts to its last part.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        verified = CliRunner().invoke(releases_app, again, obj=releases)
    for i in IDS:
        for name in ("text", "l0", "explained_variance"):  # a random model has no cross-entropy to speak of
            assert f"ok      {name} {i}: " in verified.output


def test_an_existing_release_is_replaced_only_when_told(trained: Path, tmp_path: Path) -> None:
    assert package(NAME, trained / "first", "--target", tmp_path).exit_code == 0
    before = (tmp_path / NAME / "release.json").read_bytes()
    refused = package(NAME, trained / "second", "--target", tmp_path)
    assert "already exists; choose another name or --target, or add --force to replace it" in str(refused.exception)
    assert (tmp_path / NAME / "release.json").read_bytes() == before
    assert package(NAME, trained / "second", "--target", tmp_path, "--force").exit_code == 0
    assert not (tmp_path / NAME / IDS[0]).exists() and (tmp_path / NAME / IDS[1] / "cfg.json").is_file()


def test_a_release_is_of_one_text_and_one_model_and_one_sae_a_hook(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"are both at {IDS[0]}; a release has one SAE per hook"):
        read_runs([trained / "first", trained / "small"])
    for key, message in (("text", "a different text from"), ("model", "a different model from")):
        other = tmp_path / key
        shutil.copytree(trained / "second", other)
        metrics = json.loads((other / "metrics.json").read_text())
        metrics[key]["sha256"] = "0" * 64
        (other / "metrics.json").write_text(json.dumps(metrics))
        with pytest.raises(ReleaseError, match=message):
            read_runs([trained / "first", other])
    (tmp_path / "text" / "metrics.json").unlink()
    with pytest.raises(ReleaseError, match=r"not a finished training run: metrics\.json is missing"):
        read_runs([tmp_path / "text"])
