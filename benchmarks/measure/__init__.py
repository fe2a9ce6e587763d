"""Measurements beside the races: gates, step times, cost curves, accuracy, memory, many ranks."""
