"""What the recorder feeds while a run is recorded: event files for TensorBoard's Scalars page."""
