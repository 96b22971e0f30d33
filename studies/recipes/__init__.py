"""How to join the library with others: short modules to copy, none of which it needs itself."""
