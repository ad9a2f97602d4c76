"""Memory networks."""
