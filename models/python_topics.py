"""The topics of Python's own help, `help('topics')`, as a text in three splits."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

from fxopt.errors import DataError
from fxopt.workload import Split

_SHARE = 26
"""Of 256: a tenth each for validation and for test."""


@functools.cache
def topic_text() -> Mapping[Split, str]:
    """Each distinct paragraph is in one split, chosen by its digest, in the order of the topics' names.

    So no split has a paragraph of another, nor of another's of a Python of another version; what differs from a paragraph of
    another split by the spaces around it is left to training, else to validation. The text is that of the Python in use, and
    changes a little from one version to the next. Raises DataError for a Python without its topics.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "this Python comes without the topics of its help, pydoc_data.topics",
            way_out="a Python with all of its standard library",
        ) from error
    found: dict[Split, list[str]] = {"train": [], "validation": [], "test": []}
    for paragraph in dict.fromkeys(p for name in sorted(topics) for p in topics[name].split("\n\n")):
        found[_split_of(paragraph)].append(paragraph)
    taken: set[str] = set()
    for split, paragraphs in found.items():
        found[split] = [paragraph for paragraph in paragraphs if split == "train" or paragraph.strip() not in taken]
        taken |= {paragraph.strip() for paragraph in paragraphs}
    return {split: "\n\n".join(paragraphs) for split, paragraphs in found.items()}


def _split_of(paragraph: str) -> Split:
    number = hashlib.sha256(paragraph.encode()).digest()[0]
    return "test" if number < _SHARE else "validation" if number < 2 * _SHARE else "train"
