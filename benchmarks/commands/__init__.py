"""The suite's subcommands, a file for each kind: ``add`` describes them, and imports wait until one runs."""
