"""The frontier of finished runs: what makes a curve, the table, and an SVG that parses."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.errors import ConfigError
from sae_lens_med.training.frontier import frontier, frontier_table, write_frontier
from sae_lens_med.training.recipe import load_recipe

SVG = "{http://www.w3.org/2000/svg}"


def run(folder: Path, *overrides: str, l0: float = 30.0, ev: float = 0.8, text: str = "t") -> Path:
    """A finished run's folder, without its weights."""
    folder.mkdir(parents=True)
    recipe = load_recipe("tiny", list(overrides)).to_dict()
    heldout: dict[str, Any] = {"l0": l0, "explained_variance": ev, "dead_fraction": 0.025, "ce_loss_score": 0.9}
    heldout["explained_variance_without_first_direction"] = ev - 0.1
    metrics = {"heldout": heldout, "text": {"sha256": text}, "model": {"name": "m"}, "steps": 100}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "cfg.json").write_text("{}")
    return folder


TOPK = "sae={architecture: topk, d_sae: 96, k: 8}"


def test_runs_that_differ_in_the_coefficient_alone_make_one_curve(tmp_path: Path) -> None:
    run(tmp_path / "s/a", "sae.l1_coefficient=0.2", l0=20)
    run(tmp_path / "s/b", "sae.l1_coefficient=0.1", "data.folder=elsewhere", "device=cuda", l0=40)
    run(tmp_path / "s/c", "sae.l1_coefficient=0.1", "sae.d_sae=192", l0=50)
    run(tmp_path / "one", TOPK, l0=8)
    found = frontier([tmp_path / "s", tmp_path / "one"])
    curves = {Path(p.folder).name: p.curve for p in found.points}
    assert curves["a"] == curves["b"] == "tied_l1 · d_sae 96"
    assert curves["c"] == "tied_l1 · d_sae 192"  # the size is named for all where any two differ in it
    assert curves["one"] == "topk · d_sae 96"
    assert [Path(p.folder).name for p in found.points] == ["c", "a", "b", "one"]
    assert {p.coefficient for p in found.points} == {"l1_coefficient 0.2", "l1_coefficient 0.1", "k 8"}


def test_a_curve_is_sorted_by_l0(tmp_path: Path) -> None:
    for name, l0 in (("a", 40), ("b", 5), ("c", 12)):
        run(tmp_path / "s" / name, f"sae.l1_coefficient={l0}", l0=l0)
    assert [p.l0 for p in frontier([tmp_path / "s"]).points] == [5, 12, 40]
    assert frontier([tmp_path / "s" / "a", tmp_path / "s"]) == frontier([tmp_path / "s"])


def test_one_architecture_and_size_needs_no_more_than_its_name(tmp_path: Path) -> None:
    run(tmp_path / "s/a", "sae.l1_coefficient=0.2")
    run(tmp_path / "s/b", "sae.l1_coefficient=0.1", "hook_name=blocks.10.hook_resid_post")
    run(tmp_path / "s/c", "sae.l1_coefficient=0.1", "hook_name=blocks.9.hook_resid_post")
    found = frontier([tmp_path / "s"])
    assert {p.curve for p in found.points} == {"tied_l1"}
    assert [p.hook_name.split(".")[1] for p in found.points] == ["1", "9", "10"]


def test_other_settings_tell_curves_apart(tmp_path: Path) -> None:
    run(tmp_path / "s/a", "lr=0.001")
    run(tmp_path / "s/b", "lr=0.002")
    run(tmp_path / "s/c", "lr=0.002", "resample_dead.every=10", "resample_dead.dead_steps=5")
    names = {Path(p.folder).name: p.curve for p in frontier([tmp_path / "s"]).points}
    assert len(set(names.values())) == 3
    assert "lr 0.001" in names["a"] and "lr 0.002" in names["b"] and "every 10" in names["c"]


def test_what_differs_between_architectures_is_a_note(tmp_path: Path) -> None:
    run(tmp_path / "s/a", "lr=0.001")
    run(tmp_path / "s/b", TOPK, "lr=0.002")
    run(tmp_path / "s/c", TOPK, "lr=0.002", "seed=8")
    found = frontier([tmp_path / "s"])
    assert {p.curve for p in found.points} == {"tied_l1", "topk · seed 7", "topk · seed 8"}
    assert "The architectures were also trained with different lr." in found.notes


def test_the_table_and_the_notes(tmp_path: Path) -> None:
    run(tmp_path / "s/a", l0=20.04, ev=0.8126)
    run(tmp_path / "s/b", "sae.l1_coefficient=9", l0=0, text="other")
    table = frontier_table(frontier([tmp_path / "s"]), [("c", "it\nbroke | here")])
    assert "| blocks.1.hook_resid_post | tied_l1 | 96 | tied_l1 | l1_coefficient 0.1 | 20.0 | 0.813 | 0.713 |" in table
    assert "2.5%" in table and "0.900" in table
    assert "measured on different texts" in table
    assert "1 of the runs have an L0 of 0" in table
    assert r"- c: it broke \| here" in table
    assert "runs are of different models" not in table
    metrics = json.loads((tmp_path / "s/a/metrics.json").read_text())
    (tmp_path / "s/a/metrics.json").write_text(json.dumps(metrics | {"model": {"name": "m", "dtype": "bfloat16"}}))
    assert "runs are of different models, or of one model in different precisions" in frontier_table(
        frontier([tmp_path / "s"])
    )


