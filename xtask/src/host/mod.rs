//! The machine that this runs on: its programs, directories, Debian's archive, Rust toolchains.

pub mod apt;
pub mod dirs;
pub mod shell;
pub mod toolchain;
