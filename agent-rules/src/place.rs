//! Where in the files of a config something stands.

use std::ops::Range;

/// A span of bytes in one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub source: u16,
    pub start: u32,
    pub end: u32,
}

impl At {
    pub fn new(source: u16, span: Range<usize>) -> Self {
        // Sources are far smaller than 4 GiB.
        Self {
            source,
            start: span.start as u32,
            end: span.end as u32,
        }
    }
}

/// The layer of a source: of two that say different things, the higher counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    BuiltIn,
    Vendor,
    Profile,
    /// The files of the device in their order.
    Device(u16),
}
