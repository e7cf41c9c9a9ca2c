"""What several commands share: models, options, policies, tables, errors."""
