"""Commands that do not come to their end: interrupted, a full disk, a closed pipe, a console of another encoding."""

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sae_lens_med import cli
from sae_lens_med.commands.ends import Commands
from sae_lens_med.errors import StudyError
from sae_lens_med.runs.files import atomic_path, json_line, json_sha256, naming_what_fails, write_json, write_text
from sae_lens_med.runs.folder import Kind, RunFolder, require_output, require_writable
from tests.synthetic_study import synthetic, write_study

KIND = Kind("baking", format=1)

BAKE = """
import sys, time
from pathlib import Path
from sae_lens_med import cli
from sae_lens_med.runs.folder import Kind, RunFolder

@cli.app.command()
def bake(output: Path, resume: bool = False) -> None:
    run = RunFolder(output, Kind("baking", format=1), {"parts": {}})
    run.begin()
    print("ready", flush=True)
    time.sleep(60)

cli.main()
"""


def run(*args: str, **settings: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sae_lens_med", *args]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **settings)  # type: ignore[call-overload]


def ended(work: Callable[[Path], None], *, resume: bool = False, output: Path = Path("out")) -> tuple[int, str]:
    """Status and stderr of a command that does `work` with its output folder."""
    app = typer.Typer(cls=Commands)

    def with_resume(output: Path, resume: bool = False) -> None:
        work(output)

    def without(output: Path) -> None:
        work(output)

    app.command("bake")(with_resume if resume else without)
    app.command("other")(lambda: None)
    done = CliRunner().invoke(app, ["bake", str(output)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    code, said = done.exit_code, done.stderr
    del done
    gc.collect()  # what its traceback held
    return code, said


def begun(output: Path) -> RunFolder:
    run = RunFolder(output, KIND, {"parts": {}})
    run.begin()
    return run


# --- interrupted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_what_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    command, pipe = [sys.executable, "-c", BAKE, "bake", str(tmp_path / "out")], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said == (
        f"Interrupted; what was done is kept in {tmp_path / 'out'}: add --resume to the same command to continue.\n"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"manifest.json"}


def test_an_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    def interrupted(output: Path) -> None:
        run = begun(output)
        raise KeyboardInterrupt(run)

    def early(_output: Path) -> None:
        raise KeyboardInterrupt

    folder = tmp_path / "out"
    assert ended(interrupted, output=folder) == (
        130,
        f"Interrupted; what was done is kept in {folder}: run the same command again to continue.\n",
    )
    assert ended(early) == (130, "Interrupted before anything was written; run the same command again.\n")


# --- what the system refuses


def test_a_full_disk_in_the_middle_of_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "out"

    def full(output: Path) -> None:
        begun(output).write()
        run = begun(output)
        with atomic_path(output / "shard.safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device", None, run)

    code, said = ended(full, resume=True, output=folder)
    assert code == 1
    assert said == (
        f"error: {folder / 'shard.safetensors'}: No space left on device; what was done is kept in {folder}: free some "
        "space, then add --resume to the same command to continue.\n"
    )
    assert not [path for path in folder.iterdir() if path.name.startswith(".shard")]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "a\x1bb"), r"a\x1bb: No such file or directory; check"),
        (PermissionError(13, "Permission denied", "x.csv"), "x.csv: Permission denied; choose another one"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y"), "y: File name too long; choose a shorter name."),
        (OSError("the Hub is away.\nmore"), "error: the Hub is away"),
    ],
)
def test_a_refusal_before_a_run_is_the_users_to_mend(error: OSError, said: str) -> None:
    def fails(_output: Path) -> None:
        raise error

    code, told = ended(fails)
    assert code == 2
    assert said in told and told.count("\n") == 1 and told.endswith(".\n")


def test_a_bug_stays_a_traceback() -> None:
    def wrong(_output: Path) -> None:
        raise ValueError("a bug")

    with pytest.raises(AssertionError, match="a bug"):
        ended(wrong)


def test_a_limit_on_files_ends_a_real_command_in_one_sentence(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", *synthetic(n=12))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    args = ("align", str(study), "--metrics", "overlap", "--no-model", "--permutations", "19")
    done = run(*args, preexec_fn=limit)
    said = done.stderr.decode()
    assert done.returncode == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"error: {study / 'alignment'}/") and "File too large; what was done is kept in" in last
    assert "Traceback" not in said
    again = run(*args)
    assert again.returncode == 0, again.stderr.decode()
    assert not list((study / "alignment").glob(".*"))


