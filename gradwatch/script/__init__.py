"""Running a user's script: launch, discover, doctor and tune."""
