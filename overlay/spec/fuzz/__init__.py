"""Fuzzing: random calls on a target and on the engine side by side, and what they differ in."""