class SafetensorError(Exception):
    """As of safetensors."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError('Error while serializing: I/O error: No space left on device (os error 28)"'),
    ],
)
def test_a_library_that_cannot_write_names_the_file(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(OSError, match="No space left") as raised, naming_what_fails(tmp_path / "a.bin"):
        raise error
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "a.bin"))


def test_another_error_or_another_file_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^mine$"), naming_what_fails(tmp_path / "a"):
        raise ValueError("mine")
    other = FileNotFoundError(2, "No such file or directory", "/elsewhere/b")
    with pytest.raises(FileNotFoundError) as raised, naming_what_fails(tmp_path / "a"):
        raise other
    assert raised.value is other


def test_a_name_as_long_as_the_disk_takes_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("열" * 83 + ".json")  # 254 bytes, and what an atomic write adds
    write_json(path, {})
    assert path.read_text(encoding="utf-8") == "{}\n"


# --- before anything is loaded


def test_names_that_no_disk_takes(tmp_path: Path) -> None:
    for check in (lambda p: require_output(p, KIND), require_writable, lambda p: RunFolder(p, KIND, {})):
        with pytest.raises(StudyError, match="bytes, more than the 255 that a disk takes; choose a shorter one.$"):
            check(tmp_path / ("n" * 300) / "out")
        with pytest.raises(StudyError, match="leave room for the names of files; choose a shorter one.$"):
            check(tmp_path.joinpath(*["n" * 200] * 20))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("", (), {"free": 0}))
    with pytest.raises(StudyError, match=f"the disk of {tmp_path} is full; free some space"):
        require_output(tmp_path / "out", KIND)


MODELS = ["--model", "no-such-model", "--data", "sample"]
COMMANDS = {
    "evaluate": ["evaluate", *MODELS],
    "study": ["study", *MODELS, "--sae", "no-such-sae"],
    "demo": ["demo"],
    "intervene": ["intervene", *MODELS, "--conditions", "CONDITIONS"],
    "train": ["train", "gemma-3-270m-res"],
    "sweep": ["sweep", "gemma-3-270m-res"],
    "lm-eval": ["lm-eval", "--model", "sae_lens_med", "--tasks", "none"],
    "frontier": ["frontier", "."],
    "compare": ["compare", "no-such-study"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_cannot_be_is_refused_before_a_model_is_looked_for(name: str, tmp_path: Path) -> None:
    conditions = tmp_path / "conditions.yaml"
    conditions.write_text("conditions:\n  - {name: s, kind: splice}\nmatched_random: 0\n", encoding="utf-8")
    args = [str(conditions) if each == "CONDITIONS" else each for each in COMMANDS[name]]
    option = "--output_path" if name == "lm-eval" else "--output"
    (tmp_path / "dangling").symlink_to("nowhere")
    outputs = (conditions, conditions / "below", Path("/dev/full"), tmp_path / "dangling", tmp_path / ("n" * 300))
    for output in outputs:
        done = CliRunner().invoke(cli.app, [*args, option, str(output)])
        assert isinstance(done.exception, StudyError), (output, done.output, done.exception)
        assert "choose a" in str(done.exception)
    if name in ("lm-eval", "frontier"):  # which add to what is there
        return
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    done = CliRunner().invoke(cli.app, [*args, option, str(tmp_path / "taken")])
    assert isinstance(done.exception, StudyError), (done.output, done.exception)
    assert "is not empty and contains no" in str(done.exception)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


# --- stdout


def test_a_reader_that_has_read_enough() -> None:
    command = f"{sys.executable} -m sae_lens_med list-metrics | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=120, check=False)
    assert done.stdout and done.stderr == b""


def test_an_output_that_cannot_be_written() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "sae_lens_med", "models", "--json"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    said = done.stderr.decode()
    assert said == "error: nothing can be written to stdout (No space left on device); free some space.\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp949", "utf-8"])
def test_a_console_of_any_encoding_and_files_in_utf_8(encoding: str, tmp_path: Path) -> None:
    items, features, results = synthetic(n=12)
    study = write_study(tmp_path / "연구é", items, features, results)
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    args = ("compare", str(study), "--variants", "sae,raw", "--permutations", "19", "--output", str(tmp_path / "out"))
    done = run(*args, env=env)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    done.stdout.decode(encoding)
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "연구é" in page or r"\udc" in page  # in a C locale Python has the bytes of a name
    assert "연구용 도구입니다" in page


def test_names_that_are_not_utf_8_are_kept(tmp_path: Path) -> None:
    value = {"source": "a\udcffb"}
    assert json_line(value) == '{"source": "a\\udcffb"}\n'
    write_json(tmp_path / "a.json", value)
    assert json_sha256(value) != json_sha256({"source": "ab"})
    write_text(tmp_path / "plain.txt", "열")
