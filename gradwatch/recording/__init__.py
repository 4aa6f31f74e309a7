"""In the training process: hooks that listen to the loop, and what becomes of each optimizer step."""
