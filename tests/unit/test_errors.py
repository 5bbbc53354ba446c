"""Sentences stay sentences, whatever names they quote."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sae_lens_med.cli import app
from sae_lens_med.data import load_items
from sae_lens_med.errors import DataError, ModelError, ReleaseError, SaeLensMedError, StudyError, listed, shortened
from sae_lens_med.saes.releases import load_sae
from sae_lens_med.study.folder import read_study

LONG = "x" * 5000


@pytest.mark.parametrize(
    "name",
    [LONG, "가" * 5000, f"/a/{'b c ' * 1500}end.csv", f"{'a/' * 2500}end.csv", f"https://host/{LONG}?q=1"],
)
@pytest.mark.parametrize("sentence", ["{}: no such file; use a .csv file.", "there is no item {!r}; name another one."])
def test_a_long_name_is_cut_in_its_middle(name: str, sentence: str) -> None:
    said = str(SaeLensMedError(sentence.format(name)))
    before, _, after = sentence.replace("!r", "").partition("{}")
    assert len(said) < 300 and said.startswith(f"{before}{name[:50]}" if "!r" not in sentence else before)
    assert said.endswith(after if "!r" not in sentence else after) and name[-50:] in said and name[:50] in said
    assert shortened(said) == said


@pytest.mark.parametrize(
    "sentence",
    [
        "the model's head isn't the study's; " + "name it, " * 60 + "or don't.",
        listed([f"item 'a{i}': its stem is empty" for i in range(50)]) + ".",
        "/data/" + "/".join(["folder"] * 25) + "/file.csv: no such file.",
        "it says 'no' (\"" + "a" * 190 + "\") and 'yes'.",
    ],
)
def test_what_is_not_long_stays_whole(sentence: str) -> None:
    assert str(DataError(sentence)) == sentence


@pytest.mark.parametrize("near", ["sampel", "kormedmcqa-doctor", "med_qa"])
def test_a_data_source_is_told_from_one_that_is_near(near: str) -> None:
    with pytest.raises(DataError, match="is not a data source; did you mean .*(sample|kormedmcqa:doctor|medqa).*; use"):
        load_items(near)


def test_a_folder_that_is_no_study_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("", encoding="utf-8")
    with pytest.raises(StudyError, match="is not a study folder: run `sae-lens-med study --output "):
        read_study(tmp_path)


def test_the_errors_of_every_room_are_short() -> None:
    with pytest.raises(ReleaseError) as error:
        load_sae(f"{LONG}/{LONG}")
    assert len(str(error.value)) < 500
    assert issubclass(ModelError, SaeLensMedError)


@pytest.mark.parametrize(
    "given",
    [
        [f"--{LONG}"],
        [LONG],
        ["models", f"--{LONG}"],
        ["evaluate", "-m", "m", "-o", "out", "-d", LONG],
        ["evaluate", "-m", "m", "-o", "out", "-d", f"{LONG}.csv"],
        ["evaluate", "-m", "m", "-o", "out", "-d", "sample", "--method", LONG],
        ["evaluate", "-m", "m", "-o", "out", "-d", "sample", "--template", LONG],
        ["evaluate", "-m", "m", "-o", "out", "-d", "sample", "--exclude", LONG],
        ["evaluate", "-m", "m", "-o", LONG, "-d", "sample"],
        ["collect", "-m", "m", "-s", "s", "-o", "out", "--answers", LONG],
        ["intervene", "-m", "m", "-o", "out", "-d", "sample", "-c", LONG],
        ["align", LONG],
        ["compare", LONG, LONG],
        ["train", LONG, "-o", "out"],
        ["train", "tiny", "-o", "out", "--set", f"{LONG}=1"],
        ["train", "tiny", "-o", "out", "--set", f"model.name={LONG}", "--set", f"data.folder={LONG}"],
        ["releases", "show", LONG],
        ["templates", LONG],
    ],
    ids=lambda given: " ".join(given)[:60],
)
def test_no_command_quotes_thousands_of_characters(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, given)
    said = done.output + (str(done.exception) if isinstance(done.exception, SaeLensMedError) else "")
    assert done.exit_code and said and not isinstance(done.exception, OSError | ValueError)
    assert LONG[:400] not in said and len(said) < 1500
