"""What every optimum goes through."""
