//! `lowtide explain`: what would happen, and to which cgroup or process, without doing anything.

mod show;

use super::output::{complain, print};
use crate::config::{self, EngineKind, Loaded, Paths, ReflexKill, rule};
use crate::escaped::Escaped;
use crate::sense::choose::{self, Wanted};
use crate::sense::containers;
use crate::sense::meminfo::Meminfo;
use crate::sense::process::Id;
use crate::sense::tree::{PATH, Tree};
use crate::sense::{Surveyor, is_one_by_one};
use lowtide_common::{CANDIDATES, NO_GROUP, Request, Row, Survey};
use lowtide_judge::{
    History, Judged, Look, Memory, Millis, Names, Outlook, Policy, Reason, Unit, Verdict,
};
use procfs::process::Process;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Time between the two looks at the figures that say how they move.
const LOOK_MS: Millis = 250;
/// Nothing has ended, so nothing can have come back.
const UNNAMED: Names = [0; CANDIDATES];
/// Rows for cgroups that come while the survey runs.
const SPARE_ROWS: u32 = 64;

/// Says what would be reclaimed and killed if memory ran out now, in which order and why.
/// Changes nothing.
#[derive(argh::FromArgs)]
#[cfg_attr(test, derive(argh::ArgsInfo))]
#[argh(subcommand, name = "explain")]
pub struct Explain {
    /// read this file in the place of /etc/lowtide/config.toml, and all others as they are
    #[argh(option, arg_name = "file")]
    with: Option<PathBuf>,
    /// read this file as if it were in /etc/lowtide/config.d, and all others as they are; may be
    /// given more than once
    #[argh(option, arg_name = "file")]
    drop_in: Vec<PathBuf>,
    /// read this file alone, on top of what is built in; may be given more than once, later ones
    /// set single keys over earlier ones
    #[argh(option, arg_name = "file")]
    config: Vec<PathBuf>,
    /// explain a device by a copy of its files, made with lowtide-snapshot: this directory stands
    /// for `/`. Groups then cover cgroups alone
    #[argh(option, arg_name = "dir")]
    root: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

impl Explain {
    /// Fails when the config cannot be used or no engine works here.
    #[inline(never)]
    pub fn run(self) -> ExitCode {
        let mut paths = Paths::new(self.root.clone(), self.config);
        (paths.with, paths.drop_ins) = (self.with, self.drop_in);
        let config = match config::load(&paths) {
            Ok(config) => config,
            Err(problems) => {
                complain(problems);
                return ExitCode::FAILURE;
            }
        };
        let explanation = match &self.root {
            Some(root) => Explanation::of_copy(&config, root),
            None => Explanation::now(&config),
        };
        match explanation {
            Ok(explanation) if self.json => {
                print(explanation.json(&config.policy), ExitCode::SUCCESS)
            }
            Ok(explanation) => print(explanation.text(&config.policy), ExitCode::SUCCESS),
            Err(error) => {
                complain(error);
                ExitCode::FAILURE
            }
        }
    }
}

/// What one look at the device found.
pub struct Explanation {
    /// When the reflex acts, where there can be one.
    reflex: Option<&'static str>,
    engine: &'static str,
    unit: Unit,
    /// Why a better engine does not work here.
    notes: Vec<String>,
    /// The verdict on the figures as they are, as if every trigger had just fired.
    now: Verdict,
    /// The verdict on the figures of the moment at which memory runs out.
    outlook: Verdict,
    /// Every cgroup but the root, or every process, with its place in both orders.
    cgroups: Vec<Cgroup>,
    /// cgroups that the table had no room for.
    left_out: u32,
}

pub struct Cgroup {
    /// From the root, with a leading slash; of a process its pid and name.
    pub path: String,
    /// What the container is called that it is.
    pub container: Option<String>,
    pub row: Row,
    /// Bytes that come back when it ends.
    frees: u64,
    kill: Place,
    reclaim: Place,
}

/// Where a cgroup stands in one of the orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// From 1, with what keeps it from being first.
    Turn(usize, Reason),
    /// It has no turn.
    Out(Reason),
    /// Part of the cgroup above it that is killed as a whole.
    Part,
    /// Those below it are ranked, one by one.
    Parent,
    /// No process in it.
    Empty,
}

