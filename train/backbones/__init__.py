"""The trunks by name."""
