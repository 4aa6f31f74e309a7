"""The analysis of a recorded run: history, summary, diagnosis and recommendation. No torch, no drawing."""
