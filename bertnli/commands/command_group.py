"""The group of all commands: options with hyphens or underscores, and an answer to the options of other programs."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def with_hyphens(name: str) -> str:
    """The name of an option, `max_length`, as it is declared: `max-length`."""
    return name.replace("_", "-")


class CommandGroup(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises InputError for an option that it does not have but another program does."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__name__ != "NoSuchOption":  # typer brings click's classes with it, or does not
                raise
            from bertnli.run import foreign_options

            refused = foreign_options.refused(ctx.invoked_subcommand, str(getattr(error, "option_name", "")))
            if refused is None:
                raise
            raise refused from None
