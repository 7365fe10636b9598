"""The exact compiler: fold, prune, lower, and write a trained model as ONNX and engines, with proof of parity."""
