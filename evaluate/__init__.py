"""Judge a run or a bundle on a dataset, in figures and pictures."""
