//! How figures read: sizes and shares.

use std::fmt::{self, Display, Formatter};

/// Bytes with a unit: `9.8M`, `512K`.
pub struct Size(pub u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let b = self.0;
        let (unit, name) = match b {
            0..1_048_576 => (1 << 10, 'K'),
            1_048_576..1_073_741_824 => (1 << 20, 'M'),
            _ => (1 << 30, 'G'),
        };
        let (whole, tenth) = (b / unit, b % unit * 10 / unit);
        if whole < 10 && tenth > 0 {
            write!(f, "{whole}.{tenth}{name}")
        } else {
            write!(f, "{whole}{name}")
        }
    }
}

/// Hundredths of a percent: `4 %`, `0.5 %`.
pub struct Permyriad(pub u64);

impl Display for Permyriad {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (whole, tenth) = (self.0 / 100, self.0 % 100 / 10);
        if whole < 10 && tenth > 0 {
            write!(f, "{whole}.{tenth} %")
        } else {
            write!(f, "{whole} %")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_a_person_writes_them() {
        for (bytes, text) in [
            (0, "0K"),
            (524_288, "512K"),
            (10_276_044, "9.7M"),
            (157_286_400, "150M"),
            (1 << 31, "2G"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
    }
}
