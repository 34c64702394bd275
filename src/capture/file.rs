//! Frames from pcap and pcapng files.
