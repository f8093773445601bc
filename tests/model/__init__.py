"""The breaker checked as a machine: against a reference, in every small scope, in every interleaving."""
