"""Shared by all commands: reading arguments, failing, and talking to people and to programs."""

from __future__ import annotations

import argparse
import functools
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from ..files.faults import in_words

LONGEST = 4000  # characters of an error
CALLED_AS = "HIGFA_CALLED_AS"  # set by programs that start this for a user, such as run.py
INTERRUPTED = 130
Command = Callable[..., int]


def hint(*words: object) -> str:
    """A command of ours, ready to paste: `python run.py higfa run FOLDER`, or `higfa run FOLDER`."""
    return " ".join([os.environ.get(CALLED_AS) or "higfa", *(_quoted(str(word)) for word in words)])


def _quoted(word: str) -> str:
    if os.name != "nt":
        return shlex.quote(word)
    return f'"{word}"' if re.search(r"[^\w.:/\\+-]", word) else word


class Parser(argparse.ArgumentParser):
    """A parser that suggests corrections for mistyped commands and options instead of printing its whole usage.

    Args:
        name: The command.
        about: The docstring of its module: what it does, after "`higfa NAME`: ".
    """

    def __init__(self, *name: str, about: str | None = None, **options):
        about = (about or "").partition(": ")[2]
        super().__init__(prog=hint(*name), description=about[:1].upper() + about[1:], **options)

    def parse_known_args(self, args=None, namespace=None):
        self._words = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(self._words, namespace)

    def error(self, message: str):
        if found := re.fullmatch(r"argument (.*): invalid choice: '(.*)' \(choose from (.*)\)", message):
            known = re.findall(r"[\w.+-]+", found[3])
            remedy = _guess(found[2], known) or f"Choose from {', '.join(known)}."
            message = f"unknown {found[1].lower()}: {found[2]!r}. {remedy}"
        else:
            message = f"{message}. {_guess(self._mistyped(), self._options())}"
        self.exit(2, f"error: {message.strip()} `{self.prog} --help` lists them all.\n")

    def _options(self) -> list[str]:
        return [option for option in self._option_string_actions if option.startswith("--")]

    def _mistyped(self) -> str:
        """The first option that this parser lacks."""
        names = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        return next((name for name in names if not any(known.startswith(name) for known in self._options())), "")


def _guess(word: str, known: Sequence[str]) -> str:
    found = get_close_matches(word, known, 1) if word else []
    return f"Did you mean {found[0]}?" if found else ""


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result as one JSON object on stdout, everything for people on stderr."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON; messages go to stderr")


class Speech:
    """A command's output: text for people or, with `--json`, the same as one object for programs."""

    def __init__(self, as_json: bool = False):
        self.as_json = as_json

    def say(self, text: str) -> None:
        """Words for people."""
        print(text, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def result(self, **values: object) -> None:
        """The result for programs; printed only with `--json`."""
        if self.as_json:
            print(json.dumps(values, ensure_ascii=False, default=str), flush=True)


def command(lower: str = "the batch size", safe: str = "") -> Callable[[Command], Command]:
    """A command whose errors are one line on stderr and exit code 1, and whose Ctrl-C is exit code 130.

    Args:
        lower: The options to lower when memory runs out.
        safe: What is still intact when a full disk or missing permissions stop the command.
    """

    def decorate(main: Command) -> Command:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            _show_any_name()
            try:
                return main(argv)
            except (OSError, UnicodeEncodeError) as error:
                _complain(in_words(error, safe))
            except (ValueError, ImportError) as error:
                _complain(str(error))
            except RuntimeError as error:
                if "out of memory" not in str(error):  # CUDA and MPS share no class for it
                    raise
                _complain(f"{str(error).rstrip('.')}. Lower {lower}.")
            except MemoryError:
                _complain(f"This computer has too little memory for that. Lower {lower}, or give smaller files.")
            except KeyboardInterrupt:
                print("\ninterrupted. Nothing made so far is lost; the same command resumes.", file=sys.stderr)
                return INTERRUPTED
            return 1

        return run

    return decorate


def _complain(words: str) -> None:
    """Print what went wrong on one line, cut in the middle if very long."""
    words = words if len(words) <= LONGEST else f"{words[: LONGEST // 2]} ... {words[-LONGEST // 2 :]}"
    print(f"error: {words}", file=sys.stderr)


def _show_any_name() -> None:
    """Print bytes of file names that are not text as escapes, as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
