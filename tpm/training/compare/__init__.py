"""Ways of sampling measured side by side, paired by prompt and noise: arms, tables, figures."""
