"""What a model wrote in a finished evaluation, as prompts: the question as it was put, followed by the answer's text.

One pass over such a prompt gives the features of the text without generating it again (teacher forcing); the text may
come from a serving engine (`endpoint_run`), where the same model runs without an SAE. Its tokens are the part
`reasoning`. The text is tokenised again: where the engine had split a word otherwise than the tokenizer does, the
tokens are the tokenizer's.

The layout is that of the evaluation: its template, shots and chat template. Where the text begins with a thought, the
chat template's thinking is on, as it was when the text was written.

Out of scope: running the model (`features.collect`); methods that sample several texts. Loads no torch.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_med.data import LoadedItems
from sae_lens_med.errors import ConfigError, DataError, StudyError
from sae_lens_med.evaluation.results import Evaluation
from sae_lens_med.prompts.shots import choose_shots
from sae_lens_med.prompts.templates import LANGUAGES, Templates, find_templates
from sae_lens_med.prompts.tokens import answered_prompt, text_prompt
from sae_lens_med.records import McqItem, Prompt
from sae_lens_med.runs.files import json_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHT = "<think>"


def items_of(run: Evaluation, data: LoadedItems) -> tuple[tuple[McqItem, ...], LoadedItems]:
    """Shots and items of the evaluation, out of the `data` that it was made on.

    Raises `StudyError` when `data` is other data than that.
    """
    ids = list(run.provenance.settings.get("shots", []))
    shots, rest = choose_shots(data, len(ids))
    if [shot.id for shot in shots] != ids or rest.sha256 != run.provenance.data["sha256"]:
        raise StudyError(
            f"{run.folder} was evaluated on other items than {data.source} gives; use the data, split and limit of "
            f"that evaluation ({run.provenance.data['source']})."
        )
    return shots, rest


def written_prompts(
    run: Evaluation, items: Sequence[McqItem], shots: Sequence[McqItem], tokenizer: "PreTrainedTokenizerBase"
) -> dict[str, Prompt]:
    """For each item, by id, its question and what was written after it.

    Raises `ConfigError` for an evaluation by a method that writes no single text, or whose template has changed;
    `DataError` for an item that has no result; `ModelError` for a tokenizer without the chat template that is needed.
    """
    settings = run.provenance.settings
    method = settings["method"]
    if method not in ("generate", "cot"):
        why = "samples several texts" if method == "self-consistency" else "writes none"
        raise ConfigError(
            f"features are read from one text for each question, and the method {method} of {run.folder} {why}; "
            "evaluate with cot or generate."
        )
    texts = {result.id: result.text for result in run.results}
    templates = _templates(settings, [item.language for item in items], str(run.folder))
    chat, thinks = bool(settings["chat"]), bool(settings["enable_thinking"])
    knows_thinking = "enable_thinking" in str(tokenizer.chat_template)
    prompts: dict[str, Prompt] = {}
    for item in items:
        text = texts.get(item.id)
        if text is None:
            raise DataError(f"{run.folder} has no text for the item {item.id!r}; evaluate again.")
        rendered = templates.of(item).render(item, shots)
        thought = text.lstrip().startswith(THOUGHT) and knows_thinking
        question = text_prompt(
            item.id,
            rendered.text,
            tokenizer,
            spans=rendered.spans,
            chat=chat,
            enable_thinking=chat and (thinks or thought),
        )
        prompts[item.id] = answered_prompt(question, text, tokenizer, chat=chat)
    return prompts


def about(run: Evaluation) -> dict[str, Any]:
    """What is recorded of the texts beside the features."""
    return {
        "model": run.provenance.model["name"],
        "method": run.provenance.settings["method"],
        "texts_sha256": json_sha256([[result.id, result.text] for result in run.results]),
    }


def _templates(settings: Mapping[str, Any], languages: Sequence[str], where: str) -> Templates:
    """Those of the evaluation, found again by name and hash."""
    name = settings["template"]
    for language in (None, *LANGUAGES):
        try:
            found = find_templates(name, language)
        except ConfigError:
            if language is None:
                raise
            continue  # a file or a name with its own language takes none
        if found.sha256(languages) == settings["template_sha256"]:
            return found
    raise ConfigError(
        f"the template {name} is not the one that {where} was evaluated with; put that file back, or evaluate again."
    )
