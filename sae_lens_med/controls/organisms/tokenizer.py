"""The words of the exam as an ordinary Hugging Face tokenizer: one token a word, Korean particles apart.

A unigram model with pieces that are known beforehand, so that nothing has to be learned: every word that stands in
`texts.vocabulary_texts`, each name of the tables cut off from the particle that follows it. A word within a line begins
with the space before it. What the exam does not hold becomes bytes, so that any text can be read. `<bos>` stands before
every text, as in Llama.
"""

import re
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sae_lens_med.controls.organisms.cases import N_OPTIONS
from sae_lens_med.controls.organisms.tables import (
    COMPLAINTS,
    DIAGNOSIS,
    DIRECTIONS,
    DISEASES,
    DISTRACTORS,
    LONGER,
    MEASURES,
    SEXES,
)
from sae_lens_med.controls.organisms.texts import vocabulary_texts
from sae_lens_med.records import OPTION_LETTERS

SPACE = "\u2581"
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
PAD, EOS, BOS, UNK = range(len(SPECIAL))
_BYTE_SCORE = -10.0
"""Of a byte: any split into known words is better."""
_RUN = re.compile(r"( ?)([\uac00-\ud7a3]+|[A-Za-z]+(?:-[A-Za-z]+)*|[0-9]+|[^\s])|(\n)")


def make_tokenizer(language: str) -> PreTrainedTokenizerFast:
    """The tokenizer of all organisms of a language."""
    words = _words(language)
    pieces = [
        *((name, 0.0) for name in SPECIAL),
        *((f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256)),
        *((word, -1.0) for word in words),
    ]
    core = Tokenizer(models.Unigram(pieces, unk_id=UNK, byte_fallback=True))
    # The stubs of tokenizers leave these three attributes read-only.
    core.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme="never")  # type: ignore[assignment]
    core.decoder = decoders.Sequence(  # type: ignore[assignment]
        [decoders.ByteFallback(), decoders.Metaspace(SPACE, prepend_scheme="never"), decoders.Fuse()]
    )
    core.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
        name_or_path=f"organism-{language}",
    )


def _words(language: str) -> list[str]:
    """Every piece, in the order of the alphabet: as it stands at a line's beginning, and after a space."""
    nouns = _nouns(language)
    found: set[str] = {f"{space}{letter}" for letter in OPTION_LETTERS[:N_OPTIONS] for space in ("", SPACE)}
    for text in vocabulary_texts(language):
        for space, word, line in _RUN.findall(text):
            if line:
                found.add(line)
                continue
            lead = SPACE if space else ""
            noun = next((n for n in nouns if word.startswith(n)), word)
            found.add(f"{lead}{noun}")
            if rest := word[len(noun) :]:
                found.add(rest)
    return sorted(found)


def _nouns(language: str) -> list[str]:
    """The words that a particle may follow, the longest first."""
    names: list[Any] = [*MEASURES.values(), *DISTRACTORS, *COMPLAINTS, *SEXES, *DIRECTIONS.values(), LONGER]
    for disease in DISEASES:
        names += [disease.name, disease.drug, disease.place]
    words = {DIAGNOSIS[language], *(word for name in names for word in name.of(language).split())}
    return sorted(words, key=lambda word: (-len(word), word))
