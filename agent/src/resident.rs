//! Which pages of the program stay in memory: all that an episode can need, from the start on, as each
//! that has to be read under pressure is a wait for the disk; and none that only the start, a reload or
//! a command of a person needs.

use crate::sys;
use std::io;

/// Locks in memory all of the program but its cold code.
///
/// It is a part of that, as there has to be one: the linker knows no bounds of what is empty.
#[unsafe(link_section = "lowtide_cold")]
#[inline(never)]
pub fn keep() -> io::Result<()> {
    let cold = sys::cold_code();
    for pages in sys::program() {
        let (start, end) = (pages.start, pages.end);
        let before = start..cold.start.clamp(start, end);
        let after = cold.end.clamp(start, end)..end;
        for pages in [before, after] {
            if !pages.is_empty() {
                sys::keep_in_memory(pages)?;
            }
        }
    }
    Ok(())
}

/// Gives back what is in memory of the cold code.
pub fn let_go() {
    // Where that cannot be done it stays, which does no harm.
    let _ = sys::let_cold_code_go();
}