impl Explanation {
    /// What could go by itself, and what is kept from it.
    pub fn ranked(&self) -> impl Iterator<Item = &Cgroup> {
        self.cgroups
            .iter()
            .filter(|cgroup| matches!(cgroup.kill, Place::Turn(..) | Place::Out(_)))
    }

    pub fn now(config: &Loaded) -> io::Result<Self> {
        let agent = agent();
        let protected: Vec<_> = agent.into_iter().chain([1]).collect();
        let tree = Tree::protecting(&protected)?;
        let rows = rows_wanted(&tree) + SPARE_ROWS;
        let wanted = Wanted {
            bpf_jit: false,
            rows,
            ..config.engine.into()
        };
        Self::look(config, tree, &wanted, || watch(&config.policy))
    }

    /// Of what was copied from a device.
    pub fn of_copy(config: &Loaded, root: &Path) -> io::Result<Self> {
        let dir = root.join("sys/fs/cgroup");
        let tree = Tree::copied(&dir).map_err(|error| {
            let help = "lowtide-snapshot copies it from a device";
            io::Error::other(format!("{}: {error}; {help}", dir.display()))
        })?;
        let wanted = Wanted {
            kind: Some(EngineKind::Cgroupfs),
            rows: directories(&dir) + 1,
            ..config.engine.into()
        };
        Self::look(config, tree, &wanted, || {
            let memory = Meminfo::copied(root)?.read()?;
            let mut history = History::default();
            history.woken(LOOK_MS);
            Ok((memory, history))
        })
    }

    fn look(
        config: &Loaded,
        tree: Tree,
        wanted: &Wanted,
        figures: impl FnOnce() -> io::Result<(Memory, History)>,
    ) -> io::Result<Self> {
        let policy = &config.policy;
        let chosen = choose::open(wanted, &tree)?;
        let kill = config.reflex.kill;
        let loads = chosen.engine.policy_map().is_some() && kill != ReflexKill::Off;
        let reflex = loads.then(|| kill.name());
        let mut surveyor = Surveyor::new(chosen.engine, tree);
        let fallback = rule(policy, NO_GROUP);
        surveyor.classify_all(&config.matcher, fallback)?;
        let survey = |surveyor: &mut Surveyor, worth, flags| -> io::Result<(Survey, Vec<Row>)> {
            let survey = *surveyor.survey(worth, 0, fallback, flags, &config.matcher)?;
            Ok((survey, surveyor.rows_one_by_one(fallback, &config.matcher)))
        };

        let (memory, mut history) = figures()?;
        let mut look = history.look(policy, &memory, LOOK_MS);
        let (found, _) = survey(&mut surveyor, look.worth(), 0)?;
        if look.wants_swap_limits() {
            look.keep_in_ram(surveyor.kept_in_ram());
        }
        let now = look.judge(&found, &UNNAMED);

        let mut outlook = Outlook::new(policy, &memory);
        let look = outlook.look();
        let (found, rows) = survey(&mut surveyor, look.worth(), Request::ALL_ROWS)?;
        let left_out = found.rows_len - surveyor.rows().len() as u32 + surveyor.left_out();
        let cgroups = rank(&look, &rows, &surveyor.tree);
        let outlook = look.judge(&found, &UNNAMED);
        Ok(Self {
            reflex,
            engine: surveyor.engine(),
            unit: surveyor.unit(),
            notes: chosen.notes,
            now,
            outlook,
            cgroups,
            left_out,
        })
    }
}

/// The figures as they are, and how they move, woken just now.
fn watch(policy: &Policy) -> io::Result<(Memory, History)> {
    let meminfo = Meminfo::open()?;
    let mut history = History::default();
    history.look(policy, &meminfo.read()?, 0);
    std::thread::sleep(Duration::from_millis(LOOK_MS));
    let memory = meminfo.read()?;
    history.woken(LOOK_MS);
    Ok((memory, history))
}

