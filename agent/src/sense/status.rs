//! What /proc/PID/status says of a process, without allocating.

use lowtide_common::Row;

/// Bytes of a status file that are looked at; what is wanted stands in the first half of it.
pub const STATUS: usize = 4096;

/// `TASK_COMM_LEN`: what the kernel keeps of a name, with a byte for its end.
pub const COMM: usize = 16;

/// What the kernel calls a process: any bytes but NUL, at most 15 of them. Of a worker of its own it
/// tells more, which is cut here.
pub type Comm = heapless::Vec<u8, COMM>;

/// The text of a status file.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a>(pub &'a [u8]);

impl<'a> Status<'a> {
    /// What the kernel calls it.
    pub fn name(self) -> Comm {
        let mut name = Comm::new();
        let mut escaped = self.rest("Name:\t").iter();
        while let Some(&byte) = escaped.next() {
            // The kernel spells these two out, and no others.
            let byte = match (byte, escaped.as_slice().first()) {
                (b'\\', Some(b'n')) => b'\n',
                (b'\\', Some(b'\\')) => b'\\',
                _ => {
                    let _ = name.push(byte);
                    continue;
                }
            };
            escaped.next();
            let _ = name.push(byte);
        }
        name
    }

    /// The real user, who has started it: of a setuid program that is not the effective one, and what it is
    /// called is the word of whoever started it. `None` where there is no such line.
    pub fn user(self) -> Option<u32> {
        self.line("Uid:").split('\t').next()?.parse().ok()
    }

    /// Whether it is in a pid namespace below the agent's, as of a container.
    pub fn is_contained(self) -> bool {
        self.line("NSpid:").split('\t').count() > 1
    }

    /// Whether all that is left of it is what its parent may want to know.
    pub fn has_exited(self) -> bool {
        matches!(self.line("State:").as_bytes(), [b'Z' | b'X', ..])
    }

    /// Whether its first thread has ended and others go on: their memory is shown at theirs alone.
    pub fn is_headless(self) -> bool {
        let threads = self.line("Threads:").parse::<u32>();
        self.has_exited() && threads.is_ok_and(|threads| threads > 1)
    }

    /// Whether it has memory of its own: a kernel thread has none, and one that is exiting has it
    /// no longer.
    pub fn has_memory(self) -> bool {
        !self.line("VmRSS:").is_empty()
    }

    pub fn anon(self) -> u64 {
        self.bytes("RssAnon:")
    }

    /// Pages of files that are mapped.
    pub fn file(self) -> u64 {
        self.bytes("RssFile:")
    }

    pub fn shmem(self) -> u64 {
        self.bytes("RssShmem:")
    }

    pub fn swap(self) -> u64 {
        self.bytes("VmSwap:")
    }

    /// Bytes that come back when it dies: anonymous and shared memory that it has mapped, and
    /// swap.
    pub fn freed_by_kill(self) -> u64 {
        self.anon()
            .saturating_add(self.shmem())
            .saturating_add(self.swap())
    }

    /// Its figures as a candidate, without an id or a rule.
    pub fn row(self) -> Row {
        let (anon, shmem, swap) = (self.anon(), self.shmem(), self.swap());
        let file = self.file().saturating_add(shmem);
        Row {
            usage: anon.saturating_add(file),
            anon,
            file,
            shmem,
            file_mapped: file,
            swap,
            level: 1,
            flags: Row::POPULATED | Row::LEAF | Row::PROCESS,
            ..Row::ZERO
        }
    }

    fn bytes(self, key: &str) -> u64 {
        let kb = self.line(key).strip_suffix(" kB");
        let kb = kb.and_then(|kb| kb.parse::<u64>().ok());
        kb.unwrap_or(0).saturating_mul(1024)
    }

    /// What stands behind a key; empty where it is missing.
    fn line(self, key: &str) -> &'a str {
        core::str::from_utf8(self.rest(key))
            .unwrap_or_default()
            .trim_ascii()
    }

    /// The same as it stands there.
    fn rest(self, key: &str) -> &'a [u8] {
        self.0
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(key.as_bytes()))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEDIA: Status<'_> = Status(
        b"Name:\tmediaserver\nState:\tS (sleeping)\nPid:\t42\nUid:\t1000\t33\t1000\t1000\n\
        VmRSS:\t   20480 kB\nRssAnon:\t   16384 kB\nRssFile:\t    3072 kB\nRssShmem:\t    1024 kB\n\
        VmSwap:\t     512 kB\nThreads:\t3\n",
    );

    #[test]
    fn a_process_frees_what_no_file_stands_behind() {
        assert_eq!(MEDIA.freed_by_kill(), (16384 + 1024 + 512) << 10);
        assert!(MEDIA.has_memory());
    }

    #[test]
    fn a_kernel_thread_frees_nothing() {
        let thread = Status(b"Name:\tkthreadd\nUid:\t0\t0\t0\t0\n");
        assert_eq!(thread.freed_by_kill(), 0);
        assert!(!thread.has_memory());
    }

    #[test]
    fn who_is_exiting_has_no_memory_and_one_that_has_exited_is_a_zombie() {
        let exiting = Status(b"Name:\tmedia\nState:\tR (running)\nUid:\t0\t0\t0\t0\n");
        assert!(!exiting.has_memory() && !exiting.has_exited());
        assert!(Status(b"State:\tZ (zombie)\n").has_exited());
        assert!(!MEDIA.has_exited());
    }

    #[test]
    fn a_first_thread_may_end_before_the_others() {
        let ended = Status(b"Name:\tmedia\nState:\tZ (zombie)\nThreads:\t3\n");
        assert!(ended.is_headless() && !MEDIA.is_headless());
        assert!(!Status(b"State:\tZ (zombie)\nThreads:\t1\n").is_headless());
    }

    #[test]
    fn a_name_may_be_any_bytes() {
        for (line, name) in [
            (&b"Web Content"[..], &b"Web Content"[..]),
            (b" x ", b" x "),
            // As the kernel spells out the only two that it does, 15 of each.
            (&br"\n".repeat(15)[..], &[b'\n'; 15][..]),
            (&br"\\".repeat(15)[..], &[b'\\'; 15][..]),
            (br"a\\nb", br"a\nb"),
            (
                b"ip\xe2\x80\xa6\xe2\x80\xa6\xe2\x80\xa6\xe2\x80\xa6\xe2",
                b"ip\xe2\x80\xa6\xe2\x80\xa6\xe2\x80\xa6\xe2\x80\xa6\xe2",
            ),
        ] {
            let text = [b"Name:\t", line, b"\nUmask:\t0022\n"].concat();
            assert_eq!(Status(&text).name(), name);
        }
    }

    #[test]
    fn a_process_of_a_container_has_another_pid_there() {
        assert!(Status(b"NSpid:\t812\t1\n").is_contained());
        assert!(!Status(b"NSpid:\t812\n").is_contained());
        assert!(!MEDIA.is_contained());
    }

    #[test]
    fn a_setuid_program_belongs_to_whoever_started_it() {
        assert_eq!(MEDIA.user(), Some(1000));
    }
}
