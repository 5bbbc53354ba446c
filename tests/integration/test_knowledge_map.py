"""A map of tiny models: the tokens that are read, the folder that goes on, the controls, the command."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import StudyError
from sae_lens_med.knowledge_map import Lists, MapSettings, make_map, packaged_lists
from sae_lens_med.knowledge_map.lists import MapConcept, Template
from sae_lens_med.knowledge_map.reading import depth_hooks, read_concepts, slot_texts
from sae_lens_med.models.bridge import activations_at
from tests.tiny import ARCHES, LAYERS, Arch, save_tiny_model, tiny_model

FEW = MapSettings(languages=("ko",), permutations=39, random_models=2, methods=("geometry",))


def few_lists() -> Lists:
    """Eight symptoms of two systems, in two templates."""
    concepts = [each for each in packaged_lists().of("symptoms", "ko") if each.labels["system"] in ("skin", "urinary")]
    templates = [Template("symptoms", "medical", "ko", text) for text in ("환자는 {} 때문에 왔다.", "증상: {}")]
    return Lists(tuple(concepts), tuple(templates), "a test")


@pytest.mark.parametrize("arch", ARCHES)
def test_the_mean_over_templates_is_read_at_the_last_token_of_the_name_and_of_the_text(arch: Arch) -> None:
    model, concepts = tiny_model(arch), few_lists().of("symptoms", "ko")[:3]
    templates = few_lists().templates_of("symptoms", "ko", "medical")
    texts = slot_texts(concepts, templates, "ko", model.text_tokenizer)
    got = read_concepts(model, texts, 3, batch_tokens=64)
    assert got.shape == (LAYERS + 1, 2, 3, model.cfg.d_model)
    for number, concept in enumerate(concepts):
        expected = np.zeros((LAYERS + 1, 2, model.cfg.d_model))
        for template in templates:
            before = template.split("{}")[0] + concept.forms["ko"]
            whole = template.replace("{}", concept.forms["ko"])
            ids = model.text_tokenizer(whole).input_ids
            # The token that holds the last byte of the name: the shortest run of tokens whose text covers it.
            last = next(i for i in range(len(ids)) if len(model.text_tokenizer.decode(ids[: i + 1])) >= len(before)
                        and before in model.text_tokenizer.decode(ids[: i + 1], skip_special_tokens=True))  # fmt: skip
            found = activations_at(model, [ids], depth_hooks(LAYERS))
            for depth, hook in enumerate(depth_hooks(LAYERS)):
                expected[depth] += found[hook][0][[last, -1]].numpy() / len(templates)
        np.testing.assert_allclose(got[:, :, number], expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("map") / "out"
    make_map(lambda: tiny_model("gemma3"), few_lists(), folder, FEW, progress=False)
    return folder


class TestFolder:
    def test_holds_every_scale_position_and_depth(self, made: Path) -> None:
        rows = list(csv.DictReader((made / "map.csv").open()))
        assert len(rows) == 2 * 2 * 2 * (LAYERS + 1)  # read-outs, scales, positions, depths
        of_the_map = [row for row in rows if row["q"]]
        assert {(row["scale"], row["position"]) for row in of_the_map} == {("standardised", "concept")}
        told = json.loads((made / "map.json").read_text())
        assert [float(row["value"]) for row in rows] == [value for row in told for value in row["values"]]
        assert all(len(row["random"]) == 2 for row in told)

    def test_a_random_model_stands_out_nowhere(self, made: Path) -> None:
        rows = list(csv.DictReader((made / "map.csv").open()))
        assert {row["stands_out"] for row in rows if row["q"]} == {"False"}

    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
        self, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sae_lens_med.knowledge_map import run

        calls: list[int] = []

        def stops(*args: object, **more: object) -> object:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return read_concepts(*args, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(run, "read_concepts", stops)
        with pytest.raises(KeyboardInterrupt):
            make_map(lambda: tiny_model("gemma3"), few_lists(), tmp_path / "out", FEW, progress=False)
        monkeypatch.setattr(run, "read_concepts", read_concepts)
        make_map(lambda: tiny_model("gemma3"), few_lists(), tmp_path / "out", FEW, progress=False)
        for name in ("map.json", "map.csv", "map.svg"):
            assert (tmp_path / "out" / name).read_bytes() == (made / name).read_bytes()

    def test_another_model_is_refused(self, made: Path) -> None:
        with pytest.raises(StudyError, match="model"):
            make_map(lambda: tiny_model("gemma3", seed=1), few_lists(), made, FEW, progress=False)


def test_what_a_block_writes_stands_out_from_that_block_on(tmp_path: Path) -> None:
    """A model whose second block writes one direction for each of two groups of names, by hand: nothing is there at
    depth 0 and 1, everything from depth 2 on."""
    model = tiny_model("llama")
    plain = model.plain
    names = {"urinary": "xa", "skin": "xb"}
    concepts = tuple(
        MapConcept("made", f"{label}{i}", {"en": f"{word}{i:02d} z"}, {"group": label})
        for label, word in names.items()
        for i in range(8)
    )
    # The name's last token is the same for all: only attention to the letter before can tell the groups apart.
    lists = Lists(concepts, (Template("made", "medical", "en", "{}"),), "a test")
    with torch.no_grad():
        for layer in plain.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        chosen = plain.model.layers[1].self_attn
        chosen.q_proj.weight.zero_()  # attention to every token alike
        chosen.v_proj.weight.copy_(torch.randn(chosen.v_proj.weight.shape, generator=torch.Generator().manual_seed(0)))
        chosen.o_proj.weight.copy_(torch.randn(chosen.o_proj.weight.shape, generator=torch.Generator().manual_seed(1)))
    settings = MapSettings(("en",), permutations=199, random_models=0)  # of the made domain there are no statements
    rows = make_map(lambda: model, lists, tmp_path / "out", settings, progress=False)
    row = next(row for row in rows if row.q and row.read_out == "silhouette")
    assert row.values[:2] == (0.0, 0.0)
    assert min(row.values[2:]) > 0.1 and max(row.p[2:]) == 1 / 200


class TestCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(app, ["map", "layers", *arguments])
        return ended.exit_code, str(ended.exception or "") + ended.output

    def test_a_map_of_a_folder_of_a_model(self, tmp_path: Path) -> None:
        model = save_tiny_model(tmp_path / "model", "qwen3")
        code, said = self.run("-m", str(model), "-o", str(tmp_path / "out"), "--domain", "progression", "--language",
                              "en", "--permutations", "39", "--random-models", "1", "--pairs", "4")  # fmt: skip
        assert code == 0, said
        assert "progression order (en):" in said and "stands out" in said
        assert "progression lesion_kl (en):" in said and "progression (en): methods agree" in said
        assert (tmp_path / "out" / "map.svg").read_text().startswith("<svg")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--language", "fr"], "--language must be ko or en, got 'fr'"),
            (["--domain", "drug"], "no domain 'drug'; did you mean drugs?"),
            (["--concepts", "a.jsonl"], "--concepts and --templates go together"),
            (["--permutations", "3"], "permutations must be from 19"),
            (["--random-models", "-1"], "random_models must be from 0"),
            (["--method", "leson"], "no method 'leson'; did you mean lesion?"),
            (["--pairs", "2"], "pairs must be from 3"),
            (["--seed", "-1"], "--seed"),
        ],
    )
    def test_what_it_does_not_understand_is_said(self, tmp_path: Path, arguments: list[str], sentence: str) -> None:
        code, said = self.run("-m", "no-such-model", "-o", str(tmp_path / "out"), *arguments)
        assert code != 0 and sentence in said
        assert not (tmp_path / "out").exists()
