"""What stands before every route: keys, rates, hosts, concurrency, errors, counts."""
