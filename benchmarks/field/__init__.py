"""How random the field is: batteries over its words, moments of its distributions, collisions of its addresses."""
