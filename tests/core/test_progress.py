"""Progress bars of rows."""

import pytest

from skgen.core import progress
from skgen.core.progress import RowBar, advance


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)


def test_chunks_cover_the_rows():
    with RowBar(10, 0) as bar:
        assert list(bar.chunks(4)) == [(0, 4), (4, 8), (8, 10)]
    with RowBar(0, 1) as bar:
        assert list(bar.chunks(4)) == []


@pytest.mark.parametrize("part, expected", [(0.0, [0, 4, 8]), (0.5, [1, 5, 9]), (3.0, [4, 8, 10])])
def test_parts_of_a_chunk_count_up_to_its_end(part, expected):
    seen = []
    with RowBar(10, 1) as bar:
        for _ in bar.chunks(4):
            advance(part)
            advance(part)
            seen.append(bar._bar.n)
    assert seen == expected and bar._bar.n == 10


def test_shown_on_standard_error(capfd):
    with RowBar(20_000, 1, "images") as bar:
        for _ in bar.chunks(7000):
            advance(1)
    out, err = capfd.readouterr()
    assert out == "" and "20.0k/20.0k" in err and "images/s" in err


def test_not_shown_if_quick_or_not_asked_for(capfd, monkeypatch):
    list(RowBar(10, 0).chunks(3))
    monkeypatch.setattr(progress, "DELAY", 60.0)
    with RowBar(10, 1) as bar:
        list(bar.chunks(3))
    assert capfd.readouterr() == ("", "")


def test_inner_bars_do_not_move_outer_ones():
    with RowBar(2, 1) as outer:
        for _ in outer.chunks(1):
            with RowBar(100, 1) as inner:
                for _ in inner.chunks(100):
                    advance(50)
                    assert outer._bar.n == 0
            break
        with pytest.raises(ZeroDivisionError), RowBar(5, 1) as inner:
            1 / 0  # noqa: B018
        advance(0.5)
        assert outer._bar.n == 0.5
    advance(3)  # no bar, nothing happens
