"""The subcommands, a file for each kind: ``add`` describes them, and what they need is imported when one runs."""
