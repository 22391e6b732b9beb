"""What a person types: the sub-commands of `higfa`."""
