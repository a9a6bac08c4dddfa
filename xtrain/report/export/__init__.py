"""A study's report for other programs and for papers: CSV, LaTeX, and figures as SVG and PDF."""
