"""The exact compiler: a trained model into a network that computes the same with less work."""
