"""The report: tables on the terminal, figures, and a self-contained HTML page, all views of the scores."""
