"""Train the hierarchical model: a trunk, frozen for good after stage 1, and Conv-Adapters with heads on top."""
