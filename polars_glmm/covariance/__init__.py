"""θ → factor Λ with Σ = ΛΛ', and nothing else."""
