"""Pure functions of the records: tables, page, figures. Nothing here needs torch."""
