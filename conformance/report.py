"""What the conformance scripts share: a table of outcomes, and the exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows under their heads, in columns as wide as their widest entry.

    >>> print(table(("class", "functions"), [("lazy", 120), ("refused", 9)]))
    class    functions
    -------  ---------
    lazy     120
    refused  9
    """
    lines = [[str(entry) for entry in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(entry.ljust(width) for entry, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def verdict(differences: Sequence[str], listed: dict[str, str]) -> int:
    """Print the differences that no reason is listed for, and the reasons that nothing needs.

    Returns the exit code: 1 if there is any of either, else 0.
    """
    new = [one for one in differences if one not in listed]
    stale = [one for one in listed if one not in differences]
    for one in new:
        print(f"differs: {one}")
    for one in stale:
        print(f"listed, but agrees now: {one} ({listed[one]})")
    return int(bool(new or stale))
