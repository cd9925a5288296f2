"""A group of commands whose help says the whole first sentence of each."""

import click


class Group(click.Group):
    """Click cuts these sentences to the width of the terminal."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, a sentence each."""
        names = self.list_commands(ctx)
        rows = [(n, command.get_short_help_str(limit=1000)) for n in names if (command := self.get_command(ctx, n))]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
