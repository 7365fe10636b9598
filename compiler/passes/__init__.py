"""The compiler's passes, each a function model -> model with a slow twin in its test."""
