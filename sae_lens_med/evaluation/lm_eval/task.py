"""lm-evaluation-harness' own `kormedmcqa` task, on questions that are at hand instead of on the Hub.

    task = kormedmcqa_task(rows, shots)                  # as lm-eval has it: generate_until, its filter, its metric
    task = kormedmcqa_task(rows, shots, letters=True)    # the same prompts, scored by the log-probabilities of A to E
    lm_eval.simple_evaluate(model=..., tasks=[task], num_fewshot=len(shots))

Prompt, few-shot sampler, filter and generation settings are read from the YAML files that lm-eval brings; nothing of
them is written down here. Only the data set is another, and `letters` swaps the scoring: lm-eval has no log-likelihood
variant of this task. Needs the extra `[eval]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_lens_med.data.rows import KORMEDMCQA_LETTERS
from sae_lens_med.errors import DataError, MissingExtraError

try:
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
except ModuleNotFoundError as error:
    raise MissingExtraError("lm-eval", "eval", "lm-evaluation-harness' task") from error

ORIGINAL = "kormedmcqa_doctor"
"""Which of the four tasks is taken; they differ only in the part of the data set that they fetch."""
COLUMNS = ("question", *KORMEDMCQA_LETTERS, "answer")

LETTERS: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_choice": list(KORMEDMCQA_LETTERS),
    "doc_to_target": "{{answer-1}}",
    "generation_kwargs": None,
    "filter_list": None,
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def kormedmcqa_task(
    rows: Sequence[Mapping[str, Any]],
    shots: Sequence[Mapping[str, Any]] = (),
    *,
    letters: bool = False,
    name: str = "kormedmcqa_at_hand",
) -> ConfigurableTask:
    """The task over `rows`, with `shots` in the place of the few-shot split.

    Args:
        rows: in KorMedMCQA's schema: `question`, `A` to `E`, and `answer` from 1 to 5. Other keys are left out.
        shots: rows of the same schema; how many of them are used is lm-eval's `num_fewshot`.
        letters: `multiple_choice` over the letters A to E.
        name: under which lm-eval reports it.

    Raises `DataError` when a row lacks one of the columns or there are no rows.
    """
    from datasets import Dataset, DatasetDict

    if not rows:
        raise DataError("there are no rows to make an lm-eval task from; pass at least one question.")
    splits = {"test": _columns(rows, "row"), "fewshot": _columns(shots, "shot")}
    found = DatasetDict({split: Dataset.from_list(kept) for split, kept in splits.items() if kept})
    folder = Path(lm_eval.tasks.__file__).parent / "kormedmcqa"
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=folder)
    changed: dict[str, Any] = {"task": ORIGINAL, "custom_dataset": lambda **_: found, **(LETTERS if letters else {})}
    if not shots:
        changed["fewshot_split"] = None
    # A group of one: the way by which lm-eval lets settings of a task that it knows be changed.
    task = manager.load([{"group": name, "task": [changed]}])["tasks"][ORIGINAL]
    assert isinstance(task, ConfigurableTask)
    task.set_config("task", name)
    return task


def _columns(rows: Sequence[Mapping[str, Any]], what: str) -> list[dict[str, Any]]:
    for number, row in enumerate(rows, 1):
        if lacking := [column for column in COLUMNS if column not in row]:
            raise DataError(
                f"{what} {number} for lm-eval's kormedmcqa is missing {', '.join(lacking)}; it needs question, "
                "A to E and "
                "answer (1 to 5)."
            )
    return [{column: row[column] for column in COLUMNS} for row in rows]
