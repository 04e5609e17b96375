//! Figures picked out of the kernel's text files, without allocating.

/// What a read of `n` bytes put into the buffer.
pub fn read_part(buffer: &[u8], n: usize) -> &[u8] {
    buffer.get(..n).unwrap_or(buffer)
}

/// The first run of digits after `key` at the start of a line.
pub fn number_after(text: &[u8], key: &[u8]) -> Option<u64> {
    let mut lines = text.split(|b| *b == b'\n');
    digits(lines.find_map(|line| line.strip_prefix(key))?)
}

/// The same for several keys, in one pass that ends with the last of them.
#[expect(clippy::arithmetic_side_effects, reason = "as many as there are keys")]
pub fn numbers_after<const N: usize>(text: &[u8], keys: &[&[u8]; N]) -> [Option<u64>; N] {
    let mut found = [None; N];
    let mut left = N;
    for line in text.split(|b| *b == b'\n') {
        let mut pairs = keys.iter().zip(&mut found);
        let number = pairs.find_map(|(key, number)| Some((line.strip_prefix(*key)?, number)));
        if let Some((text, number @ None)) = number {
            *number = digits(text);
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    found
}

/// The first run of digits; `None` where there is none or it is too large.
#[expect(clippy::arithmetic_side_effects, reason = "a digit")]
pub fn digits(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(u8::is_ascii_digit)?;
    text.iter()
        .skip(start)
        .take_while(|b| b.is_ascii_digit())
        .try_fold(0u64, |n, b| {
            n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
        })
}

/// A number with or without a sign, and nothing but the end of the line behind it.
pub fn signed(text: &[u8]) -> Option<i64> {
    core::str::from_utf8(text.trim_ascii_end())
        .ok()?
        .parse()
        .ok()
}

/// The total of one line, `some` or `full`, of a pressure file, in microseconds.
pub fn stall_total(text: &[u8], line: &[u8]) -> Option<u64> {
    let line = text.split(|b| *b == b'\n').find(|l| l.starts_with(line))?;
    let at = line.windows(6).position(|w| w == b"total=")?;
    digits(line.get(at..)?)
}

/// `KEY NUMBER` on each line; other lines are left out.
pub fn pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let space = line.iter().position(|b| *b == b' ')?;
        let (key, number) = line.split_at_checked(space)?;
        Some((key, digits(number)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_the_field_at_the_start_of_a_line() {
        let text = b"MemTotal:         247336 kB\nMemAvailable:      17 kB\nXMemTotal: 3 kB\n";
        assert_eq!(number_after(text, b"MemTotal:"), Some(247_336));
        assert_eq!(number_after(text, b"MemAvailable:"), Some(17));
        assert_eq!(number_after(text, b"SwapTotal:"), None);
    }

    #[test]
    fn several_fields_are_found_in_any_order() {
        let text = b"a: 1\nb: 2 kB\nother: 3\nc: 4\na: 5\nc";
        assert_eq!(
            numbers_after(text, &[b"c:", b"a:", b"x:", b"b:"]),
            [Some(4), Some(1), None, Some(2)]
        );
    }

    #[test]
    fn a_number_too_large_is_no_number() {
        assert_eq!(digits(b" 99999999999999999999999 "), None);
        assert_eq!(digits(b""), None);
    }

    #[test]
    fn totals_of_a_pressure_file() {
        let text = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=12\n\
                     full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(stall_total(text, b"some"), Some(12));
        assert_eq!(stall_total(text, b"full"), Some(7));
        assert_eq!(stall_total(b"", b"full"), None);
    }

    #[test]
    fn pairs_leave_out_what_is_none() {
        let found: Vec<_> = pairs(b"anon 4096\nnonsense\nfile 1\nlast").collect();
        assert_eq!(found, [(&b"anon"[..], 4096), (b"file", 1)]);
    }
}
