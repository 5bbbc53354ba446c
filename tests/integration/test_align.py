"""Alignment metrics of a study of a tiny random model: controls, commands, and what the altered model and SAE are."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from typer.testing import CliRunner

import sae_lens_med as slm
from sae_lens_med.alignment.align import align as align_features
from sae_lens_med.commands import align as align_commands
from sae_lens_med.controls.collect import collect_control, firing_rates
from sae_lens_med.controls.untrained import match_rates, permute_weights, shuffled_sae
from sae_lens_med.data import LoadedItems, load_items
from sae_lens_med.errors import ReleaseError, StudyError
from sae_lens_med.features.store import load_features
from sae_lens_med.metrics.inputs import ModelSide
from sae_lens_med.models.bridge import load_model
from sae_lens_med.records import Provenance
from sae_lens_med.runs.files import json_sha256
from sae_lens_med.saes.releases import load_folder
from sae_lens_med.study.measure import run_alignment
from sae_lens_med.study.run import run_study
from tests.tiny import save_tiny_model, save_tiny_sae, tiny_model, tiny_sae

THRESHOLD = 3.0
"""Taken off the tiny SAE's encoder bias: about 3 % of the features are then active on a token, as in a real SAE."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model and an SAE on disk, as a study's manifest names them."""
    folder = tmp_path_factory.mktemp("places")
    save_tiny_model(folder / "model", "gemma3")
    sparse = tiny_sae(tiny_model("gemma3"), d_sae=256)
    with torch.no_grad():
        sparse.b_enc.sub_(THRESHOLD)
    save_tiny_sae(folder / "sae", sparse)
    return {"model": folder / "model", "sae": folder / "sae", "study": folder / "study"}


@pytest.fixture(scope="module")
def data() -> LoadedItems:
    sample = load_items("sample", limit=12)
    items = [replace(item, subject=f"subject {i % 3}") for i, item in enumerate(sample.items)]
    return replace(sample, items=items, sha256=json_sha256([i.to_dict() for i in items]))


def side(places: dict[str, Path]) -> ModelSide:
    return ModelSide(
        load_model(str(places["model"])), load_folder(places["sae"], source=str(places["sae"])), progress=False
    )


@pytest.fixture(scope="module")
def study(places: dict[str, Path], data: LoadedItems) -> Path:
    opened = side(places)
    run_study(opened.model, opened.loaded_sae, data, places["study"], permutations=20, progress=False)
    return places["study"]


def test_controls_are_collected_measured_and_kept(study: Path, places: dict[str, Path]) -> None:
    opened: list[ModelSide] = []

    def opener(provenance: Provenance) -> ModelSide:
        assert provenance.model["name"] == str(places["model"])
        opened.append(side(places))
        return opened[-1]

    wanted: dict[str, Any] = {"metrics": ["difference", "overlap"], "permutations": 19, "controls": ["all"]}
    run = run_alignment(study, open_model=opener, **wanted)
    assert len(opened) == 2  # the random model is a copy of its own
    variants = {value.variant for value in run.metrics if value.name == "alignment/overlap_jaccard"}
    assert variants == {"sae", "tfidf", "shuffled_decoder", "random_model"}
    own = firing_rates(load_features(study / "features"))
    for name in ("shuffled_decoder", "random_model"):
        control = load_features(study / "alignment" / "controls" / name)
        rates = firing_rates(control)
        # All texts served to match the rates, so they agree but for ties.
        assert np.abs(rates - own).max() < 0.02, name
        # The shuffled SAE reads the model's own residuals, the other one those of a random model.
        same = np.allclose(control.raw_mean_stem, load_features(study / "features").raw_mean_stem, atol=1e-4)
        assert same == (name == "shuffled_decoder")
    again = run_alignment(study, open_model=opener, **wanted)
    assert again.skipped == ("difference", "overlap")
    assert len(opened) == 2
    # A control that is there needs no model, and is measured whether it is named or not.
    for controls in (["all"], []):
        later = run_alignment(study, **{**wanted, "controls": controls})
        assert later.skipped == ("difference", "overlap")
        assert later.metrics == run.metrics


def test_align_measures_a_study_and_warns_of_its_old_use(study: Path, data: LoadedItems) -> None:
    wanted: dict[str, Any] = {"metrics": ["difference"], "permutations": 19}
    assert slm.align(study, **wanted).metrics == run_alignment(study, **wanted).metrics
    features = load_features(study / "features")
    with pytest.warns(DeprecationWarning, match="import align from sae_lens_med.alignment.align"):
        old = slm.align(features, data.items, permutations=19)  # pyright: ignore
    assert old.metrics == align_features(features, data.items, permutations=19).metrics


def test_other_weights_than_the_study_s_are_refused(study: Path, places: dict[str, Path], tmp_path: Path) -> None:
    other = tiny_sae(tiny_model("gemma3"), d_sae=256, seed=5)

    def wrong_sae(_: Provenance) -> ModelSide:
        opened = side(places)
        return replace(opened, loaded_sae=replace(opened.loaded_sae, sae=other, sha256="c" * 64))

    def wrong_model(_: Provenance) -> ModelSide:
        opened = side(places)
        opened.model.provenance = opened.model.provenance | {"sha256": "d" * 64}
        return opened

    fresh = shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns("alignment"))
    settings: dict[str, Any] = {"metrics": ["difference"], "permutations": 9, "controls": ["random_model"]}
    with pytest.raises(StudyError, match="has other weights or another configuration; name the study's SAE with --sae"):
        run_alignment(fresh, open_model=wrong_sae, **settings)
    with pytest.raises(StudyError, match="of sha256 .*name the study's model with --model"):
        run_alignment(fresh, open_model=wrong_model, **settings)


def test_permuted_weights_keep_every_matrix_and_no_place(places: dict[str, Path]) -> None:
    before, after = load_model(str(places["model"])), load_model(str(places["model"]))
    permute_weights(after, seed=1)
    changed = dict(after.named_parameters())
    for name, parameter in before.named_parameters():
        own = changed[name].detach()
        if parameter.ndim < 2:
            assert torch.equal(parameter, own), name
            continue
        assert not torch.equal(parameter, own), name
        assert torch.equal(parameter.flatten().sort().values, own.flatten().sort().values), name
    assert after.provenance["altered"] == "entries of every weight matrix permuted, seed 1"
    again = load_model(str(places["model"]))
    permute_weights(again, seed=1)
    assert all(torch.equal(changed[name], own) for name, own in again.named_parameters())
    plain: Any = after.original_model
    embedding: Any = plain.get_input_embeddings()
    head: Any = plain.get_output_embeddings()
    assert torch.equal(embedding.weight, head.weight)  # tied before, tied after


def test_a_shuffled_sae_keeps_norms_and_the_tie_and_loses_directions(places: dict[str, Path]) -> None:
    loaded = load_folder(places["sae"])
    control = shuffled_sae(loaded, seed=2)
    own: Any = loaded.sae
    other: Any = control.sae
    torch.testing.assert_close(other.W_dec.norm(dim=1), own.W_dec.norm(dim=1))
    torch.testing.assert_close(other.W_enc.norm(dim=0), own.W_enc.norm(dim=0))
    torch.testing.assert_close(other.W_enc, other.W_dec.T)  # the tiny SAE is tied
    assert torch.equal(other.b_enc, own.b_enc)
    cosine = torch.nn.functional.cosine_similarity(other.W_dec, own.W_dec, dim=1)
    assert cosine.abs().mean() < 3 / np.sqrt(own.W_dec.shape[1])
    assert control.sha256 != loaded.sha256
    assert torch.equal(load_folder(places["sae"]).sae.W_dec, own.W_dec)  # the SAE itself is as it was


@pytest.mark.parametrize("kind", ["standard", "jumprelu"])
def test_rates_are_matched_feature_by_feature(kind: str, places: dict[str, Path]) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 32)).astype(np.float32)
    rates = np.concatenate([[0.0, 1.0, 0.5], random.uniform(0, 0.2, 253)])
    loaded = load_folder(places["sae"])
    if kind == "jumprelu":
        sae = JumpReLUSAE(
            JumpReLUSAEConfig(
                d_in=32, d_sae=256, dtype="float32", device="cpu", metadata=SAEMetadata(hook_name=loaded.hook_name)
            )
        )
        with torch.no_grad():
            sae.W_enc.copy_(loaded.sae.W_enc)
            sae.threshold.fill_(0.3)
        loaded = replace(loaded, sae=sae)
    matched = match_rates(loaded, x, rates)
    with torch.no_grad():
        fires = (matched.sae.encode(torch.from_numpy(x)) > 0).sum(0).numpy()
    np.testing.assert_array_equal(fires, np.rint(rates * 400))


def test_an_sae_that_cannot_be_altered_is_refused(places: dict[str, Path]) -> None:
    gated = GatedSAE(GatedSAEConfig(d_in=32, d_sae=64, dtype="float32", device="cpu"))
    with pytest.raises(ReleaseError, match="is a GatedSAE; controls are made of standard, jumprelu and topk SAEs"):
        shuffled_sae(replace(load_folder(places["sae"]), sae=gated))


def test_a_random_model_s_control_is_not_the_model_s(
    study: Path, places: dict[str, Path], data: LoadedItems, tmp_path: Path
) -> None:
    features = load_features(study / "features")
    control = collect_control("random_model", lambda: side(places), data.items, features, tmp_path / "x", seed=4)
    correlation = np.corrcoef(control.raw_mean_stem.ravel(), features.raw_mean_stem.ravel())[0, 1]
    assert abs(correlation) < 0.5
    assert "seed 4" in control.manifest["settings"]["model"]["altered"]


def test_commands(study: Path) -> None:
    app = typer.Typer()
    align_commands.register(app)
    runner = CliRunner()
    common = ["align", str(study), "--permutations", "19", "--no-model"]
    shown = runner.invoke(app, [*common, "--metrics", "overlap,rsa", "--metrics", "monosemanticity"])
    assert shown.exit_code == 0, shown.output
    assert "overlap_jaccard" in shown.stdout
    assert f"Report: {study / 'alignment' / 'report.html'}" in shown.stdout
    assert "Not for clinical use" in shown.stdout
    told = runner.invoke(app, [*common, "--metrics", "overlap", "--json"])
    assert told.exit_code == 0, told.output
    value = json.loads(told.stdout)
    assert value["skipped"] == ["overlap"]
    assert {entry["name"] for entry in value["confirmatory"]} >= {"alignment/overlap_jaccard"}
    compared = runner.invoke(app, ["compare", str(study), "--variants", "sae,raw", "--permutations", "19", "--json"])
    assert compared.exit_code == 0, compared.output
    assert [m["name"] for m in json.loads(compared.stdout)["metrics"]][0] == "compare/reciprocal_rank"
    listed = runner.invoke(app, ["list-metrics", "--json"])
    assert [metric["number"] for metric in json.loads(listed.stdout)] == list(range(1, 17))
    assert "needs: explanations" in runner.invoke(app, ["list-metrics"]).stdout
    for command in ("align", "compare", "list-metrics"):
        help_text = runner.invoke(app, [command, "--help"])
        assert help_text.exit_code == 0
        assert "Example:" in help_text.stdout
