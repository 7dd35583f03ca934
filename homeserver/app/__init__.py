"""The composition root: the parts put together (`wiring`), on a store (`stores`), and run (`serving`)."""
