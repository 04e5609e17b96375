//! lowtide: an out-of-memory agent for Linux edge devices.
