"""The recorder in a process of its own (``recorder="process"``): what is measured outlives the training process."""
