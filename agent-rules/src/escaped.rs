//! Names as they are shown: a cgroup or a process is called by whatever bytes somebody chose.

use std::fmt::{self, Display, Formatter, Write as _};

/// Bytes that are text are shown as they are; control characters, characters that turn the
/// direction of the text or are not seen, and bytes that are no UTF-8 are shown as `\xHH`, one for
/// each byte. A backslash stands for itself, as in patterns: systemd has many in its names.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let hex = |f: &mut Formatter<'_>, bytes: &[u8]| {
            bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
        };
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_shown(c) {
                    f.write_char(c)?;
                } else {
                    hex(f, c.encode_utf8(&mut [0; 4]).as_bytes())?;
                }
            }
            hex(f, chunk.invalid())?;
        }
        Ok(())
    }
}

/// Neither a control character nor one of those of Unicode's general punctuation that format:
/// spaces without width, marks and overrides of direction, separators of lines and paragraphs.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_shown_as_it_is() {
        for text in [
            "apps/media",
            "ip…",
            r"dev-disk-by\x2dlabel.swap",
            "a b",
            "日本",
        ] {
            assert_eq!(Escaped(text.as_bytes()).to_string(), text);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_and_what_is_no_text_is_spelled_out() {
        for (bytes, shown) in [
            (&b"\xff"[..], r"\xff"),
            (b"a\x1b[2Jb\rc\n", r"a\x1b[2Jb\x0dc\x0a"),
            // Cut inside a character.
            (b"ip\xe2\x80", r"ip\xe2\x80"),
            // One of the C1 controls, CSI; an override of direction.
            ("\u{9b}x".as_bytes(), r"\xc2\x9bx"),
            ("a\u{202e}b".as_bytes(), r"a\xe2\x80\xaeb"),
        ] {
            assert_eq!(Escaped(bytes).to_string(), shown);
        }
    }

    proptest! {
        #[test]
        fn no_control_character_gets_through(bytes: Vec<u8>) {
            prop_assert!(!Escaped(&bytes).to_string().contains(char::is_control));
        }
    }
}
