//! eventsocket.
