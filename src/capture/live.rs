//! Frames from network interfaces, through libpcap.
