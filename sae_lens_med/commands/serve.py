"""`serve` and `export`: a study in the browser, from a server or from files. Heavy imports are inside the commands."""

import os
import socket
import sys
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sae_lens_med.commands.options import AsJson
from sae_lens_med.commands.output import say, say_json

if TYPE_CHECKING:
    from sae_lens_med.app.maps.opened import OpenMap
    from sae_lens_med.app.opened import OpenStudy

Study = Annotated[Path, typer.Argument(help="The folder of a study.")]
Verify = Annotated[bool, typer.Option("--verify", help="Hash the collected features before they are shown.")]
NoIndex = Annotated[
    bool, typer.Option("--no-index", help="Do not build the index where it is missing or stale; show what is there.")
]


def register(app: typer.Typer) -> None:
    """Mount the commands of this module."""
    app.command()(serve)
    app.command()(export)


def serve(
    study: Study,
    other: Annotated[Path | None, typer.Argument(metavar="STUDY2", help="A second one, to compare with.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any that is free.")] = 8_000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's own needs the token that is printed.")
    ] = "127.0.0.1",
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = True,
    rating_only: Annotated[
        bool, typer.Option("--rating-only", help="Serve the pages of raters alone, so that they stay blinded.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Open the model of the study at once, in a process of its own: where it is now. With two studies, "
            "once for each. Without this, what the study names is opened when it is first asked for.",
        ),
    ] = None,
    sae: Annotated[
        list[str] | None,
        typer.Option("--sae", "-s", help="Where the study's SAE is now; by default, where the study found it."),
    ] = None,
    knowledge_map: Annotated[
        list[Path] | None,
        typer.Option(
            "--map",
            help="The folder of a map layers of the study's model; by default map/ of the study. With two studies, "
            "once for each.",
        ),
    ] = None,
    map_features: Annotated[
        list[Path] | None,
        typer.Option("--map-features", help="The folder of a map features, for the cells of --map."),
    ] = None,
    no_model: Annotated[bool, typer.Option("--no-model", help="Never run a model; reading needs none.")] = False,
    idle_minutes: Annotated[
        float, typer.Option(min=0.1, max=1440, help="After so long without use the model is closed.")
    ] = 10.0,
    verify: Verify = False,
    no_index: NoIndex = False,
) -> None:
    """LLMXAI: read a study in the browser, case by case and feature by feature. Reading needs no model and no GPU.

    What if a feature were off, or a question different? That runs the study's model, in a process of its own.

    Ctrl-C ends it.

    Example: sae-lens-med serve demo-study

    Example: sae-lens-med serve demo-study --model gemma-3-270m

    Example: sae-lens-med serve demo-study --map map-gemma --map-features features-gemma
    """
    _require_extra()
    import uvicorn

    from sae_lens_med.app.create import create_app
    from sae_lens_med.app.live.routes import Acting
    from sae_lens_med.app.memory import keep_little
    from sae_lens_med.app.settings import Settings
    from sae_lens_med.errors import ConfigError
    from sae_lens_med.runs.files import DISCLAIMER

    keep_little()
    settings = Settings(host=host, port=port, rating_only=rating_only)
    if other is not None and other.resolve() == study.resolve():
        raise ConfigError(f"{other} is the study that is served already; give another one to compare it with.")
    folders = [study, *([] if other is None else [other])]
    if rating_only and (model or sae):
        raise ConfigError("raters run no model: leave out --model and --sae, or --rating-only.")
    places = _places(model or [], sae or [], len(folders), no_model=no_model)
    maps = _maps(folders, knowledge_map or [], map_features or [])
    studies = [_opened(folder, verify=verify, index=not no_index) for folder in folders]
    listening = _listen(settings.host, settings.port)
    url = settings.url(listening.getsockname()[1])
    say(DISCLAIMER)
    say(f"LLMXAI: {url}")
    say("Ctrl-C ends it.", err=True)
    if open_browser and sys.stdout is not None and sys.stdout.isatty():
        webbrowser.open(url)
    acting = Acting() if no_model or rating_only else Acting.serving(places, idle_seconds=60 * idle_minutes)
    app = create_app(studies, settings, acting, maps)
    if model:
        acting.preload(studies[0].folder, 1)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,  # who follows a run does not keep the server from ending
    )
    try:
        with suppress(KeyboardInterrupt):  # how it ends
            uvicorn.Server(config).run(sockets=[listening])
    finally:
        acting.close()


