//! Settings of other OOM killers as a config: what they prefer, what they avoid, and when. A pattern that has
//! no counterpart stays in the result as a comment: nothing is dropped in silence.

use anyhow::{Context as _, Result, bail, ensure};
use lowtide_config::MAX_FILE;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::Path;

/// Where the settings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Earlyoom,
    Nohang,
    SystemdOomd,
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "earlyoom" => Ok(Self::Earlyoom),
            "nohang" => Ok(Self::Nohang),
            "systemd-oomd" => Ok(Self::SystemdOomd),
            _ => Err("expected earlyoom, nohang or systemd-oomd".to_owned()),
        }
    }
}

/// Goes first, as the other one preferred it.
const PREFERRED: u16 = 800;
/// Goes last, as the other one avoided it.
const AVOIDED: u16 = 100;

/// What the file says, or for systemd-oomd the units below a directory.
pub fn import(from: From, path: &Path) -> Result<String> {
    let read = || read(path).with_context(|| format!("{}", path.display()));
    let found = match from {
        From::Earlyoom => earlyoom(&read()?)?,
        From::Nohang => nohang(&read()?),
        From::SystemdOomd => systemd_oomd(path)?,
    };
    Ok(found.toml(&path.display().to_string()))
}

/// The text of a config of that size at most that lowtide takes itself.
fn read(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    let is_small = bytes.len() as u64 <= MAX_FILE;
    ensure!(is_small, "larger than {} KiB: no config", MAX_FILE / 1024);
    String::from_utf8(bytes).context("not UTF-8: no config")
}

#[derive(Debug, Default)]
struct Found {
    /// A table in a line of TOML, for critical's `confirm`.
    confirm: Option<String>,
    /// `processes` by priority; 0 to 1000, or never.
    processes: Vec<(String, Vec<String>)>,
    /// `cgroups` by priority.
    cgroups: Vec<(String, Vec<String>)>,
    /// What has no counterpart.
    left: Vec<String>,
}

fn add(to: &mut Vec<(String, Vec<String>)>, kill: &str, names: Vec<String>) {
    match to.iter_mut().find(|(known, _)| known == kill) {
        Some((_, known)) => known.extend(names),
        None => to.push((kill.to_owned(), names)),
    }
}

impl Found {
    /// Names that a regular expression stands for, or the expression among what is left.
    fn regex(&mut self, kill: &str, regex: &str, what: &str) {
        match names(regex) {
            Some(names) => add(&mut self.processes, kill, names),
            None => self.left.push(format!(
                "{what} {regex}: a regular expression; name what it means one by one"
            )),
        }
    }

    fn toml(&self, source: &str) -> String {
        let source = source.replace(char::is_control, " ");
        let mut out = format!("# From {source}.\n");
        // Writing to a String cannot fail.
        for line in &self.left {
            let _ = writeln!(
                out,
                "# Not taken over: {}",
                line.replace(char::is_control, " ")
            );
        }
        if let Some(confirm) = &self.confirm {
            let _ = write!(out, "\n[level.critical]\nconfirm = {confirm}\n");
        }
        for (key, of_kind) in [("processes", &self.processes), ("cgroups", &self.cgroups)] {
            for (kill, names) in of_kind {
                let number = kill.parse::<u16>();
                let kind = match &number {
                    Err(_) => "kept",
                    Ok(number) if *number > 500 => "preferred",
                    Ok(_) => "avoided",
                };
                let kill = number.map_or_else(|_| quoted(kill), |number| number.to_string());
                let names: Vec<_> = names.iter().map(|name| quoted(name)).collect();
                let _ = write!(
                    out,
                    "\n[[group]]\nname = \"{kind}-{key}-{}\"\nkill = {kill}\n{key} = [{}]\n",
                    kill.trim_matches('"'),
                    names.join(", ")
                );
            }
        }
        out
    }
}

fn quoted(text: &str) -> String {
    lowtide::tell::record::Quoted(text).to_string()
}

