"""Which models that people fine-tune take a strict step, and whether the differences are right."""
