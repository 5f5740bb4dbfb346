"""What tools print steers no terminal."""

from __future__ import annotations

import logging

from trace_d2.terminal import plain_lines, say


def test_characters_that_are_not_seen_are_spelled_out() -> None:
    text = "a\x1b[2J\u202e\tb\r\n\N{LATIN SMALL LETTER E WITH ACUTE} \u65e5\udcff"
    assert plain_lines(text) == "a\\x1b[2J\\u202e\\tb\\r\n\u00e9 \u65e5\\udcff"


def test_errors_go_to_stderr(capsys) -> None:
    say(ValueError("a\x1bb"), error=True)
    say("fine")
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == ("a\\x1bb\n", "fine\n")


def test_warnings_where_nobody_has_set_up_logging(capsys) -> None:
    record = logging.makeLogRecord({"msg": "no %s", "args": ("a\x1b[2J",), "levelno": 30})
    assert logging.lastResort is not None
    logging.lastResort.handle(record)
    assert capsys.readouterr().err == "no a\\x1b[2J\n"
