"""Commands that evaluate: eval, report, trace, judge."""
