"""The backends that come with fxopt; registered by entry points like anybody's."""
