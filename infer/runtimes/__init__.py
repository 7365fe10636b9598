"""The runtimes by name."""
