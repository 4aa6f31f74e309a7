import signal

# A shell that puts the tests in the background has Ctrl-C ignored in them and in all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
