"""Why a model answers what it answers: maps over the patches, exact sums, and how faithful each of them is."""
