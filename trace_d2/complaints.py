"""All that is wrong, said at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MANY = 10
"""Of things of one kind that are wrong, how many are told one by one."""

_SEVERAL = "several things are wrong:\n- "


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key or the file, and the remedy."""


class Complaints:
    """What checks complain of, collected so that all of it is said at once.

        wrong = Complaints()
        cfg = wrong.of(load_trace_cfg, file, pairs)
        folder = wrong.of(existing_folder, path, "--images")
        wrong.end()

    A check raises a ValueError, an OSError or an ImportError, whose message says what is wrong,
    where, and what to do.
    """

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def of(self, check: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """What ``check`` gives; None, whatever its type says, where it complains."""
        try:
            return check(*args, **options)
        except (ValueError, OSError, ImportError) as error:
            self._errors.append(error)
            return None  # type: ignore[return-value]  # after ``end`` there is none

    @property
    def lines(self) -> list[str]:
        """Each complaint once, in the order in which they came."""
        texts = (str(error).removeprefix(_SEVERAL).split("\n- ") for error in self._errors)
        return list(dict.fromkeys(line for lines in texts for line in lines))

    def say(self, text: str) -> None:
        """Add a complaint."""
        self._errors.append(ConfigError(text))

    def joined(self) -> ConfigError:
        """All of them."""
        lines = self.lines
        return ConfigError(lines[0] if len(lines) == 1 else _SEVERAL + "\n- ".join(lines))

    def end(self) -> None:
        """Raise what a check raised; of several complaints a ConfigError that lists them all."""
        if len(self.lines) > 1:
            raise self.joined() from self._errors[0]
        if self:
            raise self._errors[0]


def tell_all(wrong: Sequence[str], what: str = "files") -> None:
    """Raise what is ``wrong`` with ``what``, if anything is, all at once: ten, and a count."""
    told = Complaints()
    for line in wrong[:MANY]:
        told.say(line)
    if len(wrong) > MANY:
        told.say(f"{len(wrong) - MANY} more {what} are wrong in such ways")
    told.end()


def check_all(*checks: Callable[[], Any]) -> None:
    """Run all ``checks``; what one of them raises is raised, of several all that they say."""
    wrong = Complaints()
    for check in checks:
        wrong.of(check)
    wrong.end()
