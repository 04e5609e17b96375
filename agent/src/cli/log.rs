//! `lowtide log`: what was decided and why, also before the last restart.

use super::{advised, complain, print};
use crate::config::{self, Paths};
use crate::tell::civil::Utc;
use crate::tell::decisions::{RUN_FILE, before, in_line};
use crate::tell::reading::Entry;
use crate::tell::words::Ranked;
use crate::units::{Permyriad, Size};
use lowtide_judge::Level;
use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the kernel kept over a restart, and where systemd-pstore(8) moves it.
const PSTORE: [&str; 2] = ["/sys/fs/pstore", "/var/lib/systemd/pstore"];
/// Most bytes read of one file: many times what any of them holds.
const READ: u64 = 16 << 20;

/// Shows what was decided and why, oldest first, also before the last restart where a file or the
/// kernel kept it.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "log")]
pub struct Log {
    /// of this boot alone: 0 is the last one on record, -1 the one before it
    #[argh(option, arg_name = "number")]
    boot: Option<isize>,
    /// only what happened in the last 90s, 30m, 12h or 7d
    #[argh(option, arg_name = "time", from_str_fn(ago))]
    since: Option<u64>,
    /// one line of JSON a record
    #[argh(switch)]
    json: bool,
    /// read this file instead of those of the system; may be given more than once
    #[argh(option, arg_name = "file")]
    file: Vec<PathBuf>,
}

impl Log {
    /// Fails when nothing can be read at all.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        let mut entries = Vec::new();
        let mut unread = Vec::new();
        let named = !self.file.is_empty();
        let files = if named { self.file.clone() } else { kept() };
        for file in files {
            match read(&file) {
                Ok(text) => entries.extend(records(&text)),
                Err(error) if !named && error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unread.push(format!("{}: {}", file.display(), advised(&error))),
            }
        }
        for line in &unread {
            complain(format_args!("lowtide log: {line}"));
        }
        let mut boots = by_boot(entries);
        if let Some(which) = self.boot {
            let Some(boot) = pick(&mut boots, which) else {
                complain(format_args!(
                    "lowtide log: {} boots are on record",
                    boots.len()
                ));
                return ExitCode::FAILURE;
            };
            boots = vec![boot];
        }
        if let Some(ago) = self.since {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let since = now.map_or(0, |now| now.as_secs()).saturating_sub(ago);
            for boot in &mut boots {
                boot.retain(|entry| entry.number("time").is_some_and(|time| time >= since));
            }
        }
        let text = if self.json {
            in_json(&boots)
        } else {
            in_words(&boots)
        };
        let code = if unread.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
        print(text, code)
    }
}

/// Seconds.
pub fn ago(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time as 90s, 30m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    Ok(number.saturating_mul(seconds))
}

/// All files that may hold records, oldest first as far as that can be said.
fn kept() -> Vec<PathBuf> {
    let mut files = Vec::new();
    for dir in PSTORE {
        // systemd-pstore makes directories by date.
        files.extend(persistent_below(Path::new(dir), 3));
    }
    let config = config::load(&Paths::new(None, Vec::new())).ok();
    let named = config
        .and_then(|config| config.history)
        .map(|file| file.path);
    for file in named.into_iter().chain([PathBuf::from(RUN_FILE)]) {
        files.push(before(&file));
        files.push(file);
    }
    files
}

