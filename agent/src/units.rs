//! How figures read: sizes and shares; and errors.

use std::fmt::{self, Display, Formatter, Write};

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

/// What an error means, without the number that the standard library puts behind it: ` (os error 28)`.
pub struct Plain<T>(pub T);

impl<T: Display> Display for Plain<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut plain = Unnumbered {
            to: f,
            held: heapless::String::new(),
        };
        write!(plain, "{}", self.0)?;
        plain.to.write_str(&plain.held)
    }
}

/// EHWPOISON, the last one that a C library has words for. The kernel's own, as ENOTSUPP (524), are nothing but
/// their number.
const LAST_WITH_WORDS: u32 = 133;
const BEFORE_NUMBER: &str = " (os error ";

/// Holds back what may become such a number: text comes in pieces of any length.
struct Unnumbered<'a, 'b> {
    to: &'a mut Formatter<'b>,
    held: heapless::String<24>,
}

impl Unnumbered<'_, '_> {
    /// Whether what is held, with `c` behind it, may be the beginning of one.
    fn goes_on(&self, c: char) -> bool {
        match BEFORE_NUMBER[self.held.len().min(BEFORE_NUMBER.len())..]
            .chars()
            .next()
        {
            Some(wanted) => c == wanted,
            None => c.is_ascii_digit() && self.held.len() < self.held.capacity(),
        }
    }
}

impl Write for Unnumbered<'_, '_> {
    fn write_char(&mut self, c: char) -> fmt::Result {
        if self.held.len() > BEFORE_NUMBER.len() && c == ')' {
            let number = self.held[BEFORE_NUMBER.len()..].parse();
            if number.is_ok_and(|number: u32| number <= LAST_WITH_WORDS) {
                self.held.clear();
                return Ok(());
            }
        }
        if self.goes_on(c) {
            return self.held.push(c).map_err(|_| fmt::Error);
        }
        // No part of it but the last space can begin another one.
        let again = self.held.len() > 1 && self.held.ends_with(' ');
        let done = self.held.len() - usize::from(again);
        self.to.write_str(&self.held[..done])?;
        self.held.clear();
        if again {
            self.held.push(' ').map_err(|_| fmt::Error)?;
            return self.write_char(c);
        }
        if c == ' ' {
            return self.held.push(c).map_err(|_| fmt::Error);
        }
        self.to.write_char(c)
    }

    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.write_char(c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn an_error_is_said_without_its_number() {
        let full = || io::Error::from_raw_os_error(libc::ENOSPC);
        assert_eq!(Plain(full()).to_string(), "No space left on device");
        let inside = format!("/a: {}; /b: {}; it goes on (so far)", full(), full());
        assert_eq!(
            Plain(inside).to_string(),
            "/a: No space left on device; /b: No space left on device; it goes on (so far)"
        );
        // What is not one stays, as in the name of a cgroup.
        for text in [
            " (os error ",
            "a (os error x) b",
            "  (os (os error",
            "a (os error 5",
            "a (os error ) b",
            "No error information (os error 524)",
            "",
        ] {
            assert_eq!(Plain(text).to_string(), text);
        }
        assert_eq!(Plain("a (os  (os error 5) b").to_string(), "a (os  b");
    }

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
