"""One live line on a terminal, plain lines elsewhere."""

import io

import pytest

from leptonai.base.progress import Progress, clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_says_where_things_stand(monkeypatch):
    progress = Progress("mnist", 938, stream=io.StringIO())
    line = progress.line(469, {"loss": 0.3141592, "accuracy": 0.905}, progress._began + 10)
    assert line.startswith("mnist  469/938 50%  loss 0.3142  accuracy 0.905  47 steps/s  0:10 left")


def test_without_a_total_the_time_tells_how_long_it_takes():
    progress = Progress("mnist", None, seconds_total=60, stream=io.StringIO())
    assert "mnist  100  10 steps/s  0:50 left" in progress.line(100, {}, progress._began + 10)


def test_a_resumed_run_shows_its_own_rate():
    progress = Progress("mnist", 200, done=100, stream=io.StringIO())
    assert "150/200 75%  50 steps/s  0:01 left" in progress.line(150, {}, progress._began + 1)


def test_nothing_is_printed_before_it_is_due_except_the_last():
    out = io.StringIO()
    progress = Progress("x", 10, stream=out)
    progress.show(1)
    assert out.getvalue() == ""
    progress.show(10, last=True)
    assert out.getvalue().count("\n") == 1 and "10/10 100%" in out.getvalue()


def test_a_terminal_has_one_line_that_is_written_over(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    progress = Progress("x", 10, stream=out)
    for done in (1, 2):
        progress.due_at = 0
        progress.show(done)
    progress.say("a sentence")
    progress.show(10, last=True)
    text = out.getvalue()
    assert text.count("\n") == 2 and text.count("\r") >= 4 and "a sentence\n" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3661, "1:01:01")])
def test_clock(seconds, text):
    assert clock(seconds) == text
