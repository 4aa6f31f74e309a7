"""The recorder as a separate process (``recorder="process"``): the measurements survive the training process."""
