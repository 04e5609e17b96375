//! Which code of the agent stays in memory, and which it gives back: told by the names of functions, as
//! the linker was (`agent/cold.ld`).

use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// Where the linker puts what only the start needs.
const COLD_SECTION: &str = "lowtide_cold";
const HOT_SECTION: &str = ".text";
/// What is kept beside that as many types have it, for which the names of some of ours are taken.
const SHARED_SECTION: &str = "lowtide_hot";

/// What an episode runs: each page of it that is not in memory is a wait for the disk, at the worst time.
/// All that is ours and not named below.
const HOT: &[&str] = &[
    "lowtide",
    "lowtide::cli::main",
    "lowtide::cli::run::run",
    "lowtide::sense::bpf::call",
    "lowtide::sense::bpf::mapped",
    "lowtide::sense::bpf::ring",
    "lowtide_common",
    "lowtide_judge",
    "lowtide_rules",
];
/// What the start, a reload or a person's command runs; also where it lies in one of those. Methods by the
/// module that they are written in.
const COLD: &[&str] = &[
    "aya_obj",
    "lowtide::act::reflex::load",
    "lowtide::act::reflex::open",
    "lowtide::act::reflex::pins",
    "lowtide::cli",
    "lowtide::daemon::reflex::arm_reflex",
    "lowtide::daemon::reflex::open_reflex",
    "lowtide::daemon::rights",
    "lowtide::daemon::start",
    "lowtide::sense::arm::watch",
    "lowtide::sense::bpf",
    "lowtide::sense::bpf::ring::new",
    "lowtide::sense::choose",
    "lowtide::sense::kfunc::in_either_form",
    "lowtide::sense::kfunc::layout_of",
    "lowtide::sense::kfunc::open",
    "lowtide::sense::other_killers",
    "lowtide::sense::watch::memory_layout",
    "lowtide::sense::watch::open",
    "lowtide::tell::table",
    "lowtide_config",
    "toml_parser",
];

/// Of these, the crates whose types count in the names of others.
const COLD_CRATES: &[&str] = &["aya_obj", "lowtide_config", "toml_parser"];

/// A function, and the section that it is in.
#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    section: String,
}

/// Reads the linker's map (lld's format): a line for each output section, with its name in the last column,
/// and behind it one for each part, `FILE:(.text.SYMBOL)`.
fn functions(map: &str) -> Vec<Function> {
    let mut section = "";
    let mut found = Vec::new();
    for line in map.lines() {
        // Four columns of numbers; then the deeper the kind, the more spaces.
        let Some(rest) = after_numbers(line) else {
            continue;
        };
        match rest.trim_start() {
            name if rest.len() == name.len() => section = name,
            part => {
                let symbol = part.rsplit_once(":(.text.").map(|(_, symbol)| symbol);
                if let Some(symbol) = symbol.and_then(|symbol| symbol.strip_suffix(')')) {
                    found.push(Function {
                        name: place(symbol),
                        section: section.to_owned(),
                    });
                }
            }
        }
    }
    found
}

/// What follows VMA, LMA, size and alignment and one space.
fn after_numbers(line: &str) -> Option<&str> {
    let mut rest = line;
    for _ in 0..4 {
        rest = rest.trim_start();
        let end = rest.find(' ')?;
        u64::from_str_radix(&rest[..end], 16).ok()?;
        rest = &rest[end..];
    }
    rest.strip_prefix(' ')
}

/// Where a function is written, and its own name: `lowtide::tell::words::fmt` for
/// `<lowtide::tell::words::Size as core::fmt::Display>::fmt`. What is made for a type of a cold crate belongs to
/// that.
fn place(symbol: &str) -> String {
    if let Some(of) = COLD_CRATES.iter().find(|of| is_made_for(symbol, of)) {
        return (*of).to_owned();
    }
    let name = format!("{:#}", rustc_demangle::demangle(symbol));
    match (after_type(&name), module(symbol)) {
        (Some(own), Some(module)) => module + own,
        _ => name,
    }
}

/// The crate is in the name, and not only at its end, as the one that had it made.
fn is_made_for(symbol: &str, of: &str) -> bool {
    let name = format!("{}{of}", of.len());
    symbol
        .find(&name)
        .is_some_and(|at| at + name.len() < symbol.len())
}

/// `::NAME` of a method or a function of a trait, as they are demangled: `<TYPE>::NAME`.
fn after_type(name: &str) -> Option<&str> {
    let mut depth = 0_u32;
    let mut before = ' ';
    for (at, c) in name.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return name.get(at + 1..).filter(|_| at > 0);
        }
        before = c;
    }
    None
}

