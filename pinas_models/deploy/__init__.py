"""A network for use elsewhere: in fewer operations, in other formats."""
