"""Releases through SAELens itself, in processes of their own; an upload to a stand-in for the Hub; measuring again."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sae_lens_med.commands.releases import releases_app
from sae_lens_med.runs.files import write_json
from sae_lens_med.saes.listing import Releases
from sae_lens_med.saes.publish import package_release
from tests.fake_release import IDS, NAME, listing, make_release, trained_folder
from tests.tiny import HIDDEN, save_tiny_model

OFFLINE = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def python(code: str, *args: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process whose Hub cache and token are empty."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=kept | {"HF_HOME": str(home)} | env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


LOAD = """
import json, sys, warnings
from pathlib import Path
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders, pretrained_saes_directory as module
from sae_lens_med.saes.releases import register_releases
from sae_lens_med.saes.listing import Releases

listing, weights, name, sae_id = sys.argv[1:]
register_releases(Releases(Path(listing), Path(weights)))
register_releases(Releases(Path(listing), Path(weights)))
read_early = module.get_pretrained_saes_directory.cache_info().currsize
sae, cfg, sparsity = SAE.from_pretrained_with_cfg_and_sparsity(name, sae_id)
module.get_pretrained_saes_directory.cache_clear()
again = SAE.from_pretrained(name, sae_id, dtype="float64", device="cpu", fold_W_dec_norm=True)
try:
    SAE.from_pretrained(name, sae_id, force_download=True)
    forced = "loaded"
except (OSError, ValueError) as error:
    forced = type(error).__name__
try:
    SAE.from_pretrained(name, "blocks.7")
except ValueError as error:
    unknown = str(error)
print(json.dumps({
    "read_early": read_early, "dtypes": sorted({str(p.dtype) for p in sae.parameters()}),
    "again": str(again.W_dec.dtype),
    "rows": again.W_dec.norm(dim=-1).tolist(), "W_dec": sae.W_dec.tolist(), "b_dec": sae.b_dec.tolist(),
    "sparsity": sparsity.tolist(), "hook": cfg["metadata"]["hook_name"], "forced": forced, "unknown": unknown,
    "getter": loaders.load_sae_config_from_huggingface(name, sae_id)["d_sae"],
    "stock": "gemma-scope-2b-pt-res" in module.get_pretrained_saes_directory(),
}))
"""


def test_from_pretrained_loads_a_packaged_release_offline(tmp_path: Path):
    releases = make_release(tmp_path)
    run = python(LOAD, str(releases.listing), str(releases.weights), NAME, IDS[1], home=tmp_path / "hf", **OFFLINE)
    assert run.returncode == 0, run.stderr
    got = json.loads(run.stdout.splitlines()[-1])
    trained = load_file(tmp_path / "trained" / IDS[1] / "sae_weights.safetensors")
    assert got["read_early"] == 0
    assert got["dtypes"] == ["torch.float32"]
    assert torch.equal(torch.tensor(got["W_dec"]), trained["W_dec"].bfloat16().float())
    assert torch.equal(torch.tensor(got["b_dec"]), trained["b_dec"])
    assert got["sparsity"] == pytest.approx(torch.linspace(-3, 0, 16).tolist())
    assert got["hook"] == IDS[1]
    assert got["again"] == "torch.float64"
    assert got["rows"] == pytest.approx([1.0] * 16)
    assert got["forced"] != "loaded"
    assert f"Valid IDs are ['{IDS[0]}', '{IDS[1]}']" in got["unknown"]
    assert got["getter"] == 16
    assert got["stock"]


STOCK = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "sae_lens_med":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
import torch
from sae_lens import SAE

sae = SAE.load_from_disk(sys.argv[1])
print(sae.cfg.architecture(), sae.dtype, tuple(sae(torch.ones(1, 8)).shape))
"""


def test_an_export_loads_where_this_package_is_not_installed(tmp_path: Path):
    releases = make_release(tmp_path)
    CliRunner().invoke(releases_app, ["export", NAME, str(tmp_path / "out")], obj=releases)
    run = python(STOCK, str(tmp_path / "out" / IDS[0]), home=tmp_path / "hf", **OFFLINE)
    assert run.stdout.strip() == "standard torch.float32 (1, 8)", run.stderr


