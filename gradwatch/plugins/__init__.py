"""Entry points of other programs: TensorBoard."""
