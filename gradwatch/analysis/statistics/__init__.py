"""Numbers of one optimizer of a run, without judgement: each computed in one place."""
