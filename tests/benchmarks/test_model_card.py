"""The shipped models' card."""

from __future__ import annotations

from benchmarks.model_card import CARD, rewritten


def test_the_card_holds_what_the_manifests_say():
    assert rewritten(CARD.read_text()) == CARD.read_text(), "run python -m benchmarks.model_card"
