"""The command line: the subcommands of `higfa`."""
