//! The predecessor's conformance list (T1 to T19) and the defects that this program must not have (P1 to P6, D1 to
//! D27), each shown on the real program as a user runs it. docs/CONFORMANCE.md says which test shows what.

mod support;

#[path = "conformance/disk.rs"]
mod disk;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/files.rs"]
mod files;
#[path = "conformance/interfaces.rs"]
mod interfaces;
#[path = "conformance/life.rs"]
mod life;
#[path = "conformance/metrics.rs"]
mod metrics;
#[path = "conformance/privacy.rs"]
mod privacy;
#[path = "conformance/table.rs"]
mod table;
