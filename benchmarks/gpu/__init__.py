"""``make gpu``: everything that only a GPU can tell, checked and measured in stages within eight minutes."""
