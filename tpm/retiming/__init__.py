"""The scalar core: equations, one run of them, what a policy sees and answers, what a run decided."""
