"""From a call and a frame to an answer: the route, and the ways that it may take."""