/// The names of `^(a|b)$`, `(^|/)(a|b)$`, `a|b` and the like; `None` where it stands for more.
fn names(regex: &str) -> Option<Vec<String>> {
    let mut rest = regex.trim();
    rest = rest
        .strip_prefix("(^|/)")
        .or_else(|| rest.strip_prefix('^'))
        .unwrap_or(rest);
    let whole = rest.strip_suffix('$');
    rest = whole.unwrap_or(rest);
    rest = rest
        .strip_prefix('(')
        .and_then(|inner| inner.strip_suffix(')'))
        .unwrap_or(rest);
    let is_plain = |name: &str| {
        !name.is_empty()
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || "-_ +:".contains(c))
    };
    let each = |name: &str| {
        let name = name.trim_start_matches('^').trim_end_matches('$');
        // `.*` at the end is a pattern here as well.
        let (stem, more) = match name.strip_suffix(".*") {
            Some(stem) => (stem, "*"),
            None => (name, ""),
        };
        let plain = stem.replace("\\.", ".");
        is_plain(&plain.replace('.', "")).then(|| format!("{plain}{more}"))
    };
    rest.split('|').map(each).collect()
}

/// The words of earlyoom's command line: `-m`, `-s`, `--prefer`, `--avoid`, `--ignore`; from the file
/// /etc/default/earlyoom, a unit's ExecStart, or as they are.
fn earlyoom(text: &str) -> Result<Found> {
    let line = text
        .lines()
        .map(str::trim)
        .rfind(|line| {
            ["EARLYOOM_ARGS=", "ExecStart="]
                .iter()
                .any(|key| line.starts_with(key))
        })
        .map_or(text.trim(), |line| {
            line.split_once('=').map_or(line, |(_, args)| args)
        });
    let words = words(line);
    // The whole may be one word in quotes.
    let words = match &words[..] {
        [one] if one.contains(' ') => self::words(one),
        _ => words,
    };
    let mut found = Found::default();
    let (mut memory, mut swap) = (None, None);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let (option, given) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, Some(value)),
            _ => (word, None),
        };
        let mut value = || {
            given
                .or_else(|| words.next())
                .with_context(|| format!("{option}: no value"))
        };
        match option {
            "-m" => memory = Some(percent(value()?)?),
            "-s" => swap = Some(percent(value()?)?),
            "--prefer" => found.regex(&PREFERRED.to_string(), value()?, option),
            "--avoid" => found.regex(&AVOIDED.to_string(), value()?, option),
            "--ignore" => found.regex("never", value()?, option),
            "-M" | "-S" | "-r" | "-p" | "-n" | "-N" => {
                let value = value().unwrap_or_default();
                found.left.push(format!("{option} {value}"));
            }
            word if word.starts_with('-') => found.left.push(word.to_owned()),
            _ => {}
        }
    }
    found.confirm = match (memory, swap) {
        (None, None) => None,
        (memory, swap) => {
            // Both have to hold there as well; 10 each where nothing is said.
            let memory = memory.unwrap_or(10.0);
            let swap = swap.unwrap_or(10.0);
            Some(format!(
                "{{ available_below = \"{memory}%\", swap_free_below = \"{swap}%\" }}"
            ))
        }
    };
    Ok(found)
}

/// `5` or `5,3`, of which the first is when it asks.
fn percent(text: &str) -> Result<f64> {
    let first = text.split(',').next().unwrap_or(text);
    let number: f64 = first
        .parse()
        .with_context(|| format!("{text:?} is no percentage"))?;
    if !(0.1..=90.0).contains(&number) {
        bail!("{text:?} is no percentage that makes sense here");
    }
    Ok(number)
}

/// As a shell splits it: blanks, quotes, backslashes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// `soft_threshold_min_mem = 5 %`, `@BADNESS_ADJ_RE_NAME 200 /// REGEX` and the like.
fn nohang(text: &str) -> Found {
    let mut found = Found::default();
    let lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    for line in lines {
        if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('@')) {
            if key.trim() == "soft_threshold_min_mem"
                && let Some(share) = value.trim().strip_suffix('%')
                && let Ok(share) = percent(share.trim())
            {
                found.confirm = Some(format!("{{ available_below = \"{share}%\" }}"));
            }
            continue;
        }
        let adj = line.strip_prefix("@BADNESS_ADJ_RE_NAME");
        let adj = adj.and_then(|rest| rest.split_once("///"));
        match adj {
            Some((number, regex)) => match number.trim().parse::<i32>() {
                Ok(number) => {
                    let kill = if number > 0 { PREFERRED } else { AVOIDED };
                    found.regex(&kill.to_string(), regex, "@BADNESS_ADJ_RE_NAME");
                }
                Err(_) => found.left.push(line.to_owned()),
            },
            None => found.left.push(line.to_owned()),
        }
    }
    found
}

