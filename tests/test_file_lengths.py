"""Files stay short enough to be read at once."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("trace_d2", "tools", "tests")
MOST_LINES = 400


def test_no_python_file_is_too_long():
    # Below datasets/ lie data as well, which may be much to search.
    files = [REPOSITORY / "setup.py", *(REPOSITORY / "datasets").glob("*.py")]
    files += [path for folder in FOLDERS for path in (REPOSITORY / folder).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    too_long = {str(path): lines for path, lines in lengths.items() if lines > MOST_LINES}
    assert not too_long, f"over {MOST_LINES} lines, so split by subject: {too_long}"