def export(
    study: Study,
    static: Annotated[
        Path | None, typer.Option("--static", help="Folder for pages that open from disk: new, or empty.")
    ] = None,
    neuronpedia: Annotated[
        Path | None,
        typer.Option(
            "--neuronpedia",
            help="Folder for files that Neuronpedia reads: new, empty, or that of the same export, which goes on.",
        ),
    ] = None,
    features: Annotated[
        int,
        typer.Option(
            min=0,
            max=100_000,
            help="Most features: with a page of their own, or for Neuronpedia (labelled first).",
        ),
    ] = 2_000,
    model_id: Annotated[
        str | None, typer.Option(help="Neuronpedia's id of the model; by default the model's name in lower case.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(help="Neuronpedia's id of the SAE, LAYER-SET; by default of its hook and size: 9-med-res-16k."),
    ] = None,
    creator: Annotated[str | None, typer.Option(help="Who is named as the creator at Neuronpedia.")] = None,
    accept_licence: Annotated[
        bool,
        typer.Option(
            "--accept-licence", help="You may republish the texts, though their licence does not allow everybody to."
        ),
    ] = False,
    verify: Verify = False,
    no_index: NoIndex = False,
    as_json: AsJson = False,
) -> None:
    """A study as a folder: of pages that open from disk (--static), or of files for Neuronpedia (--neuronpedia).

    Questions, options and explanations are copied into either: mind the licence of the data before passing them on.
    Nothing is uploaded; for Neuronpedia the next steps are printed.

    Example: sae-lens-med export demo-study --static demo-pages

    Example: sae-lens-med export demo-study --neuronpedia to-neuronpedia --model-id gemma-3-270m
    """
    from sae_lens_med.errors import ConfigError

    if (static is None) == (neuronpedia is None):
        raise ConfigError("an export is of one form: give --static DIR for pages, or --neuronpedia DIR.")
    if neuronpedia is None and (model_id or source or creator or accept_licence):
        raise ConfigError("--model-id, --source, --creator and --accept-licence are for --neuronpedia; leave them out.")
    if static is not None:
        _require_extra()
        _static(study, static, features, verify=verify, index=not no_index, as_json=as_json)
        return
    assert neuronpedia is not None  # one of both was given
    from sae_lens_med.app.neuronpedia.export import Wanted, export_neuronpedia
    from sae_lens_med.runs.progress import progress_bar

    wanted = Wanted(model_id, source, creator or "anonymous", features, accept_licence)
    opened = _opened(study, verify=verify, index=not no_index)
    with progress_bar(sys.stderr is not None and sys.stderr.isatty()) as bar:
        task = bar.add_task("features", total=None)
        done = export_neuronpedia(opened, neuronpedia, wanted, advance=lambda n: bar.update(task, advance=n))
    if as_json:
        say_json(done.to_dict())
        return
    say(f"{done.model_id}/{done.source}: " + ", ".join(f"{n} {what}" for what, n in done.counts.items()))
    for missing in done.missing:
        say(f"without {missing['what']}, which this makes: {missing['command']}")
    say(f"Written: {neuronpedia}. Nothing was uploaded; what you can do now:")
    for step in done.next:
        say(f"  {step}")


def _static(study: Path, folder: Path, features: int, *, verify: bool, index: bool, as_json: bool) -> None:
    from sae_lens_med.app.export import export_study, n_pages
    from sae_lens_med.runs.progress import progress_bar

    opened = _opened(study, verify=verify, index=index)
    with progress_bar(sys.stderr is not None and sys.stderr.isatty()) as bar:
        task = bar.add_task("pages", total=n_pages(opened, features))
        written = export_study(opened, folder, most_features=features, advance=lambda n: bar.update(task, advance=n))
    if as_json:
        say_json({"output": str(folder), "files": written})
        return
    say(f"{written} files: {folder / 'index.html'}")


def _opened(folder: Path, *, verify: bool, index: bool) -> "OpenStudy":
    from sae_lens_med.app.index import build_index
    from sae_lens_med.app.opened import OpenStudy
    from sae_lens_med.errors import StudyError

    study = OpenStudy.open(folder, verify=verify)
    lacking = {missing.what for missing in study.missing}
    if index and "missing.index" in lacking and "missing.features" not in lacking:
        if not os.access(folder, os.W_OK):
            raise StudyError(
                f"{folder} has no index, and you may not write one there; copy the study, or add --no-index to see "
                "what is there."
            )
        build_index(folder)
        study = OpenStudy.open(folder)
    for missing in study.missing:
        what = missing.what.removeprefix("missing.")
        say(f"{study.name}: {what} is missing; {missing.reason or missing.command}", err=True)
    return study


def _maps(folders: list[Path], maps: list[Path], features: list[Path]) -> "dict[int, OpenMap]":
    """Number of the study, from 1 -> its map: those that are given, or that lie in the study."""
    from sae_lens_med.app.maps.opened import OpenMap
    from sae_lens_med.errors import ConfigError

    if len(maps) > len(folders):
        raise ConfigError(f"--map is given {len(maps)} times for {len(folders)} studies; give it once for each.")
    if len(features) > len(maps):
        raise ConfigError("--map-features is for the cells of --map: give it at most once for each --map.")
    found = {}
    for number, folder in enumerate(folders, 1):
        if number <= len(maps):
            own = features[number - 1] if number <= len(features) else None
            found[number] = OpenMap.open(maps[number - 1], own)
        elif (beside := OpenMap.beside(folder)) is not None:
            found[number] = beside
    return found


def _places(models: list[str], saes: list[str], n: int, *, no_model: bool) -> tuple[tuple[str | None, str | None], ...]:
    """Per study, where its model and its SAE are."""
    from sae_lens_med.errors import ConfigError

    if no_model and (models or saes):
        raise ConfigError("--no-model and --model or --sae contradict each other; leave one of them out.")
    for option, given in (("--model", models), ("--sae", saes)):
        if len(given) > n:
            raise ConfigError(f"{option} is given {len(given)} times for {n} studies; give it once for each.")
    missing = [None] * n
    return tuple(zip([*models, *missing][:n], [*saes, *missing][:n], strict=True))


def _listen(host: str, port: int) -> socket.socket:
    from sae_lens_med.errors import ConfigError

    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # whoever opens the address at once has to wait, and is not refused
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {host}, port {port} ({error.strerror}); choose another --port (0: any) or --host."
        ) from error
    return listening


def _require_extra() -> None:
    from importlib.util import find_spec

    from sae_lens_med.errors import MissingExtraError

    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "app", "LLMXAI")
