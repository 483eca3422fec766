"""Why a distilled set works: one question a file, a table first and a plot second."""