fn rank(look: &Look<'_>, rows: &[Row], tree: &Tree) -> Vec<Cgroup> {
    let candidates = |flag| {
        let candidates = rows.iter().filter(|row| row.flags & flag != 0);
        candidates.map(Judged::new).collect::<Vec<_>>()
    };
    let mut kill = candidates(Row::KILLABLE);
    look.rank_kill(&mut kill);
    let mut reclaim = candidates(Row::RECLAIMABLE);
    look.rank_reclaim(look.worth(), &mut reclaim);
    let frees: HashMap<u64, u64> = kill.iter().map(|j| (j.row.id, j.frees)).collect();
    let (kill, reclaim) = (places(&kill), places(&reclaim));
    let parents: HashMap<u64, &Row> = rows.iter().map(|row| (row.id, row)).collect();
    let in_unit = |row: &Row| {
        let above = std::iter::successors(parents.get(&row.parent), |r| parents.get(&r.parent));
        above.into_iter().any(|r| r.flags & Row::RECLAIMABLE != 0)
    };
    let mut cgroups: Vec<_> = rows
        .iter()
        .filter(|row| row.level > 0)
        .map(|row| {
            let is_process = row.flags & Row::PROCESS != 0;
            let place = |places: &HashMap<u64, Place>| match places.get(&row.id) {
                Some(place) => *place,
                None if is_one_by_one(row) => Place::Parent,
                None if in_unit(row) => Place::Part,
                None if row.flags & Row::LEAF == 0 => Place::Parent,
                None => Place::Empty,
            };
            Cgroup {
                path: if is_process {
                    match row.parent {
                        0 => program(row.id),
                        cgroup => format!("{} of {}", program(row.id), path(tree, cgroup)),
                    }
                } else {
                    path(tree, row.id)
                },
                container: (!is_process).then(|| container(tree, row.id)).flatten(),
                row: *row,
                frees: frees.get(&row.id).copied().unwrap_or(row.freed_by_kill()),
                kill: place(&kill),
                reclaim: place(&reclaim),
            }
        })
        .collect();
    cgroups.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    cgroups
}

/// The places of ranked rows, by id.
fn places(judged: &[Judged]) -> HashMap<u64, Place> {
    let places = judged.iter().zip(1..).map(|(j, turn)| {
        let place = match j.reason {
            reason if reason.is_in_order() => Place::Turn(turn, reason),
            reason => Place::Out(reason),
        };
        (j.row.id, place)
    });
    places.collect()
}

fn program(id: u64) -> String {
    let pid = Id(id).raw_pid();
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.strip_suffix(b"\n").unwrap_or(&name);
    format!("{pid} ({})", Escaped(name))
}

fn container(tree: &Tree, id: u64) -> Option<String> {
    let mut buffer = [MaybeUninit::uninit(); PATH];
    let dir = tree.open_id(id).ok()?;
    let path = tree.path_of(dir.as_fd(), &mut buffer).ok()?;
    let mut name = [0; containers::NAME];
    let len = tree.containers().name(path, &mut name)?;
    Some(String::from_utf8_lossy(name.get(..len)?).into_owned())
}

fn path(tree: &Tree, id: u64) -> String {
    let mut buffer = [MaybeUninit::uninit(); PATH];
    tree.open_id(id)
        .and_then(|dir| {
            tree.path_of(dir.as_fd(), &mut buffer)
                .map(|path| format!("/{}", tree.containers().shown(path)))
        })
        .unwrap_or_else(|_| format!("(gone) {id}"))
}

/// Rows that all cgroups of now take, or all processes.
pub fn rows_wanted(tree: &Tree) -> u32 {
    descendants(tree).max(processes().count() as u32) + 1
}

/// cgroups below the root; 0 where there is no cgroup2.
fn descendants(tree: &Tree) -> u32 {
    let stat = fs::read_to_string(tree.mount().join("cgroup.stat")).unwrap_or_default();
    let number = |line: &str| line.strip_prefix("nr_descendants ")?.parse().ok();
    stat.lines().find_map(number).unwrap_or(0)
}

/// Directories below one.
fn directories(dir: &Path) -> u32 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()));
    dirs.map(|entry| 1 + directories(&entry.path())).sum()
}

fn processes() -> impl Iterator<Item = Process> {
    let all = procfs::process::all_processes();
    all.into_iter().flatten().flatten()
}

/// pid of the running agent, which is never touched.
pub fn agent() -> Option<i32> {
    let runs = |process: &Process| {
        process.cmdline().is_ok_and(|words| match &words[..] {
            [program, command, ..] => program.ends_with("lowtide") && command == "run",
            _ => false,
        })
    };
    processes().find(runs).map(|process| process.pid)
}
