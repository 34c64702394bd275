//! The catalogue: one row per flow, in Parquet files by hour, and in journals until its hour is over.
//!
//! [`row`] says what of a flow is in it, [`columns`] how a row type becomes columns. The writers hand rows to the
//! [`recorder`]'s thread, which keeps a [`journal`] per hour and makes a [`parquet`] file of it in the [`folder`].
//! docs/CATALOGUE.md describes every column.

pub mod columns;
pub mod folder;
pub mod journal;
pub mod parquet;
mod places;
pub mod recorder;
pub mod row;

pub use folder::{Collector, Folder};
pub use recorder::{CatalogueMetrics, Recorder, RowSender, WhenFull};
pub use row::Row;
