"""The state store of work units: leases, fencing tokens, attempts."""
