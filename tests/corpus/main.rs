//! Proofs over the corpus of real captures: 1,924 files that others use to test their readers.
//!
//! `FLOWARC_CORPUS` says where it is. Where there is none, as in a fresh clone, the tests say so and pass.

mod determinism;
mod frames;
mod gotm;
mod manifest;
mod memory;
mod mutants;
mod payload;
mod program;
mod tcp;
mod trees;
