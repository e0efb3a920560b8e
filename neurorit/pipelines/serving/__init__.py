"""A gateway in the foreground, and what measures one."""
