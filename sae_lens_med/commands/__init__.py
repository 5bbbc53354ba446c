"""The command line, one sub-app per module; heavy imports inside the commands."""
