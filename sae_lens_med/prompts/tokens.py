"""`McqItem` -> text -> tokens, with where each part of the item lies.

The question is laid out by the shipped template `letter` (`prompts.templates`), which is lm-evaluation-harness'
`kormedmcqa` task, version 3, byte for byte; a shot ends `정답： {letter}` and an empty line. The explanation is run on
its own, masked (`data.leakage`), never after the question: its features must not be read off the question's.

Character spans come from the tokenizer's offset mapping, repaired so that they are safe to show and to count:

- each token of a syllable that is split over several tokens carries the whole syllable, also a decomposed one;
- white space that a tokenizer trims from its offsets belongs to the token that holds it;
- together the spans cover the text.

Out of scope: generating, and reading an answer out of generated text.
"""

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_lens_med.data.leakage import MaskedText, joins_previous, mask_leakage
from sae_lens_med.errors import ModelError
from sae_lens_med.prompts.templates import find_templates
from sae_lens_med.records import OPTION_LETTERS, PARTS, McqItem, Prompt, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STEM, _OPTION, _EXPLANATION, _OTHER, _REASONING = (
    PARTS.index(p) for p in ("stem", "option", "explanation", "other", "reasoning")
)


def question_prompt(
    item: McqItem,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    shots: Sequence[McqItem] = (),
    chat: bool = False,
    enable_thinking: bool = False,
) -> Prompt:
    """The question with its options up to the answer slot, after the `shots`, which need a gold answer and are laid
    out in the language of `item`. The rest as in `text_prompt`, with `letter_token_ids`.

    Raises `DataError` for a language without a layout, a shot without a gold answer, or the item itself among the
    shots; what `text_prompt` raises.
    """
    rendered = find_templates("letter").of(item).render(item, shots)
    return text_prompt(
        item.id,
        rendered.text,
        tokenizer,
        spans=rendered.spans,
        n_letters=len(item.options),
        chat=chat,
        enable_thinking=enable_thinking,
    )


def text_prompt(
    item_id: str,
    text: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    spans: Sequence[Span] = (),
    n_letters: int = 0,
    chat: bool = False,
    enable_thinking: bool = False,
) -> Prompt:
    """Any text that asks for an answer, as tokens. `spans` say which of its characters are `stem` and `option:A` ...

    `tokenizer` is a fast Hugging Face tokenizer; a BOS token stands first exactly when the tokenizer itself puts one
    there. With `chat`, the whole text is one user turn of the tokenizer's chat template, followed by the template's
    opening of the assistant's turn; `enable_thinking` is handed to the template (Qwen3: off closes the thinking
    block before the slot; on leaves it to the model, so that the slot is then where thinking begins, not where the
    letter stands).

    With `n_letters`, `letter_token_ids` are the tokens that this many option letters become at the end of the text:
    with the space before them that shots have (`정답： A`) where that is one token, else without; after a chat template
    always without.

    Raises `ModelError` when the tokenizer is not a fast one, has no chat template or none that knows thinking, or when
    no option letter is a single token of its own at the end of the text.
    """
    _require_fast(tokenizer)
    body, at = text, 0
    if chat:
        body, at = _in_chat(text, tokenizer, enable_thinking)
    elif enable_thinking:
        raise ModelError("enable_thinking is a setting of the chat template; use it together with chat.")
    moved = tuple(Span(span.start + at, span.end + at, span.label) for span in spans)
    ids, char_spans = _encode(body, tokenizer, add_special_tokens=not chat)
    letters = _letter_tokens(body, ids, tokenizer, n_letters, chat=chat) if n_letters else ()
    parts = _token_parts(body, char_spans, moved, ())
    return Prompt(item_id, body, tuple(ids), char_spans, parts, letters, moved)


