"""Reports: tables (mean ± s.e., published values beside ours) and figures."""
