"""Cut long text where a reader would: at blank lines, else at lines, else at spaces, else anywhere.

The pieces joined are the text, character for character, so nothing is lost or doubled by cutting.
"""

from collections.abc import Iterable, Iterator

__all__ = ["MAX_BLOCK_CHARS", "cut_place", "cut_stream"]

MAX_BLOCK_CHARS = 1 << 20
"""Longest piece of text held at once; at most 4 MB in memory, so a file of any size, one endless line included, streams."""


def cut_place(text: str, low: int, high: int) -> int:
    """The last good place to cut `text` after `low` and not after `high`; `high` itself where there is none."""
    for mark in ("\n\n", "\n", " "):
        found = text.rfind(mark, low, high)
        if found >= 0:
            place = found + len(mark)
            while mark == "\n\n" and place < high and text[place] == "\n":  # all blank lines stay with what they end
                place += 1
            return place
    return high


def cut_stream(chunks: Iterable[str], max_chars: int = MAX_BLOCK_CHARS) -> Iterator[tuple[int, str]]:
    """The text of `chunks` in pieces of at most `max_chars`, each with the 1-based line it starts on."""
    line, waiting = 1, ""
    for chunk in chunks:
        waiting += chunk
        while len(waiting) > max_chars:
            place = cut_place(waiting, max_chars // 2, max_chars)
            piece, waiting = waiting[:place], waiting[place:]
            yield line, piece
            line += piece.count("\n")
    if waiting:
        yield line, waiting
