"""Builds the captures of testdata/: `wire` makes bytes, `capture` makes files, `scenario` keeps the books,
`scenarios` and `hostile` tell the stories.
"""
