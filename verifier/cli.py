"""`tally`: the one program. The verifier's own commands need only the base install; the services' commands join it.

Exit status of `verify`: 0 PASS, 1 FAIL, 2 MALFORMED, 3 INCOMPLETE, 4 UNTRUSTED; of many files the worst.
64 usage; 70 a process of it was ended from outside.
"""

import io
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from importlib import import_module
from textwrap import wrap
from typing import TYPE_CHECKING, NoReturn

from verifier.codes import DIED, USAGE
from verifier.refused import Refused
from verifier.terminal import complain, plain, say, table

if TYPE_CHECKING:
    import typer

# The verifier's own commands: where each is, and what the list of commands says of it.
OWN = {
    "verify": ("verify", "Judge proof bundles, offline."),
    "inspect": ("inspect", "Show what an artefact says, without believing any of it."),
    "diff-bundles": ("diff_bundles", "Say what differs between two bundles."),
    "disclose": ("disclose", "Write a bundle again that shows one slice of one call."),
    "open": ("open", "Open the payloads that are sealed to an auditor's key."),
    "export": ("export", "Write a verified bundle as in-toto Statements, C2SP checkpoints and proofs."),
    "keygen": ("keygen", "Make an auditor's or a signer's key."),
    "explain": ("explain", "Say what a code means, and what to do about it."),
}
ABOUT = "Signed policy, job-scoped tokens and receipts for AI agents, and proof bundles that anyone can check offline."
# Refusals of the command itself: none of these says anything of a bundle, so none is the status of a verdict.
STATUSES = {"usage": USAGE, "bad-pin": USAGE, "worker-died": DIED}
INTERRUPTED, BROKEN_PIPE = 130, 141


def main(arguments: list[str] | None = None) -> None:
    """Run the program; the only place where an error becomes words and an exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = own(given[0], given[1:]) if given and given[0] in OWN else _joined(given)
        sys.stdout.flush()
    except Refused as refused:
        status = _refused(refused)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that nothing complains again at the end
        status = BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        hint = "Check the path and who may read or write it."
        status = _refused(Refused("usage", f"{error.filename}: {error.strerror}", hint=hint))
    sys.exit(status)


def own(name: str, arguments: list[str]) -> int:
    """Run one of the verifier's own commands."""
    command = import_module(f"verifier.commands.{OWN[name][0]}")
    if "-h" in arguments or "--help" in arguments:
        sys.stdout.write(command.HELP)
        return 0
    parser = Arguments(prog=f"tally {name}", add_help=False, allow_abbrev=False)
    command.arguments(parser)
    status: int = command.run(parser.parse_intermixed_args(arguments))
    return status


class Arguments(ArgumentParser):
    """Python's parser, whose errors are refusals."""

    def error(self, message: str) -> NoReturn:  # type: ignore[explicit-override] # typing has no `override` before 3.12
        """Refuse what cannot be understood."""
        raise Refused("usage", message, hint=f"{self.prog} --help")


def program() -> "typer.Typer":
    """Build the whole program: our own commands by name, and the services' where their extra is installed."""
    import typer  # noqa: PLC0415 - slow to load; our own commands do without it

    made = typer.Typer(
        name="tally", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
        help=ABOUT,
    )  # fmt: skip
    as_it_comes = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
    for name, (_, summary) in OWN.items():
        made.command(name, help=summary, context_settings=as_it_comes)(_passed_on(name))
    _join(made)
    return made


def _passed_on(name: str) -> "Callable[[typer.Context], None]":
    """Make a command that hands its arguments to ours as they come."""
    import typer  # noqa: PLC0415 - as above

    def passed_on(context: typer.Context) -> None:
        raise typer.Exit(own(name, context.args))

    return passed_on


def _joined(given: list[str]) -> int:
    """Run a command of a service, or show what there is."""
    try:
        import typer  # noqa: PLC0415 - as above
    except ModuleNotFoundError:
        return _alone(given)
    try:
        status = program()(given, prog_name="tally", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        return _unknown(said(), getattr(getattr(error, "ctx", None), "command_path", "tally"))
    return status if isinstance(status, int) else 0


def _alone(given: list[str]) -> int:
    """Show what the base install has; it is without the services' commands and what they are made with."""
    if given and given[0] not in {"-h", "--help"}:
        return _unknown(f"No such command '{given[0]}'.")
    say("Usage: tally COMMAND [ARGS]...\n")
    say("\n".join(f"  {line}" for line in wrap(ABOUT)) + "\n\nCommands:")
    say("\n".join(table([(name, summary) for name, (_, summary) in OWN.items()])))
    return 0 if given else USAGE


def _unknown(said: str, command: str = "tally") -> int:
    more = f"; commands beyond {', '.join(OWN)} come with tallystick[services]" if command == "tally" else ""
    complain(f"tally: usage: {plain(said)}")
    complain(f"hint: {command} --help{more}")
    return USAGE


def _join(made: "typer.Typer") -> None:
    """Add the services' commands where their extra is installed."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to load

    for entry in sorted(entry_points(group="tally.commands"), key=lambda each: each.name):
        try:
            joined = entry.load()
        except ModuleNotFoundError:
            continue  # the base install: the verifier alone
        made.registered_commands += joined.registered_commands
        made.registered_groups += joined.registered_groups


def _refused(refused: Refused) -> int:
    where = f" (at {plain(refused.field)})" if refused.field else ""
    complain(f"tally: {plain(refused.code)}: {plain(refused.why)}{where}")
    if hint := refused.hint or _listed(refused.code):
        complain(f"hint: {plain(hint)}")
    return STATUSES.get(refused.code, 1)


def _listed(code: str) -> str:
    """Find what to do about a code that came without a word on it."""
    from verifier.explanation import action  # noqa: PLC0415 - reads the specs; only for a refusal

    return action(code)
