"""How many files and connections this process may hold open at once.

Many systems allow a process 1,024 unless it asks for more, and a server has a connection for each
client and one for each request upstream.
"""

from __future__ import annotations

_OTHERS = 128
_ENOUGH = 2**16


def allow_many() -> int:
    """Raise the process's own limit as far as it may; returns how many connections that leaves."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return _ENOUGH
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
        except (ValueError, OSError):  # macOS has a further limit that cannot be asked for
            pass
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH
    return max(16, min(soft, _ENOUGH) - _OTHERS)
