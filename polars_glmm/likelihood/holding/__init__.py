"""A likelihood with one natural parameter held and all others at their best: what profiles are made of."""
