"""Recording, in the training process: hooks that listen to the loop, and the processing of each optimizer step."""
