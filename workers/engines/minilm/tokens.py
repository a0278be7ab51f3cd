"""Cuts a text into the windows of tokens that the model can see."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenizers import Tokenizer

WINDOW_TOKENS = 256
"""What sentence-transformers sets as `max_seq_length` of all-MiniLM-L6-v2; with [CLS] and [SEP]."""

_CLS, _SEP = 101, 102
_ROOM = WINDOW_TOKENS - 2
_PIECE_CHARS = 16_384
_SPACE = re.compile(r"[ \n\t]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text's tokens, without [CLS] and [SEP].

    Attributes:
        ids: the tokens.
        begins: for each, whether a word begins there.
        is_whole: False if reading stopped early because the limit was passed.
    """

    ids: list[int]
    begins: list[bool]
    is_whole: bool

    def windows(self) -> list[list[int]]:
        """Consecutive windows, [CLS] and [SEP] included; every token is in exactly one.

        Windows are filled up, but none ends within a word, as the model has never seen a text start there.
        """
        windows: list[list[int]] = []
        start = 0
        while start < len(self.ids):
            end = min(start + _ROOM, len(self.ids))
            cut = end
            while cut < len(self.ids) and cut > start and not self.begins[cut]:
                cut -= 1
            end = cut if cut > start else end
            windows.append([_CLS, *self.ids[start:end], _SEP])
            start = end
        return windows

    def first_window(self) -> list[int]:
        """The start of the text, cut at the last token that fits: what sentence-transformers sees of it."""
        return [_CLS, *self.ids[:_ROOM], _SEP]


class WordPieces:
    """The model's tokenizer.

    Args:
        definition: content of tokenizer.json.
    """

    def __init__(self, definition: bytes) -> None:
        self._tokenizer = Tokenizer.from_str(definition.decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def read(self, text: str, *, most: int) -> Tokens:
        """The tokens of a text; of one with more than `most`, only the start that shows it.

        A text is read in pieces that end at white space, where no token crosses, so a huge text takes no longer
        than one at the limit.
        """
        ids: list[int] = []
        begins: list[bool] = []
        start = 0
        while start < len(text) and len(ids) <= most:
            space = _SPACE.search(text, start + _PIECE_CHARS)
            end = space.start() if space else len(text)
            piece = self._tokenizer.encode(text[start:end], add_special_tokens=False)
            words = piece.word_ids
            ids += piece.ids
            begins += [i == 0 or word is None or word != words[i - 1] for i, word in enumerate(words)]
            start = end
        return Tokens(ids, begins, is_whole=start >= len(text))
