"""What TensorBoard is shown of a run: the mirror."""