def continuation_tokens(
    prompt: Prompt, continuations: Sequence[str], tokenizer: "PreTrainedTokenizerBase", *, chat: bool = False
) -> list[tuple[int, ...]]:
    """The tokens that each continuation becomes after `prompt.text`; `chat` as the prompt was made.

    Prompt and continuation are tokenised together. Where that would change the prompt's own tokens (a continuation
    that merges with the prompt's last character), the continuation is tokenised alone instead.
    """
    own = list(prompt.token_ids)
    found: list[tuple[int, ...]] = []
    together = _ids([prompt.text + text for text in continuations], tokenizer, add_special_tokens=not chat)
    for text, ids in zip(continuations, together, strict=True):
        if len(ids) > len(own) and ids[: len(own)] == own:
            found.append(tuple(ids[len(own) :]))
        else:
            found.append(tuple(_ids([text], tokenizer, add_special_tokens=False)[0]))
    return found


def answered_prompt(prompt: Prompt, text: str, tokenizer: "PreTrainedTokenizerBase", *, chat: bool = False) -> Prompt:
    """`prompt` with `text`, what a model wrote after it, whose tokens are the part `reasoning`; `chat` as the prompt
    was made. The prompt's own tokens stay as they are (`continuation_tokens` says how)."""
    if not text:
        return prompt
    n, start = len(prompt.token_ids), len(prompt.text)
    ids, spans = _encode(prompt.text + text, tokenizer, add_special_tokens=not chat)
    if len(ids) > n and tuple(ids[:n]) == prompt.token_ids:
        written, own = ids[n:], list(spans[n:])
    else:
        written, alone = _encode(text, tokenizer, add_special_tokens=False)
        own = [(a + start, b + start) if b > a else (0, 0) for a, b in alone]
    return Prompt(
        prompt.item_id,
        prompt.text + text,
        (*prompt.token_ids, *written),
        (*prompt.char_spans, *own),
        (*prompt.token_parts, *[_REASONING] * len(written)),
        (),
        (*prompt.part_spans, Span(start, start + len(text), "reasoning")),
    )


def explanation_prompt(item: McqItem, tokenizer: "PreTrainedTokenizerBase") -> tuple[Prompt, MaskedText]:
    """The masked explanation alone. Tokens that touch a placeholder are `other`: they are never measured.

    Raises `DataError` when the item has no explanation, `ModelError` when the tokenizer is not a fast one.
    """
    _require_fast(tokenizer)
    masked = mask_leakage(item)
    ids, char_spans = _encode(masked.text, tokenizer, add_special_tokens=True)
    spans = (Span(0, len(masked.text), "explanation"),)
    parts = _token_parts(masked.text, char_spans, spans, masked.placeholders)
    return Prompt(item.id, masked.text, tuple(ids), char_spans, parts, (), spans), masked


# --- text ---------------------------------------------------------------------------------------------------------


def _in_chat(text: str, tokenizer: "PreTrainedTokenizerBase", enable_thinking: bool) -> tuple[str, int]:
    """The text as the user's turn, up to where the assistant's answer begins, and where in it `text` starts."""
    template = tokenizer.chat_template
    if not template:
        raise ModelError("this tokenizer has no chat template; leave chat out, or use an instruction-tuned model.")
    if enable_thinking and "enable_thinking" not in str(template):
        raise ModelError("the chat template of this tokenizer does not support enable_thinking; leave it out.")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=enable_thinking
    )
    if not isinstance(rendered, str) or rendered.count(text) != 1:
        raise ModelError("the chat template of this tokenizer changes the text of the user's turn; leave chat out.")
    return rendered, rendered.index(text)


# --- tokens -------------------------------------------------------------------------------------------------------


def _require_fast(tokenizer: "PreTrainedTokenizerBase") -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError("a fast tokenizer is needed (tokenizer.json): only it says which characters a token covers.")


