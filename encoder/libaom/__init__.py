"""libaom: how it is built, what its decoder tells, and its encoder."""
