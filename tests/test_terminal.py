"""What tools print steers no terminal."""

from __future__ import annotations

from trace_d2.terminal import plain_lines, say


def test_characters_that_are_not_seen_are_spelled_out() -> None:
    text = "a\x1b[2J\u202e\tb\r\n\N{LATIN SMALL LETTER E WITH ACUTE} \u65e5\udcff"
    assert plain_lines(text) == "a\\x1b[2J\\u202e\\tb\\r\n\u00e9 \u65e5\\udcff"


def test_errors_go_to_stderr(capsys) -> None:
    say(ValueError("a\x1bb"), error=True)
    say("fine")
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == ("a\\x1bb\n", "fine\n")
