//! Which code of the agent stays in memory, and which it gives back: told by the names of functions, as
//! the linker was (`agent/cold.ld`).

use anyhow::{Context as _, Result, bail, ensure};
use std::fs;
use std::path::Path;

/// Where the linker puts what only the start needs.
const COLD_SECTION: &str = "lowtide_cold";
const HOT_SECTION: &str = ".text";

/// What an episode runs: each page of it that is not in memory is a wait for the disk, at the worst time.
/// All that is ours and not named below.
const HOT: [&str; 6] = [
    "lowtide",
    "lowtide::cli::main",
    "lowtide::cli::run::Run::run",
    "lowtide_common",
    "lowtide_judge",
    "lowtide_rules",
];
/// What the start, a reload or a person's command runs; also where it lies in one of those.
const COLD: [&str; 17] = [
    "aya_obj",
    "lowtide::act::reflex::Reflex::load",
    "lowtide::act::reflex::Reflex::open",
    "lowtide::act::reflex::pins",
    "lowtide::cli",
    "lowtide::daemon::reflex::<impl lowtide::daemon::Daemon>::open_reflex",
    "lowtide::daemon::start",
    "lowtide::sense::bpf::btf",
    "lowtide::sense::bpf::elf",
    "lowtide::sense::bpf::object",
    "lowtide::sense::choose",
    "lowtide::sense::kfunc::Kfunc::open",
    "lowtide::sense::other_killers",
    "lowtide::sense::watch::Watch::open",
    "lowtide::tell::table",
    "lowtide_config",
    "toml_parser",
];

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
                        name: format!("{:#}", rustc_demangle::demangle(symbol)),
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

/// Where a function is written: `lowtide::tell::words::Size` for `<lowtide::tell::words::Size as
/// core::fmt::Display>::fmt`.
fn home(name: &str) -> &str {
    name.trim_start_matches(['<', '&'])
}

/// The longest of the names that it begins with.
fn belongs<'a>(name: &str, to: &[&'a str]) -> Option<&'a str> {
    let inside = |prefix: &&str| {
        let rest = home(name).strip_prefix(*prefix);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    to.iter()
        .copied()
        .filter(inside)
        .max_by_key(|prefix| prefix.len())
}

/// The section that the function has to be in, as far as its name says.
fn wanted(name: &str) -> Option<&'static str> {
    let (hot, cold) = (belongs(name, &HOT), belongs(name, &COLD));
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
    for prefix in &COLD {
        ensure!(
            functions
                .iter()
                .any(|f| belongs(&f.name, &[prefix]).is_some()),
            "no function is in {prefix}: is that its name still?"
        );
    }
    let misplaced: Vec<_> = functions
        .iter()
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
          226380           226380      10d    16         a.o:(.text._ZN7lowtide6daemon7episode1f17h0123456789abcdefE)
          226380           226380      10d     1                 _ZN7lowtide6daemon7episode1f17h0123456789abcdefE
          290970           290970    54321    16 lowtide_cold
          290970           290970      10d    16         a.o:(.text._ZN14lowtide_config5parse17h0123456789abcdefE)
";

    #[test]
    fn a_map_says_which_function_is_where() {
        let of = |name: &str, section: &str| Function {
            name: name.to_owned(),
            section: section.to_owned(),
        };
        let wanted = [
            of("lowtide::daemon::episode::f", ".text"),
            of("lowtide_config::parse", "lowtide_cold"),
        ];
        assert_eq!(functions(MAP), wanted);
    }

    #[test]
    fn the_nearest_name_decides() {
        for (name, section) in [
            ("lowtide::daemon::start::arm", Some(COLD_SECTION)),
            (
                "<lowtide::daemon::episode::X as core::fmt::Debug>::fmt",
                Some(HOT_SECTION),
            ),
            (
                "<&lowtide_config::problem::Problem as core::fmt::Debug>::fmt",
                Some(COLD_SECTION),
            ),
            ("lowtide::daemon::started", Some(HOT_SECTION)),
            ("core::ptr::drop_in_place<lowtide_config::Loaded>", None),
        ] {
            assert_eq!(wanted(name), section, "{name}");
        }
    }
}
