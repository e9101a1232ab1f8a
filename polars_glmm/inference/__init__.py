"""From a fit to what people read: tidy frames, tests, text and HTML."""