def _encode(
    text: str, tokenizer: "PreTrainedTokenizerBase", *, add_special_tokens: bool
) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Token ids and repaired character spans. Special tokens that a tokenizer adds at the end (EOS) are left out:
    the text goes on with the answer."""
    encoded: Any = tokenizer(
        text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    ids, offsets, special = encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"]
    # With `add_special_tokens=False` the mask also marks the markup of a chat template, which is text here.
    added = [bool(s) and tuple(o) == (0, 0) for s, o in zip(special, offsets, strict=True)]
    while added and added[-1]:
        added.pop()
    n = len(added)
    return list(ids[:n]), _repaired(text, [tuple(o) for o in offsets[:n]], added)


def _repaired(text: str, offsets: list[tuple[int, int]], added: list[bool]) -> tuple[tuple[int, int], ...]:
    first, last = _clusters(text)
    spans: list[tuple[int, int]] = []
    covered = 0
    for i, ((start, end), special) in enumerate(zip(offsets, added, strict=True)):
        if special:
            spans.append((0, 0))
            continue
        start = min(start, covered)
        if i == len(offsets) - 1:
            end = len(text)
        covered = max(covered, end)
        spans.append((start, end))
    return tuple((first[s], last[e - 1]) if e > s else (0, 0) for s, e in spans)


def _clusters(text: str) -> tuple[list[int], list[int]]:
    """Per character, where the written character (base and what is combined with it) it belongs to starts and ends."""
    if unicodedata.is_normalized("NFC", text) and not any(map(joins_previous, text)):
        return list(range(len(text))), list(range(1, len(text) + 1))
    first: list[int] = []
    for i, character in enumerate(text):
        first.append(first[-1] if i and joins_previous(character) else i)
    last = list(range(1, len(text) + 1))
    for i in range(len(text) - 2, -1, -1):
        if first[i + 1] == first[i]:
            last[i] = last[i + 1]
    return first, last


def _token_parts(
    text: str, char_spans: Sequence[tuple[int, int]], spans: Sequence[Span], placeholders: Sequence[Span]
) -> tuple[int, ...]:
    """The part of each token: that of its first character that is not white space (of its first, if all are)."""
    part_of = bytearray([_OTHER]) * len(text)
    for span in spans:
        part = {"stem": _STEM, "explanation": _EXPLANATION}.get(span.label, _OPTION)
        part_of[span.start : span.end] = bytes([part]) * (span.end - span.start)
    masked = bytearray(len(text))
    for span in placeholders:
        masked[span.start] = 1
    parts = []
    for start, end in char_spans:
        if start == end or any(masked[start:end]):
            parts.append(_OTHER)
            continue
        token = text[start:end]
        lead = len(token) - len(token.lstrip())
        parts.append(part_of[start + (lead if lead < len(token) else 0)])
    return tuple(parts)


def _letter_tokens(
    text: str, ids: list[int], tokenizer: "PreTrainedTokenizerBase", n_options: int, *, chat: bool
) -> tuple[int, ...]:
    letters = OPTION_LETTERS[:n_options]
    for space in ("",) if chat else (" ", ""):
        longer = _ids([text + space + letter for letter in letters], tokenizer, add_special_tokens=not chat)
        found = {each[-1] for each in longer if len(each) == len(ids) + 1 and each[: len(ids)] == ids}
        if len(found) == n_options:
            return tuple(each[-1] for each in longer)
    raise ModelError(
        f"the option letters {letters[0]} to {letters[-1]} are not single tokens of their own after {text[-12:]!r} "
        "with this tokenizer, so they have no log-probability to compare; score generated answers instead."
    )


def _ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", *, add_special_tokens: bool) -> list[list[int]]:
    """Token ids alone, as `_encode` gives them."""
    encoded: Any = tokenizer(
        list(texts), add_special_tokens=add_special_tokens, return_offsets_mapping=True, return_special_tokens_mask=True
    )
    rows = []
    for ids, offsets, special in zip(
        encoded["input_ids"], encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
    ):
        n = len(ids)
        while n and special[n - 1] and tuple(offsets[n - 1]) == (0, 0):
            n -= 1
        rows.append(list(ids[:n]))
    return rows
