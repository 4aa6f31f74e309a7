"""What a recorded run tells: its history, summary and recommendation. No torch, no drawing."""
