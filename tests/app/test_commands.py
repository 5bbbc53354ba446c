"""`serve` and `export` as they are typed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

COMMAND = [sys.executable, "-W", "ignore", "-m", "sae_lens_med"]


@contextmanager
def _started(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server that runs, and the address that it printed."""
    process = subprocess.Popen(
        [*COMMAND, "serve", *arguments, "--port", "0", "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    try:
        address = ""
        for line in process.stdout:
            if found := re.search(r"LLMXAI: (http://\S+)", line):
                address = found[1]
                break
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_serve_prints_an_address_that_answers_and_ends_quietly(study_folder: Path) -> None:
    with _started(str(study_folder)) as (process, address):
        answer = httpx.get(f"{address}1/cases", timeout=60)
        assert answer.status_code == 200 and "V4R" in answer.text
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0 and "Traceback" not in said and "Interrupted" not in said


def test_serve_on_another_address_prints_the_token(study_folder: Path) -> None:
    with _started(str(study_folder), "--host", "0.0.0.0") as (_, address):
        bare, _, token = address.partition("?token=")
        assert len(token) >= 32
        assert httpx.get(f"{bare}1/cases", timeout=60).status_code == 401
        with httpx.Client(follow_redirects=True, timeout=60) as client:
            answer = client.get(address)
            assert answer.status_code == 200 and token not in str(answer.url) and "V4R" in answer.text


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)


def test_what_cannot_be_served_is_one_sentence(study_folder: Path, tmp_path: Path) -> None:
    done = _run("serve", str(tmp_path))
    assert done.returncode == 2 and "is not a study folder" in done.stderr and done.stderr.count("\n") == 1
    done = _run("serve", str(study_folder), str(study_folder / ".." / study_folder.name))
    assert done.returncode == 2 and "is the study that is served already" in done.stderr
    assert done.stderr.count("\n") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _run("serve", str(study_folder), "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2 and "choose another --port" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_study_that_cannot_be_written_to_is_shown_without_an_index(study_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study_folder, folder, ignore=shutil.ignore_patterns("app"))
    folder.chmod(0o555)
    done = _run("serve", str(folder), "--port", "0", "--no-open")
    assert done.returncode == 2 and "--no-index" in done.stderr and done.stderr.count("\n") == 1
    with _started(str(folder), "--no-index") as (_, address):
        assert httpx.get(f"{address}1/cases", timeout=60).status_code == 200
    folder.chmod(0o755)


def test_export_writes_a_folder_and_refuses_one_that_holds_something(study_folder: Path, tmp_path: Path) -> None:
    done = _run("export", str(study_folder), "--static", str(tmp_path / "pages"), "--features", "3")
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout
    assert len(list((tmp_path / "pages" / "ko").glob("feature-*.html"))) == 3
    again = _run("export", str(study_folder), "--static", str(tmp_path / "pages"))
    assert again.returncode == 2 and "holds something already" in again.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("option", ["--port", "--static"])
def test_help_says_what_they_do(option: str) -> None:
    done = _run("serve" if option == "--port" else "export", "--help")
    assert done.returncode == 0 and option in done.stdout
