"""Fingerprints: what a curve is made of, so that curves of different things are never drawn as if they were the same.

An intrinsic dimension at k = 20 and one at k = 10, a layer pooled by mean and by its class token, 500 rows and 5,000:
each pair has two right numbers that say nothing about one another.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_featgeo.history.record import Record

NONE = "none"  # is known to have none; None: not written down
_MAY_BE_NONE = ("views", "tokens_per_sequence")
SAME_ROWS = 0.01  # a difference in the number of rows that is none
_WORDS = {
    "definition": "version of the definition",
    "n": "rows in a window",
    "dim": "feature dimension",
    "k": "neighbours (k)",
    "knn_vote_k": "neighbours that vote",
    "knn_t": "temperature of the vote",
    "reference_rows": "rows of the reference that vote",
    "bank_size": "rows in the bank",
    "layer": "layer",
    "pool": "pooling",
    "views": "views",
    "stage": "stage",
    "reference": "reference",
    "tokens_per_sequence": "tokens per sequence",
    "skip_tokens": "tokens skipped",
    "spectrum_rows": "rows that spectra are of",
    "every_n_batches": "every_n_batches",
}


def fingerprint(
    signal: str, records: Sequence[Record], definitions: Mapping[str, int], unread: Iterable[str] = ()
) -> dict[str, Any]:
    """What one run's curve of a signal is of, as far as it was written down.

    Args:
        signal: its name.
        records: of one stage and layer.
        definitions: version of each signal's definition when the run was made.
        unread: facts that the signal does not depend on (``metrics.catalog.facts_not_read``).
    """
    facts = next((record.facts for record in reversed(records) if record.facts), {})
    rows = Counter(record.counts["seen"] for record in records if record.counts.get("seen"))
    found: dict[str, Any] = {
        "definition": definitions.get(signal),
        "n": rows.most_common(1)[0][0] if rows else None,
        "stage": records[0].stage if records else None,
        "reference": next((record.reference for record in reversed(records)), None) or (NONE if facts else None),
        **{name: NONE if value is None and name in _MAY_BE_NONE else value for name, value in facts.items()},
    }
    for fact in unread:
        found.pop(fact, None)
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two curves differ, in words; empty where they can be compared.

    What either of them does not say (an older history) counts as equal: :func:`unknown` tells of it.
    """
    found = []
    for fact, words in _WORDS.items():
        a, b = one.get(fact), other.get(fact)
        if a is None or b is None or a == b:
            continue
        if fact == "n" and abs(a - b) <= SAME_ROWS * max(a, b):
            continue
        if fact == "bank_size" and _effective(one) == _effective(other):
            continue  # neither bank was full: the same rows
        if fact == "spectrum_rows" and _spectral(one) == _spectral(other):
            continue  # there were no more rows than that
        found.append(f"{words}: {_shown(b)} instead of {_shown(a)}")
    return found


def unknown(one: Mapping[str, Any]) -> list[str]:
    """Facts that were not written down."""
    return [_WORDS[fact] for fact in ("definition", "n", "dim", "layer") if one.get(fact) is None]


def in_words(one: Mapping[str, Any]) -> str:
    """All facts in one line."""
    return ", ".join(
        f"{words} {_shown(one[fact])}" for fact, words in _WORDS.items() if one.get(fact) not in (None, "")
    )


def short(facts: Mapping[str, Any]) -> str:
    """Eight characters that differ where curves of these facts can't be compared."""
    text = json.dumps({name: value for name, value in sorted(facts.items()) if name in _WORDS}, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _effective(one: Mapping[str, Any]) -> Any:
    size, n = one.get("bank_size"), one.get("n")
    return size if size is None or n is None else min(size, n)


def _spectral(one: Mapping[str, Any]) -> Any:
    limit, n = one.get("spectrum_rows"), one.get("n")
    return n if limit == "all" or (isinstance(limit, int) and n is not None and n <= limit) else limit


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
