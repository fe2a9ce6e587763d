"""Races: several methods on the same batches from the same weights, and what each second bought."""
