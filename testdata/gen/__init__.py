"""Builds the captures of testdata/: `wire` makes bytes, `capture` makes files, `scenario` keeps the books, `scenarios` tells the stories."""
