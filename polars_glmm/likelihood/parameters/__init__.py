"""From the search's vector to factors and back."""
