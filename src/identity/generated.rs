//! Names made from the connection itself, for captures that nobody announces.