def test_a_bar_in_a_name_does_not_end_its_cell(tmp_path: Path) -> None:
    run(tmp_path / "s/a", "hook_name=a|b")
    row = frontier_table(frontier([tmp_path / "s"])).splitlines()[4]
    assert row.startswith("| a\\|b | tied_l1 |")


def test_the_plot_has_a_panel_a_hook_and_says_every_run(tmp_path: Path) -> None:
    for i, (hook, size) in enumerate((h, s) for h in (1, 2) for s in (64, 96, 128)):
        for j, l1 in enumerate((0.1, 0.2, 0.4)):
            overrides = [f"hook_name=blocks.{hook}.hook_resid_post", f"sae.d_sae={size}", f"sae.l1_coefficient={l1}"]
            run(tmp_path / f"s/{i}-{j}", *overrides, l0=100 / (j + 1), ev=0.9 - 0.001 * i - 0.1 * j)
    found = frontier([tmp_path / "s"])
    write_frontier(found, tmp_path)
    root = ElementTree.parse(tmp_path / "frontier.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts.count("blocks.1.hook_resid_post") == texts.count("blocks.2.hook_resid_post") == 1
    assert texts.count("explained variance") == 2 and texts.count("L0: active features per token (log scale)") == 2
    assert texts.count("tied_l1 · d_sae 64") == 2
    (said,) = [element.text or "" for element in root.iter(f"{SVG}desc")]
    assert said.split("; ") == [
        f"{p.hook_name}, {p.curve}: L0 {p.l0:.1f}, EV {p.explained_variance:.3f}" for p in found.points
    ]
    assert len(found.points) == 18


@pytest.mark.parametrize("l0s", [(0.0,), (0.02, 4000.0)])
def test_the_plot_of_odd_values_parses(l0s: tuple[float, ...], tmp_path: Path) -> None:
    for i, l0 in enumerate(l0s):
        run(tmp_path / f"s/{i}", f"sae.l1_coefficient={i}", l0=l0, ev=0.5 - 40 * i)
    write_frontier(frontier([tmp_path / "s"]), tmp_path)
    svg = (tmp_path / "frontier.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    assert "nan" not in svg and "inf" not in svg
    assert ("No run with an L0 above 0" in svg) == (l0s == (0.0,))


def test_names_are_escaped(tmp_path: Path) -> None:
    run(tmp_path / "s/a", 'hook_name=<b>&"x"', l0=3)
    write_frontier(frontier([tmp_path / "s"]), tmp_path)
    svg = (tmp_path / "frontier.svg").read_text(encoding="utf-8")
    assert "<b>" not in svg
    assert '<b>&"x"' in [e.text for e in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_unfinished_runs_are_left_out_and_none_is_an_error(tmp_path: Path) -> None:
    (run(tmp_path / "s/a") / "cfg.json").unlink()
    for folder in (tmp_path / "s", tmp_path / "s/a"):
        with pytest.raises(
            ConfigError, match=f"{folder} does not contain a finished training run; name the output of a sweep"
        ):
            frontier([folder])
    with pytest.raises(ConfigError, match="nowhere is not a folder; name the output of a sweep"):
        frontier([tmp_path / "nowhere"])
    run(tmp_path / "s/b")
    assert [Path(p.folder).name for p in frontier([tmp_path / "s"]).points] == ["b"]
    (tmp_path / "s/b/metrics.json").write_text('{"heldout": {"l0": 3}}')
    with pytest.raises(ConfigError, match="b is damaged"):
        frontier([tmp_path / "s"])


def test_the_command(tmp_path: Path) -> None:
    run(tmp_path / "s/a", l0=20.04)
    done = CliRunner().invoke(app, ["frontier", str(tmp_path / "s"), "--output", str(tmp_path / "o"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["points"][0]["l0"] == 20.04
    assert {p.name for p in (tmp_path / "o").iterdir()} == {"frontier.json", "frontier.md", "frontier.svg"}


def test_sweeps_below_the_folder_that_is_named_are_found(tmp_path: Path) -> None:
    run(tmp_path / "runs" / "tied" / "a", l0=10)
    run(tmp_path / "runs" / "topk" / "deep" / "b", TOPK, l0=20)
    run(tmp_path / "runs" / "single", "sae.d_sae=192", l0=30)
    run(tmp_path / "runs" / ".staging" / "c", l0=40)
    assert sorted(p.l0 for p in frontier([tmp_path / "runs"]).points) == [10, 20, 30]


def test_the_table_escapes_what_others_wrote(tmp_path: Path) -> None:
    run(tmp_path / "s" / "a|b`<script>", "hook_name=blocks.0.hook_z")
    table = frontier_table(frontier([tmp_path / "s"]), [("x", "no\n| column <b>")])
    assert r"a\|b\`\<script\>" in table
    assert r"- x: no \| column \<b\>" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {13}
