"""Where is work kept and shared? Builders, caches, registries, leases, pruning."""
