"""The C library: a compiled model as a list of operations, the blob that holds it, and the C sources that run it."""
