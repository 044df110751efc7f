"""The map of the signals: every signal has a place, and no question sends a reader to more than five."""

from lightning_featgeo.metrics.catalog import CATALOG, SHIPPED
from lightning_featgeo.metrics.document import index
from lightning_featgeo.metrics.reading_order import HEADINGS, OTHERS, QUESTIONS, heading


def test_questions_name_signals_that_exist_each_once_and_few() -> None:
    for question, names in QUESTIONS.items():
        assert question.endswith("?")
        assert 1 < len(names) <= 5, question
        assert len(set(names)) == len(names), question
        assert set(names) <= set(CATALOG), question


def test_every_shipped_signal_has_a_heading_and_a_line() -> None:
    page = index()
    for name in SHIPPED:
        assert heading(name) in HEADINGS, name
        assert page.count(f"\n| [`{name}`]({name}.md) | ") == 1, name
    assert heading("none_of_ours") == OTHERS
