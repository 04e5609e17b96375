//! The manual page and the completions agree with what the program takes.
//! `UPDATE_EXPECT=1 cargo test -p lowtide commands` writes them anew.

use super::{COMMANDS, Lowtide, SWITCHES, usual};
use crate::mdoc::{assert_page, literal, prose};
use argh::{ArgsInfo as _, CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality};
use expect_test::expect_file;

/// Every command with its options.
fn commands() -> Vec<CommandInfoWithArgs> {
    let commands = Lowtide::get_args_info().commands;
    commands.into_iter().map(|sub| sub.command).collect()
}

/// What may stand first, each with what it does: options of the program itself, and commands.
fn first_words() -> Vec<(&'static str, &'static str)> {
    let program = Lowtide::get_args_info();
    let options = program
        .flags
        .iter()
        .map(|flag| (flag.long, flag.description));
    let commands = program.commands.into_iter();
    options
        .chain(commands.map(|sub| (sub.name, sub.command.description)))
        .collect()
}

/// What an option wants to be given.
fn value(flag: &FlagInfo<'static>) -> Option<&'static str> {
    match flag.kind {
        FlagInfoKind::Switch => None,
        FlagInfoKind::Option { arg_name } => Some(arg_name),
    }
}

/// An option and its value in mdoc.
fn option(flag: &FlagInfo<'static>) -> String {
    let value = value(flag).map_or_else(String::new, |value| format!(" Ar {value}"));
    format!("Fl {}{value}", literal(&flag.long[1..]))
}

#[test]
fn every_command_is_known_by_its_name() {
    let names: Vec<_> = commands().iter().map(|command| command.name).collect();
    assert_eq!(names, COMMANDS);
}

#[test]
fn options_may_be_written_as_is_usual() {
    for (written, known) in [
        (&["-h"][..], &["--help"][..]),
        (&["check", "-"], &["check", "/dev/stdin"]),
        (&["check", "--with=-"], &["check", "--with", "/dev/stdin"]),
        (&["check", "--root=a=b"], &["check", "--root", "a=b"]),
        (
            &["check", "--", "--a=b", "-h"],
            &["check", "--", "--a=b", "-h"],
        ),
        (&["check", "a=b"], &["check", "a=b"]),
    ] {
        assert_eq!(usual(written, SWITCHES).as_deref(), Ok(known));
    }
    assert_eq!(usual(&["check", "--offline=1"], SWITCHES), Err("--offline"));
}

#[test]
fn switches_are_known_as_such() {
    let all = commands();
    let flags = all.iter().flat_map(|command| command.flags);
    let flags = flags.chain(Lowtide::get_args_info().flags);
    let mut switches: Vec<_> = flags
        .filter(|flag| value(flag).is_none())
        .map(|flag| flag.long)
        .collect();
    switches.sort_unstable();
    switches.dedup();
    assert_eq!(switches, SWITCHES);
}

#[test]
fn the_manual_page_has_every_command() {
    let mut page = String::from(".Bl -tag -width Ds\n");
    for command in commands() {
        let flags: Vec<_> = command
            .flags
            .iter()
            .filter(|f| f.long != "--help")
            .collect();
        page += &format!(".It Ic {}", command.name);
        for flag in &flags {
            page += &format!(" Oo {} Oc", option(flag));
            if flag.optionality == Optionality::Repeating {
                page += " ...";
            }
        }
        for positional in command.positionals {
            page += &match positional.optionality {
                Optionality::Required => format!(" Ar {}", positional.name),
                _ => format!(" Op Ar {} ...", positional.name),
            };
        }
        page += &format!("\n{}", prose(command.description));
        if flags.is_empty() && command.positionals.is_empty() {
            continue;
        }
        page += ".Bl -tag -width Ds -compact\n";
        for flag in &flags {
            page += &format!(".It {}\n{}", option(flag), prose(flag.description));
        }
        for positional in command.positionals {
            let about = prose(positional.description);
            page += &format!(".It Ar {}\n{about}", positional.name);
        }
        page += ".El\n";
    }
    page += ".El\n";
    assert_page("lowtide.8", &[("commands", page)]);
}

const WRITTEN: &str = "# Written from the code: UPDATE_EXPECT=1 cargo test -p lowtide commands\n";

/// All values are files: what is not an option is left to the shell.
#[test]
fn bash_completes_every_option() {
    let first: Vec<_> = first_words().iter().map(|(word, _)| *word).collect();
    let mut script = format!(
        "{WRITTEN}_lowtide() {{\n\tlocal words=\n\tcase $COMP_CWORD:$2:${{COMP_WORDS[1]}} in\n"
    );
    script += &format!("\t1:*) words='{}' ;;\n", first.join(" "));
    for command in commands() {
        let options: Vec<_> = command.flags.iter().map(|flag| flag.long).collect();
        let options = options.join(" ");
        script += &format!("\t*:-*:{}) words='{options}' ;;\n", command.name);
    }
    script += "\tesac\n\tmapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$2\")\n}\n\
               complete -o default -F _lowtide lowtide\n";
    expect_file!["../../../pkg/completions/lowtide.bash"].assert_eq(&script);
}

#[test]
fn zsh_completes_every_option() {
    let quoted = |text: &str| {
        text.replace('\'', "'\\''")
            .replace(':', "\\:")
            .replace('[', "\\[")
            .replace(']', "\\]")
    };
    let mut script = format!("#compdef lowtide\n{WRITTEN}local -a commands=(\n");
    for (word, about) in first_words() {
        script += &format!("\t'{word}:{}'\n", quoted(about));
    }
    script += ")\nif (( CURRENT == 2 )); then\n\t_describe command commands\n\treturn\nfi\n\
               shift words\n(( CURRENT-- ))\ncase $words[1] in\n";
    for command in commands() {
        script += &format!("{})\n\t_arguments", command.name);
        for flag in command.flags {
            let repeated = if flag.optionality == Optionality::Repeating {
                "*"
            } else {
                ""
            };
            let value = value(flag).map_or_else(String::new, |value| format!(":{value}:_files"));
            script += &format!(
                " \\\n\t\t'{repeated}{}[{}]{value}'",
                flag.long,
                quoted(flag.description)
            );
        }
        for positional in command.positionals {
            script += &match positional.optionality {
                Optionality::Required => format!(" \\\n\t\t'1:{}:'", positional.name),
                _ => format!(" \\\n\t\t'*:{}:_files'", positional.name),
            };
        }
        script += "\n\t;;\n";
    }
    script += "esac\n";
    expect_file!["../../../pkg/completions/_lowtide"].assert_eq(&script);
}

#[test]
fn fish_completes_every_option() {
    let quoted = |text: &str| text.replace('\'', "\\'");
    let mut script = String::from(WRITTEN);
    for (word, about) in first_words() {
        script += &format!(
            "complete -c lowtide -f -n __fish_use_subcommand -a {word} -d '{}'\n",
            quoted(about)
        );
    }
    for command in commands() {
        for flag in command.flags {
            let value = if value(flag).is_some() { " -r" } else { "" };
            script += &format!(
                "complete -c lowtide -n '__fish_seen_subcommand_from {}' -l {}{value} -d '{}'\n",
                command.name,
                &flag.long[2..],
                quoted(flag.description)
            );
        }
    }
    expect_file!["../../../pkg/completions/lowtide.fish"].assert_eq(&script);
}