/// The first path of a name of the v0 mangling, which for a method is the module that it is written in:
/// `lowtide::daemon::start` of `_RNvMNtNtCs1_7lowtide6daemon5startNtB4_6Daemon6reload`.
fn module(symbol: &str) -> Option<String> {
    let (_, path) = symbol.split_once("Cs")?;
    let (_, mut rest) = path.split_once('_')?;
    let mut parts = Vec::new();
    while let Some((length, after)) = number(rest)
        && let Some((part, after)) = after.split_at_checked(length)
    {
        parts.push(part);
        rest = after;
    }
    (!parts.is_empty()).then(|| parts.join("::"))
}

/// A decimal number, and what follows it.
fn number(text: &str) -> Option<(usize, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest.strip_prefix('_').unwrap_or(rest)))
}

/// The longest of the names that it begins with.
fn belongs<'a>(name: &str, to: &[&'a str]) -> Option<&'a str> {
    let inside = |prefix: &&str| {
        let rest = name.strip_prefix(*prefix);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    to.iter()
        .copied()
        .filter(inside)
        .max_by_key(|prefix| prefix.len())
}

/// The section that the function has to be in, as far as its name says.
fn wanted(name: &str) -> Option<&'static str> {
    let (hot, cold) = (belongs(name, HOT), belongs(name, COLD));
    let length = |prefix: Option<&str>| prefix.map_or(0, str::len);
    match (hot, cold) {
        (None, None) => None,
        _ if length(cold) > length(hot) => Some(COLD_SECTION),
        _ => Some(HOT_SECTION),
    }
}

/// Every function of ours is on the side where it belongs.
pub fn is_where_it_belongs(map: &Path) -> Result<()> {
    let text = fs::read_to_string(map).with_context(|| format!("{}", map.display()))?;
    let functions = functions(&text);
    for prefix in COLD {
        ensure!(
            functions
                .iter()
                .any(|f| belongs(&f.name, &[prefix]).is_some()),
            "no function is in {prefix}: is that its name still?"
        );
    }
    let misplaced: Vec<_> = functions
        .iter()
        .filter(|f| f.section != SHARED_SECTION)
        .filter(|f| wanted(&f.name).is_some_and(|section| section != f.section))
        .map(|f| format!("{} is in {}", f.name, f.section))
        .collect();
    if !misplaced.is_empty() {
        bail!("agent/cold.ld: {}", misplaced.join("\n    "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = "             VMA              LMA     Size Align Out     In      Symbol
          226380           226380    6a5e8    16 .text
          226380           226380      10d    16         a.o:(.text._RNvMNtNtCs1_7lowtide6daemon7episodeNtB4_6Daemon1f)
          226380           226380      10d     1                 _RNvMNtNtCs1_7lowtide6daemon7episodeNtB4_6Daemon1f
          290970           290970    54321    16 lowtide_cold
          290970           290970      10d    16         a.o:(.text._RNvCs1_14lowtide_config5parse)
";

    #[test]
    fn a_map_says_which_function_is_where() {
        let of = |name: &str, section: &str| Function {
            name: name.to_owned(),
            section: section.to_owned(),
        };
        let wanted = [
            of("lowtide::daemon::episode::f", ".text"),
            of("lowtide_config", "lowtide_cold"),
        ];
        assert_eq!(functions(MAP), wanted);
    }

    #[test]
    fn the_nearest_name_decides() {
        for (name, section) in [
            ("lowtide::daemon::start::arm", Some(COLD_SECTION)),
            ("lowtide::daemon::episode::fmt", Some(HOT_SECTION)),
            ("lowtide_config::problem::fmt", Some(COLD_SECTION)),
            ("lowtide::daemon::started", Some(HOT_SECTION)),
            ("core::ptr::drop_in_place<lowtide_config::Loaded>", None),
        ] {
            assert_eq!(wanted(name), section, "{name}");
        }
    }

    #[test]
    fn a_method_is_where_it_is_written() {
        for (symbol, wanted) in [
            (
                "_RNvMNtNtCs1_7lowtide6daemon5startNtB4_6Daemon6reload",
                "lowtide::daemon::start::reload",
            ),
            (
                "_RNvXs_NtNtCs1_7lowtide4tell5wordsNtB4_4SizeNtNtCs2_4core3fmt7Display3fmt",
                "lowtide::tell::words::fmt",
            ),
            (
                "_RNCNvMNtNtCs1_7lowtide5sense5kfuncNtB4_5Kfunc4open0B6_",
                "lowtide::sense::kfunc::open::{closure#0}",
            ),
            ("_RNvCs1_14lowtide_config5parse", "lowtide_config"),
            (
                "_RNvXs0_NtCs1_7lowtide5unitsINtB5_5PlainNtNtCs2_14lowtide_config7problem8ProblemsE3fmt",
                "lowtide_config",
            ),
            (
                "_RNvNtNtCs1_7lowtide4tell5words4saidCs2_14lowtide_config",
                "lowtide::tell::words::said",
            ),
        ] {
            assert_eq!(place(symbol), wanted);
        }
    }
}
