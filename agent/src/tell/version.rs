//! Which build this is.

use std::fmt::{self, Display, Formatter};

/// `0.1.0 (0123456789ab, bpf, aarch64-unknown-linux-musl)`: version, commit where the one who built it said so
/// (`LOWTIDE_COMMIT`), features, target.
pub struct Version;

impl Display for Version {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(concat!(env!("CARGO_PKG_VERSION"), " ("))?;
        if let Some(commit) = option_env!("LOWTIDE_COMMIT") {
            write!(f, "{commit}, ")?;
        }
        let bpf = if cfg!(feature = "bpf") {
            "bpf"
        } else {
            "no bpf"
        };
        write!(f, "{bpf}, {})", env!("LOWTIDE_TARGET"))
    }
}