/// Units and their drop-ins below a directory such as /etc/systemd/system.
fn systemd_oomd(dir: &Path) -> Result<Found> {
    let mut found = Found::default();
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        entries.push(entry?.path());
    }
    entries.sort();
    for path in entries {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let unit = name.strip_suffix(".d").unwrap_or(&name);
        let kinds = [".service", ".slice", ".scope"];
        if !kinds.iter().any(|kind| unit.ends_with(kind)) {
            continue;
        }
        let mut files = Vec::new();
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                files.push(entry?.path());
            }
            files.retain(|file| file.extension().is_some_and(|kind| kind == "conf"));
            files.sort();
        } else {
            files.push(path.clone());
        }
        for file in files {
            // A masked unit is a link to /dev/null, which is empty.
            let text = read(&file).unwrap_or_else(|error| {
                let file = file.display();
                found.left.push(format!("{file}: {error:#}"));
                String::new()
            });
            for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
                found.managed_oom(unit, key.trim(), value.trim());
            }
        }
    }
    Ok(found)
}

impl Found {
    fn managed_oom(&mut self, unit: &str, key: &str, value: &str) {
        let glob = |end: &str| format!("**/{}{end}", unit.replace("@.", "@*."));
        match (key, value) {
            ("ManagedOOMPreference", "omit") => add(&mut self.cgroups, "never", vec![glob("")]),
            ("ManagedOOMPreference", "avoid") => {
                add(&mut self.cgroups, &AVOIDED.to_string(), vec![glob("")]);
            }
            // What is below goes, where it presses: before what it does not look at.
            ("ManagedOOMSwap" | "ManagedOOMMemoryPressure", "kill") => {
                let new = glob("/**");
                let known = self.cgroups.iter().any(|(_, globs)| globs.contains(&new));
                if !known {
                    add(&mut self.cgroups, &PREFERRED.to_string(), vec![new]);
                }
            }
            ("ManagedOOMMemoryPressureLimit" | "ManagedOOMMemoryPressureDurationSec", _) => {
                self.left.push(format!(
                    "{unit}: {key}={value}: lowtide acts by what is available"
                ));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_config::parse;

    /// Group of that number, and what it covers.
    fn used(found: &Found) -> String {
        let text = found.toml("somewhere");
        parse("imported", &text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        text
    }

    #[test]
    fn earlyoom_as_debian_has_it() {
        let text = "# Default settings for earlyoom.\nEARLYOOM_ARGS=\"-r 3600 -m 5,2 -s 20 --avoid '(^|/)(init|Xorg|ssh)$' \
                    --prefer '^(chromium|java.*)$' --ignore '^k[0-9]'\"\n";
        let text = used(&earlyoom(text).unwrap());
        for part in [
            "confirm = { available_below = \"5%\", swap_free_below = \"20%\" }",
            "kill = 100\nprocesses = [\"init\", \"Xorg\", \"ssh\"]",
            "kill = 800\nprocesses = [\"chromium\", \"java*\"]",
            "# Not taken over: --ignore ^k[0-9]",
            "# Not taken over: -r 3600",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(earlyoom("-m five").is_err());
        assert!(earlyoom("--prefer").is_err());
    }

    #[test]
    fn nohang_as_it_is_shipped() {
        let text = "## comment\nsoft_threshold_min_mem = 5 %\nhard_threshold_min_mem = 2 %\n\
                    @BADNESS_ADJ_RE_NAME 200 /// ^(firefox|chromium)$\n\
                    @BADNESS_ADJ_RE_NAME -500 /// ^sshd$\n\
                    @BADNESS_ADJ_RE_CMDLINE 50 /// -childID|--type=renderer\n";
        let text = used(&nohang(text));
        for part in [
            "confirm = { available_below = \"5%\" }",
            "kill = 800\nprocesses = [\"firefox\", \"chromium\"]",
            "kill = 100\nprocesses = [\"sshd\"]",
            "# Not taken over: @BADNESS_ADJ_RE_CMDLINE 50",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn units_for_systemd_oomd() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        put("player.service", "[Service]\nManagedOOMPreference=omit\n");
        put(
            "sync.service.d/oom.conf",
            "[Service]\nManagedOOMPreference = avoid\n",
        );
        put(
            "user@.service.d/10-oomd.conf",
            "[Service]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=50%\n",
        );
        put("notes.txt", "ManagedOOMPreference=omit\n");
        let text = used(&systemd_oomd(dir.path()).unwrap());
        for part in [
            "kill = \"never\"\ncgroups = [\"**/player.service\"]",
            "kill = 100\ncgroups = [\"**/sync.service\"]",
            "kill = 800\ncgroups = [\"**/user@*.service/**\"]",
            "# Not taken over: user@.service: ManagedOOMMemoryPressureLimit=50%",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("notes"));
    }
}
