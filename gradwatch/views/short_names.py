"""Names that are cut to a width, so that a reader can still tell them apart. A training has no use for them."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from gradwatch.text import shorten

_NUMBERS = re.compile(r"\d+")
_ESCAPES = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def with_whole_escapes(short: Sequence[str], names: Sequence[str], mark: str) -> list[str]:
    r"""Names that were cut, without what is left of an escape of `ascii_only` that a cut went through.

    Names that would then look the same stay as they are.

    >>> names = [r"encodeur.r\xe9seau.poids", "encoder.weight"]
    >>> print(*with_whole_escapes(["encodeur.r\\x..eau.poids", "enc..ht"], names, ".."))
    encodeur.r..eau.poids enc..ht
    """
    whole = [_with_whole_escapes(cut, name, mark) for cut, name in zip(short, names, strict=True)]
    return whole if len(set(whole)) == len(set(short)) else list(short)


def _with_whole_escapes(short: str, name: str, mark: str) -> str:
    escapes = [found.span() for found in _ESCAPES.finditer(name)]
    pieces = _pieces(short, name, mark) if escapes and short != name else None
    if pieces is None:
        return short
    whole = []
    for begin, end in pieces:
        begins = next((after for before, after in escapes if before < begin < after), begin)
        ends = next((before for before, after in escapes if before < end < after), end)
        whole.append(name[begins : max(begins, ends)])
    return mark.join(whole)


def _pieces(short: str, name: str, mark: str, after: int = 0) -> list[tuple[int, int]] | None:
    """Where the pieces of a cut name stand in it, from ``after`` on; None: they don't, as in one that was abbreviated.

    A name may hold what looks like a mark.
    """
    begin = len(name) - len(short)
    if name.endswith(short) and begin >= after:
        return [(begin, len(name))]
    at = short.find(mark)
    while at >= 0:
        begin = name.find(short[:at], after)
        rest = None if begin < 0 else _pieces(short[at + len(mark) :], name, mark, begin + at)
        if rest is not None:
            return [(begin, begin + at), *rest]
        at = short.find(mark, at + 1)
    return None


def shorten_all(names: Sequence[str], width: int, mark: str = "…") -> list[str]:
    """Cut names to at most ``width`` characters such that different names stay different where possible.

    Names that would look the same keep the part in which they differ.

    >>> shorten_all(["encoder.layer.0.attention.query.weight", "encoder.layer.1.attention.query.weight"], 22)
    ['….layer.0.atten…weight', '….layer.1.atten…weight']
    """
    cut = {name: shorten(name, width, mark) for name in names}
    alike: dict[str, list[str]] = {}
    for name, short in cut.items():
        alike.setdefault(short, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            cut.update(zip(group, _around_difference(group, width, mark), strict=True))
    return [cut[name] for name in names]


def shorten_layers(names: Sequence[str], width: int, mark: str = "…") -> tuple[str, list[str]]:
    """Cut the names of layers to at most ``width`` characters, and return the common beginning that they lost.

    They lose it only if one of them is too long. Numbers, which tell blocks apart, are cut last, and different
    names stay different where possible. Where words can't be cut in their middle for that, only the beginning of
    each is kept.

    >>> shorten_layers(["model.h.0.attn.c_attn.weight", "model.h.11.mlp.c_proj.weight"], 18)
    ('model.h.', ['0.attn.c_…n.weight', '11.mlp.c_p….weight'])
    >>> shorten_layers(["encoder.layers.11.self_attn.out_proj.weight", "head.weight"], 20)
    ('', ['….11.self_at….weight', 'head.weight'])
    >>> shorten_layers(["net.block1.layer11.conv2.weight", "net.block2.layer11.conv2.weight"], 15)
    ('net.', ['b1.l11.conv2.w', 'b2.l11.conv2.w'])
    """
    if all(len(name) <= width for name in names):
        return "", list(names)
    lost = _common_folder(names)
    rest = [name.removeprefix(lost) for name in names]
    cut = _keeping_numbers(rest, width, mark)
    if _are_true(cut, rest):
        return lost, cut
    abbreviated = _abbreviated(rest, width)
    if max(map(len, abbreviated)) <= width and _are_true(abbreviated, rest):
        return lost, abbreviated
    return lost, shorten_all(rest, width, mark) if len(set(cut)) < len(set(rest)) else cut


def _are_true(short: Sequence[str], names: Sequence[str]) -> bool:
    """Whether shortened names have all numbers, and different ones are different."""
    same_numbers = all(_NUMBERS.findall(one) == _NUMBERS.findall(name) for one, name in zip(short, names, strict=True))
    return same_numbers and len(set(short)) == len(set(names))


def _abbreviated(names: Sequence[str], width: int) -> list[str]:
    """Cut the words of names that are too long to what tells each from the others at its place.

    A word that has no others at its place is left out. From the last word on, each stays whole for which there is room.

    >>> _abbreviated(["h.11.attention.q_proj.weight", "h.11.attention.out_proj.weight", "h.11.mlp.weight"], 18)
    ['11.a.q_proj.weight', 'h.11.a.o.weight', 'h.11.mlp.weight']
    """
    begins = _shortest_beginnings(names)
    return [name if len(name) <= width else _with_whole_words(name, begins, width) for name in names]


def _shortest_beginnings(names: Sequence[str]) -> dict[tuple[str, ...], str]:
    """How the first word of each dotted part may begin so that it can be told from the others at its place.

    The key is the word after the parts before it. The beginning of the only word at a place is empty.
    """
    beside: dict[tuple[str, ...], set[str]] = {}
    for name in names:
        parts = tuple(name.split("."))
        for at, part in enumerate(parts):
            beside.setdefault(parts[:at], set()).add(_NUMBERS.split(part)[0])
    begins: dict[tuple[str, ...], str] = {}
    for folder, words in beside.items():
        uses = Counter(word[:length] for word in words for length in range(1, len(word) + 1))
        for word in words:
            alone = (word[:length] for length in range(1, len(word)) if uses[word[:length]] == 1)
            begins[*folder, word] = "" if len(words) == 1 else next(alone, word)
    return begins


def _with_whole_words(name: str, begins: Mapping[tuple[str, ...], str], width: int) -> str:
    parts = name.split(".")
    short = []
    for at, part in enumerate(parts):
        word = _NUMBERS.split(part)[0]
        numbers = re.sub(r"\D{3,}", lambda text: text[0][:2], part[len(word) :])
        begin = begins[*parts[:at], word]
        short.append((begin or word[:1]) + numbers if numbers or part is parts[-1] else begin)
    for at in reversed(range(len(parts))):
        longer = [*short[:at], parts[at], *short[at + 1 :]]
        if len(".".join(filter(None, longer))) <= width:
            short = longer
    return ".".join(filter(None, short))


def _common_folder(names: Sequence[str]) -> str:
    """The dotted beginning that all names share, up to the first number.

    >>> _common_folder(["a.b.0.w", "a.b.1.w"]), _common_folder(["a.0.x", "a.0.y"]), _common_folder(["w", "w"])
    ('a.b.', 'a.', '')
    """
    kept = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1 or parts[0].isdecimal():
            break
        kept.append(parts[0] + ".")
    return "".join(kept)


def _keeping_numbers(names: Sequence[str], width: int, mark: str) -> list[str]:
    """Shorten names around their numbers: what is before goes first, then the middle of what is after.

    >>> _keeping_numbers(["layers.11.attention.out.weight", "layers.11.attention.in.weight", "head"], 16, "…")
    ['….11.…n.out.w…ht', '….11.…n.in.w…ht', 'head']
    """
    parted = [("", name) if len(name) <= width else _at_last_number(name, mark) for name in names]
    tails: dict[str, list[str]] = {}
    for head, tail in parted:
        tails.setdefault(head, []).append(tail)
    short: dict[tuple[str, str], str] = {}
    for head, own in tails.items():
        room = width - len(head)
        # Of a name with many numbers, the numbers alone may be too long.
        cut = shorten_all(own, room, mark) if room > len(mark) + 1 else own
        short |= {(head, tail): shorten(head + one, width, mark) for tail, one in zip(own, cut, strict=True)}
    return [short[pair] for pair in parted]


def _at_last_number(name: str, mark: str) -> tuple[str, str]:
    """What a name has up to its last number, with a mark for each run of words, and the rest.

    >>> _at_last_number("model.layers.3.experts.7.up.weight", "…"), _at_last_number("0.weight", "…")
    (('….3.….7.', 'up.weight'), ('0.', 'weight'))
    """
    parts = name.split(".")
    numbers = [at for at, part in enumerate(parts[:-1]) if part.isdecimal()]
    if not numbers:
        return "", name
    kept = [part if part.isdecimal() else mark for part in parts[: numbers[-1] + 1]]
    joined = [part for before, part in itertools.pairwise(["", *kept]) if part != mark or before != mark]
    return ".".join(joined) + ".", ".".join(parts[numbers[-1] + 1 :])


def _around_difference(names: Sequence[str], width: int, mark: str) -> list[str]:
    """Shorten names that begin and end alike: what differs is kept, with a little of what surrounds it."""
    start = _common_prefix(names)
    end = min(_common_prefix([name[::-1] for name in names]), min(map(len, names)) - start)
    differences = [name[start : len(name) - end] for name in names]
    room = width - 2 * (len(mark) + 1)
    if max(map(len, differences)) > room:
        if room < len(mark) + 2:
            return [shorten(name, width, mark) for name in names]
        differences = shorten_all(differences, room, mark)
    longest = max(map(len, differences))
    left = min(start, (width - longest) // 3 + 1)
    before = names[0][start - left : start]
    if left < start:
        before = mark + before[len(mark) :]
    after = names[0][len(names[0]) - end :] if end else ""
    return [before + difference + shorten(after, width - left - longest, mark) for difference in differences]


def _common_prefix(names: Sequence[str]) -> int:
    """Length of the longest beginning that all names share."""
    first, last = min(names), max(names)
    for at, (a, b) in enumerate(zip(first, last, strict=False)):
        if a != b:
            return at
    return min(len(first), len(last))