/// Text of user space (`pmsg-ramoops-0`), and the kernel's log at its end (`dmesg-ramoops-0`, and `dmesg.txt` where
/// systemd-pstore has put its parts together): Documentation/admin-guide/ramoops.rst.
fn persistent_below(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let Some(deeper) = depth.checked_sub(1) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(persistent_below(&entry.path(), deeper));
        } else {
            let name = entry.file_name();
            if [&b"pmsg-"[..], b"dmesg"]
                .iter()
                .any(|kind| name.as_bytes().starts_with(kind))
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn read(file: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(READ).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn records(text: &str) -> impl Iterator<Item = Entry> {
    text.lines().filter_map(|line| Entry::read(in_line(line)))
}

/// The records of each boot in the order of its clock, each record once, the boots in the order in
/// which they came.
fn by_boot(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut boots: Vec<Vec<Entry>> = Vec::new();
    for entry in entries {
        let same = |boot: &&mut Vec<Entry>| {
            boot.first().and_then(|first| first.text("boot")) == entry.text("boot")
        };
        match boots.iter_mut().find(same) {
            Some(boot) if boot.contains(&entry) => {}
            Some(boot) => boot.push(entry),
            None => boots.push(vec![entry]),
        }
    }
    for boot in &mut boots {
        boot.sort_by_key(|entry| entry.number("up_ms"));
    }
    // A device without a clock begins each boot in the same year: what the files say of the order
    // stays then.
    boots.sort_by_key(|boot| boot.iter().filter_map(|entry| entry.number("time")).max());
    boots
}

fn pick(boots: &mut Vec<Vec<Entry>>, which: isize) -> Option<Vec<Entry>> {
    let back = which.checked_neg().and_then(|n| usize::try_from(n).ok())?;
    let at = boots.len().checked_sub(back.checked_add(1)?)?;
    Some(boots.swap_remove(at))
}

fn in_json(boots: &[Vec<Entry>]) -> String {
    let lines = boots.iter().flatten();
    lines.map(|entry| format!("{}\n", entry.value())).collect()
}

fn in_words(boots: &[Vec<Entry>]) -> String {
    let mut text = String::new();
    for (boot, back) in boots.iter().zip((0..boots.len()).rev()) {
        if boots.len() > 1 && !boot.is_empty() {
            let minus = if back == 0 { "" } else { "-" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "-- boot {minus}{back} --");
        }
        for entry in boot {
            let _ = write!(text, "{}", Shown(entry));
        }
    }
    if text.is_empty() {
        text.push_str("Nothing is on record.\n");
    }
    text
}

/// A record as a person reads it, with a line feed at its end.
pub struct Shown<'a>(pub &'a Entry);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let text = |key| entry.text(key).unwrap_or("?");
        let size = |key| Size(entry.number(key).unwrap_or(0));
        write!(f, "{}  ", Utc(entry.number("time").unwrap_or(0)))?;
        match entry.kind.as_str() {
            "start" => writeln!(f, "lowtide {} started: {}", text("version"), text("status")),
            "stop" | "config" => writeln!(f, "{}", text("status")),
            "relief" => writeln!(
                f,
                "gone after {} ms, {} available",
                entry.number("took_ms").unwrap_or(0),
                size("available")
            ),
            "decision" => {
                if entry.flag("dry") {
                    f.write_str("would have: ")?;
                }
                let action = entry.text("action").filter(|action| *action != "nothing");
                if let Some(action) = action {
                    write!(f, "{action}")?;
                }
                if let Some(victim) = entry.text("victim") {
                    let number = |key| entry.number(key).unwrap_or(0);
                    let ranked = Ranked {
                        group: text("group"),
                        kill: number("kill"),
                        usage: number("usage"),
                        frees: number("frees"),
                    };
                    write!(f, " {victim} ({ranked})")?;
                }
                if let Some(error) = entry.text("error") {
                    write!(f, ", which failed: {error}")?;
                }
                if action.is_some() {
                    f.write_str("; ")?;
                }
                let why = text("why");
                let levels = Level::CONFIGURED.map(Level::name);
                if !levels.iter().any(|level| why.starts_with(level)) {
                    write!(f, "{}: ", text("level"))?;
                }
                write!(
                    f,
                    "{why}; {} of {} available, {} missing",
                    size("available"),
                    size("total"),
                    size("needed")
                )?;
                if let (Some(some), Some(full)) = (entry.number("some"), entry.number("full")) {
                    write!(
                        f,
                        ", stalled some {} full {}",
                        Permyriad(some),
                        Permyriad(full)
                    )?;
                }
                writeln!(f)?;
                for other in ["not1", "not2", "not3"] {
                    if let Some(other) = entry.text(other) {
                        writeln!(f, "{:25}not {other}", "")?;
                    }
                }
                Ok(())
            }
            other => writeln!(f, "{other}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(boot: &str, up_ms: u64, time: u64) -> Entry {
        let line = format!("relief = {{ boot = \"{boot}\", up_ms = {up_ms}, time = {time} }}");
        Entry::read(&line).unwrap()
    }

    #[test]
    fn boots_come_in_their_order_and_each_record_once() {
        let boots = by_boot(vec![
            entry("b", 5, 200),
            entry("a", 9, 100),
            entry("b", 2, 190),
            entry("b", 5, 200),
        ]);
        let times = |boot: &Vec<Entry>| boot.iter().map(|e| e.number("up_ms")).collect::<Vec<_>>();
        let found: Vec<_> = boots.iter().map(times).collect();
        assert_eq!(found, [vec![Some(9)], vec![Some(2), Some(5)]]);
        let last = pick(&mut boots.clone(), 0).unwrap();
        assert_eq!(last[0].text("boot"), Some("b"));
        assert_eq!(
            pick(&mut boots.clone(), -1).unwrap()[0].text("boot"),
            Some("a")
        );
        assert_eq!(pick(&mut boots.clone(), -2), None);
        assert_eq!(pick(&mut boots.clone(), 1), None);
    }

    /// Files as pstore hands them out: text of user space, and the kernel's log in two parts.
    #[test]
    fn what_the_kernel_kept_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let record = |up_ms| format!("relief = {{ boot = \"a\", up_ms = {up_ms}, time = 7 }}");
        let put = |name: &str, text: String| fs::write(dir.path().join(name), text).unwrap();
        put("pmsg-ramoops-0", format!("{}\nrelief = {{ boot", record(1)));
        put(
            "dmesg-ramoops-0",
            format!(
                "Restart#1 Part2\n<15>[    2.104] lowtide-record: {}\n",
                record(2)
            ),
        );
        fs::create_dir(dir.path().join("dmesg-7")).unwrap();
        put(
            "dmesg-7/dmesg.txt",
            format!(
                "Panic#1 Part1\n<4>[    3.1] other\n<15>[    3.2] lowtide-record: {}\n<5>[    3.3] lowtide: rebooting\n",
                record(3)
            ),
        );
        put("console-ramoops-0", record(4));
        let files = persistent_below(dir.path(), 3);
        let texts: Vec<_> = files.iter().map(|file| read(file).unwrap()).collect();
        let entries = texts.iter().flat_map(|text| records(text));
        let mut found: Vec<_> = entries.filter_map(|entry| entry.number("up_ms")).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
    }

    #[test]
    fn times_ago_have_units() {
        assert_eq!(ago("90s"), Ok(90));
        assert_eq!(ago("2d"), Ok(172_800));
        for wrong in ["", "5", "s", "-1s", "1y", "1é"] {
            assert!(ago(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_decision_reads_as_a_sentence() {
        let entry = Entry::read(
            "decision = { boot = \"a\", up_ms = 1, time = 0, level = \"critical\", \
             why = \"critical confirmed\", action = \"kill\", victim = \"/apps/media\", \
             group = \"media\", kill = 800, usage = 1048576, frees = 1048576, needed = 524288, \
             available = 524288, total = 2097152, some = 300, full = 50, \
             not1 = \"/apps/sensor (kill 100): lower priority\" }",
        );
        assert_eq!(
            Shown(&entry.unwrap()).to_string(),
            "1970-01-01 00:00:00 UTC  kill /apps/media (group media, priority 800, usage 1M, frees 1M); \
             critical confirmed; 512K of 2M available, 512K missing, stalled some 3 % \
             full 0.5 %\n                         not /apps/sensor (kill 100): lower priority\n"
        );
    }
}
