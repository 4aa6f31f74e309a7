"""What the terminal shows: one module a command. Each returns something that rich prints and prints nothing itself."""
