"""`sae-lens-med lm-eval`: lm-evaluation-harness' own command line, with this package's models registered."""

import sys
from collections.abc import Sequence
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    """Mount the command of this module."""
    app.command(
        "lm-eval",
        # Every argument is lm-eval's, --help too.
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
        add_help_option=False,
    )(lm_eval)


def lm_eval(context: typer.Context) -> None:
    """Run lm-evaluation-harness with --model sae_lens_med: any of its tasks, on a model with an SAE and interventions.

    The arguments are those of `lm-eval`; `sae-lens-med lm-eval run --help` lists them. --model_args are pretrained,
    sae, error_term, intervention, dtype, ... Needs the extra 'eval'.

    Example: sae-lens-med lm-eval --model sae_lens_med --model_args pretrained=gemma-3-270m,sae=RELEASE/ID
    --tasks kormedmcqa --num_fewshot 5 --output_path results
    """
    _require_output(context.args)
    import sae_lens_med.evaluation.lm_eval.model  # noqa: F401, I001 - registers the model, or says what is missing
    from lm_eval.__main__ import cli_evaluate

    given = sys.argv
    sys.argv = ["lm-eval", *context.args]
    try:
        cli_evaluate()
    finally:
        sys.argv = given


def _require_output(args: Sequence[str]) -> None:
    """lm-eval would find out after the run."""
    from sae_lens_med.runs.folder import require_writable

    for option, value in zip(args, [*args[1:], ""], strict=True):
        name, separator, joined = option.partition("=")
        if name in ("--output_path", "--output-path", "-o") and (given := joined if separator else value):
            path = Path(given)
            # A name that ends in .json is that of a file in its folder.
            require_writable(path.parent if path.suffix == ".json" else path)
