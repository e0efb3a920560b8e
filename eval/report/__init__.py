"""Reports: summary, findings, tables, charts, HTML, and runs compared."""