class Hub(BaseHTTPRequestHandler):
    """The Hub endpoints that an upload of small files uses."""

    private = True
    created: dict[str, Any] = {}
    files: dict[str, bytes] = {}

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        body = self.body().decode()
        if self.headers.get("Authorization") != "Bearer hf_test":
            self.answer({"error": "unauthorised"}, 401)
        elif self.path == "/api/repos/create":
            type(self).created = json.loads(body)
            self.answer({"url": f"http://{self.headers['Host']}/someone/tiny", "id": "someone/tiny"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif self.path == "/api/validate-yaml":  # of the model card's front matter
            self.answer({"errors": [], "warnings": []})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = "1" * 40
            self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/someone/tiny/commit/{commit}", "commitOid": commit}
            )

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def do_GET(self) -> None:  # noqa: N802
        found = {"id": "someone/tiny", "private": self.private, "sha": "0" * 40, "siblings": [], "tags": []}
        self.answer(found | {"downloads": 0, "likes": 0})

    def answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[tuple[type[Hub], str]]:
    handler = type("FreshHub", (Hub,), {"created": {}, "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PUBLISH = """
import sys
from pathlib import Path
from sae_lens_med.commands.releases import releases_app
from sae_lens_med.errors import ReleaseError
from sae_lens_med.saes.listing import Releases
try:
    releases_app(["publish", *sys.argv[3:]], obj=Releases(Path(sys.argv[1]), Path(sys.argv[2])), standalone_mode=False)
except ReleaseError as error:
    print("ReleaseError:", error)
"""


def test_publishing_uploads_every_file_and_reports_refusals(tmp_path: Path, hub: tuple[type[Hub], str]):
    releases = make_release(tmp_path)
    handler, url = hub
    direct = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_ENDPOINT": url}
    command = (str(releases.listing), str(releases.weights), NAME, "someone/tiny", "--yes")

    def publish(*options: str, **env: str) -> str:
        return python(PUBLISH, *command, *options, home=tmp_path / "hf", **(direct | env)).stdout

    assert "needs a Hugging Face token; run `hf auth login`, or set HF_TOKEN" in publish()
    assert "was not published to someone/tiny" in publish(HF_TOKEN="hf_other")
    assert "exists and is private, not public; pass --private" in publish("--public", HF_TOKEN="hf_test")
    assert handler.files == {}
    out = publish(HF_TOKEN="hf_test")
    assert f"Uploaded 13 files, {sum(map(len, handler.files.values())):,} bytes: {url}/someone/tiny" in out
    folder = releases.weights / NAME
    assert handler.files == {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert "private" in (handler.created.get("visibility"), handler.created.get("private") and "private")
    unreachable = publish(HF_TOKEN="hf_test", HF_ENDPOINT="http://127.0.0.1:9")
    assert "was not published to someone/tiny on http://127.0.0.1:9" in unreachable
    assert "ReleaseError" in unreachable and unreachable.count("\n") == 14


def test_measuring_again_finds_the_recorded_numbers_and_a_wrong_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sae_lens import SAE

    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.training.activations import corpus
    from sae_lens_med.training.quality import measure
    from sae_lens_med.training.recipe import parse_recipe

    monkeypatch.chdir(tmp_path)
    save_tiny_model(Path("model"))
    Path("text").mkdir()
    rows = [{"text": f"The patient {i} has fever and chest pain; 환자는 발열과 기침으로 {i * i}."} for i in range(40)]
    Path("text/notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = {
        "model": {"name": "model"},
        "data": {"folder": "text", "sources": [{"path": "notes.jsonl"}], "heldout": 0.2},
        "sae": {"architecture": "standard", "d_sae": 16},
        "hook_name": IDS[0],
        "context_size": 32,
        "training_tokens": 1024,
        "train_batch_size_tokens": 64,
    }
    recipe = parse_recipe(values, "test")
    model = load_model("model")
    text = corpus(recipe, model.text_tokenizer, 42)
    folder = trained_folder(tmp_path / "trained", d_in=HIDDEN)
    cfg = json.loads((folder / "cfg.json").read_text())
    write_json(folder / "cfg.json", cfg | {"apply_b_dec_to_input": False})
    quality = measure(model, SAE.load_from_disk(folder), text.heldout).to_dict()
    quality["explained_variance"] = round(
        quality["explained_variance"]
    )  # the huge b_dec of the fake makes it about -1e6

    def verify(recorded: dict[str, float]) -> str:
        write_json(folder / "metrics.json", {"heldout": recorded, "text": {"sha256": text.sha256}})
        releases = Releases(listing(tmp_path / "releases.yaml"), tmp_path / "weights")
        given = {"card": "# x", "left_out_ids": [], "recipes": {IDS[0]: recipe.to_dict()}, "target": releases.weights}
        package_release({IDS[0]: folder}, NAME, **given, force=True)
        args = ["verify", NAME, "--recompute", "--data", "text"]
        return CliRunner().invoke(releases_app, args, obj=releases).output

    output = verify(quality)
    assert f"ok      text {IDS[0]}: as recorded" in output
    for name in ("l0", "dead_fraction"):
        assert f"ok      {name} {IDS[0]}: recorded" in output
    assert f"FAILED  dead_fraction {IDS[0]}" in verify(quality | {"dead_fraction": 0.9})


def test_a_release_with_gains_says_so_and_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sae_lens_med.models.bridge import load_model
    from sae_lens_med.training import run
    from sae_lens_med.training.recipe import load_recipe

    monkeypatch.chdir(tmp_path)
    save_tiny_model(Path("model"), "gemma3")
    Path("text").mkdir()
    rows = [
        {"text": f"The patient {i} has fever and chest pain; 환자는 발열과 기침으로 {i * i}. " * 3} for i in range(60)
    ]
    Path("text/notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    common = ["model.name=model", "data.folder=text", "data.sources=[notes.jsonl]", f"hook_name={IDS[0]}"]
    common += ["sae.l1_coefficient=5", "sae.initial_density=0.05"]
    releases = Releases(listing(tmp_path / "releases.yaml"), tmp_path / "weights")
    entry = yaml.safe_load(releases.listing.read_text())
    entry[NAME]["saes"] = [{"id": IDS[0], "path": IDS[0], "l0": None, "variance_explained": None, "neuronpedia": None}]
    releases.listing.write_text(yaml.safe_dump(entry))
    model = load_model("model")
    cards, high = {}, 1.0
    for unshrink in ("false", "true"):
        recipe = load_recipe("tiny", [*common, f"unshrink={unshrink}"])
        trained = run.train(recipe, model, Path(unshrink), activations=Path("acts")).folder
        args = ["package", NAME, str(trained), "--target", str(releases.weights), "--force"]
        assert CliRunner().invoke(releases_app, args).exit_code == 0
        card = (releases.weights / NAME / "README.md").read_text(encoding="utf-8")
        assert "\n\n## Model\n" in card and "\n\n\n" not in card
        cards[unshrink] = " ".join(card.split())
        done = CliRunner().invoke(releases_app, ["verify", NAME, "--recompute", "--data", "text"], obj=releases)
        assert done.exit_code == 0, done.output
        for name in ("l0", "explained_variance", "dead_fraction", "ce_loss_score", "kl_score"):
            assert f"ok      {name} {IDS[0]}: recorded" in done.output
        [line] = [line for line in done.output.splitlines() if "encoder along decoder" in line]
        if unshrink == "false":
            assert "one matrix, rows of norm 1.0" in line or "one matrix, rows of norm 0.99" in line
        else:
            low, high = (float(value) for value in line.split("gains ")[1].split(" to "))
    metrics = json.loads((releases.weights / NAME / IDS[0] / "metrics.json").read_text())["unshrunk"]
    assert metrics["ridge"] is not None and high > 1.2
    low, median, high = metrics["gain_quantiles_05_50_95"]
    gained = f"| {IDS[0]} | {median:.2f}, {low:.2f} to {high:.2f} |"
    held_back = "{:.3f}, {:.3f} |".format(*metrics["explained_variance_held_back"])
    for said in (
        "Encoder and decoder share directions, not magnitudes",
        "All metrics below are of the SAE with its gains",
        gained,
        held_back,
        "undo the shrinkage on average",
    ):
        assert said in cards["true"] and said not in cards["false"]
    assert "L1 shrinks activations" in cards["false"] and "L1 shrinks activations" not in cards["true"]

    # a feature that reads something else than it writes is found
    path = releases.weights / NAME / IDS[0] / "sae_weights.safetensors"
    state = load_file(path)
    state["W_enc"][:, 3] = state["W_enc"][:, 4]
    save_file(state, path)
    broken = CliRunner().invoke(releases_app, ["verify", NAME], obj=releases)
    assert broken.exit_code == 1 and f"FAILED  encoder along decoder {IDS[0]}: smallest cosine" in broken.output
    lost = CliRunner().invoke(releases_app, ["verify", NAME, "--recompute", "--data", "nowhere"], obj=releases)
    assert "nowhere/notes.jsonl does not exist; say where it is with --data FOLDER" in str(lost.exception)
