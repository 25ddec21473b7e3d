"""PyTorch cores: tensors in, tensors out; no NumPy and no scikit-learn."""
