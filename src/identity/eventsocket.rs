//! Events of the tcp-info event socket, validated and made ours.
