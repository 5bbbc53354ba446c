"""Releases on disk: packaging, the list, hashes, export, the dry run; and the commands over them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sae_lens_med.commands.releases import releases_app
from sae_lens_med.errors import ModelError, ReleaseError, StudyError
from sae_lens_med.runs.files import configs_dir
from sae_lens_med.saes.listing import Releases, packaged_releases
from sae_lens_med.saes.publish import export_release, package_release, publish_plan, verify_release
from sae_lens_med.saes.releases import load_sae
from tests.fake_release import CARD, IDS, NAME, listing, make_release, trained_folder


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    return make_release(tmp_path)


def invoke(releases: Releases, *args: str):
    return CliRunner().invoke(releases_app, args, obj=releases)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_packaged_files_and_hashes(releases: Releases, tmp_path: Path):
    folder = releases.weights / NAME
    of_an_sae = {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json", "metrics.json"}
    files = contents(folder)
    assert set(files) == {"README.md", "release.json", "left_out_ids.json"} | {
        f"{i}/{n}" for i in IDS for n in of_an_sae
    }
    manifest = json.loads(files["release.json"])
    assert manifest["files"] == {n: hashlib.sha256(b).hexdigest() for n, b in files.items() if n != "release.json"}
    assert manifest["saes"] == {i: i for i in IDS}
    assert releases.get(NAME).left_out_ids() == {"a", "b"}
    assert releases.get(NAME).card() == CARD
    assert not list(releases.weights.glob(".*")), "nothing half-made is left"
    assert b"someone" not in b"".join(b for n, b in files.items() if n.endswith(".json"))
    assert manifest["recipes"] == {i: {"data": {"folder": "data"}} for i in IDS}
    (tmp_path / "any").touch()  # others may read a release as they may any file of this user
    assert {p.stat().st_mode for p in folder.rglob("*") if p.is_file()} == {(tmp_path / "any").stat().st_mode}


def test_matrices_are_rounded_vectors_are_not(releases: Releases, tmp_path: Path):
    before = load_file(tmp_path / "trained" / IDS[0] / "sae_weights.safetensors")
    stored = load_file(releases.weights / NAME / IDS[0] / "sae_weights.safetensors")
    for name, tensor in before.items():
        expected = tensor.to(torch.bfloat16) if tensor.ndim == 2 else tensor
        assert stored[name].dtype == expected.dtype
        assert torch.equal(stored[name], expected)


def test_stock_load_from_disk_gives_float32(releases: Releases):
    sae = SAE.load_from_disk(releases.weights / NAME / IDS[0])
    assert {p.dtype for p in sae.parameters()} == {torch.float32}
    assert sae.cfg.dtype == "float32"


def test_packaging_refuses_and_changes_nothing(releases: Releases, tmp_path: Path):
    before = contents(releases.weights)
    trained = tmp_path / "trained" / IDS[0]
    common = {"card": CARD, "left_out_ids": [], "recipes": {}, "target": releases.weights, "force": True}
    for wrong, message in [
        ({"dtype": "int8"}, "'int8'; use one of bfloat16"),
        ({"max_bytes": 100}, "bytes, more than the 100 allowed"),
        ({"extra_files": [tmp_path / "absent.svg"]}, "absent.svg, which should go with the release, does not exist"),
        ({"force": False}, "tiny-res already exists; choose another name or --target, or add --force to replace it"),
    ]:
        with pytest.raises(ReleaseError, match=message):
            package_release({IDS[0]: trained}, NAME, **{**common, **wrong})
    for release, sae_id, message in [("../x", IDS[0], "not a release name"), (NAME, "../x", "is not inside")]:
        with pytest.raises(ReleaseError, match=message):
            package_release({sae_id: trained}, release, **common)
    state = load_file(trained / "sae_weights.safetensors")
    save_file(state | {"W_enc": state["W_enc"] * 1e6}, trained / "sae_weights.safetensors")
    with pytest.raises(ReleaseError, match=r"W_enc of .* contains values that torch.float16 cannot represent"):
        package_release({IDS[0]: trained}, NAME, dtype="float16", **common)
    save_file({"W_enc": state["W_enc"]}, trained / "sae_weights.safetensors")
    with pytest.raises(ReleaseError, match="cannot be loaded"):
        package_release({IDS[0]: trained}, NAME, **common)
    assert contents(releases.weights) == before


def test_the_shipped_list_is_in_the_schema_of_saelens():
    listed = yaml.safe_load((configs_dir() / "releases.yaml").read_text(encoding="utf-8"))
    for entry in listed.values():
        assert set(entry) == {"repo_id", "model", "conversion_func", "saes"}
        assert entry["conversion_func"] is None
        for sae in entry["saes"]:
            assert set(sae) == {"id", "path", "l0", "variance_explained", "neuronpedia"}
    assert list(packaged_releases().read()) == list(listed)


def test_every_shipped_release_is_intact():
    shipped = [release for release in packaged_releases().read().values() if release.packaged]
    if not shipped:
        pytest.skip("no release is packaged yet")
    for release in shipped:
        assert [check for check in verify_release(release) if not check.ok] == []
        for sae in release.saes:
            assert (release.folder / sae.path / "sae_weights.safetensors").stat().st_size <= 16_000_000


def test_every_shipped_sae_is_strictly_tied():
    """M reads and writes: W_dec = W_encᵀ, with unit rows but for the rounding to bfloat16, by 2**-8 at most."""
    tied = 0
    for release in packaged_releases().read().values():
        for sae in release.saes if release.packaged else ():
            state = load_file(release.folder / sae.path / "sae_weights.safetensors")
            assert torch.equal(state["W_dec"], state["W_enc"].T)
            assert (state["W_dec"].double().norm(dim=1) - 1).abs().max() < 2**-8
            assert release.manifest()["recipes"][sae.id]["unshrink"] is False
            tied += 1
    assert tied == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny: {model: m, repo_id: r}", "is not in SAELens' schema .*'saes'"),
        ("- a\n- b", "is not in SAELens' schema"),
        ("a: [", "cannot be read"),
        ("t: {model: m, repo_id: r, saes: [{id: a, path: ../../etc}]}", "'../../etc', which is not inside"),
        ("/abs: {model: m, repo_id: r, saes: []}", "'/abs', which is not inside"),
    ],
)
def test_a_wrong_list_is_one_sentence(tmp_path: Path, text: str, message: str):
    path = tmp_path / "releases.yaml"
    path.write_text(text)
    with pytest.raises(ReleaseError, match=message):
        Releases(path, tmp_path).read()


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (f"tiny-rez/{IDS[0]}", rf"no SAE 'tiny-rez/.*did you mean {NAME}/"),
        (f"{NAME}/blocks.1.hook_resid_pst", f"has no SAE 'blocks.1.hook_resid_pst'; did you mean {IDS[0]}"),
        (NAME, f"is a release; name one of its SAEs: {NAME}/{IDS[0]}, {NAME}/{IDS[1]}"),
        ("gemma-scope-2b-pt-ress:x", "SAELens has no release .*; did you mean gemma-scope-2b-pt-res"),
        ("gemma-scope-2b-pt-res:layer_0", "has no SAE 'layer_0'.*; its first ids are embedding"),
        ("absent", "it is neither a listed release nor a folder"),
    ],
)
def test_unknown_names_are_one_sentence_with_near_ones(releases: Releases, ref: str, message: str):
    with pytest.raises(ReleaseError, match=message) as caught:
        load_sae(ref, releases=releases)
    assert "\n" not in str(caught.value)


def test_a_folder_without_an_sae_says_what_it_holds(tmp_path: Path, releases: Releases):
    with pytest.raises(ReleaseError, match=rf"has no cfg.json; name one of the folders in it: {IDS[0]}, {IDS[1]}"):
        load_sae(str(releases.weights / NAME), releases=releases)
    with pytest.raises(ReleaseError, match="has no cfg.json; use the folder of an exported SAE"):
        load_sae(str(releases.weights.parent), releases=releases)
    folder = trained_folder(tmp_path / "x")
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(ReleaseError, match="has cfg.json but no sae_weights.safetensors"):
        load_sae(str(folder))
    (folder / "cfg.json").write_text("{")
    with pytest.raises(ReleaseError, match="cfg.json cannot be read as JSON"):
        load_sae(str(folder))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("tied_l1", "is a training checkpoint .*save_inference_model"),
        ("standrd", "does not know; did you mean standard"),
    ],
)
def test_what_cannot_run_is_named(tmp_path: Path, architecture: str, message: str):
    folder = trained_folder(tmp_path / "x")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"architecture": architecture}))
    with pytest.raises(ReleaseError, match=message):
        load_sae(str(folder))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "cfg.json is damaged: metadata must be an object with hook_name, but is NoneType"),
        ([], "metadata must be an object"),
        ({"hook_name": None}, "does not say which hook it reads"),
        ({"hook_name": ["a"]}, "does not say which hook it reads"),
        ({}, "does not say which hook it reads"),
    ],
)
def test_an_sae_with_damaged_metadata_is_named(tmp_path: Path, metadata: Any, message: str):
    folder = trained_folder(tmp_path / "sae")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": metadata}))
    with pytest.raises(ReleaseError, match=message):
        load_sae(str(folder))


@pytest.mark.parametrize("text", ["", "{", "null", '{"a": 1}', "[1]", '["a", null]', "3", "[" * 5000, '["\\ud800"]'])
def test_damaged_ids_of_left_out_items_are_named(tmp_path: Path, text: str):
    folder = trained_folder(tmp_path / "sae")
    (folder / "left_out_ids.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"left_out_ids.json (is damaged|cannot be read as JSON)"):
        load_sae(str(folder))
    (folder / "left_out_ids.json").write_text('["a", "b"]')
    assert load_sae(str(folder)).left_out_ids == {"a", "b"}


def test_every_way_to_one_sae_has_one_identity(releases: Releases):
    by_name = load_sae(f"{NAME}/{IDS[1]}", releases=releases)
    by_folder = load_sae(str(releases.weights / NAME / IDS[1]), releases=releases)
    other = load_sae(f"{NAME}:{IDS[0]}", releases=releases)
    assert by_name.sha256 == by_folder.sha256 != other.sha256
    assert (by_name.source, by_name.sae_id, by_name.hook_name) == (f"{NAME}/{IDS[1]}", IDS[1], IDS[1])
    assert by_folder.source == str(releases.weights / NAME / IDS[1])
    assert by_name.sae.dtype == torch.float32


@pytest.mark.parametrize("name", ["sae_weights.safetensors", "cfg.json"])
def test_a_tampered_byte_is_named(releases: Releases, name: str):
    path = releases.weights / NAME / IDS[0] / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ReleaseError, match=rf"is damaged: .*{IDS[0]}/{name} has sha256"):
        load_sae(f"{NAME}/{IDS[0]}", releases=releases)
    load_sae(f"{NAME}/{IDS[1]}", releases=releases)
    result = invoke(releases, "verify", NAME)
    assert result.exit_code == 1
    assert f"FAILED  sha256 {IDS[0]}/{name}" in result.output
    for refused in (lambda r: publish_plan(r), lambda r: export_release(r, releases.weights.parent / "out")):
        with pytest.raises(ReleaseError, match="is damaged"):
            refused(releases.get(NAME))


def test_verify_finds_missing_unlisted_and_misreported(releases: Releases):
    result = invoke(releases, "verify", NAME)
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output and "none failed" in result.output
    (releases.weights / NAME / IDS[0] / "sparsity.safetensors").unlink()
    (releases.weights / NAME / "extra.txt").write_text("x")
    text = releases.listing.read_text()
    releases.listing.write_text(text.replace("l0: 4.0", "l0: 64.0"))
    failed = [line for line in invoke(releases, "verify", NAME).output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 4
    assert "sparsity.safetensors is missing" in failed[0]
    assert "extra.txt" in failed[1]
    assert "listed 64, measured 4" in failed[2]


def test_list_show_and_path(releases: Releases):
    assert json.loads(invoke(releases, "list", "--json").output) == [
        {
            "release": NAME,
            "model": "tiny",
            "saes": [{"id": i, "path": i, "l0": 4.0, "variance_explained": 0.75} for i in IDS],
        }
    ]
    assert invoke(releases, "list").output == "".join(f"{NAME}/{sae_id}\n" for sae_id in IDS), "piped: ids to copy"
    assert invoke(releases, "path", NAME).output == f"{releases.weights / NAME}\n"
    shown = invoke(releases, "show", NAME).output
    assert shown.startswith(CARD) and '"explained_variance": 0.75' in shown
    assert json.loads(invoke(releases, "show", NAME, "--json").output)["metrics"][IDS[0]]["heldout"]["l0"] == 4.0
    unknown = invoke(releases, "path", "tiny-re")
    assert isinstance(unknown.exception, ReleaseError)
    assert "did you mean tiny-res" in str(unknown.exception)


def test_a_listed_release_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    releases = Releases(listing(tmp_path / "releases.yaml"), tmp_path / "weights")
    assert not releases.get(NAME).packaged
    monkeypatch.setattr("sae_lens_med.commands.releases.on_terminal", lambda: True)
    assert "Hub" in invoke(releases, "list").output
    result = invoke(releases, "path", NAME)
    assert "is listed, but its files are not in" in str(result.exception)


def test_export_is_the_release_and_overwrites_only_when_told(releases: Releases, tmp_path: Path):
    out = tmp_path / "out"
    result = invoke(releases, "export", NAME, str(out))
    assert result.output == f"{out}\n"
    assert contents(out) == contents(releases.weights / NAME)
    SAE.load_from_disk(out / IDS[0])
    (out / "mine.txt").write_text("kept")
    (out / "README.md").write_text("old")
    refused = invoke(releases, "export", NAME, str(out))
    assert "is not empty; choose another one, or add --force" in str(refused.exception)
    assert (out / "README.md").read_text() == "old"
    assert invoke(releases, "export", NAME, str(out), "--force").exit_code == 0
    assert (out / "README.md").read_text() == CARD
    assert (out / "mine.txt").read_text() == "kept"
    for folder, message in [
        (releases.weights / NAME, "is the packaged release itself"),
        (out / "mine.txt", "is a file"),
    ]:
        with pytest.raises((ReleaseError, StudyError), match=message):
            export_release(releases.get(NAME), folder, force=True)


def test_export_goes_to_no_link_that_leads_nowhere(releases: Releases, tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("loop", "dangling", "loop/below"):
        with pytest.raises(StudyError, match="is a link to nothing; choose a folder"):
            export_release(releases.get(NAME), tmp_path / name)


@pytest.mark.parametrize("device", ["gpu", "meta", "", "cuda:99"])
def test_a_device_that_is_not_there_is_no_fault_of_the_sae(releases: Releases, device: str):
    with pytest.raises(ModelError, match=f"^the device '{device}' is not available here .*; use cpu, or cuda"):
        load_sae(f"{NAME}/{IDS[0]}", device, releases=releases)


def test_publishing_is_a_dry_run_by_default(releases: Releases, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_a_token_that_must_not_be_used")
    before = contents(releases.weights)
    result = invoke(releases, "publish", NAME, "someone/tiny", "--public")
    assert result.exit_code == 0
    size = sum(len(data) for data in before.values())
    assert f"Dry run: 13 files, {size:,} bytes would go to the public repository someone/tiny" in result.output
    assert contents(releases.weights) == before
    assert "has no owner" in str(invoke(releases, "publish", NAME, "tiny").exception)
    assert "is not a Hub repository name" in str(invoke(releases, "publish", NAME, "a/b/c").exception)
